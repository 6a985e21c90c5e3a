"""Operations over virtual servers with real rules and a queue in memory."""

import json
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mailroot.clock import ManualClock
from mailroot.deliver.route import AdvancedDelivery, RemoteDomain
from mailroot.deliver.security import OutboundSecurity, TlsPolicy
from mailroot.events import Bus, Event, InternalError, MessagesChanged
from mailroot.mail.outcome import Deferred, Delivered, Failed
from mailroot.mail.reply import Reply
from mailroot.net.certificates import Certificates
from mailroot.net.dns import Exchanger
from mailroot.net.tls import CertificateFile
from mailroot.operations import Invalid, NotFound, OperationError, Operations, Unavailable, as_json
from mailroot.operations.admission import Step
from mailroot.operations.authority import make_certificate
from mailroot.operations.explanation import Explanation, Question
from mailroot.operations.operator import Action
from mailroot.policy.access import AccessList, Mode, RelayList
from mailroot.policy.auth.base import Channel
from mailroot.policy.limits import LimitSettings, Quota
from mailroot.policy.listeners import ListenerRules, ListenerSettings, LoginKind, Profile, RequireTls, TlsMode
from mailroot.policy.permissions import Otherwise, Permission
from mailroot.queue.base import QueueError, Search, State, parse_id
from rig.fake_server import FakeServer, FakeSession

pytestmark = pytest.mark.quick

OK = Reply(250, "2.0.0", "Ok")
LATER = Reply(450, "4.2.0", "Greylisted")
NEVER = Reply(550, "5.1.1", "Unknown user")
HOST = "mx.example.net [192.0.2.10]:25"
FIXED = "x@local.example"


