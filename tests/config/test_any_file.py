"""Whatever a file says: it is taken or refused with lines that name a place, and what is taken can be put together.

Files are made of the settings there are, with values that are right, nearly right and wrong.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailroot.config.load import ConfigurationError, load, parse
from mailroot.config.model import Configuration, VirtualServerSettings
from mailroot.config.sample import sample
from mailroot.config.shape import settings_of
from mailroot.config.tree import over, tree
from mailroot.plan import Plan

pytestmark = pytest.mark.quick

FOLDER = Path(tempfile.gettempdir())
FILE = FOLDER / "mailroot.toml"
PROBLEM = re.compile(rf"{re.escape(str(FILE))}:[1-9]\d*: \S.*")


def keys(kind: type[Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every setting and every section, by its path."""
    for setting in settings_of(kind):
        yield (*path, setting.name)
        if setting.is_section:
            yield from keys(setting.kind, (*path, setting.name))


PATHS = [path for path in keys(VirtualServerSettings) if path != ("name",)]
# Right for one setting, wrong for most.
LIKELY = [
    *(
        "true",
        "false",
        "0",
        "1",
        "-1",
        "25",
        "70000",
        "1.5",
        "nan",
        "inf",
        "0x" + "f" * 40,
        "2026-11-24",
        "[]",
        "{}",
    ),
    *(
        '"15 min"',
        '"0 s"',
        '"9 days"',
        '"2 MiB"',
        '"only the list"',
        '"all except the list"',
        '"required"',
        '"none"',
    ),
    *('"127.0.0.1:2525"', '"*:26"', '"10.0.0.0/8"', '"::1"', '"smtp.example.com:587"', '"[192.0.2.1]:25"'),
    *('"example.com"', '"*.example.com"', '"bücher.example"', '"ann@example.com"', '"Ann <ann@example.com>"'),
    *('"repair"', '"x"', '""', '"../x"', '"~nobody-of-that-name/x"', f'"{"x" * 300}"'),
    *('{ file = "x" }', '{ env = "X" }', '{ name = "example.net" }', '{ mode = "only the list", list = ["::1"] }'),
]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False))
ONE = st.one_of(st.sampled_from(LIKELY), st.integers().map(str), TEXTS.map(lambda text: text.replace("\x7f", "")))
VALUES = st.one_of(ONE, st.lists(ONE, max_size=3).map(lambda some: f"[{', '.join(some)}]"))
SERVERS = st.sampled_from([(), (), ("virtual_server", "one"), ("virtual_server", "two")])
PAIRS = st.tuples(SERVERS, st.sampled_from(PATHS), VALUES)


def read(text: str) -> Configuration | None:
    """None where it is refused."""
    try:
        return parse(text, FILE, {"X": "secret"})
    except ConfigurationError as error:
        assert error.problems
        assert all(PROBLEM.fullmatch(problem) for problem in error.problems), error.problems
        return None


def put_together(configuration: Configuration) -> None:
    for server in configuration.virtual_servers:
        Plan.of(server, "relay.example.com")


@settings(max_examples=300, deadline=None)
@given(st.lists(PAIRS, max_size=6))
def test_any_settings_are_taken_or_refused(pairs: list[tuple[tuple[str, ...], tuple[str, ...], str]]) -> None:
    configuration = read("\n".join(f"{'.'.join((*server, *path))} = {value}" for server, path, value in pairs))
    if configuration is not None:
        put_together(configuration)


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_any_value_of_one_setting_is_taken_or_refused(path: tuple[str, ...]) -> None:
    for value in LIKELY:
        for text in (value, f"[{value}]", f"{{ {path[-1]} = {value} }}"):
            configuration = read(f"{'.'.join(path)} = {text}")
            if configuration is not None:
                put_together(configuration)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_sample_that_somebody_mistyped_is_taken_or_refused(data: st.DataObject) -> None:
    text = re.sub(r"^#(?=[\[a-z])", "", sample(), flags=re.MULTILINE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from([0, 0, 1, 1, 2, 30]))
        text = (
            text[:at]
            + data.draw(st.sampled_from(['"', "'", "[", "]", "\n", "=", ".", "x", "", "#"]))
            + text[at + length :]
        )
    read(text)


TABLES = st.recursive(
    st.one_of(st.integers(), st.lists(st.integers(), max_size=3)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=10,
)


def plain(value: Any) -> Any:
    """Nodes as what they were made of."""
    match value.value:
        case dict(tables):
            return {key: plain(inner) for key, inner in tables.items()}
        case list(elements):
            return [plain(inner) for inner in elements]
        case other:
            return other


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for name, inner in value.items() for key, leaf in leaves(inner, (*path, name)).items()}


@given(st.dictionaries(st.sampled_from("abc"), TABLES), st.dictionaries(st.sampled_from("abc"), TABLES))
def test_a_server_overrides_what_it_says_and_nothing_else(shared: dict[str, Any], own: dict[str, Any]) -> None:
    merged = leaves(plain(over(tree(shared), tree(own, ("own",)))))
    for path, value in leaves(own).items():
        assert merged[path] == value
    for path, value in leaves(shared).items():
        hidden = any(path[: len(above)] == above or above[: len(path)] == path for above in leaves(own))
        assert hidden or merged[path] == value
    assert set(merged) <= {*leaves(shared), *leaves(own)}


@given(st.dictionaries(st.sampled_from("abc"), TABLES))
def test_with_nothing_to_override_all_stays(shared: dict[str, Any]) -> None:
    assert plain(over(tree(shared), tree({}))) == shared
    assert plain(over(tree({}), tree(shared))) == shared
    assert plain(over(tree(shared), tree(shared))) == shared


def test_a_server_gets_the_same_settings_shared_or_as_its_own(tmp_path: Path) -> None:
    text = sample()
    shared = text[text.index("[general]") :]
    own = re.sub(r"^\[", "[virtual_server.default.", shared, flags=re.MULTILINE)
    (tmp_path / "mailroot.toml").write_text(shared)
    first = load(tmp_path / "mailroot.toml", {})
    (tmp_path / "mailroot.toml").write_text(own)
    assert load(tmp_path / "mailroot.toml", {}) == first
