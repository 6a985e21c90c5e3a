"""What becomes of a message where a host's code and the truth differ: decided by the table of replies."""

from pathlib import Path

import pytest

from mailroot.deliver.hosts import Itself
from mailroot.deliver.security import OutboundSecurity, TlsPolicy
from mailroot.events import RecipientDeferred, RecipientDelivered, RecipientFailed, ReportWritten
from mailroot.queue.base import Fate
from mailroot.units import DAY, MINUTE
from rig.delivery import Delivery, Names
from rig.next_hop import NextHop

TEXT = b"Subject: x\r\n\r\nhello\r\n"
NAMES = Names(mx={"two.example": [(10, "a.example"), (20, "b.example")]}, addresses={"a.example": ["127.0.0.1"]})

TENANT = "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP."
DIRECT_SEND = "550 5.7.68 TenantInboundAttribution; Direct Send not allowed for this organization"
NEVER = "421 4.7.1 [TSS09] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed."


def to_smart_host(tmp_path: Path, hop: NextHop) -> Delivery:
    return Delivery(tmp_path, f"[127.0.0.1]:{hop.port}")


def direct(tmp_path: Path, hop: NextHop, *smart: str, **advanced: object) -> Delivery:
    return Delivery(
        tmp_path,
        *smart,
        names=NAMES,
        itself=Itself(["relay.example.com"]),
        advanced=advanced,
        connections={"port": hop.port},
    )


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "."])
@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (TENANT, "Microsoft takes no mail from the address the tenant sends by"),
        ("530 5.7.57 Client not authenticated to send mail.", "Nobody logged in"),
        ("550 5.7.64 TenantAttribution; Relay Access Denied", "No connector of the tenant matches"),
        (DIRECT_SEND, "only by a connector or a login"),
        ("554 5.7.1 <a@example.net>: Relay access denied", "passes no mail on for this server"),
        ("550 5.4.5 Daily user sending limit exceeded.", "as many messages as Google allows"),
        ("554 Access denied: User `x' is not authorized to perform `ses:SendRawEmail'", "IAM user"),
    ],
)
async def test_a_fault_of_the_route_is_no_messages_end(tmp_path: Path, stage: str, said: str, meaning: str) -> None:
    async with NextHop({stage: [said, "250 ok"]}) as hop, to_smart_host(tmp_path, hop).running() as delivery:
        message_id = await delivery.send(TEXT, "a@example.net")
        [event] = await delivery.until_seen(RecipientDeferred)
        assert event.reply == said and meaning in event.meaning
        assert (await delivery.record(message_id)).standings[0].fate is Fate.PENDING
        # The route was mended: nothing was lost, and nobody was told of a failure.
        delivery.clock.turn(15 * MINUTE)
        await delivery.until_seen(RecipientDelivered)
        assert not delivery.seen(RecipientFailed) and not delivery.seen(ReportWritten)


async def test_it_waits_until_it_expires_and_no_longer(tmp_path: Path) -> None:
    async with (
        NextHop({"RCPT": [TENANT, TENANT, "250 ok"]}) as hop,
        to_smart_host(tmp_path, hop).running() as delivery,
    ):
        await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(RecipientDeferred)
        delivery.clock.turn(2 * DAY)
        [failed] = await delivery.until_seen(RecipientFailed)
        assert failed.reply == f"451 4.4.7 Not delivered within 48 hours. The last answer was: {TENANT}"
        assert "Microsoft takes no mail" in failed.meaning
        await delivery.until_seen(RecipientDelivered)
        report = b" ".join(hop.messages[0].octets.split())
        assert b"Status: 4.4.7" in report and b"Microsoft takes no mail from the address" in report
        assert b"Buy a licence for the tenant" in report


@pytest.mark.parametrize(
    "said",
    [
        "550 5.1.1 <a@example.net>: Recipient address rejected: User unknown in local recipient table",
        "550 5.7.1 Delivery not authorized, message refused",
        "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
        "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required",
        "552 5.3.4 Message size exceeds fixed limit",
        "554 no",
    ],
)
async def test_what_is_the_messages_own_fails_at_once(tmp_path: Path, said: str) -> None:
    async with NextHop({"RCPT": said}) as hop, to_smart_host(tmp_path, hop).running() as delivery:
        await delivery.send(TEXT, "a@example.net", sender=None)
        [event] = await delivery.until_seen(RecipientFailed)
        assert event.reply == said and event.meaning and event.attempts == 1


