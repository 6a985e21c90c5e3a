"""The published ends of a message that are none, and where each was published.

SMTP smuggling: a server takes one of these for the end of a message, another passes it on as content; what follows
it then is a second message, from whomever it says.
"""

SEC = "https://sec-consult.com/blog/detail/smtp-smuggling-spoofing-e-mails-worldwide/"  # December 2023
SCANNER = "https://github.com/The-Login/SMTP-Smuggling-Tools"  # smtp_smuggling_scanner.py
SMTPSMUG = "https://github.com/hannob/smtpsmug"
CHECKER = "https://github.com/suuhm/smtp_smuggling_checker.py"
POSTFIX = "https://github.com/The-Login/SMTP-Smuggling-Tools/pull/4"  # and CVE-2023-51764, second part
EXIM = "CVE-2023-51766"
OURS = "a variant of these"

FAKE_ENDS: dict[bytes, str] = {
    b"\n.\n": SEC,
    b"\n.\r\n": SEC,
    b"\r.\r": SEC,
    b"\r\n\x00.\r\n": SEC,
    b"\r\n.\n": SMTPSMUG + " and " + EXIM,
    b"\r\n.\r": SMTPSMUG,
    b"\n.\r": SCANNER,
    b"\r.\n": SCANNER,
    b"\r.\r\n": SCANNER,
    b"\r\n.\r\r\n": SCANNER,
    b"\r\r\n.\r\r\n": POSTFIX,
    b"\r\n\x00.\r": CHECKER,
    b"\r\n\x00.\n": CHECKER,
    b"\r\n.\x00\r\n": CHECKER,
    b"\n\n.\r\n": CHECKER,
    b"\n\r.\n\r": OURS,
    b"\n\r\n.\n": OURS,
    b"\r\n.\x00\n": OURS,
    b"\n\x00.\n": OURS,
    b"\r\n. \r\n": OURS,
    b"\r\n.\t\r\n": OURS,
    b"\r\n .\r\n": OURS,
    b"\r\n..\r\n": OURS,
    b"\r\n\x08.\r\n": OURS,
    b"\r\n.\x0b\r\n": OURS,
    b"\x0b.\x0b": OURS,
    b"\x0c.\x0c": OURS,
    b"\x1e.\x1e": OURS,
    b"\x85.\x85": OURS,
    "\u0085.\u0085".encode(): OURS,
    "\u2028.\u2028".encode(): OURS,
    "\u2029.\u2029".encode(): OURS,
    b"\r\n\xe2.\r\n": OURS,
    b"\r\n\xae\r\n": OURS + ": a dot with the eighth bit set",
    b"\x8d\x8a.\x8d\x8a": OURS + ": line ends with the eighth bit set",
    b"\r\n\xc0\xae\r\n": OURS + ": a dot in an overlong UTF-8",
}

# Behind a fake end, a second message; the true end of both is the last line.
SMUGGLED = (
    b"MAIL FROM:<smuggled@example.com>\r\n"
    b"RCPT TO:<victim@example.net>\r\n"
    b"DATA\r\n"
    b"From: smuggled@example.com\r\nSubject: smuggled\r\n\r\nevil\r\n"
)
