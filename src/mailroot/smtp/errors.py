"""The peer's fault, as an exception that already holds the reply to send."""

from mailroot.mail.reply import Reply


class ProtocolError(Exception):
    """A command that cannot be taken; `reply` says so to the peer. `fatal`: what follows cannot be understood
    either, and the conversation is over. Raised and caught inside smtp."""

    def __init__(self, reply: Reply, *, fatal: bool = False) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.fatal = fatal
