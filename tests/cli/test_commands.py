"""The commands against a service, and what they say when there is none."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailroot import __version__
from mailroot.cli.main import main
from mailroot.mail.outcome import Deferred, Delivered
from mailroot.mail.reply import Reply
from mailroot.net.tls import TlsVersion
from mailroot.policy.listeners import ListenerRules, ListenerSettings, Profile, RequireTls, TlsMode
from mailroot.queue.base import QueueError
from rig.fake_server import FakeSession
from rig.served import Running, Said

Mailroot = Callable[..., Said]

pytestmark = pytest.mark.quick

OK = Reply(250, "2.0.0", "Ok")
LATER = Reply(450, "4.2.0", "Greylisted")
HOST = "mx.example.net [192.0.2.10]:25"


def message(running: Running, *arguments: Any, **named: Any) -> str:
    """A message in the running service's queue; its id."""
    return running.do(running.relay.accept(*arguments, **named))


# Finding the service


def test_no_service_no_token_wrong_token_each_has_its_words(
    running: Running, say: Mailroot, tmp_path: Path
) -> None:
    said = say("server", "list", "--api", "127.0.0.1:1", "--token-file", str(running.token_file))
    assert said.code == 1 and said.out == "" and "no service answers at 127.0.0.1:1. Is it running" in said.err
    said = say("server", "list", "--api", running.address, "--token-file", str(tmp_path / "nowhere"))
    assert said.code == 1 and "there is no token file" in said.err
    other = tmp_path / "other-token"
    other.write_text("x" * 43)
    said = say("server", "list", "--api", running.address, "--token-file", str(other))
    assert said.code == 1 and "is not the one of the service" in said.err
    said = say("server", "list", "--api", running.address, "--token-file", str(tmp_path))
    assert said.code == 1 and "cannot be read" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("api", ["192.0.2.1:2580", "example.com:2580", "127.0.0.1", "[::1]", "garbage"])
def test_the_token_is_not_sent_to_another_machine(running: Running, say: Mailroot, api: str) -> None:
    said = say("server", "list", "--api", api, "--token-file", str(running.token_file))
    assert said.code == 2 and said.out == "" and "is not a loopback address and a port" in said.err


def test_without_options_the_defaults_are_used(
    say: Mailroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = say("queue", "list")
    assert said.code == 1 and f"no token file {Path('mailroot') / 'api-token'}" in said.err


def test_a_proxy_of_the_environment_is_not_asked(
    running: Running, mailroot: Mailroot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert mailroot("server", "list").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        ["queue"],
        ["queue", "show"],
        ["queue", "hold"],
        ["queue", "hold", "--all", "--sender", "x"],
        ["queue", "list", "--since", "yesterday"],
        ["queue", "list", "--limit", "-1"],
        ["session", "end"],
        ["session", "end", "x", "--all"],
        ["send", "--to", "a@b.example"],
        ["explain", "--from", "a@b.example"],
    ],
)
def test_a_wrong_command_line_is_2_and_explained_on_standard_error(
    running: Running, say: Mailroot, arguments: list[str]
) -> None:
    where = ["--api", running.address, "--token-file", str(running.token_file)] if len(arguments) > 2 else []
    said = say(*arguments, *where)
    assert said.code == 2
    assert "Usage: mailroot" in said.out + said.err and "Traceback" not in said.err


def test_help_reaches_every_command(say: Mailroot) -> None:
    def commands(*path: str) -> list[str]:
        text = say(*path, "--help").out
        section = text.partition("Commands")[2]
        return re.findall(r"^\W*([a-z]+)  ", section, re.MULTILINE)

    own = {"run", "send", "explain", "version"}
    assert set(commands()) == own | {"config", "server", "session", "queue", "user", "ban", "certificate"}
    assert set(commands("server")) == {"list", "start", "stop", "pause", "continue", "restart", "reload"}
    assert set(commands("session")) == {"list", "end"}
    assert set(commands("ban")) == {"list", "lift"}
    assert set(commands("certificate")) == {"make", "show"}
    assert set(commands("user")) == {"add", "passwd", "remove", "list", "disable", "enable"}
    assert set(commands("queue")) == {"list", "show", "export", "retry", "hold", "release", "delete", "count"}
    for room in ("server", "session", "queue"):
        for command in commands(room):
            said = say(room, command, "--help")
            assert said.code == 0 and "--json" in said.out and "--token-file" in said.out, command


