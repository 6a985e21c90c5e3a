"""What a server offers in its EHLO reply, and what we make of it: the parameters of MAIL and RCPT.

A wish of the envelope becomes a parameter only where the server offers the extension (RFC 5321 §4.1.1.1).
"""

from dataclasses import dataclass

from mailroot.mail.envelope import Body, Envelope, Notify, Recipient


@dataclass(frozen=True, slots=True)
class Offer:
    """The extensions we know how to use. `size` is the largest message in octets (RFC 1870), 0 for no limit;
    `has_size` whether SIZE was offered at all."""

    pipelining: bool = False
    has_size: bool = False
    size: int = 0
    eight_bit: bool = False
    binary: bool = False
    chunking: bool = False
    smtputf8: bool = False
    dsn: bool = False
    starttls: bool = False
    mechanisms: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> "Offer":
        """The text of an EHLO reply, its first line being the greeting (RFC 5321 §4.1.1.1)."""
        words: dict[str, list[str]] = {}
        for line in text.split("\n")[1:]:
            # Old Exchange servers write AUTH=LOGIN, for clients that were older still.
            keyword, *values = line.replace("=", " ").upper().split() or [""]
            words.setdefault(keyword, []).extend(values)
        size = words.get("SIZE", [])
        return cls(
            pipelining="PIPELINING" in words,
            has_size="SIZE" in words,
            size=int(size[0]) if size and size[0].isascii() and size[0].isdigit() and len(size[0]) <= 20 else 0,
            eight_bit="8BITMIME" in words,
            # RFC 3030 §3: BINARYMIME without CHUNKING cannot be used.
            binary="BINARYMIME" in words and "CHUNKING" in words,
            chunking="CHUNKING" in words,
            smtputf8="SMTPUTF8" in words,
            dsn="DSN" in words,
            starttls="STARTTLS" in words,
            mechanisms=tuple(dict.fromkeys(words.get("AUTH", []))),
        )


def mail_command(envelope: Envelope, size: int, offer: Offer) -> str:
    """MAIL with the parameters this server understands, with its line end."""
    line = f"MAIL FROM:<{envelope.sender or ''}>"
    if offer.has_size:
        line += f" SIZE={size}"
    match envelope.body:
        case Body.EIGHT_BIT if offer.eight_bit:
            line += " BODY=8BITMIME"
        case Body.BINARY if offer.binary:
            line += " BODY=BINARYMIME"
        case _:
            pass
    if envelope.smtputf8 and offer.smtputf8:
        line += " SMTPUTF8"
    if offer.dsn:
        if envelope.ret is not None:
            line += f" RET={envelope.ret}"
        if envelope.envid is not None:
            line += f" ENVID={xtext(envelope.envid)}"
    return line + "\r\n"


def recipient_command(recipient: Recipient, envelope: Envelope, offer: Offer) -> str:
    """RCPT with the parameters this server understands, with its line end."""
    line = f"RCPT TO:<{recipient.address}>"
    if offer.dsn:
        if recipient.notify is not None:
            line += f" NOTIFY={_notify(recipient.notify)}"
        if recipient.original is not None:
            line += f" ORCPT={_original(recipient.original, envelope.smtputf8 and offer.smtputf8)}"
    return line + "\r\n"


def xtext(text: str) -> str:
    """RFC 3461 §4: what is not printable ASCII, and "+" and "=", as +HH of its UTF-8 octets."""
    if text.isascii() and text.isalnum():
        return text
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"+=" else f"+{octet:02X}" for octet in text.encode()
    )


def _notify(notify: Notify) -> str:
    asked = [what.name or "" for what in (Notify.SUCCESS, Notify.FAILURE, Notify.DELAY) if notify & what]
    return ",".join(asked) or "NEVER"


def _original(original: str, smtputf8: bool) -> str:
    """ORCPT's value: the address type as it is, the address encoded (RFC 3461 §4.2)."""
    kind, mark, address = original.partition(";")
    if not mark:
        kind, address = "rfc822", original
    if address.isascii():
        return f"{kind};{xtext(address)}"
    # RFC 6533 §3: utf-8-addr-unitext where UTF-8 may be sent, else utf-8-addr-xtext.
    return "utf-8;" + "".join(
        character
        if character.isprintable() and character not in " \\+=" and (smtputf8 or character.isascii())
        else f"\\x{{{ord(character):02X}}}"
        for character in address
    )
