"""A security context of GSSAPI, SSPI or NTLM as an exchange sees it: tokens in and out, until somebody is known.

Seam between `negotiate`, which knows what SASL makes of these tokens, and `ntlm`, `kerberos` and `sspi`, which know
what they mean.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

_T = TypeVar("_T")

_STEPS_AT_ONCE = 4
_MOST_WAITING = 64


class LoginRefused(Exception):
    """The client is not who it says, or may not log in so; the text is for the log."""


class LoginUndecided(Exception):
    """Whether it is cannot be known now; the text is for the log."""


class Context(Protocol):
    """One login. Each of its methods raises SaslError for what is not in form, LoginRefused, LoginUndecided."""

    @property
    def user(self) -> str:
        """Whom the client claims to be, "" before that is known; when `complete`, who it is."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the client is known."""
        ...

    async def step(self, token: bytes) -> bytes:
        """The answer to the client's token; b"" for none, which may be when `complete` only."""
        ...

    async def wrap(self, octets: bytes) -> bytes:
        """Octets that nobody changes on their way to the client (GSS_Wrap, not confidential)."""
        ...

    async def unwrap(self, token: bytes) -> bytes:
        """What the client wrapped."""
        ...


class Threads:
    """Threads of their own for calls that may wait for a domain controller: a few at once, some in a row behind
    them, the rest is told so."""

    __slots__ = ("_deadline", "_executor", "_going")

    def __init__(self, deadline: float) -> None:
        """`deadline`: seconds after which nobody waits for a call any more, its place in the row included."""
        self._deadline = deadline
        self._going = 0
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns or raises; LoginUndecided where it takes too long, or too many wait already."""
        if self._going >= _MOST_WAITING:
            raise LoginUndecided("too many logins at once")
        if self._executor is None:
            # Its threads end with it, when nobody has it any more.
            self._executor = ThreadPoolExecutor(_STEPS_AT_ONCE, thread_name_prefix="login")
        self._going += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        future.add_done_callback(self._done)
        try:
            async with asyncio.timeout(self._deadline):
                # Shielded: a call cannot be broken off, and its place is free when it has ended, not before.
                return await asyncio.shield(future)
        except TimeoutError:
            raise LoginUndecided(f"no answer in {self._deadline:g} seconds") from None

    def _done(self, _: object) -> None:
        self._going -= 1
