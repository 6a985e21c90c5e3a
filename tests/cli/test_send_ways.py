"""`mailroot send` at listeners with rules of their own: which one it takes, by which TLS and login, and what
it says where that does not work."""

import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailroot.cli.hand_in import Way, Wish, choose
from mailroot.cli.tables import Failure
from mailroot.net.certificates import Certificates
from mailroot.net.tls import CertificateFile
from mailroot.operations.authority import make_certificate
from rig.relay import Relay, free_port
from rig.served import Running, Said
from rig.sink import Sink

PASSWORD = "correct horse battery"


class FakeService:
    """Answers what the API says of virtual servers."""

    json = False

    def __init__(self, *listeners: dict[str, Any], state: str = "started") -> None:
        self.servers = [{"name": "default", "fqdn": "r.example", "state": state, "listeners": list(listeners)}]

    def get(self, path: str, query: object = None) -> Any:
        assert path == "/v1/servers"
        return {"servers": self.servers}


def listener(address: str, **rules: Any) -> dict[str, Any]:
    usual = {
        "tls": "starttls",
        "require_tls": "passwords",
        "login": "offered",
        "mechanisms": ["SCRAM-SHA-256", "LOGIN", "PLAIN"],
        "proxy_protocol": False,
    }
    return {"address": address, **usual, **rules}


PLAIN = listener("127.0.0.1:25", tls="off", login="none", mechanisms=[])
WITH_LOGIN = listener("127.0.0.1:587", login="required")
IMPLICIT = listener("127.0.0.1:465", tls="implicit")
FOR_MAIL = listener("127.0.0.1:26", require_tls="mail")
ELSEWHERE = listener("192.0.2.1:25")
PROXIED = listener("127.0.0.1:24", proxy_protocol=True)


def way(wish: Wish, *listeners: dict[str, Any]) -> Way:
    return choose(FakeService(*listeners), wish)  # type: ignore[arg-type]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("wish", "listeners", "port", "secure"),
    [
        (Wish(), (PROXIED, IMPLICIT, WITH_LOGIN, FOR_MAIL, ELSEWHERE, PLAIN), 25, False),
        (Wish(), (WITH_LOGIN, PROXIED, ELSEWHERE, FOR_MAIL), 25, False),
        (Wish(), (WITH_LOGIN, FOR_MAIL), 26, True),
        (Wish(), (WITH_LOGIN, IMPLICIT), 465, True),
        (Wish(tls=True), (PLAIN, WITH_LOGIN, IMPLICIT), 465, True),
        (Wish(tls=True), (PLAIN, listener("127.0.0.1:2525")), 2525, True),
        (Wish(user="a"), (PLAIN, IMPLICIT, WITH_LOGIN), 587, True),
        (Wish(user="a"), (PLAIN, listener("127.0.0.1:26", tls="off")), 26, False),
        (Wish(listener=":465"), (PLAIN, IMPLICIT), 465, True),
        (Wish(listener="465"), (PLAIN, IMPLICIT), 465, True),
        (Wish(listener="127.0.0.1:26"), (PLAIN, FOR_MAIL), 26, True),
    ],
)
def test_the_listener_that_asks_for_the_least(
    wish: Wish, listeners: tuple[dict[str, Any], ...], port: int, secure: bool
) -> None:
    found = way(wish, *listeners)
    assert (found.port, found.secure) == (port, secure)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("0.0.0.0:25", "127.0.0.1:25"),
        ("[::]:25", "[::1]:25"),
        ("[::1]:25", "[::1]:25"),
        ("192.0.2.1:9", "192.0.2.1:9"),
    ],
)
def test_every_address_is_reached_from_here(address: str, reached: str) -> None:
    assert way(Wish(), listener(address)).address == reached


@pytest.mark.quick
@pytest.mark.parametrize(
    ("wish", "listeners", "words"),
    [
        (Wish(), (), "no virtual server listens: default is started"),
        (Wish(), (WITH_LOGIN,), "a login is wanted at 127.0.0.1:587 (its require_login, or"),
        (Wish(), (PROXIED,), "takes connections of proxies alone (its proxy_protocol)"),
        (
            Wish(tls=True),
            (PLAIN,),
            "there is no TLS at 127.0.0.1:25: its tls is 'off', or there are no general.cert",
        ),
        (Wish(user="a"), (PLAIN,), "nobody can log in with a password at 127.0.0.1:25: there are no accounts"),
        (Wish(listener=":1"), (PLAIN, WITH_LOGIN), "':1' is no listener; there are: 127.0.0.1:25, 127.0.0.1:587"),
    ],
)
def test_what_cannot_work_is_said_before_it_is_tried(
    wish: Wish, listeners: tuple[dict[str, Any], ...], words: str
) -> None:
    with pytest.raises(Failure) as failure:
        way(wish, *listeners)
    assert words in str(failure.value)


