"""Straight to the recipients' servers, as a real name server (nsd) says where they are."""

import email
import email.policy
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

from rig.mail import message
from rig.relay import Relay, free_port
from rig.sink import Received, Sink

pytestmark = [pytest.mark.peer, pytest.mark.needs("nsd")]

StartRelay = Callable[..., Relay]

_ZONE = """\
$ORIGIN example.
$TTL 60
@            SOA   ns.example. hostmaster.example. 1 3600 600 86400 60
             NS    ns.example.
ns           A     127.0.0.1
sender       MX    10 alive.example.
alive        A     127.0.0.1
dead         A     127.0.0.2
two          MX    10 dead.example.
             MX    20 alive.example.
equal        MX    10 dead.example.
             MX    10 alive.example.
null         MX    0 .
plain        A     127.0.0.1
plain6       AAAA  ::1
alias        CNAME two.example.
lost         MX    10 gone.example.
half         MX    10 gone.example.
             MX    20 alive.example.
*.wild       MX    10 alive.example.
"""


@pytest.fixture
def dns_server(program: Callable[[str], str], tmp_path: Path) -> Iterator[str]:
    """nsd with the zone above, as Mailroot's setting names it."""
    folder = tmp_path / "nsd"
    folder.mkdir()
    port = free_port()
    (folder / "example.zone").write_text(_ZONE)
    (folder / "nsd.conf").write_text(f"""
server:
    ip-address: 127.0.0.1@{port}
    server-count: 1
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    database: ""
    pidfile: ""
    logfile: "{folder}/log"
    xfrdfile: "{folder}/xfrd"
    xfrdir: "{folder}"
    zonelistfile: "{folder}/zones"
    cookie-secret-file: ""
remote-control:
    control-enable: no
zone:
    name: example
    zonefile: example.zone
""")
    log = (folder / "output").open("wb")
    server = subprocess.Popen(
        [program("nsd"), "-d", "-c", str(folder / "nsd.conf")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        question = dns.message.make_query("two.example", "MX")
        end = time.monotonic() + 20
        while True:
            try:
                assert len(dns.query.udp(question, "127.0.0.1", timeout=0.5, port=port).answer[0]) == 2
                break
            except (dns.exception.Timeout, OSError):
                assert server.poll() is None, (folder / "output").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def start(start_relay: StartRelay, dns_server: str, port: int) -> Relay:
    """A relay without a smart host; every mail exchanger listens on `port`."""
    delivery = {"advanced": {"dns_servers": [dns_server]}, "outbound_connections": {"port": port}}
    return start_relay(settings={"delivery": delivery})


def submit(relay: Relay, *domains: str) -> None:
    """One message to each domain."""
    with smtplib.SMTP(relay.host, relay.port) as client:
        for domain in domains:
            client.sendmail("ann@sender.example", [f"bob@{domain}"], message("text"))


def domains_of(messages: list[Received]) -> set[str]:
    return {received.recipients[0].split(">")[0].split("@")[1] for received in messages}


def test_mail_reaches_the_exchangers_that_dns_names(start_relay: StartRelay, dns_server: str, sink: Sink) -> None:
    relay = start(start_relay, dns_server, sink.port)
    domains = {"two.example", "equal.example", "plain.example", "alias.example", "half.example", "a.b.wild.example"}
    submit(relay, *sorted(domains))
    assert domains_of(sink.wait(len(domains))) == domains
    assert all(received.octets.endswith(message("text")) for received in sink.wait(len(domains)))


@pytest.mark.needs("ipv6")
def test_a_domain_with_only_an_ipv6_address_is_reached(start_relay: StartRelay, dns_server: str) -> None:
    with Sink(host="::1") as sink:
        submit(start(start_relay, dns_server, sink.port), "plain6.example")
        assert domains_of(sink.wait()) == {"plain6.example"}


def test_what_dns_says_is_no_mail_domain_is_reported_at_once(
    start_relay: StartRelay, dns_server: str, sink: Sink
) -> None:
    relay = start(start_relay, dns_server, sink.port)
    submit(relay, "null.example", "nowhere.example")
    status = {}
    for received in sink.wait(2):
        assert received.recipients[0].startswith("<ann@sender.example>")
        report = email.message_from_bytes(received.octets, policy=email.policy.default)
        part = next(part for part in report.walk() if part.get_content_type() == "message/delivery-status")
        fields = part.get_payload()[1]  # type: ignore[index]
        status[fields["Final-Recipient"].split("@")[1]] = fields["Status"]
    # RFC 7505 §4.1: a null MX; RFC 3463 §3.2: bad destination system address.
    assert status == {"null.example": "5.1.10", "nowhere.example": "5.1.2"}


def test_what_dns_cannot_say_now_waits(start_relay: StartRelay, dns_server: str, sink: Sink) -> None:
    relay = start(start_relay, dns_server, sink.port)
    submit(relay, "elsewhere.test")  # nsd refuses what it is not asked to serve
    (one,) = relay.wait_for(lambda messages: [bool(one["why"]) for one in messages] == [True])
    assert one["state"] == "queued"
    assert sink.messages == []
