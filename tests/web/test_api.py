"""The API as its users meet it: over a socket, with the token, under a loopback name."""

import asyncio
import re
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.routing import Route

from mailroot import __version__
from mailroot.clock import ManualClock
from mailroot.events import Bus, Event, InternalError
from mailroot.net.certificates import Certificates
from mailroot.net.tls import CertificateFile
from mailroot.operations import OperationError, Operations
from mailroot.queue.base import parse_id
from mailroot.web.api import ApiSettings
from mailroot.web.app import Server, serve
from mailroot.web.auth import is_loopback, open_token
from mailroot.web.routes import MOST_BODY, Api
from rig.authority import issue
from rig.fake_server import FakeServer, FakeSession

pytestmark = pytest.mark.quick


class House:
    """A served API: the virtual server behind it, its client, and what the bus heard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.bus = Bus(self.clock)
        self.heard: list[Event] = []
        self.bus.subscribe(lambda _, event: self.heard.append(event))
        self.relay = FakeServer("default", self.clock)
        self.refusal = ""
        self.operations = Operations({"default": self.relay}, self.bus, self.clock, self.reload)
        self.settings = ApiSettings(port=0, token_file=folder / "made" / "api-token")

    async def reload(self, name: str | None) -> None:
        if self.refusal:
            raise OperationError(self.refusal)

    async def open(self) -> None:
        self.server: Server = await serve(self.settings, self.operations)
        self.token = self.settings.token_file.read_text().strip()
        self.client = httpx.AsyncClient(
            base_url=f"http://{self.server.address}",
            headers={"Authorization": f"Bearer {self.token}"},
            trust_env=False,
        )

    async def close(self) -> None:
        await self.client.aclose()
        await self.server.close()

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[House]:
    one = House(tmp_path)
    await one.open()
    yield one
    await one.close()


def error(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"} and body["error"]["message"]
    return answer.status_code, body["error"]["code"]


# Who is let in


async def test_the_token_is_made_once_and_is_private(api: House) -> None:
    assert len(api.token) >= 40
    if sys.platform != "win32":
        assert stat.S_IMODE(api.settings.token_file.stat().st_mode) == 0o600
    assert open_token(api.settings.token_file) == api.token


def test_a_start_that_is_killed_leaves_no_half_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "api-token"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mailroot.web.auth.os.fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            open_token(file)
    assert not file.exists()
    assert len(open_token(file)) >= 32
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", ["", "short\n", "ü" * 40])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(OperationError, match="holds no token"):
        open_token(file)
    assert file.read_text(encoding="utf-8") == content


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer"},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
async def test_without_the_token_nothing_is_answered(api: House, header: dict[str, Any]) -> None:
    async with httpx.AsyncClient(base_url=f"http://{api.server.address}", trust_env=False) as stranger:
        answer = await stranger.get("/v1/version", headers=header)
        assert error(answer) == (401, "token")
        assert answer.headers["www-authenticate"] == "Bearer"
        answer = await stranger.get("/nowhere", headers=header)
        assert error(answer) == (401, "token")


async def test_a_token_that_only_begins_right_is_wrong(api: House) -> None:
    for token in (api.token[:-1], api.token + "x", f" {api.token} x"):
        answer = await api.client.get("/v1/version", headers={"Authorization": f"Bearer {token}"})
        assert error(answer) == (401, "token")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:2580", "127.0.0.1.evil.example", "192.0.2.1", ""])
async def test_a_name_that_was_pointed_here_is_turned_away(api: House, host: str) -> None:
    assert error(await api.client.get("/v1/version", headers={"Host": host})) == (403, "host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:2580", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:2580"])
async def test_every_name_of_this_machine_is_taken(api: House, host: str) -> None:
    assert (await api.client.get("/v1/version", headers={"Host": host})).json()["version"] == __version__


async def test_no_web_page_is_told_that_it_may_read(api: House) -> None:
    answer = await api.client.options(
        "/v1/servers", headers={"Origin": "http://localhost:8000", "Access-Control-Request-Method": "GET"}
    )
    assert answer.status_code == 405
    answer = await api.client.get("/v1/servers", headers={"Origin": "http://localhost:8000"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::", "relay.example"])
async def test_other_addresses_than_loopback_are_not_listened_on(tmp_path: Path, address: str) -> None:
    house = House(tmp_path)
    with pytest.raises(OperationError, match="loopback address only"):
        await serve(ApiSettings(address, 1, tmp_path / "token"), house.operations)


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost")))
    assert not any(map(is_loopback, ("", "10.0.0.1", "localhost.example", "::", "0.0.0.0", "::ffff:10.0.0.1")))


async def test_a_port_that_is_taken_is_said(api: House, tmp_path: Path) -> None:
    port = int(api.server.address.rpartition(":")[2])
    with pytest.raises(OperationError, match=rf"cannot listen on 127.0.0.1:{port}.*running already"):
        await serve(ApiSettings(port=port, token_file=tmp_path / "other"), api.operations)


async def test_signals_stay_the_services_own(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    house = House(tmp_path)
    await house.open()
    during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await house.close()
    assert during == before


async def test_it_can_be_closed_and_opened_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.open()
    address, token = house.server.address, house.token
    await house.get("/v1/version")
    await house.close()
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"http://{address}/v1/version")
    await house.open()
    assert house.token == token
    await house.close()


# What is answered


async def test_servers_and_their_verbs(api: House) -> None:
    (server,) = (await api.get("/v1/servers"))["servers"]
    assert server["name"] == "default" and server["state"] == "started"
    assert server["counts"] == {"queued": 0, "leased": 0, "held": 0, "finished": 0, "oldest": None}
    for action, state in [
        ("pause", "paused"),
        ("continue", "started"),
        ("stop", "stopped"),
        ("start", "started"),
        ("restart", "started"),
        ("reload", "started"),
    ]:
        answer = await api.client.post(f"/v1/servers/{action}", params={"server": "default"})
        assert answer.json()["servers"][0]["state"] == state, action
    assert error(await api.client.post("/v1/servers/dance")) == (404, "not_found")
    assert error(await api.client.post("/v1/servers/stop", params={"server": "x"})) == (404, "not_found")
    api.refusal = "mailroot.toml:3: general.fqdn: …"
    answer = await api.client.post("/v1/servers/reload")
    assert error(answer) == (500, "failed") and api.refusal in answer.text


async def test_sessions(api: House) -> None:
    for name in ("one", "two", "three"):
        api.relay.sessions.add(FakeSession(name))
    assert [one["id"] for one in (await api.get("/v1/sessions"))["sessions"]] == ["one", "two", "three"]
    assert (await api.client.delete("/v1/sessions/one")).json() == {"ended": 1}
    assert error(await api.client.delete("/v1/sessions/one")) == (404, "not_found")
    assert (await api.client.delete("/v1/sessions")).json() == {"ended": 2}


async def test_bans(api: House) -> None:
    api.relay.ban("2001:db8::1", "../crm & co")
    listed = (await api.get("/v1/bans"))["bans"]
    assert [sorted(ban) for ban in listed] == [["failures", "kind", "server", "until", "who"]] * 2
    assert [(ban["who"], ban["kind"]) for ban in listed] == [
        ("2001:db8::/64", "address"),
        ("../crm & co", "account"),
    ]

    async def lift(**query: str) -> httpx.Response:
        return await api.client.delete("/v1/bans", params=query)

    for wrong in ({}, {"who": ""}, {"who": "x", "all": "true"}):
        assert error(await lift(**wrong)) == (400, "invalid")
    assert error(await lift(who="x")) == (404, "not_found")
    assert (await lift(who="2001:db8::/64")).json() == {"lifted": 1}
    assert (await lift(who="../crm & co")).json() == {"lifted": 1}
    api.relay.ban("192.0.2.1", "crm")
    assert (await lift(all="true")).json() == {"lifted": 2}
    assert (await api.get("/v1/bans"))["bans"] == []


async def test_certificates(api: House, tmp_path: Path) -> None:
    assert (await api.get("/v1/certificates"))["certificates"] == []
    files = [CertificateFile(*issue(f"{name}.example.com").files(tmp_path, name)) for name in "ab"]
    api.relay.certificates = Certificates(files)
    first, second = (await api.get("/v1/certificates"))["certificates"]
    assert sorted(first) == [
        *("chain", "default", "ends", "file", "fingerprint", "issuer", "key", "names", "not_before"),
        *("self_signed", "server"),
    ]
    assert (first["server"], first["names"], first["default"]) == ("default", ["a.example.com"], True)
    assert (second["file"], second["default"]) == (str(tmp_path / "b.pem"), False)
    assert error(await api.client.get("/v1/certificates", params={"server": "x"})) == (404, "not_found")


async def test_messages_are_found_shown_and_counted(api: House) -> None:
    first = await api.relay.accept("alice@example.org", subject="Straße")
    second = await api.relay.accept("bob@example.org", message_id="<2@example.org>")
    page = await api.get("/v1/messages", limit=1)
    assert [message["id"] for message in page["messages"]] == [second] and page["next"] == second
    page = await api.get("/v1/messages", limit=1, before=page["next"])
    assert [message["id"] for message in page["messages"]] == [first] and page["next"] is None
    now = api.clock.now()
    for query in (
        {"sender": "alice"},
        {"subject": "straße"},
        {"id": first},
        {"text": "alice", "state": ["queued", "held"], "since": now - 1, "until": now + 1},
        {"message_id": "1@", "recipient": "b@", "server": "default"},
    ):
        found = (await api.get("/v1/messages", **query))["messages"]
        assert [message["id"] for message in found] == [first], query
    assert (await api.get("/v1/messages", since=now + 1))["messages"] == []
    detail = await api.get(f"/v1/messages/{first}")
    assert detail["summary"]["subject"] == "Straße" and detail["story"] == []
    assert (await api.get("/v1/counts"))["queues"][0]["counts"]["queued"] == 2


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"sendr": "x"}, 'no parameter "sendr"'),
        ({"state": "lost"}, "there is no state 'lost'; there are: queued, held, finished"),
        ({"id": "xyz"}, "not a message id"),
        ({"before": "xyz"}, "not a message id"),
        ({"since": "yesterday"}, '"since" must be a number'),
        ({"until": "nan"}, '"until" must be a number'),
        ({"sender": ["a", "b"]}, '"sender" may be given once'),
        ({"id": ["0000000000001"] * 501}, "at most 500"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused_with_words(
    api: House, query: dict[str, Any], words: str
) -> None:
    answer = await api.client.get("/v1/messages", params=query)
    assert error(answer) == (400, "invalid") and words in answer.json()["error"]["message"]


async def test_content_comes_octet_by_octet(api: House) -> None:
    text = b"Subject: x\r\n\r\n" + bytes(range(256)) * 4000
    known = await api.relay.accept(text=text)
    answer = await api.client.get(f"/v1/messages/{known}/content")
    assert answer.content == b"Received: by relay\r\n" + text
    assert answer.headers["content-type"] == "message/rfc822"
    assert answer.headers["content-disposition"] == f'attachment; filename="{known}.eml"'
    assert error(await api.client.get("/v1/messages/0000000000001/content")) == (404, "not_found")


async def test_content_that_breaks_off_is_seen_to_be_short(api: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from mailroot.queue.base import QueueError

    class Broken:
        size = 1000

        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"x" * 10
            raise QueueError("disk I/O error")

    async def content(_: object) -> Broken:
        return Broken()

    known = await api.relay.accept()
    monkeypatch.setattr(api.relay.queue, "content", content)
    with pytest.raises(httpx.RemoteProtocolError):
        await api.client.get(f"/v1/messages/{known}/content")


async def test_verbs_on_messages(api: House) -> None:
    first, second = await api.relay.accept("a@example.org"), await api.relay.accept("b@example.org")
    done = (await api.client.post("/v1/queue/hold", json={"id": [first, "0000000000001"]})).json()
    assert done["changed"] == [first]
    assert done["skipped"] == [{"id": "0000000000001", "why": "there is no such message"}]
    assert (await api.get("/v1/queue/release", sender="a@")) == {"count": 1, "more": False}
    done = (await api.client.post("/v1/queue/release", json={"sender": "a@", "limit": 5})).json()
    assert done == {"changed": [first], "skipped": [], "next": None}
    done = (await api.client.post("/v1/queue/delete", json={"all": True, "limit": 1})).json()
    assert done["changed"] == [second] and done["next"] == second
    done = (await api.client.post("/v1/queue/delete", json={"all": True, "before": second})).json()
    assert done["changed"] == [first] and done["next"] is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "say which messages"),
        (b'{"before": "0000000000001"}', "say which messages"),
        (b"", "say which messages"),
        (b"[1]", "must be a JSON object"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 60_000, "is not JSON"),
        (b'{"all": "yes"}', '"all" must be true or false'),
        (b'{"sender": {"x": 1}}', '"sender" must be text or a number'),
        (b'{"sender": true}', '"sender" must be text or a number'),
        (b'{"sender": ["a", "b"]}', "may be given once"),
        (b'{"everything": true}', 'no parameter "everything"'),
    ],
)
async def test_a_verb_never_guesses_what_is_meant(api: House, body: bytes, words: str) -> None:
    known = await api.relay.accept()
    answer = await api.client.post("/v1/queue/delete", content=body)
    assert error(answer) == (400, "invalid") and words in answer.json()["error"]["message"]
    assert api.relay.queue is not None
    record = await api.relay.queue.record(parse_id(known))
    assert record is not None and record.state == "queued"


async def test_bodies_are_bounded(api: House) -> None:
    answer = await api.client.post("/v1/queue/delete", content=b" " * (MOST_BODY + 1))
    assert error(answer) == (413, "http")
    assert error(await api.client.post("/v1/queue/dance", json={"all": True})) == (404, "not_found")


async def test_explain(api: House) -> None:
    answer = await api.get("/v1/explain", **{"from": "a@example.org", "to": "b@example.net", "client": "10.0.0.1"})
    assert answer["accepted"] is False and answer["steps"][-1]["reply"].startswith("550 5.7.1")
    answer = await api.get("/v1/explain", **{"from": "", "to": "b@example.net", "size": 10, "tls": "true"})
    assert answer["accepted"] is True and answer["hosts"][0]["name"] == "mx.example.net"
    login = {"user": "crm", "tls": "true", "listener": ":2525", "from_header": "CRM <crm@example.org>"}
    answer = await api.get("/v1/explain", **{"from": "", "to": "b@example.net", "client": "10.0.0.1"}, **login)
    assert (answer["accepted"], answer["user"], answer["listener"]) == (True, "crm", "127.0.0.1:2525")
    assert "May its From be CRM <crm@example.org>?" in [step["question"] for step in answer["steps"]]
    assert error(await api.client.get("/v1/explain", params={"to": ""})) == (400, "invalid")


async def test_a_queue_in_trouble_is_503(api: House) -> None:
    api.relay.queue, api.relay.trouble = None, "the database is damaged"
    answer = await api.client.get("/v1/messages")
    assert error(answer) == (503, "unavailable") and "damaged" in answer.text


async def test_unknown_routes_and_methods(api: House) -> None:
    assert error(await api.client.get("/v1/nothing")) == (404, "http")
    answer = await api.client.put("/v1/servers")
    assert error(answer) == (405, "http") and "GET" in answer.headers["allow"]


async def test_a_fault_of_ours_is_answered_and_published_and_hides_its_inside(
    api: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(api.relay.queue, "record", broken)
    answer = await api.client.get("/v1/messages/0000000000001")
    assert error(answer) == (500, "internal") and "secret" not in answer.text
    (event,) = [event for event in api.heard if isinstance(event, InternalError)]
    assert event.where == "API" and "secret detail" in event.error
    assert (await api.get("/v1/version"))["product"] == "Mailroot"


async def test_an_octet_that_is_no_http_harms_nobody(api: House) -> None:
    host, _, port = api.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"EHLO there\r\n\r\n")
    assert b"400" in await reader.readline()
    writer.close()
    await writer.wait_closed()
    await api.get("/v1/version")


async def test_silent_connections_are_closed(api: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.web.app._IDLE_SECONDS", -1.0)
    host, _, port = api.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


# What is documented


def test_every_route_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(GET|POST|DELETE) (/v1/[^`?]*)`", text))
    house = House(Path())
    there = {
        (method, route.path)
        for route in Api(house.operations).routes()
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert documented == there


def test_the_command_line_of_uvicorn_is_not_loaded() -> None:
    """It would be a twentieth of an idle service's memory."""
    code = "import sys, mailroot.web.app; print({'click', 'multiprocessing'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "set()"