# For real


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("ways")
    make_certificate(folder, ["relay.example"], 20, now=time.time())
    ports = [free_port() for _ in range(4)]
    settings = {
        "general": {
            "certificates": [{"file": "relay.pem", "key": "relay.key"}],
            "listeners": [
                {"address": f"127.0.0.1:{ports[0]}", "require_login": True},
                {"address": f"127.0.0.1:{ports[1]}", "tls": "implicit", "logins": ["scram"]},
                {"address": f"127.0.0.1:{ports[2]}", "require_tls": "mail"},
                {"address": f"127.0.0.1:{ports[3]}", "profile": "old devices", "tls": "off"},
            ],
        },
        "domains": {"default": "relay.example"},
        "permissions": [{"accounts": ["ann"], "senders": ["ann@relay.example"]}],
        "limits": {"logins": {"failures": 100, "longest_delay": "0 s"}},
    }
    settings["access"] = {"permissions": settings.pop("permissions")}
    relay = Relay(folder, settings)
    relay.ports = ports  # type: ignore[attr-defined]
    assert relay.command("user", "add", "ann", "--password-stdin", input=PASSWORD + "\n").returncode == 0
    with relay:
        yield relay
        assert PASSWORD not in relay.said()


def send(relay: Relay, *more: str, sender: str = "ann@relay.example", stdin: str = "") -> Any:
    to = ("--from", sender, "--to", "ben@relay.example")
    return relay.command("send", *to, *more, input=stdin + "\n")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "(virtual server default)"),
        (("--tls",), "STARTTLS)"),
        (("--ca", "ca.pem"), "STARTTLS)"),
        (("--insecure",), "STARTTLS)"),
        (("--listener", "1"), "TLS from the start)"),
        (("--listener", "1", "--user", "ann"), "TLS from the start, as ann)"),
        (("--listener", "1", "--ca", "ca.pem"), "TLS from the start)"),
        (("--listener", "2"), "STARTTLS)"),
        (("--user", "ann"), "STARTTLS, as ann)"),
        (("--listener", "3", "--user", "ann"), "(virtual server default, as ann)"),
    ],
)
def test_each_way_in(relay: Relay, more: tuple[str, ...], words: str) -> None:
    said = send(relay, *_filled_in(relay, more), stdin=PASSWORD)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.splitlines()[0].endswith(words) and "delivered" in said.stdout


def _filled_in(relay: Relay, more: tuple[str, ...]) -> list[str]:
    ports: list[int] = relay.ports  # type: ignore[attr-defined]
    words = [f":{ports[int(word)]}" if word.isdigit() else word for word in more]
    if "--user" in words:
        words.append("--password-stdin")
    return [str(relay.folder / word) if word == "ca.pem" else word for word in words]


def test_a_login_goes_where_logins_are_wanted(relay: Relay) -> None:
    said = send(relay, "--user", "ann", "--password-stdin", "--json", stdin=PASSWORD)
    assert f"127.0.0.1:{relay.ports[0]} " in said.stderr  # type: ignore[attr-defined]
    (story,) = [json.loads(said.stdout)["message"]]
    assert story["user"] == "ann"


def test_another_certificate_than_the_services_gets_no_message_and_no_password(
    running: Running, mailroot: Callable[..., Said], tmp_path: Path
) -> None:
    made = [make_certificate(tmp_path / name, ["relay.example"], 20, now=time.time()) for name in ("one", "two")]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made[0].certificate.file, made[0].key)
    running.relay.certificates = Certificates([CertificateFile(Path(made[1].certificate.file), Path(made[1].key))])
    with Sink(tls=context) as sink:
        running.relay.listeners = (f"127.0.0.1:{sink.port}",)
        said = mailroot("send", "--from", "a@example.org", "--to", "b@example.net", "--tls")
        assert said.code == 1 and "has another certificate than the service says" in said.err
        assert sink.commands[:2] == ["ehlo localhost", "STARTTLS"] and len(sink.commands) == 2
        running.relay.certificates = Certificates(
            [CertificateFile(Path(made[0].certificate.file), Path(made[0].key))]
        )
        said = mailroot("send", "--from", "a@example.org", "--to", "b@example.net", "--tls", "--timeout", "0")
        assert said.code == 0 and sink.wait()[0].tls


def test_what_was_refused_is_said_with_the_setting(relay: Relay, tmp_path: Path) -> None:
    said = send(relay, "--user", "ann", "--password-stdin", stdin="wrong")
    assert said.returncode == 1 and "AUTH PLAIN was answered: 535 5.7.3" in said.stderr
    assert "the account is unknown or disabled, or the password is wrong" in said.stderr
    said = send(relay, "--user", "ann", "--password-stdin", sender="boss@relay.example", stdin=PASSWORD)
    assert "MAIL FROM:<boss@relay.example> was answered: 550 5.7.60" in said.stderr
    assert "decided by access.permissions" in said.stderr and PASSWORD not in said.stderr + said.stdout
    other = make_certificate(tmp_path, ["relay.example"], 20, now=time.time())
    said = send(relay, "--ca", other.authority.file)
    assert said.returncode == 1 and "is not trusted by" in said.stderr
    said = send(relay, "--ca", str(tmp_path / "nowhere"))
    assert said.returncode == 1 and "nowhere cannot be read" in said.stderr
    said = send(relay, "--password-stdin")
    assert said.returncode == 2 and "--user NAME" in said.stderr
    said = send(relay, "--user", "ann")
    assert said.returncode == 1 and "there is no terminal to ask for the password" in said.stderr
