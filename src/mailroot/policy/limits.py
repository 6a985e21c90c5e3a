"""The Messages tab: how large, how many; and the limits that hold under attack."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from mailroot.units import DAY, HOUR, KIB, MIB, MINUTE, Doc, Duration, Range, Size


class BareLineEnds(StrEnum):
    """What to do with a bare CR or LF in a message. Neither ever ends one."""

    REJECT = "reject"
    REPAIR = "repair"


@dataclass(frozen=True, slots=True)
class MessageSettings:
    """The Messages tab."""

    max_message_size: Annotated[Size, Doc("Limit message size to; 0: no limit.")] = 2 * MIB
    max_session_size: Annotated[
        Size, Doc("Limit session size to: all messages of one connection; 0: no limit. The connection is closed.")
    ] = 10 * MIB
    max_recipients: Annotated[int, Range(least=1), Doc("Limit number of recipients per message to.")] = 100
    max_hops: Annotated[
        int, Range(least=1), Doc("Maximum hop count: a message with more Received fields is in a loop.")
    ] = 15
    max_header_size: Annotated[Size, Range(least=1024), Doc("Limit size of a message's header to.")] = 256 * KIB
    max_errors: Annotated[
        int, Range(least=1), Doc("Refused commands in one session before it is closed with a 421.")
    ] = 50
    bare_line_ends: Annotated[
        BareLineEnds,
        Doc(
            "A CR or LF alone in a message: 'reject' it (550 5.6.11), or 'repair' it to CRLF (the body is changed "
            "then). It never ends a message."
        ),
    ] = BareLineEnds.REJECT


@dataclass(frozen=True, slots=True)
class Quota:
    """How many messages and recipients in a time; 0: no limit. What is over it gets a 4xx and comes later.

    Counted are messages begun (MAIL) and recipients accepted, in steps of 5 seconds, or 15 minutes for a day."""

    messages_per_minute: Annotated[int, Range(least=0), Doc("Messages in a minute; 0: no limit.")] = 0
    recipients_per_minute: Annotated[int, Range(least=0), Doc("Recipients in a minute; 0: no limit.")] = 0
    messages_per_day: Annotated[int, Range(least=0), Doc("Messages in 24 hours; 0: no limit.")] = 0
    recipients_per_day: Annotated[int, Range(least=0), Doc("Recipients in 24 hours; 0: no limit.")] = 0


@dataclass(frozen=True, slots=True)
class LoginLimits:
    """What failed logins lead to: each is answered later than the one before, and after some comes a ban."""

    failures: Annotated[
        int, Range(least=1), Doc("Failed logins of an address, or of an account, before it is banned.")
    ] = 10
    ban: Annotated[Duration, Range(least=1), Doc("The first ban; each further one is twice as long.")] = 5 * MINUTE
    longest_ban: Annotated[Duration, Range(least=1), Doc("No ban is longer.")] = DAY
    forget: Annotated[
        Duration, Range(least=1), Doc("After this time without a failure half of them are forgotten.")
    ] = HOUR
    longest_delay: Annotated[
        Duration, Range(least=0, most=60), Doc("A refused login is answered this late at most.")
    ] = 8.0


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Limits that hold under attack."""

    exempt: Annotated[
        tuple[str, ...],
        Doc(
            "Addresses and networks that are not counted as such: `sessions_per_address`, the quotas `address` and "
            "`network`. No ban keeps them from logging in; the growing delay and quotas of accounts hold for them."
        ),
    ] = ("127.0.0.1", "::1")
    sessions_per_address: Annotated[
        int, Range(least=0), Doc("Open sessions from one address; 0: no limit. Further ones get a 421.")
    ] = 100
    commands: Annotated[
        int, Range(least=10), Doc("Commands without a message accepted, before the session is closed with a 421.")
    ] = 1000
    refused_recipients: Annotated[
        int, Range(least=1), Doc("Recipients refused for good in one session before it is closed with a 421.")
    ] = 50
    octets_before_login: Annotated[
        Size,
        Range(least=1024),
        Doc(
            "What a client may send before it has logged in or had a recipient accepted; after more the session is "
            "closed with a 421."
        ),
    ] = 256 * KIB
    command_time: Annotated[
        Duration,
        Range(least=1),
        Doc("A command must be complete so long after its first octet; else the session is closed with a 421."),
    ] = 1 * MINUTE
    transfer_time: Annotated[
        Duration, Range(least=60), Doc("One message may take this long to come; then the session is closed.")
    ] = 1 * HOUR
    transfer_speed: Annotated[
        Size,
        Doc(
            "What a message must bring in each second, on average after its first minute; a slower session is "
            "closed. 0: it may be as slow as it likes."
        ),
    ] = 128
    logins: Annotated[LoginLimits, Doc("Failed logins.")] = field(default_factory=LoginLimits)
    address: Annotated[Quota, Doc("How much one client address may hand in.")] = field(default_factory=Quota)
    network: Annotated[Quota, Doc("How much one network (IPv4 /24, IPv6 /48) may hand in.")] = field(
        default_factory=Quota
    )
    account: Annotated[Quota, Doc("How much one account may hand in.")] = field(default_factory=Quota)
    min_free_disk: Annotated[
        Size, Doc("With less than this free where the queue is, no mail is taken: 452, try again later. 0: never.")
    ] = 64 * MIB
