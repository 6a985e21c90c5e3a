"""Clients that ask for nothing useful, again and again, over one connection or many; and the others, who get on."""

import re
from collections.abc import Iterator

import pytest

from attacks.attacker import Attacker, wait_for_log
from rig.relay import Relay
from rig.sink import Sink

FRIEND, FOE = "127.0.0.1", "127.0.0.66"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """The defaults, but for the numbers of refusals: those are seen one by one here."""
    settings = {"messages": {"max_errors": 5000}}
    with Sink() as sink, Relay(tmp_path_factory.mktemp("floods"), settings, next_hop=sink.port) as relay:
        yield relay
        assert "InternalError" not in relay.said()


@pytest.mark.parametrize(
    ("flood", "answer"),
    [
        ("NOOP", "250"),
        ("RSET", "250"),
        ("HELP", "214"),
        ("VRFY b@mailroot.example", "..."),
        ("EHLO client.example", "250"),
        ("MAIL FROM:<a@example.com>\r\nRSET", "250"),
        ("NONSENSE", "500"),
        ("DATA", "503"),
        ("AUTH NONSENSE", "..."),
        ("AUTH LOGIN\r\n*", "..."),
    ],
    ids=lambda flood: re.sub(r"\W+", " ", flood),
)
def test_commands_without_a_message_come_to_an_end(relay: Relay, flood: str, answer: str) -> None:
    with Attacker(relay.port) as attacker:
        attacker.say("EHLO client.example")
        attacker.flood(f"{flood}\r\n".encode() * 2000)
        *replies, last = attacker.rest()
    assert last == "421 4.7.0 Too much without a message, closing transmission channel"
    assert 500 <= len(replies) <= 1001
    assert all(re.match(answer, reply) for reply in replies)
    wait_for_log(relay, "limit=limits.commands")


def test_messages_in_between_make_any_number_of_commands_fine(relay: Relay) -> None:
    with Attacker(relay.port) as client:
        client.say("EHLO client.example")
        for _ in range(6):
            for _ in range(300):
                assert client.say("NOOP").startswith("250")
            assert client.mail().startswith("250 ")


def test_octets_before_it_is_clear_who_it_is(relay: Relay) -> None:
    with Attacker(relay.port, FOE) as attacker:
        attacker.say("EHLO client.example")
        attacker.flood((b"NOOP " + b"x" * 490 + b"\r\n") * 900)
        *replies, last = attacker.rest()
    assert last.startswith("421 4.7.0 ")
    assert all(reply.startswith("250") for reply in replies)
    wait_for_log(relay, "limit=limits.octets_before_login")


def test_recipients_tried_one_after_the_other(relay: Relay) -> None:
    with Attacker(relay.port, FOE) as attacker:
        attacker.say("EHLO client.example", "MAIL FROM:<a@example.com>")
        attacker.flood(b"".join(b"RCPT TO:<user%d@example.net>\r\n" % number for number in range(200)))
        *replies, last = attacker.rest()
    assert last.startswith("421 4.7.0 ")
    assert len(replies) == 51
    assert all(reply.startswith("550 5.7.1 Unable to relay") for reply in replies)
    wait_for_log(relay, "limit=limits.refused_recipients")


def test_many_connections_from_one_address(relay: Relay) -> None:
    attackers = [Attacker(relay.port, FOE) for _ in range(130)]
    admitted = [attacker for attacker in attackers if attacker.banner.startswith("220 ")]
    refused = [attacker.banner for attacker in attackers if attacker not in admitted]
    assert len(admitted) == 100
    assert set(refused) == {f"421 4.7.0 Too many connections from {FOE}, try again later"}
    with Attacker(relay.port, "127.0.0.67") as other:
        assert other.banner.startswith("220 ")
    with Attacker(relay.port, FRIEND) as friend:
        friend.say("EHLO client.example")
        assert friend.mail().startswith("250 ")
    assert admitted[0].say("QUIT").startswith("221 ")
    assert admitted[0].rest() == []
    with Attacker(relay.port, FOE) as again:
        assert again.banner.startswith("220 ")
    for attacker in attackers:
        attacker.socket.close()
    wait_for_log(relay, "limit=limits.sessions_per_address")
    assert len(re.findall("LimitReached.*sessions_per_address", relay.said())) == 1


def test_connections_opened_and_closed_without_end(relay: Relay) -> None:
    for number in range(1000):
        with Attacker(relay.port, f"127.0.{number % 50}.66") as attacker:
            assert attacker.banner.startswith("220 ")
    with Attacker(relay.port) as client:
        client.say("EHLO client.example")
        assert client.mail().startswith("250 ")


def test_this_computer_may_have_as_many_sessions_as_it_likes(relay: Relay) -> None:
    clients = [Attacker(relay.port) for _ in range(300)]
    assert all(client.banner.startswith("220 ") for client in clients)
    for client in clients:
        client.socket.close()
