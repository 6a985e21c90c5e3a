"""Servers that mail is relayed to, good and bad: nothing is damaged on the way, nothing lost by a bad one."""

import email
import email.policy
import smtplib
from collections.abc import Callable
from typing import Any

import pytest

from rig.mail import BODIES, SEVEN_BIT, digest, message
from rig.relay import Relay
from rig.sink import Sink

pytestmark = [pytest.mark.peer, pytest.mark.needs("postfix")]

StartRelay = Callable[..., Relay]
StartSink = Callable[..., Any]
StartPostfix = Callable[..., Any]

LARGE = {"messages": {"max_message_size": "50 MiB", "max_session_size": 0}}

_MIME = (
    b"From: ann@example.com\r\nTo: bob@example.net\r\nSubject: eight bits\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
)
_EIGHT_BIT_TEXT = "Grüße aus Köln: 15 €\r\n.ein Punkt\r\n" * 20


def submit(relay: Relay, octets: bytes, recipient: str = "bob@example.net", *, eight_bit: bool = False) -> None:
    """Hand it in; raises where it is refused."""
    with smtplib.SMTP(relay.host, relay.port) as client:
        options = ["BODY=8BITMIME"] if eight_bit else []
        client.sendmail("ann@sender.example", [recipient], octets, mail_options=options)


def sent_and_missing(relay: Relay, names: list[str], taken: Callable[[], list[bytes]], closing: bytes) -> list[str]:
    """Send these bodies, wait until all are delivered, and name those that did not arrive whole.

    The peers here write LF for CRLF, so that is how they are compared; `closing` is what they write after it.
    """
    for name in names:
        submit(relay, message(name), eight_bit=not BODIES[name].isascii())
    relay.wait_for(lambda messages: sum(one["state"] == "finished" for one in messages) == len(names))
    arrivals = taken()
    missing = []
    for name in names:
        wanted = message(name).replace(b"\r\n", b"\n") + closing
        if digest(wanted) not in {digest(octets[-len(wanted) :]) for octets in arrivals}:
            missing.append(name)
    return missing


class TestGoodOnes:
    @pytest.mark.parametrize(
        "options",
        [(), ("-e",), ("-p",), ("-E",), ("-N",), ("-P",), ("-8", "-p", "-E", "-N")],
        ids=["all", "no ESMTP", "no PIPELINING", "no ENHANCEDSTATUSCODES", "no DSN", "PIX", "nothing"],
    )
    def test_smtp_sink(self, start_relay: StartRelay, start_smtp_sink: StartSink, options: tuple[str, ...]) -> None:
        sink = start_smtp_sink(*options)
        relay = start_relay(sink.port, LARGE)
        offers_eight_bit = not {"-e", "-P", "-8"} & set(options)
        names = list(BODIES) if offers_eight_bit else list(SEVEN_BIT)
        assert sent_and_missing(relay, names, sink.messages, b"\n") == []

    @pytest.mark.needs("root")
    @pytest.mark.parametrize(
        "withheld", ["", "chunking", "pipelining", "chunking pipelining", "dsn enhancedstatuscodes size"]
    )
    def test_postfix(self, start_relay: StartRelay, start_postfix: StartPostfix, withheld: str) -> None:
        postfix = start_postfix(smtpd_discard_ehlo_keywords=withheld.replace(" ", ", "))
        relay = start_relay(postfix.port, LARGE)
        assert sent_and_missing(relay, list(BODIES), lambda: postfix.wait_for(len(BODIES)), b"") == []

    @pytest.mark.needs("root")
    @pytest.mark.parametrize(
        "withheld", ["8bitmime", "8bitmime, chunking", "8bitmime, chunking, pipelining, size, dsn"]
    )
    def test_eight_bits_reach_a_seven_bit_postfix_without_loss(
        self, start_relay: StartRelay, start_postfix: StartPostfix, withheld: str
    ) -> None:
        postfix = start_postfix(smtpd_discard_ehlo_keywords=withheld)
        relay = start_relay(postfix.port, LARGE)
        submit(relay, _MIME + _EIGHT_BIT_TEXT.encode(), eight_bit=True)
        (octets,) = postfix.wait_for(1)
        assert octets.isascii()
        read = email.message_from_bytes(octets, policy=email.policy.default)
        assert read.get_content().replace("\r\n", "\n") == _EIGHT_BIT_TEXT.replace("\r\n", "\n")

    def test_helo_only_when_a_remote_domain_says_so(
        self, start_relay: StartRelay, start_smtp_sink: StartSink
    ) -> None:
        sink = start_smtp_sink("-f", "EHLO")
        hop = {"smart_host": [f"[127.0.0.1]:{sink.port}"], "send_helo": True, "name": "example.net"}
        relay = start_relay(settings={"domains": {"remote": [hop]}})
        submit(relay, message("dots"))
        relay.wait_for(lambda messages: [one["state"] for one in messages] == ["finished"])
        (octets,) = sink.messages()
        assert b"X-Client-Proto: SMTP\n" in octets


STAGES = ("CONNECT", "EHLO,HELO", "MAIL", "RCPT", "DATA", ".")