def test_version(say: Mailroot) -> None:
    assert say("version").out == f"Mailroot {__version__}\n"
    assert say("version", "--json").json["version"] == __version__


# Servers and sessions


def test_servers(running: Running, mailroot: Mailroot) -> None:
    message(running)
    lines = mailroot("server", "list").out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATE", "SESSIONS"]
    assert lines[1].split()[:4] == ["default", "started", "0", "1"]
    assert lines[3].split()[:2] == ["LISTENS", "ON"] and lines[4].split()[:2] == ["127.0.0.1:2525", "applications"]
    assert mailroot("server", "pause").out == "default: paused, listening on 127.0.0.1:2525\n"
    assert mailroot("server", "continue", "default").out.startswith("default: started")
    assert mailroot("server", "stop").out == "default: stopped\n"
    assert mailroot("server", "list", "--json").json["servers"][0]["state"] == "stopped"
    assert mailroot("server", "start").code == 0
    assert mailroot("server", "restart").out.startswith("default: started")
    assert mailroot("server", "reload", "--json").json["servers"][0]["name"] == "default"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "applications   STARTTLS, required for passwords  offered"),
        ({"require_login": True}, "applications   STARTTLS, required for passwords  required"),
        ({"tls": TlsMode.IMPLICIT, "min_tls": TlsVersion.TLS_1_3}, "applications   implicit, from 1.3  offered"),
        ({"tls": TlsMode.OFF}, "applications   none                     required, none possible"),
        ({"tls": TlsMode.OFF, "require_tls": RequireTls.MAIL}, "applications   none, but required"),
        ({"profile": Profile.OLD_DEVICES}, "old devices    STARTTLS, from 1.0       offered"),
        ({"profile": Profile.STRICT, "proxy_protocol": True}, "STARTTLS, required for logins  offered  a proxy"),
    ],
)
def test_what_holds_at_a_listener_is_seen(
    running: Running, mailroot: Mailroot, settings: dict[str, Any], words: str
) -> None:
    running.relay.listeners = ("192.0.2.7:25",)
    running.relay.rules = {"192.0.2.7:25": ListenerRules.of(ListenerSettings("192.0.2.7:25", **settings))}
    if settings.get("tls") is TlsMode.OFF:
        running.relay.anonymous = False
    line = mailroot("server", "list").out.splitlines()[4]
    assert " ".join(words.split()) in " ".join(line.split())


def test_a_server_that_cannot_start_says_why(running: Running, mailroot: Mailroot) -> None:
    running.relay.fails_with = "127.0.0.1:25: permission denied"
    said = mailroot("server", "start")
    assert (said.code, said.out, said.err) == (1, "", "mailroot: 127.0.0.1:25: permission denied\n")
    running.relay.trouble = "127.0.0.1:25: permission denied"
    said = mailroot("server", "list")
    assert said.code == 0 and "default: 127.0.0.1:25: permission denied" in said.err
    running.reload_refusal = "mailroot.toml:3: general.fqdn: two lines\nmailroot.toml:4: …"
    said = mailroot("server", "reload")
    assert said.code == 1 and said.err == f"mailroot: {running.reload_refusal}\n"
    said = mailroot("server", "stop", "nonsense")
    assert said.code == 1 and "there is no virtual server 'nonsense'; there are: default" in said.err


def test_sessions(running: Running, mailroot: Mailroot) -> None:
    assert mailroot("session", "list").out == "no sessions\n"
    for name in ("a1", "b2", "c3"):
        running.relay.sessions.add(FakeSession(name, helo="\x1b]0;evil\x07pc"))
    running.relay.sessions.open["a1"].listener, running.relay.sessions.open["a1"].proxy = "[::]:587", "192.0.2.9"
    said = mailroot("session", "list")
    assert "[::]:587" in said.out and "192.0.2.9" in said.out
    assert [line.split()[0] for line in said.out.splitlines()] == ["ID", "a1", "b2", "c3"]
    assert "\x1b" not in said.out
    assert len(mailroot("session", "list", "--json").json["sessions"]) == 3
    said = mailroot("session", "end", "b2", "nonsense")
    assert said.code == 1 and "no session 'nonsense'" in said.err
    assert mailroot("session", "end", "--all").out == "2 sessions ended\n"
    assert running.relay.sessions.list() == []


