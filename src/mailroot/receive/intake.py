"""What every message passes on its way into the queue, whichever door it came by.

Looks at the header while the octets go by, refuses what is in a loop, puts Received, Date and Message-ID in front
(RFC 5321 §4.4, RFC 6409 §8), commits, and says so. The octets that came are never changed: what is added is a
prefix.

But where a client may use certain senders only, the header is held back until its end and checked first, and a
wrong sender is refused or rewritten (see `receive.senders`). Such a header always ends with an empty line: without
one, where a line that is no field ended it, a forgiving program would read on and find another From behind it. And
such a header has no bare CR or LF, which BODY=BINARYMIME lets pass: whoever takes it for the end of a line would
find fields that we did not see.
"""

import re
from dataclasses import dataclass, replace
from secrets import token_hex

from mailroot.clock import Clock
from mailroot.events import Bus, MessageAccepted, SenderRewritten
from mailroot.mail.address import Address
from mailroot.mail.date import format_date
from mailroot.mail.envelope import Envelope, Origin
from mailroot.mail.header import Head, scan
from mailroot.mail.reply import Reply
from mailroot.policy.limits import MessageSettings
from mailroot.policy.permissions import Rewrite, SenderRule
from mailroot.policy.visit import Refuse
from mailroot.queue.base import Draft, Message, MessageId, Queue, format_id
from mailroot.receive.senders import Rewritten, check
from mailroot.smtp import answers
from mailroot.smtp.stuffing import paired

_HEADER_TOO_LARGE = Reply(552, "5.3.4", "Header size exceeds fixed maximum header size")
# But "From :" is a field, with the white space that RFC 5322 §4.5 allows there.
_MAILBOX_LINE = re.compile(rb">?From [ \t]*+[^ \t:]")
_TOO_MANY_HOPS = Reply(550, "5.4.6", "Hop count exceeded: the message is in a loop")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message is safe in the queue. `message_id` has its brackets; `supplied` says whether it came with the
    message. `size` is all of it in octets, with what we put in front."""

    id: MessageId
    message_id: str
    supplied: bool
    size: int


class Intake:
    """The way into one virtual server's queue."""

    def __init__(
        self, queue: Queue, bus: Bus, clock: Clock, *, server: str, fqdn: str, messages: MessageSettings
    ) -> None:
        self._queue = queue
        self._bus = bus
        self._clock = clock
        self._server = server
        self._fqdn = fqdn
        self.messages = messages

    def open(self, senders: SenderRule | None = None) -> "Incoming":
        """Begin a message; end it with `commit` or `abandon`. `senders` None: it may be from anybody."""
        draft = self._queue.draft()
        return Incoming(self, draft) if senders is None else _Checked(self, draft, senders)


class Incoming:
    """A message on its way in."""

    __slots__ = ("_draft", "_head", "_intake", "_looked", "_mailbox_line", "_seen", "_size", "_too_large")

    def __init__(self, intake: Intake, draft: Draft) -> None:
        self._intake = intake
        self._draft = draft
        self._size = 0
        # The header: octets are collected in `_seen` until its end has come, and then are let go.
        self._seen = bytearray()
        self._looked = 0
        self._head: Head | None = None
        self._mailbox_line = False
        self._too_large = False

    async def write(self, octets: bytes) -> None:
        """Append octets of the message. Raises QueueError."""
        if self._head is None and not self._too_large:
            self._look(octets)
        self._size += len(octets)
        await self._draft.write(octets)

    async def commit(self, envelope: Envelope, origin: Origin, received: str, session: str) -> Accepted | Refuse:
        """Make the message durable, or refuse it: then it is forgotten.

        `received` is the text of the Received field up to `id`: "from … by … with ESMTP". Raises QueueError; then
        nothing is stored.
        """
        intake = self._intake
        head = self._head
        if head is None and not self._too_large:
            head = self._scan(bytes(self._seen), complete=True)
        if head is None or head.end > intake.messages.max_header_size:
            await self.abandon()
            return Refuse("max_header_size", _HEADER_TOO_LARGE)
        if head.hops > intake.messages.max_hops:
            await self.abandon()
            return Refuse("max_hops", _TOO_MANY_HOPS)
        draft_id = self._draft.id
        shown = format_id(draft_id)
        message_id = head.message_id or f"<{shown}.{token_hex(4)}@{intake._fqdn}>"
        prefix = self._prefix(head, message_id, envelope, origin, f"{received} id {shown}")
        await self._draft.commit(Message(envelope, origin, prefix, message_id, head.subject))
        size = len(prefix) + self._size
        intake._bus.publish(
            MessageAccepted(
                intake._server,
                shown,
                session,
                origin.client,
                origin.door,
                "" if envelope.sender is None else str(envelope.sender),
                tuple([str(recipient.address) for recipient in envelope.recipients]),
                size,
                message_id,
                head.subject,
            )
        )
        return Accepted(draft_id, message_id, head.message_id is not None, size)

    async def abandon(self) -> None:
        """Forget the message; does nothing after `commit`."""
        await self._draft.abandon()

    def _prefix(self, head: Head, message_id: str, envelope: Envelope, origin: Origin, received: str) -> bytes:
        # RFC 5321 §7.2: several recipients are not named, so that none learns of the others.
        only = f" for <{_for(envelope.recipients[0].address)}>" if len(envelope.recipients) == 1 else ""
        date = format_date(origin.arrived)
        folded = received.replace(" by ", "\r\n\tby ", 1)
        text = f"Received: {folded}{only};\r\n\t{date}\r\n"
        if not head.has_date:
            text += f"Date: {date}\r\n"
        if head.message_id is None:
            text += f"Message-ID: {message_id}\r\n"
        if self._mailbox_line:
            # The first line, as it stands, becomes the value of this field.
            text += "Mailbox-Line: "
        elif head.end == 0 and not head.separated and self._size:
            # Text without a header: our fields are the header, and an empty line must end it.
            text += "\r\n"
        return text.encode()

    def _look(self, octets: bytes) -> None:
        """Find the end of the header. Looks only where it may have come, or at twice what was looked at before:
        octets that come one by one must not cost their square."""
        seen = self._seen
        before = len(seen)
        if not before:
            self._head = self._scan(octets, complete=False)
            if self._head is not None:
                return
            self._looked = len(octets)
        seen += octets
        if before and (len(seen) >= 2 * self._looked or seen.find(b"\r\n\r\n", max(0, before - 3)) >= 0):
            self._head = self._scan(bytes(seen), complete=False)
            self._looked = len(seen)
        if self._head is not None:
            seen.clear()
        elif len(seen) > self._intake.messages.max_header_size:
            self._too_large = True
            seen.clear()

    def _scan(self, octets: bytes, *, complete: bool) -> Head | None:
        """`scan`, seeing past a "From " line that a program took over from a mailbox file."""
        if _MAILBOX_LINE.match(octets):
            end = octets.find(b"\r\n") + 2
            if end < 2 and not complete:
                return None
            head = scan(octets[end:], complete=complete) if end >= 2 else None
            if head is None and not complete:
                return None
            if head is not None and (head.separated or head.end):
                # Otherwise it is the first sentence of a text without a header.
                self._mailbox_line = True
                return head
        return scan(octets, complete=complete)