def domain_of(option: str, stage: str) -> str:
    words = {"-r": "soft", "-q": "hangup", "-Q": "closing", "-f": "hard"}
    return f"{words[option]}-{stage.replace(',', '-').replace('.', 'end').lower()}.example"


class TestBadOnes:
    def test_what_they_refuse_for_now_waits_and_arrives_when_they_are_well(
        self, start_relay: StartRelay, start_smtp_sink: StartSink
    ) -> None:
        """4xx, 421 and hanging up, at each stage: 18 bad next hops at once, each for a domain of its own."""
        bad = {
            domain_of(option, stage): start_smtp_sink(option, stage)
            for option in ("-r", "-q", "-Q")
            for stage in STAGES
        }
        remote = [{"name": domain, "smart_host": [f"[127.0.0.1]:{sink.port}"]} for domain, sink in bad.items()]
        relay = start_relay(settings={"domains": {"remote": remote}})
        for domain in bad:
            submit(relay, message("text"), f"bob@{domain}")
        waiting = relay.wait_for(
            lambda messages: all(one["due"] is not None and one["attempts"] == 1 for one in messages)
        )
        assert {one["recipients"][0].split("@")[1] for one in waiting} == set(bad)
        assert {one["state"] for one in waiting} == {"queued"}
        assert [one for one in waiting if not one["why"]] == []

        ports = [sink.port for sink in bad.values()]
        for sink in bad.values():
            sink.stop()
        good = [start_smtp_sink(port=port) for port in ports]

        def retried_and_finished(messages: list[dict[str, Any]]) -> bool:
            # A host that could not be connected to is left alone for up to half a minute, whoever asks.
            if any(one["due"] is not None for one in messages):
                assert relay.command("queue", "retry", "--all", "--yes").returncode == 0
            return all(one["state"] == "finished" for one in messages)

        relay.wait_for(retried_and_finished)
        wanted = message("text").replace(b"\r\n", b"\n") + b"\n"
        assert [[octets.endswith(wanted) for octets in sink.messages()] for sink in good] == [[True]] * len(bad)

    def test_what_they_refuse_for_good_is_reported(
        self, start_relay: StartRelay, start_smtp_sink: StartSink, sink: Sink
    ) -> None:
        stages = ("MAIL", "RCPT", "DATA", ".")
        bad = {
            domain_of("-f", stage): start_smtp_sink("-f", stage, "-B", "554 5.7.1 no such mail here")
            for stage in stages
        }
        remote = [{"name": domain, "smart_host": [f"[127.0.0.1]:{one.port}"]} for domain, one in bad.items()]
        relay = start_relay(sink.port, {"domains": {"remote": remote}})
        for domain in bad:
            submit(relay, message("text"), f"bob@{domain}")
        reported = set()
        for received in sink.wait(len(bad)):
            assert received.sender.startswith("<>")
            assert received.recipients[0].startswith("<ann@sender.example>")
            report = email.message_from_bytes(received.octets, policy=email.policy.default)
            assert report.get_content_type() == "multipart/report"
            status = next(part for part in report.walk() if part.get_content_type() == "message/delivery-status")
            fields = status.get_payload()[1]  # type: ignore[index]
            assert fields["Action"] == "failed"
            assert fields["Status"] == "5.7.1"
            assert "no such mail here" in fields["Diagnostic-Code"]
            reported.add(fields["Final-Recipient"].split("@")[1])
        assert reported == set(bad)

    def test_a_slow_one_is_waited_for(self, start_relay: StartRelay, start_smtp_sink: StartSink) -> None:
        # Without -p it would answer pipelined commands out of order while one is delayed.
        sink = start_smtp_sink("-p", "-W", "MAIL:1", "-W", "RCPT:1", "-w", "1")
        relay = start_relay(sink.port)
        submit(relay, message("dots"))
        relay.wait_for(lambda messages: [one["state"] for one in messages] == ["finished"])
        assert len(sink.messages()) == 1

    def test_a_silent_one_is_given_up_after_the_time_that_is_set(
        self, start_relay: StartRelay, start_smtp_sink: StartSink
    ) -> None:
        sink = start_smtp_sink("-W", ".:600")
        relay = start_relay(sink.port, {"delivery": {"outbound_connections": {"timeout": "2 s"}}})
        submit(relay, message("dots"))
        (one,) = relay.wait_for(lambda messages: [bool(one["why"]) for one in messages] == [True])
        assert one["state"] == "queued"
        assert one["pending"] == 1

    def test_the_next_smart_host_is_taken_when_one_is_bad(
        self, start_relay: StartRelay, start_smtp_sink: StartSink, sink: Sink
    ) -> None:
        bad = [start_smtp_sink("-q", "CONNECT").port, start_smtp_sink("-r", "EHLO,HELO").port]
        hosts = [f"[127.0.0.1]:{port}" for port in (*bad, sink.port)]
        relay = start_relay(settings={"delivery": {"advanced": {"smart_host": hosts}}})
        submit(relay, message("text"))
        (received,) = sink.wait()
        assert received.octets.endswith(message("text"))
