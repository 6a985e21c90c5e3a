"""Masked recipients, any of them: what a client that may not relay gets accepted goes to the Drop folder."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.deliver.connection import OutboundSecurity
from mailroot.deliver.route import AdvancedDelivery, Router, ToDrop
from mailroot.events import InternalError
from mailroot.policy.domains import LocalDomains
from rig.door import Door

pytestmark = pytest.mark.quick

_LOCAL = LocalDomains("example.com", ("*.corp.example", "bücher.example"))
_SIGNS = (*'@%!":,;<>.[]()\\= ', "\uff20", "\uff0e", "\u3002", "\u2024", "\uff05", "\u00ad", "\x00", "\t")
_WORDS = (
    *("user", "example.com", "example.net", "mail.corp.example", "corp.example", "bücher.example", "EXAMPLE.COM"),
    *("xn--bcher-kva.example", "ex\u0430mple.com", "\uff45xample.com", "[127.0.0.1]", "[IPv6:::1]", "localhost"),
    *("relay.example.com", "example.com.", "example", "com", "net", "postmaster", "straße.example"),
)
_PATHS = st.lists(st.one_of(st.sampled_from(_WORDS), st.sampled_from(_SIGNS)), min_size=1, max_size=8).map("".join)


@given(st.lists(_PATHS, min_size=1, max_size=8), st.booleans())
def test_what_is_accepted_is_local(paths: list[str], smtputf8: bool) -> None:
    router = Router(AdvancedDelivery(), (), _LOCAL, OutboundSecurity(), 25)

    async def play() -> None:
        door = Door(aliases=("*.corp.example", "bücher.example"))
        session = await door.connect("192.0.2.7")
        await session.say(f"MAIL FROM:<a@example.com>{' SMTPUTF8' * smtputf8}\r\n".encode())
        # One that is ours without a doubt, so that there is a message to look at.
        accepted = 0
        for path in ("b@example.com", *paths):
            answer = await session.say(f"RCPT TO:<{path}>\r\n".encode())
            assert answer[:3] in (b"250", b"500", b"501", b"550", b"553"), answer
            accepted += answer.startswith(b"250")
        await session.say(b"DATA\r\n")
        assert (await session.say(b"x\r\n.\r\n")).startswith(b"250")
        await session.leave()
        (record,) = await door.records()
        recipients = record.message.envelope.recipients
        assert len(recipients) == accepted
        for recipient in recipients:
            assert isinstance(router.route(recipient.address), ToDrop), recipient
        assert not door.published(InternalError)

    asyncio.run(play())
