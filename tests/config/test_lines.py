"""The scan that finds the lines of keys, against what tomllib finds in the same text."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.config.lines import Path, key_lines, line_of

pytestmark = pytest.mark.quick

TEXT = '''\
# a comment with "quotes" and [brackets]
top = 1
"quoted key" . inner = 'a # b'  # [not.a.table]

[general]
listen = [ # first
  "127.0.0.1:25", # [x]
  "]", '[',

  "last" ]
text = """
[not.a.table]
key = "not a key"
""quotes"" \\"""
"""
literal = \'\'\'
other = 1 \'\'\'
inline = { a = 1, b = { c = ["x", "y"] }, "d.e" = 1979-05-27T07:32:00Z }
number = 1_000
truth = true

[[domains.remote]]
name = "one"
[domains.remote.security]
tls = "none"

[[ domains . remote ]]
name = "two"
[domains.remote.security]
tls = "required"
hosts = ["a",
"b"]
[a."b\\u00e9.c".d]
last = 1'''


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    match value:
        case dict():
            for key, inner in value.items():
                yield (*path, key)
                yield from paths(inner, (*path, key))
        case list():
            for number, inner in enumerate(value):
                yield (*path, number)
                yield from paths(inner, (*path, number))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("quoted key", "inner"), 3),
        (("general",), 5),
        (("general", "listen"), 6),
        (("general", "listen", 0), 7),
        (("general", "listen", 1), 8),
        (("general", "listen", 2), 8),
        (("general", "listen", 3), 10),
        (("general", "text"), 11),
        (("general", "literal"), 16),
        (("general", "inline", "b", "c", 1), 18),
        (("general", "inline", "d.e"), 18),
        (("general", "truth"), 20),
        (("domains", "remote", 0), 22),
        (("domains", "remote", 0, "name"), 23),
        (("domains", "remote", 0, "security", "tls"), 25),
        (("domains", "remote", 1), 27),
        (("domains", "remote", 1, "name"), 28),
        (("domains", "remote", 1, "security", "tls"), 30),
        (("domains", "remote", 1, "security", "hosts", 1), 32),
        (("a", "bé.c", "d", "last"), 34),
        # What is not there has the line of what is around it.
        (("domains", "remote", 1, "port"), 27),
        (("domains", "drop", "quota"), 22),
        (("nothing",), 1),
    ],
)
def test_each_key_has_its_line(path: Path, line: int) -> None:
    assert line_of(key_lines(TEXT), path) == line


def test_no_key_is_missed_and_none_is_invented() -> None:
    assert set(key_lines(TEXT)) == set(paths(tomllib.loads(TEXT)))


KEYS = st.one_of(
    st.from_regex(r"[a-z_][a-z0-9_-]{0,5}", fullmatch=True),
    st.text("ab.# ='[]{}é\\", min_size=1, max_size=5).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
)
SCALARS = st.one_of(
    st.integers().map(str),
    st.sampled_from(
        ["true", "1.5e3", "1979-05-27", "'# [x]'", '"\\" = ]"', '"""\n[a]\nb = 1\n"""', "'''\n'x\n'''"]
    ),
)
BLANKS = st.sampled_from(["", " ", "\n", " # ] } = \n", "\n\n"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(st.tuples(BLANKS, inner), max_size=3).map(
            lambda items: "[" + ",".join(blank + item + blank for blank, item in items) + "]"
        ),
        st.lists(st.tuples(KEYS, inner), max_size=3, unique_by=lambda pair: pair[0]).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=6,
)


@given(
    st.lists(
        st.one_of(
            st.tuples(KEYS, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
            KEYS.map(lambda key: f"[{key}]"),
            KEYS.map(lambda key: f"[[{key}]]"),
            st.tuples(KEYS, KEYS).map(lambda keys: f"[ {keys[0]} . {keys[1]} ]"),
        ),
        max_size=8,
    )
)
def test_any_well_formed_text_is_scanned_as_tomllib_reads_it(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = key_lines(text)
    assert set(found) == set(paths(read))
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())


@given(st.text("ab=[]{}'\"#\\.\n ,", max_size=60))
def test_the_scan_comes_to_an_end_with_any_text(text: str) -> None:
    key_lines(text)
