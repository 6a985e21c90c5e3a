"""Local domains and patterns: what is ours, and that nothing else can pass for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.address import domain_key
from mailroot.policy.domains import DomainPatterns, LocalDomains, matches, read_domain, read_pattern

pytestmark = pytest.mark.quick

labels = st.text("abcz09", min_size=1, max_size=3).filter(lambda label: not label.isdecimal())
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
patterns = st.tuples(st.sampled_from(["", "*."]), names).map("".join)


def test_the_default_domain_and_its_aliases_are_local() -> None:
    local = LocalDomains("Corp.Example.com", ("alias.example", "*.lab.example"))
    assert local.default == "Corp.Example.com"
    assert local.is_local("corp.example.com")
    assert local.is_local("alias.example")
    assert local.is_local("a.lab.example")
    assert local.is_local("a.b.lab.example")


@pytest.mark.parametrize(
    "other",
    ["example.com", "x.corp.example.com", "corp.example.com.evil.example", "lab.example", "xlab.example", "", "."],
)
def test_nothing_else_is_local(other: str) -> None:
    assert not LocalDomains("corp.example.com", ("alias.example", "*.lab.example")).is_local(other)


@pytest.mark.parametrize("written", ["corp.example.com.", "CORP.EXAMPLE.COM", "corp.example.COM."])
def test_a_trailing_dot_and_capitals_make_no_other_domain(written: str) -> None:
    assert LocalDomains("corp.example.com").is_local(domain_key(written))


def test_international_names_are_compared_by_their_a_labels() -> None:
    local = LocalDomains("münchen.example")
    assert local.is_local("xn--mnchen-3ya.example")
    assert local.is_local(domain_key("MÜNCHEN.example"))


def test_a_star_wants_at_least_one_label_before() -> None:
    assert matches("*.example.com", "a.example.com")
    assert matches("*.example.com", "b.a.example.com")
    assert not matches("*.example.com", "example.com")
    assert not matches("*.example.com", ".example.com")
    assert not matches("*.example.com", "anexample.com")
    assert not matches("example.com", "a.example.com")


@given(st.lists(patterns, max_size=6), names)
def test_a_list_finds_what_one_of_its_patterns_matches_and_the_best_of_them(written: list[str], name: str) -> None:
    fitting = [pattern for pattern in written if matches(pattern, name)]
    expected = min(fitting, key=lambda pattern: (pattern.startswith("*."), -len(pattern)), default=None)
    assert DomainPatterns(tuple(written)).find(name) == expected


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "right would be 'example.com'"),
        ("a b", "right would be 'example.com'"),
        ("-x.example", "right would be 'example.com'"),
        ("a..example", "right would be 'example.com'"),
        ("a" * 64 + ".example", "right would be 'example.com'"),
        (".".join(["a" * 60] * 5), "right would be 'example.com'"),
        ("[192.0.2.1]", "right would be 'example.com'"),
        ("192.0.2.1", "its last part being a number"),
        ("someone@example.com", "its part after the @: 'example.com'"),
    ],
)
def test_what_is_no_domain_is_refused_with_what_would_be_right(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_domain(text)
    assert advice in str(caught.value)
    with pytest.raises(ValueError, match=r"."):
        LocalDomains(text)


@pytest.mark.parametrize("text", ["*", "*example.com", "a.*.example.com", "*.*.example.com", "example.*"])
def test_a_star_stands_only_in_front(text: str) -> None:
    with pytest.raises(ValueError, match=r"'\*\.example\.com'"):
        read_pattern(text)


def test_computer_names_are_domains_too() -> None:
    assert read_domain("SQL_01") == "sql_01"
    assert read_domain("194857362514") == "194857362514"
