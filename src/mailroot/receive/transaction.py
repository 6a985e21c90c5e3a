"""One message being handed in, from MAIL to the answer to its content (RFC 5321 §3.3): what the client said about
it, and its way into the queue.

A client sends content to its end, whatever happens. So a queue that cannot take it is no reason to speak up in the
middle: it is remembered as `trouble`, the rest is read and forgotten, and the one answer at the end says so. What
may be said when, and what policy thinks of it, is the session's business.
"""

from mailroot.mail.envelope import Envelope, Origin, Recipient
from mailroot.mail.reply import Reply
from mailroot.policy.permissions import SenderRule
from mailroot.policy.visit import Refuse
from mailroot.queue.base import QueueError, QueueFull
from mailroot.receive.intake import Accepted, Incoming, Intake
from mailroot.smtp.commands import Mail

_STORAGE_TROUBLE = Reply(451, "4.3.0", "Requested action aborted: message cannot be stored, try again later")
_STORAGE_FULL = Reply(452, "4.3.1", "Insufficient system storage, try again later")


class Transaction:
    """A session's transaction; the same object serves one after the other."""

    __slots__ = ("_incoming", "_intake", "_mail", "_senders", "recipients", "trouble")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._mail: Mail | None = None
        self._senders: SenderRule | None = None
        self._incoming: Incoming | None = None
        self.recipients: list[Recipient] = []
        self.trouble: Reply | None = None

    @property
    def smtputf8(self) -> bool:
        """Whether the client asked for SMTPUTF8."""
        return self._mail is not None and self._mail.parameters.smtputf8

    def begin(self, mail: Mail, senders: SenderRule | None) -> None:
        """MAIL was accepted; `senders` are those that its client may use, None: any."""
        self._mail = mail
        self._senders = senders
        self.recipients = []

    async def take(self, octets: bytes) -> None:
        """Hand a piece of content on."""
        if self.trouble is not None:
            return
        try:
            if self._incoming is None:
                self._incoming = self._open()
            await self._incoming.write(octets)
        except QueueError as error:
            self.trouble = _storage_reply(error)

    def _open(self) -> Incoming:
        return self._intake.open(self._senders)

    async def commit(self, origin: Origin, received: str, session: str) -> Accepted | Refuse:
        """The content is complete: make the message durable, or say why not. The transaction is over.

        `received` is the Received field up to the id, `session` the session's id.
        """
        mail = self._mail
        assert mail is not None
        refused: Refuse | None = None if self.trouble is None else Refuse("", self.trouble)
        if refused is None:
            parameters = mail.parameters
            envelope = Envelope(
                mail.sender,
                tuple(self.recipients),
                parameters.body,
                parameters.smtputf8,
                parameters.ret,
                parameters.envid,
            )
            try:
                incoming = self._incoming or self._open()
                result = await incoming.commit(envelope, origin, received, session)
            except QueueError as error:
                refused = Refuse("", _storage_reply(error))
            else:
                self._mail = self._incoming = None
                self.recipients = []
                return result
        await self.abandon()
        return refused

    async def abandon(self) -> None:
        """Forget everything: the transaction is over."""
        self._mail = None
        self.recipients = []
        self.trouble = None
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            await incoming.abandon()


def _storage_reply(error: QueueError) -> Reply:
    return _STORAGE_FULL if isinstance(error, QueueFull) else _STORAGE_TROUBLE
