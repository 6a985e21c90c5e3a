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
        (Reply(451, "4.4.1", "the last of many"), "4.4.7"),
        (Reply(451, "", "the last of many"), "4.4.7"),
        (Reply(550, "4.4.7", "expired"), "4.4.7"),
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


@given(st.from_regex(r"\A[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z"))
def test_there_is_advice_for_every_status(code: str) -> None:
    assert status.is_valid(code)
    assert status.advice(code).endswith(".")


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


def test_advice_is_about_the_cause() -> None:
    assert "does not exist" in status.advice("5.1.1")
    assert status.advice("4.2.2") == status.advice("5.2.2")
    assert "policy" in status.advice("5.7.999")
    assert "administrator" in status.advice("5.9.9")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(450, "4.2.2", "full"), "mailbox is full"),
        (
            Reply(451, "4.4.7", "Not delivered within 48 hours. The last answer was: 452 4.2.2 full"),
            "mailbox is full",
        ),
        (
            Reply(451, "4.4.7", "Not delivered within 48 hours. The last answer was: 450 no"),
            "until its time was over",
        ),
        (Reply(450, "4.2.1", "The recipient receives mail too quickly"), "passes by itself"),
        (Reply(550, "5.2.1", "Disabled"), "disabled"),
        (Reply(450, "4.7.1", "Greylisted, see http://…"), "new to them"),
        # Hosts without enhanced status codes: their code says whether there is hope, and no more.
        (Reply(450, "", "busy"), "for now"),
        (Reply(550, "", "no such user"), "for good"),
    ],
)
def test_advice_on_a_reply(reply: Reply, words: str) -> None:
    assert words in status.advice_on(reply)