def test_bans(running: Running, mailroot: Mailroot) -> None:
    assert mailroot("ban", "list").out == "no bans\n"
    running.relay.ban("198.51.100.7", "\x1b]0;evil\x07\u202ecrm")
    running.relay.ban("2001:db8::1")
    said = mailroot("ban", "list")
    # Clocks with long ticks have them end at the same time.
    head, *lines = (line.split()[:2] for line in said.out.splitlines())
    assert head == ["BANNED", "WHAT"]
    assert sorted(lines) == [
        ["198.51.100.7", "address"],
        ["2001:db8::/64", "address"],
        ["]0;evilcrm", "account"],
    ]
    assert "\x1b" not in said.out and "\u202e" not in said.out
    assert "\x1b]0;evil\x07\u202ecrm" in [ban["who"] for ban in mailroot("ban", "list", "--json").json["bans"]]
    said = mailroot("ban", "lift", "198.51.100.7", "nobody", "\x1b]0;x")
    assert said.code == 1 and "'nobody' is not banned" in said.err and "\x1b" not in said.err
    assert mailroot("ban", "lift", "198.51.100.7").code == 1  # lifted just now
    assert mailroot("ban", "lift", "2001:db8::/64", "--json").json == {"lifted": 1}
    for wrong in ((), ("x", "--all"), ("",)):
        assert mailroot("ban", "lift", *wrong).code != 0
    assert len(running.relay.guard.bans()) == 1
    assert mailroot("ban", "lift", "--all").out == "1 ban lifted\n"
    assert running.relay.guard.bans() == []


# The queue


def test_an_empty_queue_is_not_a_failure(mailroot: Mailroot) -> None:
    said = mailroot("queue", "list")
    assert (said.code, said.out, said.err) == (0, "the queue is empty\n", "")
    assert mailroot("queue", "list", "--sender", "x").out == "no messages\n"
    assert mailroot("queue", "list", "--json").json == {"messages": [], "next": None}


