"""What the documentation says about the code, held against the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "mailroot"
PAGE = (ROOT / "docs" / "rfc.md").read_text("utf-8")

_ROW = re.compile(r"^\| ([\d, ]+) \| [^|]+ \| (yes|partly|no) \| (.*) ?\|$", re.MULTILINE)
_FILE = re.compile(r"`([a-z_]+(?:/[a-z_0-9]+)*(?:\.py|/))`")
# A reference may be broken over two lines of a comment or docstring.
_REFERENCE = re.compile(r"RFC\s+(?:#\s*)?(\d{3,5})\b")


_PAGES = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))


def _rows() -> dict[str, tuple[str, list[str]]]:
    """Each listed RFC: how much of it, and the files that are named for it."""
    return {
        number.strip(): (match[2], _FILE.findall(match[3]))
        for match in _ROW.finditer(PAGE)
        for number in match[1].split(",")
    }


def _references() -> dict[str, set[str]]:
    """Each RFC that the code names, and the files that do."""
    found: dict[str, set[str]] = {}
    for file in SOURCE.rglob("*.py"):
        for number in _REFERENCE.findall(file.read_text("utf-8")):
            found.setdefault(number, set()).add(file.relative_to(SOURCE).as_posix())
    return found


def test_the_page_is_read_as_it_is_meant() -> None:
    lines = [line for line in PAGE.splitlines() if re.match(r"\| \d", line)]
    assert len(lines) == len(_ROW.findall(PAGE)) > 30


def test_every_rfc_that_the_code_names_is_listed() -> None:
    missing = {number: files for number, files in _references().items() if number not in _rows()}
    assert not missing


def test_every_file_that_the_page_names_exists() -> None:
    assert [name for name in _FILE.findall(PAGE) if not (SOURCE / name).exists()] == []


@pytest.mark.parametrize("number", [number for number, (much, _) in _rows().items() if much != "no"])
def test_what_is_there_is_named_where_it_is(number: str) -> None:
    _, files = _rows()[number]
    naming = _references().get(number, set())
    assert any(name.startswith(file) for name in naming for file in files), (
        f"none of {files} says RFC {number}; these do: {sorted(naming)}"
    )


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *_PAGES])
def test_links_between_pages_lead_somewhere(name: str) -> None:
    page = ROOT / name
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
