"""SASLprep: the examples of RFC 4013 §3, and what a keyboard may bring."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.smtp.sasl.saslprep import saslprep

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("gro\u0308ße", "größe"),
        ("a\u00a0b", "a b"),
        ("", ""),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_prepared(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared
    assert saslprep(text, stored=True) == prepared


@pytest.mark.parametrize("text", ["\x07", "ä\x07", "\u0627\u0031", "\u0627a\u0627", "\ue000", "\ud800", "ä\u200e"])
def test_forbidden(text: str) -> None:
    with pytest.raises(ValueError, match=r"not allowed|control|direction|right-to-left"):
        saslprep(text)


def test_what_unicode_3_2_does_not_know_is_asked_for_but_not_kept() -> None:
    assert saslprep("\U0001f600") == "\U0001f600"
    with pytest.raises(ValueError, match=r"U\+1F600 is too new"):
        saslprep("\U0001f600", stored=True)


@given(st.text())
def test_preparing_twice_changes_nothing(text: str) -> None:
    try:
        once = saslprep(text, stored=True)
    except ValueError:
        return
    assert saslprep(once) == once


def test_an_error_of_a_login_names_no_character_of_the_password() -> None:
    with pytest.raises(ValueError, match=r"^a character is not allowed$"):
        saslprep("\ue000")


def test_what_is_far_too_long_is_not_looked_at() -> None:
    assert saslprep("\u00e9" * 1024)
    with pytest.raises(ValueError, match="too long"):
        saslprep("\u00e9" * 1025)