def test_the_queue_is_listed_searched_and_limited(running: Running, mailroot: Mailroot) -> None:
    ids = [message(running, f"user{n}@example.org", subject=f"No. {n}") for n in range(5)]
    lines = mailroot("queue", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", *reversed(ids)]
    said = mailroot("queue", "list", "--limit", "2")
    assert len(said.out.splitlines()) == 3 and "there are more than these 2" in said.err
    answer = mailroot("queue", "list", "--from", "USER3@", "--since", "1 h", "--json").json
    assert [one["id"] for one in answer["messages"]] == [ids[3]]
    answer = mailroot("queue", "list", "--limit", "4", "--json").json
    assert len(answer["messages"]) == 4 and answer["next"] == ids[1]
    assert mailroot("queue", "list", "--until", "2000-01-01").out == "no messages\n"
    assert mailroot("queue", "list", "--state", "lost").code == 1


def test_all_pages_are_listed(running: Running, mailroot: Mailroot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.cli.queue._PAGE", 2)
    ids = [message(running) for _ in range(5)]
    answer = mailroot("queue", "list", "--limit", "0", "--json").json
    assert [one["id"] for one in answer["messages"]] == ids[::-1] and answer["next"] is None
    assert mailroot("queue", "list", "--limit", "0").out.count("b@example.net") == 5


def test_finished_messages_are_listed_when_asked_for(running: Running, mailroot: Mailroot) -> None:
    known = message(running)
    running.do(running.relay.attempt((0, Delivered(OK, HOST, 0.0))))
    assert mailroot("queue", "list").out == "the queue is empty\n"
    assert known in mailroot("queue", "list", "--finished").out
    assert known in mailroot("queue", "list", "--state", "finished").out


def test_one_message_is_told_in_plain_words(running: Running, mailroot: Mailroot) -> None:
    known = message(running, recipients=("b@example.net", "c@example.net"), subject="A \x1b[1mbold\x1b[0m one")
    now = running.relay.clock.now()
    running.do(running.relay.attempt((0, Delivered(OK, HOST, now)), (1, Deferred(LATER, HOST, now))))
    text = mailroot("queue", "show", known.lower()).out
    assert re.search(r"^Now: +deferred \(1 of 2 recipients left\); next try in 1[45] min, at ", text, re.MULTILINE)
    assert re.search(rf"^Because: +{re.escape(HOST)}: 450 4.2.0 Greylisted$", text, re.MULTILINE)
    assert re.search(r"^Means: +The host puts off mail of senders new to it", text, re.MULTILINE)
    assert re.search(r"^At fault: +nobody; it passes by itself$", text, re.MULTILINE)
    assert re.search(rf"^To do: +.+ `mailroot queue retry {known}` tries at once$", text, re.MULTILINE)
    assert re.search(r"^Arrived: .* by SMTP from 192.0.2.7 \(client.example\)$", text, re.MULTILINE)
    assert re.search(r"c@example.net +pending +mx.example.net", text)
    assert re.search(r"LAST REPLY +MEANS\n(?:.+\n)*c@example.net +pending .+ The host puts off", text)
    assert re.search(r"deferred +c@example.net", text)
    assert "\x1b" not in text
    assert mailroot("queue", "show", known, "--json").json["summary"]["pending"] == 1
    running.do(running.relay.queue.hold(_search(known)))  # type: ignore[union-attr]
    held = mailroot("queue", "show", known).out
    assert "held; it waits until it is released" in held
    assert f"`mailroot queue release {known}` lets it go on" in held
    said = mailroot("queue", "show", "0000000000001")
    assert said.code == 1 and said.err == "mailroot: there is no message 0000000000001\n"
    said = mailroot("queue", "show", "../servers")
    assert said.code == 1 and "Traceback" not in said.err


def _search(known: str) -> Any:
    from mailroot.queue.base import Search, parse_id

    return Search(ids=(parse_id(known),))


def test_counts(running: Running, mailroot: Mailroot) -> None:
    message(running)
    lines = mailroot("queue", "count").out.splitlines()
    assert lines[1].split()[:5] == ["default", "1", "0", "0", "0"]
    assert mailroot("queue", "count", "--json").json["queues"][0]["counts"]["queued"] == 1


TEXT = b"Subject: x\r\n\r\n" + bytes(range(256)) * 3000
WHOLE = b"Received: by relay\r\n" + TEXT


def test_export_writes_every_octet(
    running: Running, mailroot: Mailroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [message(running, text=TEXT) for _ in range(2)]
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    said = mailroot("queue", "export", *ids)
    assert said.code == 0 and said.out == ""
    assert [(folder / f"{known}.eml").read_bytes() == WHOLE for known in ids] == [True, True]
    said = mailroot("queue", "export", ids[0])
    assert said.code == 1 and "exists; --force writes over it" in said.err
    assert mailroot("queue", "export", ids[0], "--force").code == 0
    assert mailroot("queue", "export", ids[0], "-o", "named.eml").code == 0
    assert (folder / "named.eml").read_bytes() == WHOLE
    assert mailroot("queue", "export", *ids, "-o", "one.eml").code == 2
    said = mailroot("queue", "export", ids[0], "-o", str(folder / "nowhere" / "x.eml"))
    assert said.code == 1 and "cannot be written" in said.err


def test_export_to_standard_output_is_binary(running: Running) -> None:
    known = message(running, text=TEXT)
    command = [
        "queue",
        "export",
        known,
        "-o",
        "-",
        "--api",
        running.address,
        "--token-file",
        str(running.token_file),
    ]
    done = subprocess.run([sys.executable, "-c", _MAIN, *command], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout == WHOLE


_MAIN = "import sys; from mailroot.cli.main import main; sys.exit(main())"


def test_an_export_that_breaks_off_leaves_no_file(
    running: Running, mailroot: Mailroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        size = 1000

        async def chunks(self) -> Any:
            yield b"x" * 10
            raise QueueError("disk I/O error")

    async def content(_: object) -> Broken:
        return Broken()

    known = message(running)
    monkeypatch.setattr(running.relay.queue, "content", content)
    file = tmp_path / "x.eml"
    said = mailroot("queue", "export", known, "-o", str(file))
    assert said.code == 1 and "broke off" in said.err and not file.exists()


def test_verbs_on_named_messages(running: Running, mailroot: Mailroot) -> None:
    first, second = message(running), message(running)
    assert mailroot("queue", "hold", first).out == "1 message held\n"
    said = mailroot("queue", "retry", first, second)
    assert said.code == 1 and said.out == "1 message due now\n"
    assert said.err == f"{first}: it is held; release it instead\n"
    assert mailroot("queue", "release", first, "--json").json == {"changed": [first], "skipped": []}
    assert mailroot("queue", "delete", first, second).out == "2 messages deleted\n"
    said = mailroot("queue", "delete", "nonsense")
    assert said.code == 1 and "is not a message id" in said.err


def test_verbs_on_many_messages_ask_first(running: Running, mailroot: Mailroot) -> None:
    spam = {message(running, "spam@example.org") for _ in range(5)}
    ham = message(running, "ham@example.org")
    said = mailroot("queue", "delete", "--sender", "spam@")
    assert said.code == 1 and "this would delete 5 messages; --yes says that this is meant" in said.err
    assert len(mailroot("queue", "list", "--json").json["messages"]) == 6
    # One message needs no question.
    assert mailroot("queue", "hold", "--sender", "ham@").out == "1 message held\n"
    assert set(mailroot("queue", "delete", "--sender", "spam@", "--yes", "--json").json["changed"]) == spam
    assert mailroot("queue", "release", "--all").out == "1 message released\n"
    assert mailroot("queue", "delete", "--all").out == "1 message deleted\n"
    assert mailroot("queue", "delete", "--all").out == "0 messages deleted\n"
    assert mailroot("queue", "show", ham, "--json").json["summary"]["doing"] == "deleted"


def test_many_messages_go_batch_by_batch(
    running: Running, mailroot: Mailroot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailroot.cli.queue._BATCH", 2)
    ids = [message(running) for _ in range(5)]
    assert sorted(mailroot("queue", "hold", "--all", "--yes", "--json").json["changed"]) == sorted(ids)
    assert mailroot("queue", "release", *ids).out == "5 messages released\n"


# Explain


def test_explain(running: Running, mailroot: Mailroot) -> None:
    said = mailroot("explain", "--from", "a@example.org", "--to", "b@example.net", "--client", "10.0.0.1")
    assert said.code == 1
    assert "NO   May it send to b@example.net?" in said.out
    assert "the client is told: 550 5.7.1 Unable to relay for b@example.net" in said.out
    said = mailroot("explain", "--from", "", "--to", "b@example.net")
    assert said.code == 0 and re.search(r"1 +mx.example.net +192.0.2.10 +25 +if offered", said.out)
    assert "It would be taken, and handed to mx.example.net, port 25, at once." in said.out
    assert mailroot("explain", "--from", "", "--to", "b@example.net", "--json").json["accepted"] is True
    login = ("--user", "crm", "--tls", "--listener", ":2525", "--from-header", "CRM <crm@example.org>")
    said = mailroot("explain", "--from", "", "--to", "b@example.net", "--client", "10.0.0.1", *login)
    assert said.code == 0 and "logged in as crm, at virtual server" in said.out
    for question in ("What holds at 127.0.0.1:2525?", "May it log in as crm?", "May its From be CRM <crm@example"):
        assert question in said.out
    said = mailroot("explain", "--from", "a", "--to", "b@example.net", "--client", "nonsense")
    assert said.code == 1 and "is not the address of a client" in said.err


# Where it is run


def test_a_reader_that_leaves_is_no_traceback(running: Running) -> None:
    for _ in range(20):
        message(running)
    command = [sys.executable, "-c", _MAIN, "queue", "list", "--json"]
    where = ["--api", running.address, "--token-file", str(running.token_file)]
    process = subprocess.Popen([*command, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(60)
    process.stderr.close()
    assert b"Traceback" not in errors


def test_no_letter_ends_a_command_in_a_poor_locale(running: Running) -> None:
    known = message(running, subject="Straße 世界")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    where = ["--api", running.address, "--token-file", str(running.token_file)]
    for options in ([], ["--json"]):
        command = [sys.executable, "-c", _MAIN, "queue", "show", known, *options, *where]
        done = subprocess.run(command, capture_output=True, timeout=60, env=environment)
        assert done.returncode == 0 and b"Traceback" not in done.stderr
        if options:
            assert json.loads(done.stdout.decode())["summary"]["subject"] == "Straße 世界"


def test_main_answers_with_the_exit_code() -> None:
    assert main(["version"]) == 0
    assert main(["version", "--nonsense"]) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_standard_output_is_said(running: Running) -> None:
    known = message(running)
    where = ["--api", running.address, "--token-file", str(running.token_file)]
    for command in (
        ["queue", "list"],
        ["queue", "list", "--json"],
        ["queue", "export", known, "-o", "-"],
        ["version"],
    ):
        options = where if command != ["version"] else []
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, "-c", _MAIN, *command, *options], stdout=full, stderr=subprocess.PIPE, timeout=60
            )
        assert done.returncode == 1
        assert done.stderr.splitlines() == [b"mailroot: standard output cannot be written: No space left on device"]