class House:
    """Two virtual servers, the operator, and what the bus heard."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bus = Bus(self.clock)
        self.heard: list[Event] = []
        self.bus.subscribe(lambda _, event: self.heard.append(event))
        self.first = FakeServer("first", self.clock)
        self.second = FakeServer("second", self.clock)
        self.reloaded: list[str | None] = []
        self.operations = Operations(
            {"first": self.first, "second": self.second}, self.bus, self.clock, self.reload
        )

    async def reload(self, name: str | None) -> None:
        self.reloaded.append(name)


@pytest.fixture
def house() -> House:
    return House()


# Virtual servers


async def test_servers_show_state_and_what_the_queue_holds(house: House) -> None:
    await house.first.accept()
    house.first.sessions.add(FakeSession("s1"))
    first, second = await house.operations.servers()
    assert (first.name, first.state, first.sessions) == ("first", "started", 1)
    assert first.counts is not None and first.counts.queued == 1
    assert second.counts is not None and second.counts.queued == 0
    assert [listener.address for listener in first.listeners] == ["127.0.0.1:2525"]


async def test_a_listener_is_shown_with_what_holds_there(house: House, tmp_path: Path) -> None:
    first = house.first
    first.listeners = ("127.0.0.1:25", "0.0.0.0:587", "[::]:465")
    first.rules = {
        "127.0.0.1:25": ListenerRules(tls=TlsMode.OFF),
        "0.0.0.0:587": ListenerRules(require_login=True),
        "[::]:465": ListenerRules(tls=TlsMode.IMPLICIT),
    }
    made = make_certificate(tmp_path, ["relay.example"], 20, now=time.time())
    first.certificates = Certificates([CertificateFile(Path(made.certificate.file), Path(made.key))])
    asked: list[tuple[str, bool]] = []

    def mechanisms(channel: Channel, rules: ListenerRules) -> tuple[str, ...]:
        asked.append((str(channel.client), channel.tls))
        return ("PLAIN",) if channel.tls else ()

    first.mechanisms = mechanisms  # type: ignore[method-assign]
    one, two, three = (await house.operations.servers())[0].listeners
    assert (one.tls, one.login, one.mechanisms, one.certificate_ends) == ("off", "none", (), None)
    assert (two.tls, two.login, two.mechanisms) == ("starttls", "required", ("PLAIN",))
    assert two.certificate_ends == made.certificate.ends
    assert (three.tls, three.login, three.min_tls) == ("implicit", "offered", "1.2")
    assert asked == [("127.0.0.1", False), ("192.0.2.1", True), ("192.0.2.1", True)]
    first.anonymous, first.offers_tls = False, False
    one, two, three = (await house.operations.servers())[0].listeners
    assert {listener.login for listener in (one, two, three)} == {"required"}
    assert {listener.tls for listener in (one, two, three)} == {"off"} and two.certificate_ends is None


async def test_a_verb_acts_on_the_named_server_or_on_all(house: House) -> None:
    await house.operations.stop(["second"])
    assert [server.state for server in await house.operations.servers()] == ["started", "stopped"]
    stopped = await house.operations.stop()
    assert [server.state for server in stopped] == ["stopped", "stopped"]
    assert [server.state for server in await house.operations.start()] == ["started", "started"]
    assert [server.state for server in await house.operations.pause(["first"])] == ["paused"]
    assert [server.state for server in await house.operations.resume(["first"])] == ["started"]
    await house.operations.stop(["first"])
    assert [server.state for server in await house.operations.restart(["first"])] == ["started"]


async def test_an_unknown_server_is_named_with_those_that_there_are(house: House) -> None:
    with pytest.raises(NotFound, match="no virtual server 'third'; there are: first, second"):
        await house.operations.stop(["third"])
    with pytest.raises(NotFound):
        await house.operations.messages(Search(), names=["third"])
    with pytest.raises(NotFound):
        await house.operations.reload(["third"])
    assert house.reloaded == []


async def test_one_server_that_fails_does_not_keep_the_others(house: House) -> None:
    house.first.fails_with = "127.0.0.1:25: permission denied"
    with pytest.raises(OperationError, match="permission denied"):
        await house.operations.stop()
    assert [server.state for server in await house.operations.servers()] == ["started", "stopped"]
    house.second.fails_with = "second reason"
    with pytest.raises(OperationError, match="permission denied\nsecond reason"):
        await house.operations.stop()


async def test_reload_asks_the_service_once_for_all_or_for_each_named(house: House) -> None:
    await house.operations.reload()
    assert house.reloaded == [None]
    await house.operations.reload(["second"])
    assert house.reloaded == [None, "second"]


# Sessions


async def test_sessions_are_listed_oldest_first_and_ended(house: House) -> None:
    house.first.sessions.add(FakeSession("late", since=20.0))
    house.second.sessions.add(FakeSession("early", since=10.0, tls=True))
    listed = house.operations.sessions()
    assert [(one.server, one.id, one.tls) for one in listed] == [
        ("second", "early", True),
        ("first", "late", False),
    ]
    house.operations.end_session("early")
    assert [one.id for one in house.operations.sessions()] == ["late"]
    with pytest.raises(NotFound):
        house.operations.end_session("early")
    house.second.sessions.add(FakeSession("other"))
    assert house.operations.end_sessions(["first"]) == 1
    assert house.operations.end_sessions() == 1


# Bans


def test_bans_are_listed_and_lifted(house: House) -> None:
    house.second.ban("192.0.2.1", "Crm")
    house.clock.turn(10)
    house.first.ban("192.0.2.1")
    assert [(ban.server, ban.who, ban.kind) for ban in house.operations.bans()] == [
        ("second", "192.0.2.1", "address"),
        ("second", "crm", "account"),
        ("first", "192.0.2.1", "address"),
    ]
    assert house.operations.lift_ban("192.0.2.1", ["first"]) == 1
    with pytest.raises(NotFound, match=r"'192\.0\.2\.1' is not banned"):
        house.operations.lift_ban("192.0.2.1", ["first"])
    house.first.ban("192.0.2.1")
    assert house.operations.lift_ban("192.0.2.1") == 2
    assert house.operations.lift_bans(["first"]) == 0
    assert house.operations.lift_bans() == 1
    assert house.operations.bans() == []


# The queue


async def test_pages_run_over_all_servers_newest_first(house: House) -> None:
    ids = []
    for number in range(6):
        server = (house.first, house.second)[number % 2]
        ids.append(await server.accept(subject=f"number {number}"))
    # Each server has an id source of its own, so time of acceptance within a millisecond may be any.
    expected = sorted(ids, reverse=True)
    seen, before = [], None
    while True:
        page = await house.operations.messages(Search(before=parse_id(before) if before else None), 2)
        seen += [message.id for message in page.messages]
        assert len(page.messages) == 2
        before = page.next
        if before is None:
            break
    assert seen == expected


async def test_a_page_that_is_exactly_full_has_no_next(house: House) -> None:
    await house.first.accept()
    await house.first.accept()
    assert (await house.operations.messages(Search(), 2)).next is None


async def test_search_conditions_reach_the_queue(house: House) -> None:
    wanted = await house.first.accept("alice@example.org", ("bob@example.net",), subject="Invoice 7")
    await house.first.accept("carol@example.org", ("dave@example.net",), subject="Other")
    for search in (Search(sender="ALICE"), Search(recipient="bob@"), Search(subject="invoice"), Search(text="bob")):
        page = await house.operations.messages(search)
        assert [message.id for message in page.messages] == [wanted]


async def test_what_is_happening_in_words(house: House) -> None:
    async def doing(known: str) -> str:
        return (await house.operations.message(known)).summary.doing

    known = await house.first.accept(recipients=("b@example.net", "c@example.net"))
    assert house.first.queue is not None
    assert await doing(known) == "due now"
    (claim,) = await house.first.queue.claim(1)
    assert await doing(known) == "being delivered"
    await house.first.queue.give_back(claim)
    now = house.clock.now()
    await house.first.attempt((0, Delivered(OK, HOST, now)), (1, Deferred(LATER, HOST, now)))
    summary = (await house.operations.message(known)).summary
    assert summary.doing == "deferred"
    assert summary.due == now + 900
    assert summary.pending == 1
    assert summary.why == f"{HOST}: 450 4.2.0 Greylisted"
    await house.operations.change(Action.HOLD, Search(ids=(parse_id(known),)))
    assert await doing(known) == "held"
    await house.operations.change(Action.RELEASE, Search(ids=(parse_id(known),)))
    await house.first.attempt((1, Failed(NEVER, "", now + 5)))
    summary = (await house.operations.message(known)).summary
    assert summary.doing == "1 delivered, 1 failed"
    assert summary.why == "550 5.1.1 Unknown user"


async def test_a_message_tells_its_story(house: House) -> None:
    known = await house.first.accept(recipients=("b@example.net", "c@example.net"))
    now = house.clock.now()
    await house.first.attempt((0, Delivered(OK, HOST, now)), (1, Deferred(LATER, HOST, now)))
    house.clock.turn(900)
    await house.first.attempt((1, Failed(NEVER, HOST, now + 900)))
    detail = await house.operations.message(known.lower())
    told = [(line.outcome, line.recipients, line.reply) for line in detail.story]
    assert sorted(told[:2]) == [
        ("deferred", ("c@example.net",), "450 4.2.0 Greylisted"),
        ("delivered", ("b@example.net",), "250 2.0.0 Ok"),
    ]
    assert told[2:] == [("failed", ("c@example.net",), "550 5.1.1 Unknown user")]
    assert [recipient.fate for recipient in detail.recipients] == ["delivered", "failed"]
    # What the replies mean, and what to do.
    assert [bool(line.meaning) for line in detail.story] == [line.outcome != "delivered" for line in detail.story]
    delivered, failed = detail.recipients
    assert (delivered.meaning, delivered.advice) == ("", "")
    assert (failed.meaning, failed.advice) == ("The address does not exist there.", "Check its spelling.")
    assert (detail.meaning, detail.advice) == (failed.meaning, failed.advice)
    assert detail.fault == "recipient" and detail.fault_in_words.startswith("the recipient: its address")
    assert detail.client == "192.0.2.7"
    assert detail.summary.state is State.FINISHED


async def test_unknown_and_impossible_ids(house: House) -> None:
    with pytest.raises(NotFound):
        await house.operations.message("0000000000001")
    with pytest.raises(Invalid, match="not a message id"):
        await house.operations.message("nonsense!")


async def test_export_gives_every_octet_while_there_are_any(house: House) -> None:
    text = b"Subject: x\r\n\r\n" + b"y" * 700_000
    known = await house.first.accept(text=text)
    export = await house.operations.export(known)
    octets = b"".join([chunk async for chunk in export.chunks])
    assert octets == b"Received: by relay\r\n" + text
    assert export.size == len(octets)
    await house.first.attempt((0, Delivered(OK, HOST, house.clock.now())))
    with pytest.raises(NotFound, match="is finished"):
        await house.operations.export(known)


async def test_verbs_change_what_they_can_and_say_why_not_otherwise(house: House) -> None:
    waiting, held = await house.first.accept(), await house.second.accept()
    ids = tuple(map(parse_id, (waiting, held, "0000000000001")))
    done = await house.operations.change(Action.HOLD, Search(ids=(ids[1],)))
    assert done.changed == (held,) and done.skipped == () and done.next is None
    done = await house.operations.change(Action.RETRY, Search(ids=ids))
    assert done.changed == (waiting,)
    assert house.first.asked_again == 1
    assert {skipped.id: skipped.why for skipped in done.skipped} == {
        "0000000000001": "there is no such message",
        held: "it is held; release it instead",
    }
    done = await house.operations.change(Action.RELEASE, Search(ids=ids[:2]))
    assert {skipped.id: skipped.why for skipped in done.skipped} == {waiting: "it is not held"}
    assert house.first.queue is not None
    await house.first.queue.claim(1)
    done = await house.operations.change(Action.DELETE, Search(ids=ids[:2]))
    assert done.changed == (held,)
    assert [skipped.why for skipped in done.skipped] == ["it is being delivered at this moment"]
    done = await house.operations.change(Action.DELETE, Search(ids=ids[1:2]))
    assert [skipped.why for skipped in done.skipped] == ["it is finished"]
    said = [
        (event.server, event.action, event.messages) for event in house.heard if isinstance(event, MessagesChanged)
    ]
    assert said == [
        ("second", "hold", (held,)),
        ("first", "retry", (waiting,)),
        ("second", "release", (held,)),
        ("second", "delete", (held,)),
    ]


async def test_a_verb_over_a_search_goes_batch_by_batch_and_touches_nothing_else(house: House) -> None:
    wanted = {await house.first.accept("spam@example.org") for _ in range(5)}
    other = await house.first.accept("ham@example.org")
    search = Search(sender="spam@")
    assert as_json(await house.operations.matching(Action.DELETE, search)) == {"count": 5, "more": False}
    changed: set[str] = set()
    calls = 0
    while True:
        done = await house.operations.change(Action.DELETE, search, 2)
        calls += 1
        changed.update(done.changed)
        if done.next is None:
            break
        search = Search(sender="spam@", before=parse_id(done.next))
    assert changed == wanted and calls == 3
    assert (await house.operations.message(other)).summary.state is State.QUEUED
    assert (await house.operations.matching(Action.DELETE, Search(sender="spam@"))).count == 0


async def test_a_verb_for_a_state_in_which_it_means_nothing_is_refused(house: House) -> None:
    with pytest.raises(Invalid, match="release means messages that are held, not queued"):
        await house.operations.change(Action.RELEASE, Search(states=(State.QUEUED,)))


async def test_a_queue_that_cannot_be_read_is_said_so_and_does_not_hide_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await house.first.accept()
    house.second.queue = None
    house.second.trouble = "the database is damaged"
    assert [message.id for message in (await house.operations.messages(Search())).messages] == [known]
    assert (await house.operations.message(known)).summary.id == known
    with pytest.raises(Unavailable, match="'second' is not open: the database is damaged"):
        await house.operations.messages(Search(), names=["second"])
    status = (await house.operations.servers(["second"]))[0]
    assert status.counts is None and status.trouble == "the database is damaged"

    async def broken(*_: object) -> None:
        raise QueueError("disk I/O error")

    monkeypatch.setattr(house.first.queue, "find", broken)
    monkeypatch.setattr(house.first.queue, "counts", broken)
    with pytest.raises(Unavailable, match="disk I/O error"):
        await house.operations.messages(Search(), names=["first"])
    assert (await house.operations.servers(["first"]))[0].trouble == "disk I/O error"


async def test_every_answer_has_a_json_form(house: House) -> None:
    known = await house.first.accept()
    house.first.sessions.add(FakeSession("s"))
    values = [
        await house.operations.servers(),
        house.operations.sessions(),
        await house.operations.counts(),
        await house.operations.messages(Search()),
        await house.operations.message(known),
        await house.operations.explain(Question("a@b.example", "c@example.net"), "first"),
    ]
    text = json.dumps([as_json(value) for value in values])
    assert '"state": "queued"' in text
    with pytest.raises(TypeError):
        as_json(object())


async def test_a_fault_is_published(house: House) -> None:
    house.operations.report_fault("API", ValueError("boom"))
    (event,) = [event for event in house.heard if isinstance(event, InternalError)]
    assert event.where == "API" and "boom" in event.error and "ValueError" in event.traceback


# Explain


def answers(steps: object) -> list[tuple[str, str]]:
    return [(step.question, step.answer) for step in steps]  # type: ignore[attr-defined]


async def test_explain_names_rule_route_and_hosts_in_order(house: House) -> None:
    answer = await house.operations.explain(Question("a@example.org", "b@example.net"), "first")
    assert answer.accepted
    assert answers(answer.steps)[:6] == [
        ("Is virtual server first open?", "yes"),
        ("May 127.0.0.1 connect?", "yes"),
        ("What holds at 127.0.0.1:2525?", "note"),
        ("May it send without a login?", "yes"),
        ("May it send as a@example.org?", "yes"),
        ("May it send to b@example.net?", "yes"),
    ]
    assert "relay restrictions: 127.0.0.1 is on the list" in answer.steps[5].rule
    assert [(host.name, host.address, host.port) for host in answer.hosts] == [
        ("mx.example.net", "192.0.2.10", 25),
        ("mx.example.net", "2001:db8::10", 25),
        ("backup.example.net", "192.0.2.20", 25),
    ]
    assert answer.hosts[0].tls == "if offered"
    assert "handed to mx.example.net, port 25" in answer.result


async def test_explain_says_which_rule_refuses_and_what_the_client_hears(house: House) -> None:
    answer = await house.operations.explain(Question("a@example.org", "b@example.net", "::ffff:10.0.0.9"), "first")
    assert not answer.accepted and answer.client == "10.0.0.9" and answer.hosts == ()
    refusal = answer.steps[-1]
    assert refusal.answer == "no" and "10.0.0.9 is not on the list" in refusal.rule
    assert refusal.reply == "550 5.7.1 Unable to relay for b@example.net"
    assert answer.result == f"It would be refused: {refusal.rule}."
    house.first.configure(connection=AccessList(Mode.EXCEPT, ("10.0.0.0/8",)))
    answer = await house.operations.explain(Question("a@example.org", "b@example.net", "10.0.0.9"), "first")
    assert answers(answer.steps)[-1] == ("May 10.0.0.9 connect?", "no")
    assert answer.steps[-1].reply.startswith("554")


async def test_explain_knows_local_domains_smart_hosts_and_masquerade(house: House) -> None:
    answer = await house.operations.explain(Question("", "someone", "10.0.0.9"), "first")
    assert answer.accepted and answer.recipient == "someone@local.example" and answer.sender == ""
    assert answer.hosts == () and str(house.first.folders.drop) in answer.result
    house.first.configure(
        advanced=AdvancedDelivery(
            smart_host=("smtp.example.com:587",), direct_first=True, masquerade_domain="outside.example"
        ),
        security=OutboundSecurity(username="relay@example.com", password="secret", tls=TlsPolicy.REQUIRED),
    )
    answer = await house.operations.explain(Question("me@local.example", "b@example.net"), "first")
    assert [(host.name, host.port, host.fallback) for host in answer.hosts][-1] == ("smtp.example.com", 587, True)
    assert answer.hosts[-1].tls == "required" and answer.hosts[-1].login == "relay@example.com"
    assert any("me@outside.example" in step.rule for step in answer.steps)
    assert "secret" not in json.dumps(as_json(answer))


async def test_explain_tells_what_stands_in_the_way(house: House) -> None:
    house.first.dns.exchangers["nomail.example"] = (Exchanger(0, ""),)
    answer = await house.operations.explain(Question("a@example.org", "b@nomail.example"), "first")
    assert answer.accepted and "failure report: 556" in answer.result
    house.first.dns.broken.add("example.net")
    answer = await house.operations.explain(Question("a@example.org", "b@example.net"), "first")
    assert "tried again for 2 days until this is put right: 451 4.4.3" in answer.result
    await house.operations.stop(["first"])
    answer = await house.operations.explain(Question("a@example.org", "b@example.net"), "first")
    assert not answer.accepted and answer.result == "It would be refused: it is stopped."


async def test_explain_looks_up_the_name_where_a_rule_needs_it(house: House) -> None:
    house.first.configure(relay=RelayList(Mode.ONLY, ("trusted.example",)))
    house.first.dns.names["192.0.2.77"] = "pc.trusted.example"
    answer = await house.operations.explain(Question("a@example.org", "b@example.net", "192.0.2.77"), "first")
    assert answer.accepted and answer.client_name == "pc.trusted.example"
    assert any("reverse DNS: pc.trusted.example" in step.rule for step in answer.steps)
    answer = await house.operations.explain(Question("a@example.org", "b@example.net", "192.0.2.78"), "first")
    assert not answer.accepted and answer.client_name == ""


async def test_explain_minds_the_size(house: House) -> None:
    too_much = house.first.max_message_size + 1
    answer = await house.operations.explain(Question("a@example.org", "b@example.net", size=too_much), "first")
    assert not answer.accepted and "limit message size" in answer.result
    house.first.max_message_size = 0
    answer = await house.operations.explain(Question("a@example.org", "b@example.net", size=too_much), "first")
    assert answer.accepted


async def test_explain_of_open_remote_domains(house: House) -> None:
    house.first.configure(remote=(RemoteDomain("example.net", allow_relay=True),))
    answer = await house.operations.explain(Question("a@example.org", "b@example.net", "10.9.9.9"), "first")
    assert answer.accepted and any("open for relay by everybody" in step.rule for step in answer.steps)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question("a@example.org", "b@"), "not an e-mail address"),
        (Question("a b@example.org", "b@example.net"), "not an e-mail address"),
        (Question("a@example.org", "b@example.net", "10.0.0"), "not the address of a client"),
        (Question("a@example.org", "b@example.net", from_header="a\r\nBcc: b"), "line ends or other control"),
        (Question("a@example.org", "b@example.net", user="a\0"), "line ends or other control"),
    ],
)
async def test_explain_refuses_nonsense(house: House, question: Question, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        await house.operations.explain(question, "first")


def step_of(answer: Explanation, question: str) -> Step:
    (step,) = [step for step in answer.steps if question in step.question]
    return step


async def ask(house: House, **question: Any) -> Explanation:
    known = {"sender": "crm@local.example", "recipient": "b@example.net", "client": "10.0.0.9"} | question
    return await house.operations.explain(Question(**known), "first")


async def test_explain_of_a_login(house: House) -> None:
    assert not (await ask(house)).accepted
    answer = await ask(house, user="crm", tls=True)
    assert answer.accepted and answer.user == "crm"
    step = step_of(answer, "May it log in as crm?")
    assert step.answer == "yes" and "LOGIN, PLAIN" in step.rule
    assert step_of(answer, "May it send to").rule == "relay restrictions: 'crm' has logged in"
    answer = await ask(house, user="crm")
    assert not answer.accepted
    assert answer.steps[-1].rule == "listener: require_tls = 'passwords'; with TLS there are logins"
    assert answer.steps[-1].reply.startswith("504")
    house.first.offered = ()
    answer = await ask(house, user="crm", tls=True)
    assert answer.steps[-1].rule == "there is no login that this client could use at this listener"
    house.first.configure(relay=RelayList(Mode.ONLY, (), allow_authenticated=False))
    house.first.offered = ("PLAIN",)
    answer = await ask(house, user="crm", tls=True)
    assert answer.steps[-1].rule == "relay restrictions: 10.0.0.9 is not on the list (only the list)"


async def test_explain_of_listeners_and_what_they_want(house: House) -> None:
    rules = house.first.rules
    rules["0.0.0.0:587"] = ListenerRules(require_login=True, require_tls=RequireTls.MAIL)
    rules["[::]:465"] = ListenerRules(tls=TlsMode.IMPLICIT, logins=frozenset({LoginKind.SCRAM, LoginKind.BASIC}))
    rules["192.0.2.1:26"] = ListenerRules.of(ListenerSettings("192.0.2.1:26", Profile.OLD_DEVICES, TlsMode.OFF))
    assert (await ask(house)).listener == "127.0.0.1:2525"
    for text in ("0.0.0.0:587", "*:587", ":587", "587", "192.0.2.7:587"):
        answer = await ask(house, listener=text)
        assert answer.listener == "0.0.0.0:587"
        assert answer.steps[-1].rule == "listener: require_tls = 'mail'"
        assert answer.steps[-1].reply.startswith("530 5.7.0 Must issue a STARTTLS")
    answer = await ask(house, listener=":587", tls=True)
    assert answer.steps[-1].rule == "listener: require_login"
    assert answer.steps[-1].reply == "530 5.7.0 Authentication required"
    assert (await ask(house, listener=":587", tls=True, user="crm")).accepted
    answer = await ask(house, listener="[2001:db8::1]:465", user="crm")
    assert answer.accepted, "TLS from the first octet"
    assert step_of(answer, "What holds at [::]:465?").rule == (
        "profile 'applications'; TLS 1.2 and later (implicit), wanted for passwords; logins: basic, scram"
    )
    answer = await ask(house, listener="26", tls=True)
    assert (answer.steps[-1].question, answer.steps[-1].rule) == (
        "Does it get TLS?",
        "the listener has tls = 'off'",
    )
    house.first.offers_tls = False
    answer = await ask(house, client="127.0.0.1")
    assert step_of(answer, "What holds at").rule == "profile 'applications'; no TLS, since there is no certificate"
    assert (await ask(house, tls=True)).steps[-1].rule == "there are no general.certificates"
    with pytest.raises(
        Invalid, match=r"'192\.0\.2\.2:26' is no listener of virtual server 'first'; there are: 127"
    ):
        await ask(house, listener="192.0.2.2:26")


async def test_explain_of_anonymous_access_that_is_off(house: House) -> None:
    house.first.anonymous = False
    answer = await ask(house, client="127.0.0.1")
    assert not answer.accepted
    assert answer.steps[-1].rule == "access.authentication: anonymous is off"
    assert (await ask(house, client="127.0.0.1", user="crm", tls=True)).accepted


async def test_explain_of_permissions(house: House) -> None:
    house.first.configure(
        relay=RelayList(Mode.ONLY, ("10.0.0.0/8",)),
        permissions=(
            Permission(("crm",), (), ("own address",), recipients=("example.net",)),
            Permission(
                ("*",), senders=("local.example",), otherwise=Otherwise.REWRITE, rewrite_to="x@local.example"
            ),
            Permission((), ("10.0.0.0/8",), quota=Quota(messages_per_minute=3, recipients_per_day=900)),
        ),
        advanced=AdvancedDelivery(masquerade_domain="outside.example"),
    )
    house.first.limits = LimitSettings(address=Quota(messages_per_minute=60), account=Quota(messages_per_day=500))
    crm = {"user": "crm", "tls": True}
    answer = await ask(house, **crm)
    assert answer.accepted
    assert step_of(answer, "May it send as").rule == (
        "access.permissions, entry 1: crm@local.example is an allowed sender"
    )
    assert step_of(answer, "among its recipients?").rule == (
        "access.permissions, entry 1: recipients at example.net are allowed"
    )
    assert [step.rule for step in answer.steps if step.question == "How much may it send?"] == [
        "limits.address: 60 messages in a minute",
        "limits.account: 500 messages in 24 hours",
    ]
    answer = await ask(house, sender="ceo@local.example", **crm)
    assert answer.steps[-1].reply.startswith("550 5.7.60 Client does not have permissions to send as this sender")
    answer = await ask(house, recipient="b@example.org", **crm)
    assert answer.steps[-1].question == "Is b@example.org among its recipients?"
    assert answer.steps[-1].reply.startswith("550 5.7.1")
    answer = await ask(house, from_header="CRM <crm@local.example>", **crm)
    assert answer.accepted and step_of(answer, "May its From be CRM <crm@local.example>?").answer == "yes"
    answer = await ask(house, from_header="CEO <ceo@local.example>", **crm)
    assert answer.steps[-1].reply.startswith("550 5.7.60")
    answer = await ask(house, sender="ceo@other.example", from_header="ceo@other.example", user="erp", tls=True)
    assert answer.accepted
    assert step_of(answer, "May it send as").rule == (
        "access.permissions, entry 2: ceo@other.example is rewritten to x@local.example"
    )
    assert step_of(answer, "May its From be").rule == (
        'access.permissions, entry 2: From becomes "ceo@other.example" <x@local.example>'
    )
    assert step_of(answer, "Which sender does the next hop see?").rule == "masquerade domain: x@outside.example"
    answer = await ask(house, from_header="anybody@else.example")
    assert answer.accepted
    assert step_of(answer, "May its From be").rule == "access.permissions, entry 3: any sender is allowed"
    assert [step.rule for step in answer.steps if step.question == "How much may it send?"] == [
        "limits.address: 60 messages in a minute",
        "access.permissions, entry 3: 3 messages in a minute, 900 recipients in 24 hours",
    ]
    answer = await ask(house, client="127.0.0.1", user="crm", tls=True)
    assert [step.rule for step in answer.steps if step.question == "How much may it send?"] == [
        "limits.account: 500 messages in 24 hours"
    ], "limits.exempt has this computer"


async def test_explain_of_bans(house: House) -> None:
    def fail(client: str, user: str) -> None:
        for _ in range(LimitSettings().logins.failures):
            house.first.guard.login_failed("s", ip_address(client), user, "PLAIN", "wrong password")

    crm = {"user": "crm", "tls": True}
    assert (await ask(house, **crm)).accepted
    fail("10.0.0.7", "crm")
    answer = await ask(house, **crm)
    assert answer.steps[-1].question == "May it log in as crm?"
    assert answer.steps[-1].reply.startswith("454")
    answer = await ask(house, client="10.0.0.7")
    assert answer.steps[-1].question == "May 10.0.0.7 connect now?"
    assert "the connection is closed with 421" in answer.steps[-1].rule
    house.first.configure(relay=RelayList(Mode.ONLY, ("10.0.0.7",)))
    assert (await ask(house, client="10.0.0.7")).accepted, "who may relay without a login may go on"


async def test_explain_wants_to_know_which_of_several_servers(house: House) -> None:
    with pytest.raises(Invalid, match="say which: first, second"):
        await house.operations.explain(Question("a@example.org", "b@example.net"))