class _Checked(Incoming):
    """A message from a client that may use certain senders only."""

    __slots__ = ("_held", "_original", "_refused", "_rule")

    def __init__(self, intake: Intake, draft: Draft, rule: SenderRule) -> None:
        super().__init__(intake, draft)
        self._rule = rule
        # What has come so far; None when the header has gone on, or the message will be refused.
        self._held: bytearray | None = bytearray()
        self._original = ""
        self._refused: Refuse | None = None

    async def write(self, octets: bytes) -> None:
        if self._held is None:
            if self._refused is None:
                await super().write(octets)
            return
        self._held += octets
        self._look(octets)
        if self._too_large:
            self._held, self._refused = None, Refuse("max_header_size", _HEADER_TOO_LARGE)
        elif self._head is not None:
            await self._go_on(self._head)

    async def commit(self, envelope: Envelope, origin: Origin, received: str, session: str) -> Accepted | Refuse:
        rule = self._rule
        if self._held is not None:
            self._head = self._scan(bytes(self._held), complete=True)
            if self._head is not None:
                await self._go_on(self._head)
        original, decision = self._original, None
        if envelope.sender is not None:
            decision = rule.decide(envelope.sender)
            if isinstance(decision, Rewrite):
                original = original or str(envelope.sender)
                envelope = replace(envelope, sender=decision.sender)
        refused = self._refused or (decision if isinstance(decision, Refuse) else None)
        if refused is not None:
            await self.abandon()
            return refused
        result = await super().commit(envelope, origin, received, session)
        if original and isinstance(result, Accepted):
            intake = self._intake
            intake._bus.publish(
                SenderRewritten(
                    intake._server, format_id(result.id), session, original, str(rule.rewrite_to), rule.rule
                )
            )
        return result

    async def _go_on(self, head: Head) -> None:
        """The header is complete: check it, and let it and what is behind it go on."""
        octets, self._held = bytes(self._held or b""), None
        start = octets.find(b"\r\n") + 2 if self._mailbox_line else 0
        end = start + head.end - (2 if head.separated else 0)
        header, rest = octets[start:end], octets[end:]
        if paired(top := octets[:end]) is not top:
            self._refused = Refuse("access.permissions: a bare CR or LF in the header", answers.BARE_LINE_END)
            return
        if header and not header.endswith(b"\r\n"):
            header += b"\r\n"
        match check(header, self._rule):
            case Refuse() as refused:
                self._refused = refused
                return
            case Rewritten(new, original):
                header, self._original = new, original
            case None:
                header = octets[start:end]
        if header and rest and not head.separated:
            header += b"\r\n"
        octets = octets[:start] + header + rest
        self._size += len(octets)
        await self._draft.write(octets)


def _for(address: Address) -> Address:
    """The address as Received names it: in ASCII where it has such a form, or our own field would be what a next
    hop without SMTPUTF8 refuses (RFC 6531 §3.7.3)."""
    return (
        Address(address.local, address.domain_key) if not address.is_ascii and address.local.isascii() else address
    )
