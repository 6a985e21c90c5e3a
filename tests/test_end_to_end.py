"""The whole thing in a process of its own, with Python alone on both sides; also on Windows."""

import smtplib
from collections.abc import Callable

import pytest

from rig.mail import BODIES, arrived, message
from rig.relay import Relay, free_port
from rig.sink import Sink

pytestmark = pytest.mark.quick

StartRelay = Callable[..., Relay]


def submit(relay: Relay, *names: str) -> None:
    """Hand these messages in, over one connection."""
    with smtplib.SMTP(relay.host, relay.port) as client:
        for name in names:
            options = [] if BODIES[name].isascii() else ["BODY=8BITMIME"]
            client.sendmail("ann@example.com", ["bob@example.net"], message(name), mail_options=options)


def test_a_message_comes_in_is_safe_and_arrives(start_relay: StartRelay, sink: Sink) -> None:
    relay = start_relay(sink.port)
    submit(relay, *BODIES)
    received = [one.octets for one in sink.wait(len(BODIES))]
    assert [name for name in BODIES if not any(arrived(octets, message(name)) for octets in received)] == []
    # What was handed in is finished, and told so over the API.
    relay.wait_for(lambda messages: [one["state"] for one in messages] == ["finished"] * len(BODIES))


def test_a_file_in_pickup_is_sent_and_removed(start_relay: StartRelay, sink: Sink) -> None:
    relay = start_relay(sink.port)
    (relay.pickup / "message.eml").write_bytes(message("text"))
    (received,) = sink.wait()
    assert received.octets.endswith(BODIES["text"])
    assert received.sender.startswith("<ann@example.com>")
    assert received.recipients[0].startswith("<bob@example.net>")
    relay.wait_for(lambda messages: [one["state"] for one in messages] == ["finished"])
    assert list(relay.pickup.iterdir()) == []


def test_mail_for_a_local_domain_lies_in_drop(start_relay: StartRelay) -> None:
    relay = start_relay(settings={"domains": {"default": "example.net"}})
    submit(relay, "dots", "block")
    relay.wait_for(lambda messages: [one["state"] for one in messages] == ["finished"] * 2)
    dropped = [file.read_bytes() for file in relay.drop.glob("*.eml")]
    assert sorted(octets[-20:] for octets in dropped) == sorted(message(name)[-20:] for name in ("dots", "block"))


def test_what_got_a_250_survives_a_kill_and_waits_for_its_next_hop(start_relay: StartRelay) -> None:
    port = free_port()
    retries = {"first_retry": "1 s", "second_retry": "1 s", "third_retry": "1 s", "subsequent_retry": "1 s"}
    relay = start_relay(port, {"delivery": {"retries": retries}})
    submit(relay, "text", "two_megabytes")
    relay.kill()
    relay.start()
    with Sink(port=port) as sink:
        received = [one.octets for one in sink.wait(2)]
        relay.wait_for(lambda messages: [one["state"] for one in messages] == ["finished"] * 2)
    assert all(any(arrived(octets, message(name)) for octets in received) for name in ("text", "two_megabytes"))


def test_two_cannot_run_on_one_mailroot_folder_and_the_second_says_why(start_relay: StartRelay, sink: Sink) -> None:
    relay = start_relay(sink.port)
    second = relay.command("run")
    assert second.returncode != 0
    assert str(relay.port) in second.stdout + second.stderr
