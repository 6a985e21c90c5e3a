"""The Messages tab: how large, how many; and the other bounds of a session."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from mailroot.units import KIB, MIB, Doc, Range, Size


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
