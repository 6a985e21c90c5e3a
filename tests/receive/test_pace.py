"""How long a client may keep us waiting, in which phase of a session, and what it may say without a message."""

import pytest

from mailroot.policy.limits import LimitSettings
from mailroot.receive.pace import Pace

pytestmark = pytest.mark.quick

LIMITS = LimitSettings(
    commands=10,
    refused_recipients=2,
    octets_before_login=1000,
    command_time=30.0,
    transfer_time=600.0,
    transfer_speed=100,
)


def pace(idle: float = 300.0) -> Pace:
    return Pace(LIMITS, idle)


def test_between_commands_only_idleness_counts() -> None:
    one = pace()
    for _ in range(100):
        assert one.patience(in_message=False, in_command=False) == 300
        one.waited(299, 0)
    assert one.overdue() == ("general.connection_timeout", "300 s")


def test_a_command_has_a_time_from_its_first_octet_to_its_last() -> None:
    one = pace()
    assert one.patience(in_message=False, in_command=False) == 300
    one.waited(200, 1)
    assert one.patience(in_message=False, in_command=True) == 30
    one.waited(20, 1)
    assert one.patience(in_message=False, in_command=True) == 10
    one.waited(15, 1)
    assert one.patience(in_message=False, in_command=True) == 0
    assert one.overdue() == ("limits.command_time", "30 s")
    # The next command has its own.
    one.command()
    assert one.patience(in_message=False, in_command=True) == 30


def test_a_message_must_come_at_a_least_speed_after_its_first_minute() -> None:
    one = pace()
    assert one.patience(in_message=True, in_command=False) == 60
    one.waited(59, 5_000)
    assert one.patience(in_message=True, in_command=False) == 1
    # 20,000 octets may take 200 seconds.
    one.waited(1, 15_000)
    assert one.patience(in_message=True, in_command=False) == 140
    one.waited(140, 0)
    assert one.patience(in_message=True, in_command=False) == 0
    assert one.overdue() == ("limits.transfer_speed", "100 octets/s")


def test_a_message_must_come_to_its_end() -> None:
    one = pace()
    one.patience(in_message=True, in_command=False)
    one.waited(599, 10_000_000)
    assert one.patience(in_message=True, in_command=False) == 1
    assert one.overdue() == ("limits.transfer_time", "600 s")


def test_a_silent_message_ends_with_the_idle_time() -> None:
    one = pace(idle=40)
    one.patience(in_message=True, in_command=False)
    one.waited(1, 1_000_000)
    assert one.patience(in_message=True, in_command=False) == 40
    assert one.overdue() == ("general.connection_timeout", "40 s")


def test_no_speed_wanted() -> None:
    one = Pace(LimitSettings(transfer_speed=0, transfer_time=600.0), 10_000.0)
    assert one.patience(in_message=True, in_command=False) == 600


def test_messages_in_one_breath_have_each_its_time() -> None:
    one = pace()
    one.patience(in_message=True, in_command=False)
    one.waited(50, 100)
    one.command()
    assert one.patience(in_message=True, in_command=False) == 60


def test_commands_that_lead_nowhere_are_counted() -> None:
    one = pace()
    for _ in range(10):
        one.command()
    assert one.exceeded() is None
    one.command()
    assert one.exceeded() == ("limits.commands", "10")
    one.message_accepted()
    assert one.exceeded() is None


def test_recipients_have_a_limit_of_their_own() -> None:
    one = pace()
    for _ in range(1000):
        one.command()
        one.recipient_accepted()
    assert one.exceeded() is None
    for _ in range(2):
        one.recipient_refused()
    assert one.exceeded() is None
    one.recipient_refused()
    assert one.exceeded() == ("limits.refused_recipients", "2")


def test_a_message_in_crumbs_is_many_commands() -> None:
    one = pace()
    for _ in range(1000):
        one.chunk(65536)
    assert one.exceeded() is None
    for _ in range(11):
        one.chunk(1)
    assert one.exceeded() == ("limits.commands", "10")


@pytest.mark.parametrize("known", [False, True])
def test_octets_before_a_client_has_shown_what_it_may_do(known: bool) -> None:
    one = pace()
    if known:
        one.proven()
    one.waited(0, 1001)
    assert (one.exceeded() is None) is known
