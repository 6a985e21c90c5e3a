"""One try of one message: whither, over which connection, and what became of each recipient.

The only place that calls the other steps of delivery (route; pool, and with it hosts, security and connection;
Drop). It decides what a next hop's words mean for a recipient, by the table in `replies`; when there is another try
is the agent's business.
An attempt that is cancelled keeps what it knows by then in `outcomes`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mailroot.clock import Clock
from mailroot.deliver.connection import Connection, Trouble
from mailroot.deliver.destination import ANY, Crowded, Stopped, Wish
from mailroot.deliver.hosts import NoHosts
from mailroot.deliver.pool import Pool
from mailroot.deliver.replies.base import Effect
from mailroot.deliver.replies.shipped import effect_of
from mailroot.deliver.route import Route, Router, ToDrop, ToHosts
from mailroot.mail.address import Address, domain_key
from mailroot.mail.convert import to_seven_bit
from mailroot.mail.envelope import Body, Envelope, Recipient
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.mail.reply import Reply
from mailroot.queue.base import CHUNK, Claim, Content, Record
from mailroot.smtp.client_events import Finished
from mailroot.smtp.offer import Offer

MAX_CONVERTED = 32 * 1024 * 1024
"""Largest message that is converted to 7 bit, which happens in memory."""
MAX_TRANSACTION = 100
"""Recipients of one transaction; every server takes as many (RFC 5321 §4.5.3.1.8)."""


class DropFolder(Protocol):
    """Where mail for local domains goes; `deliver.drop.Drop`."""

    async def deliver(
        self, record: Record, indices: Sequence[int], content: Content
    ) -> list[tuple[int, Outcome]]: ...


@dataclass(slots=True)
class Result:
    """What became of a recipient, and the name of the route that told."""

    outcome: Outcome
    route: str


class Courier:
    """Makes attempts for one virtual server."""

    def __init__(self, router: Router, pool: Pool, drop: DropFolder, clock: Clock) -> None:
        self.router = router
        self.pool = pool
        self.drop = drop
        self.clock = clock
        # Each may need several times MAX_CONVERTED of memory.
        self.converting = asyncio.Semaphore(1)

    def attempt(self, claim: Claim) -> "Attempt":
        return Attempt(self, claim)


class Attempt:
    """One try; `run` it once. `outcomes` has results by index of recipient, also after a cancellation; who is
    missing there was not tried: `crowded` then says that all connections were busy."""

    __slots__ = (
        "_claim",
        "_content",
        "_conversion_tried",
        "_converted",
        "_courier",
        "_octets",
        "crowded",
        "outcomes",
    )

    def __init__(self, courier: Courier, claim: Claim) -> None:
        self._courier = courier
        self._claim = claim
        self._content = claim.content
        self._octets: bytes | None = None
        self._converted: bytes | None = None
        self._conversion_tried = False
        self.outcomes: dict[int, Result] = {}
        self.crowded: Reply | None = None

    async def run(self) -> None:
        """Try every pending recipient. Raises only for faults of ours (QueueError: the content cannot be read)."""
        record = self._claim.record
        envelope = record.message.envelope
        route_of = self._courier.router.route
        groups: dict[str, tuple[Route, list[int]]] = {}
        for index in record.pending:
            route = route_of(envelope.recipients[index].address)
            group = groups.get(route.name)
            if group is None:
                groups[route.name] = (route, [index])
            else:
                group[1].append(index)
        self._octets = await self._content.octets()
        if len(groups) == 1:
            for route, indices in groups.values():
                await self._group(route, indices)
        else:
            # Each to its end: what one route does wrong must not interrupt another in the middle of a message.
            ends = await asyncio.gather(*(self._group(*group) for group in groups.values()), return_exceptions=True)
            for end in ends:
                if end is not None:
                    raise end

    async def _group(self, route: Route, indices: list[int]) -> None:
        match route:
            case ToDrop():
                for index, outcome in await self._courier.drop.deliver(self._claim.record, indices, self._content):
                    self.outcomes[index] = Result(outcome, route.name)
            case ToHosts():
                await self._relay(route, indices)

    async def _relay(self, route: ToHosts, indices: list[int]) -> None:
        """Host after host, until nobody is left who might fare better with the next."""
        pool = self._courier.pool
        wish = ANY
        undecided = indices
        while undecided:
            taken = await pool.take(route, wish)
            if not isinstance(taken, Connection):
                undecided = self._without(taken, route, undecided)
                break
            used, before = taken.messages > 0, len(undecided)
            try:
                undecided, stale = await self._over(taken, route, undecided)
            finally:
                pool.give(route, taken)
            if stale and (len(undecided) < before or (used and not wish.fresh)):
                # It closed while it was idle, or after the last message it wanted to take; that says nothing
                # about this one, and nothing of this one was accepted.
                wish = Wish(wish.tried, fresh=True)
            else:
                wish = Wish(wish.tried | {taken.host})
        if undecided and route.fallback is not None:
            await self._relay(route.fallback, undecided)

    def _without(self, why: Trouble | NoHosts | Stopped | Crowded, route: ToHosts, indices: list[int]) -> list[int]:
        """Note that there was no connection; answers who may be tried by the route's fallback."""
        match why:
            case Stopped():
                return []
            case Crowded(reply):
                self.crowded = reply
                return []
            case Trouble(reply, host):
                # Who has tried another host keeps what that said.
                self._note([n for n in indices if n not in self.outcomes], reply, host, route)
                return indices
            case NoHosts(reply, final):
                if final or route.fallback is None:
                    self._note(indices, reply, "", route)
                # Otherwise what the fallback says is the answer, also if it is down just now.
                return [] if final else indices

    async def _over(self, connection: Connection, route: ToHosts, indices: list[int]) -> tuple[list[int], bool]:
        """Send to these recipients over this connection. Answers who may be tried again with another host, and
        whether the connection was stale: closed before it took any notice."""
        undecided: list[int] = []
        left = indices
        while left:
            batch, left = left[:MAX_TRANSACTION], left[MAX_TRANSACTION:]
            parcel = await self._prepare(connection, batch, route)
            if parcel is None:
                continue
            finished = await connection.send(parcel.envelope, parcel.size, parcel.octets, self._content)
            again, crowded = self._judge(connection, route, parcel.indices, finished)
            undecided += again
            if connection.is_usable:
                left = crowded + left
                continue
            last = finished.replies[-1]
            left = crowded + left
            self._note([n for n in left if n not in self.outcomes], _for_now(last), connection.label, route)
            stale = not connection.timed_out and (not finished.answered or last.code == 421)
            if stale and len(again) == len(parcel.indices):
                return undecided + left, True
            if finished.doubtful:
                # It may have taken the message; asking another host now would make a second copy likely.
                undecided = [n for n in undecided if n not in again]
            return undecided + left, bool(left)
        return undecided, False

    def _judge(
        self, connection: Connection, route: ToHosts, indices: Sequence[int], finished: Finished
    ) -> tuple[list[int], list[int]]:
        """Note what the replies say about each. Answers who was deferred, and who was only one too many."""
        now = self._courier.clock.now()
        label, smart_host = connection.label, bool(route.smart_hosts)
        again: list[int] = []
        crowded: list[int] = []
        someone_in = len(finished.refused) < len(indices)
        for position, index in enumerate(indices):
            reply = finished.replies[position]
            outcome: Outcome
            if reply.code < 300:
                outcome = Delivered(reply, label, now, connection.offer.dsn)
            elif position in finished.refused and _is_crowded(reply):
                # RFC 5321 §4.5.3.1.10: one too many for this transaction, not for the host.
                outcome = Deferred(_for_now(reply), label, now)
                (crowded if someone_in else again).append(index)
            elif effect_of(reply, label, smart_host=smart_host) is Effect.FAIL:
                outcome = Failed(reply, label, now)
            else:
                # Also where the code says "never", but the fault is the route's or passes: it is no message's end.
                outcome = Deferred(reply, label, now)
                again.append(index)
            self.outcomes[index] = Result(outcome, route.name)
        return again, crowded

    def _note(self, indices: Sequence[int], reply: Reply, host: str, route: ToHosts) -> None:
        now = self._courier.clock.now()
        outcome = Failed(reply, host, now) if reply.is_permanent else Deferred(reply, host, now)
        for index in indices:
            self.outcomes[index] = Result(outcome, route.name)

    # What this host can be sent

    async def _prepare(self, connection: Connection, indices: list[int], route: ToHosts) -> "_Parcel | None":
        """The message as this host can take it; notes who cannot get it, None if that is everybody."""
        offer, label = connection.offer, connection.label
        message = self._claim.record.message
        octets, size = self._octets, self._content.size
        if offer.size and size > offer.size:
            text = f"The message has {size} octets, {label} takes no more than {offer.size}"
            self._note(indices, Reply(552, "5.3.4", text), label, route)
            return None
        addressed = await self._addressed(offer, indices, label, route)
        if addressed is None:
            return None
        sender, recipients, indices, smtputf8 = addressed
        body = await self._body(offer)
        if body is None:
            octets = await self._seven_bit()
            if octets is None:
                kind = "binary" if message.envelope.body is Body.BINARY else "8-bit"
                text = f"{label} takes no {kind} content, and this message cannot be converted without loss"
                self._note(indices, Reply(554, "5.6.3", text), label, route)
                return None
            size, body = len(octets), Body.SEVEN_BIT
        envelope = message.envelope
        envelope = Envelope(sender, recipients, body, smtputf8, envelope.ret, envelope.envid)
        return _Parcel(envelope, indices, size, octets)

    async def _body(self, offer: Offer) -> Body | None:
        """What the content is declared as to this host; None: it has to be converted first."""
        declared = self._claim.record.message.envelope.body
        if declared is Body.BINARY:
            return Body.BINARY if offer.binary else None
        if self._octets is not None:
            eight_bit = not self._octets.isascii()
        elif offer.eight_bit:
            # Not worth reading a large body twice; what was not declared is not declared.
            return declared
        else:
            eight_bit = not await self._is_ascii()
        if not eight_bit:
            return Body.SEVEN_BIT
        return Body.EIGHT_BIT if offer.eight_bit else None

    async def _is_ascii(self) -> bool:
        async for piece in self._content.chunks():
            if not piece.isascii():
                return False
        return True

    async def _seven_bit(self) -> bytes | None:
        """The whole message in 7 bits, None where that cannot be done; the work is done once."""
        if self._conversion_tried:
            return self._converted
        octets = self._octets
        if octets is None and self._content.size > MAX_CONVERTED:
            return None
        async with self._courier.converting:
            if octets is None:
                octets = b"".join([piece async for piece in self._content.chunks()])
            self._converted = await asyncio.to_thread(to_seven_bit, octets)
        self._conversion_tried = True
        return self._converted

    async def _addressed(
        self, offer: Offer, indices: list[int], label: str, route: ToHosts
    ) -> tuple[Address | None, tuple[Recipient, ...], list[int], bool] | None:
        """Sender, recipients, their indices and whether SMTPUTF8 is needed (RFC 6531 §3.2, §3.6)."""
        envelope = self._claim.record.message.envelope
        sender = self._courier.router.sender(envelope.sender)
        recipients = [envelope.recipients[index] for index in indices]
        plain = (sender is None or sender.is_ascii) and all(r.address.is_ascii for r in recipients)
        if offer.smtputf8 or (plain and not envelope.smtputf8):
            return sender, tuple(recipients), indices, envelope.smtputf8 or not plain
        reason = ""
        ascii_sender = sender and _in_ascii(sender)
        if sender is not None and ascii_sender is None:
            reason = f"the sender address {sender} needs SMTPUTF8"
        elif envelope.smtputf8 and not (await self._header()).isascii():
            reason = "its header needs SMTPUTF8"
        possible: list[tuple[int, Recipient]] = []
        for index, recipient in zip(indices, recipients, strict=True):
            address = _in_ascii(recipient.address)
            why = reason or ("" if address else f"the address {recipient.address} needs SMTPUTF8")
            if address is None or why:
                text = f"{label} does not offer SMTPUTF8, and {why}"
                self._note([index], Reply(550, "5.6.7", text), label, route)
            else:
                possible.append((index, replace(recipient, address=address)))
        if not possible:
            return None
        return ascii_sender, tuple(r for _, r in possible), [n for n, _ in possible], False

    async def _header(self) -> bytes:
        """The header, or as much of it as stands in the first piece."""
        start = self._octets
        if start is None:
            start = b""
            async for piece in self._content.chunks():
                start += piece
                if b"\r\n\r\n" in start or len(start) >= CHUNK:
                    break
        return start.partition(b"\r\n\r\n")[0]


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A message as one host can take it, for these recipients. `octets` None: as it is stored, in pieces."""

    envelope: Envelope
    indices: list[int]
    size: int
    octets: bytes | None


def _in_ascii(address: Address) -> Address | None:
    """The same address without SMTPUTF8: only its domain can be written otherwise (RFC 6531 §3.2)."""
    if not address.local.isascii():
        return None
    domain = domain_key(address.domain) if not address.domain.isascii() else address.domain
    return Address(address.local, domain) if domain.isascii() else None


def _is_crowded(reply: Reply) -> bool:
    """Whether a refused RCPT means "too many at once". 552 did in RFC 821, and some servers still say it; with a
    status of its own it means something else, such as a full mailbox."""
    return reply.code in (452, 552) and reply.status in ("", "4.5.3", "5.5.3")


def _for_now(reply: Reply) -> Reply:
    """The same words as a 4yz reply."""
    if reply.is_transient:
        return reply
    return Reply(452 if reply.code == 552 else 451, "4.5.3" if reply.code == 552 else "4.3.0", reply.text)
