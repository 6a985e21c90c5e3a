"""An SMTP reply as a value (RFC 5321 §4.2, RFC 2034, RFC 3463): ours to a client, or a remote host's to us."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """Code, enhanced status and text.

    `status` is empty where there is none (banner, EHLO, 354, or a remote host without enhanced codes).
    `text` holds the lines of a multi-line reply separated by "\\n", without code and status; it is decoded
    text, of a remote host with any octet that is not UTF-8 replaced. The wire form is smtp's business.
    """

    code: int
    status: str
    text: str

    def __str__(self) -> str:
        status = f"{self.status} " if self.status else ""
        return f"{self.code} {status}{self.text}".replace("\n", " ").rstrip()

    @property
    def is_success(self) -> bool:
        return 200 <= self.code < 300

    @property
    def is_transient(self) -> bool:
        """4yz: the same command may succeed later (RFC 5321 §4.2.1)."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz: the same command must not be sent again (RFC 5321 §4.2.1)."""
        return 500 <= self.code < 600

    @property
    def best_status(self) -> str:
        """The enhanced status, or the class's generic one where the remote gave none (RFC 3463 §2)."""
        return self.status or f"{self.code // 100}.0.0"
