"""What the entries of access.permissions mean: patterns, whom each is about, and whether its turn ever comes."""

from mailroot.config.model import VirtualServerSettings
from mailroot.config.tree import Findings, Node, find, is_written
from mailroot.policy.auth.account_file import account_key
from mailroot.policy.domains import read_pattern
from mailroot.policy.networks import Network, read_entry
from mailroot.policy.permissions import (
    SENDER_WORDS,
    Otherwise,
    Permission,
    read_fixed_sender,
    read_sender,
)


def check_permissions(settings: VirtualServerSettings, node: Node, findings: Findings) -> None:
    """The list [[access.permissions]]."""
    entries = settings.access.permissions
    for n, entry in enumerate(entries):
        section = ("access", "permissions", n)
        about = find(node, *section)
        if not entry.accounts and not entry.networks:
            findings.error(
                about,
                'is about nobody; right would be accounts = ["*"] for everybody who has logged in, '
                'or networks = ["10.0.0.0/8"]',
                table=True,
            )
        earlier = next((m for m, other in enumerate(entries[:n]) if _takes_all(other, entry)), None)
        if earlier is not None:
            findings.warn(
                about,
                f"entry {n + 1} is never reached: entry {earlier + 1} before it fits all clients it is about; "
                "right would be the narrower one first",
                table=True,
            )
        for m, account in enumerate(entry.accounts):
            if not account.strip():
                findings.error(find(node, *section, "accounts", m), "an account has a name, or '*' stands for all")
        for m, network in enumerate(entry.networks):
            findings.attempt(find(node, *section, "networks", m), read_entry, network)
        _senders(entry, section, node, findings)
        for m, domain in enumerate(entry.recipients):
            findings.attempt(find(node, *section, "recipients", m), read_pattern, domain)


def _senders(entry: Permission, section: tuple[str | int, ...], node: Node, findings: Findings) -> None:
    for m, sender in enumerate(entry.senders):
        if sender not in SENDER_WORDS:
            findings.attempt(find(node, *section, "senders", m), read_sender, sender)
        elif sender == "own address" and not entry.accounts:
            findings.warn(
                find(node, *section, "senders", m),
                "'own address' is nobody's who has not logged in; the entry is about networks",
            )
    if not entry.senders:
        findings.error(
            find(node, *section, "senders"),
            "is empty: nobody it is about could send anything; right would be the senders, or 'any'",
        )
    where = find(node, *section, "rewrite_to")
    if "any" in entry.senders:
        for key in ("otherwise", "rewrite_to"):
            if is_written(node, *section, key):
                findings.warn(find(node, *section, key), "has no effect: the senders of this entry are 'any'")
    elif entry.otherwise is Otherwise.REWRITE:
        findings.attempt(where, read_fixed_sender, entry.rewrite_to)
    elif entry.rewrite_to:
        findings.warn(where, 'has no effect; right would be, beside it, otherwise = "rewrite"')


def _takes_all(earlier: Permission, later: Permission) -> bool:
    """Whether every client that the later entry fits is one that the earlier entry fits."""
    accounts = set(map(account_key, earlier.accounts))
    if accounts and not (later.accounts and ("*" in accounts or accounts >= set(map(account_key, later.accounts)))):
        return False
    if not earlier.networks:
        return bool(earlier.accounts)
    return bool(later.networks) and all(
        any(_is_within(inner, outer) for outer in earlier.networks) for inner in later.networks
    )


def _is_within(inner: str, outer: str) -> bool:
    try:
        one, other = read_entry(inner), read_entry(outer)
    except ValueError:
        return False
    match one, other:
        case Network(), Network():
            width = one.prefix - other.prefix
            return one.version == other.version and width >= 0 and one.bits >> width == other.bits
        case str(), str():
            return one == other or one.endswith(f".{other}")
        case _:
            return False