@pytest.mark.parametrize(
    "said",
    [
        TENANT,
        "550 5.7.64 TenantAttribution; Relay Access Denied",
        "554 5.7.1 Relay access denied",
        "530 5.7.0 Login",
    ],
)
async def test_a_recipients_own_host_is_believed_at_its_word(tmp_path: Path, said: str) -> None:
    async with NextHop({"RCPT": said}) as hop, direct(tmp_path, hop).running() as delivery:
        await delivery.send(TEXT, "x@two.example", sender=None)
        [event] = await delivery.until_seen(RecipientFailed)
        assert event.reply == said and event.host.startswith("a.example ")


@pytest.mark.parametrize("said", [DIRECT_SEND, "530 5.7.0 Must issue a STARTTLS command first"])
async def test_unless_the_text_is_unmistakable(tmp_path: Path, said: str) -> None:
    async with NextHop({"RCPT": said}) as hop, direct(tmp_path, hop).running() as delivery:
        await delivery.send(TEXT, "x@two.example")
        [event] = await delivery.until_seen(RecipientDeferred)
        assert event.reply == said


async def test_a_no_that_passes_is_tried_again(tmp_path: Path) -> None:
    said = "550 5.2.121 Recipient's per hour message receive limit from specific sender exceeded"
    async with NextHop({"RCPT": [said, "250 ok"]}) as hop, direct(tmp_path, hop).running() as delivery:
        await delivery.send(TEXT, "x@two.example")
        [event] = await delivery.until_seen(RecipientDeferred)
        assert "but passes" in event.meaning
        delivery.clock.turn(15 * MINUTE)
        await delivery.until_seen(RecipientDelivered)


async def test_a_later_that_is_never_fails_at_once(tmp_path: Path) -> None:
    async with NextHop({"MAIL": [NEVER, "250 ok"]}) as hop, to_smart_host(tmp_path, hop).running() as delivery:
        await delivery.send(TEXT, "a@example.net")
        [event] = await delivery.until_seen(RecipientFailed)
        assert event.reply == NEVER and event.attempts == 1
        await delivery.until_seen(RecipientDelivered)
        report = hop.messages[0].octets
        assert b"Action: failed\r\nStatus: 5.7.1\r\n" in report
        assert b"trying again does not help" in b" ".join(report.split())


async def test_a_fault_of_the_route_leaves_a_way_round_it(tmp_path: Path) -> None:
    """What a recipient's host refuses for the way it came is taken by the smart host behind it."""
    async with (
        NextHop({"RCPT": DIRECT_SEND}) as hop,
        NextHop(address="127.0.0.2") as other,
        direct(tmp_path, hop, f"[127.0.0.2]:{other.port}", direct_first=True).running() as delivery,
    ):
        await delivery.send(TEXT, "x@two.example")
        [event] = await delivery.until_seen(RecipientDelivered)
        assert event.host == f"[127.0.0.2]:{other.port}"
        assert not delivery.seen(RecipientDeferred)


async def test_a_refused_login_says_what_to_do(tmp_path: Path) -> None:
    said = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant."
    login = OutboundSecurity(tls=TlsPolicy.NONE, username="robot", password="hush-hush", login_in_the_clear=True)
    async with NextHop({"AUTH": said}, ("AUTH PLAIN",), users={"robot": "hush-hush"}) as hop:
        out = Delivery(tmp_path, f"[127.0.0.1]:{hop.port}", security=login, schedule={"expiration": 20 * MINUTE})
        async with out.running():
            await out.send(TEXT, "a@example.net", sender=None)
            [event] = await out.until_seen(RecipientDeferred)
            assert event.reply.endswith(said) and event.meaning.startswith(
                "SMTP AUTH is switched off for the whole"
            )
            out.clock.turn(20 * MINUTE)
            [failed] = await out.until_seen(RecipientFailed)
            assert failed.meaning == event.meaning


async def test_what_is_said_at_the_door_is_explained_too(tmp_path: Path) -> None:
    async with NextHop({"BANNER": "421 Too many connections"}) as hop, to_smart_host(tmp_path, hop).running() as d:
        await d.send(TEXT, "a@example.net")
        [event] = await d.until_seen(RecipientDeferred)
        assert event.meaning == "There are more connections from this server than the host wants."
