"""What a settings class looks like: its settings, each with type, unit, bounds, default and meaning.

Read once from the annotations (see `mailroot.units`), for who reads a file (`bind`) and who writes one (`sample`).
"""

import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from mailroot.units import Doc, Range, Secret, Unit

REQUIRED: Any = object()
"""The default of a setting that has none."""


_NO_DOC = Doc("")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `kind` is bool, int, float, str, Path, an enumeration or a settings class; `many`: a list of
    these; `optional`: it may be not set at all. `unit` is "duration", "size" or ""."""

    name: str
    kind: type[Any]
    many: bool = False
    optional: bool = False
    unit: str = ""
    least: float | None = None
    most: float | None = None
    secret: bool = False
    doc: Doc = _NO_DOC
    default: Any = REQUIRED

    @property
    def is_section(self) -> bool:
        """Whether it is a table of further settings."""
        return is_dataclass(self.kind)


def settings_of(kind: type[Any]) -> tuple[Setting, ...]:
    """The settings of a settings class, in their order."""
    known = _KNOWN.get(kind)
    if known is None:
        known = _KNOWN[kind] = tuple(_read(kind))
    return known


_KNOWN: dict[type[Any], tuple[Setting, ...]] = {}


def _read(kind: type[Any]) -> Iterator[Setting]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        yield _setting(field.name, hints[field.name], REQUIRED if default is MISSING else default)


def _setting(name: str, annotation: Any, default: Any) -> Setting:
    marks = list(_marks(annotation))
    inner, optional, many = annotation, False, False
    while True:
        inner = _bare(inner)
        if get_origin(inner) in (Union, types.UnionType):
            optional = True
            inner = next(part for part in get_args(inner) if part is not type(None))
        elif get_origin(inner) is tuple:
            many = True
            inner = get_args(inner)[0]
        else:
            break
    ranges = [mark for mark in marks if isinstance(mark, Range)]
    return Setting(
        name,
        inner,
        many,
        optional,
        unit=next((mark.kind for mark in marks if isinstance(mark, Unit)), ""),
        least=max((mark.least for mark in ranges if mark.least is not None), default=None),
        most=min((mark.most for mark in ranges if mark.most is not None), default=None),
        secret=any(isinstance(mark, Secret) for mark in marks),
        doc=next((mark for mark in marks if isinstance(mark, Doc)), _NO_DOC),
        default=default,
    )


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _marks(annotation: Any) -> Iterator[object]:
    """All that Annotated says about a type, from the outside in."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        yield from marks
        yield from _marks(inner)
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _marks(part)
