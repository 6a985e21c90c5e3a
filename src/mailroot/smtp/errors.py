"""The peer's fault, as an exception that already holds the reply to send."""

from mailroot.mail.reply import Reply


class ProtocolError(Exception):
    """A command or content that cannot be taken; `reply` says so to the peer. Raised and caught inside smtp."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply
