"""Which status a report carries, and that there is always something to say about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail import status
from mailroot.mail.reply import Reply

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(550, "5.1.1", "no such user"), "5.1.1"),
        (Reply(550, "", "no such user"), "5.5.0"),
        (Reply(550, "4.1.1", "wrong class"), "5.5.0"),
        (Reply(550, "2.1.1", "wrong class"), "5.5.0"),
        (Reply(550, "5.1", "no status"), "5.5.0"),
        (Reply(550, "4.4.7", "expired"), "4.4.7"),
        (Reply(451, "4.4.7", "expired"), "4.4.7"),
        # "Later", but it is never.
        (Reply(421, "4.7.1", "Retrying will NOT succeed"), "5.7.1"),
        (Reply(421, "", "Retrying will NOT succeed"), "5.5.0"),
    ],
)
def test_failures(reply: Reply, expected: str) -> None:
    assert status.failed(reply) == expected


def test_delays_and_successes() -> None:
    assert status.delayed(Reply(451, "4.2.2", "full")) == "4.2.2"
    assert status.delayed(Reply(451, "", "busy")) == "4.4.7"
    assert status.delayed(Reply(451, "5.2.2", "confused")) == "4.4.7"
    assert status.succeeded(Reply(250, "2.6.0", "ok")) == "2.6.0"
    assert status.succeeded(Reply(250, "", "ok")) == "2.0.0"


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (Reply(550, "5.1.1", "unknown"), "5.1.1"),
        (Reply(550, "", "unknown"), ""),
        (Reply(451, "4.4.7", "The last answer was: 451 4.4.1 Connection refused"), "4.4.1"),
        (Reply(452, "4.4.7", "The last answer was: 452 Full"), "4.4.7"),
        (Reply(550, "5.1.1", "we said 451 4.4.1 before"), "5.1.1"),
    ],
)
def test_the_cause_of_a_failure(reply: Reply, cause: str) -> None:
    assert status.cause(reply) == cause
    assert status.is_unreachable(reply) is (cause == "4.4.1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Not delivered within 48 hours. The last answer was: 452 4.2.2 full", Reply(452, "4.2.2", "full")),
        ("Not delivered within 2 hours. The last answer was: 451 no", Reply(451, "", "no")),
        ("mx.example.net [192.0.2.1]:25 said: 421 4.3.2 closing\nnow", Reply(421, "4.3.2", "closing\nnow")),
        ("[2001:db8::1]:25 said: 554", Reply(554, "", "")),
        (
            "Login as robot was refused by smtp.example.com [192.0.2.1]:587: 535 5.7.8 no",
            Reply(535, "5.7.8", "no"),
        ),
        (
            "TLS is required, but mx.example.net [192.0.2.1]:25 refused STARTTLS: 454 4.7.0 not now",
            Reply(454, "4.7.0", "not now"),
        ),
        ("he said: hello", None),
        ("a host in the middle mx.example.net said: 550 5.1.1 no", None),
        ("550 5.1.1 no", None),
        ("", None),
    ],
)
def test_what_replies_of_ours_quote(text: str, expected: Reply | None) -> None:
    assert status.quoted(Reply(451, "4.4.7", text)) == expected


@given(st.text(), st.integers(1, 3))
def test_whatever_is_quoted_comes_out_again(text: str, depth: int) -> None:
    inner = Reply(450, "4.2.1", text)
    reply = inner
    for _ in range(depth):
        reply = Reply(451, "4.4.7", f"Not delivered within 48 hours. The last answer was: {reply}")
    for _ in range(depth):
        found = status.quoted(reply)
        assert found is not None
        reply = found
    assert str(reply) == str(inner)


def test_quoting_takes_no_time() -> None:
    for text in (
        "Login as " + "was refused by a " * 100_000,
        "a" * 1_000_000,
        "a [" * 300_000,
        " said: " * 100_000,
    ):
        assert status.quoted(Reply(451, "4.4.7", text)) is None
