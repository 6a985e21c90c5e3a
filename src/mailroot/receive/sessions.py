"""The Current Sessions node: which sessions there are, and the end of one or of all."""

import asyncio
from secrets import token_hex

from mailroot.policy.auth.logins import Logins
from mailroot.receive.session import Session, SessionInfo

__all__ = ["SessionInfo", "Sessions"]


class Sessions:
    """The sessions of one virtual server that are open now."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def new_id(self) -> str:
        """An id that no open session has: eight hexadecimal digits."""
        fresh = token_hex(4)
        while fresh in self._sessions:
            fresh = token_hex(4)
        return fresh

    def add(self, session: Session) -> None:
        self._sessions[session.id] = session

    def remove(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._left.set()

    async def done_with(self, logins: Logins) -> None:
        """Return when no session goes by these logins."""
        while any(session.logins is logins for session in self._sessions.values()):
            self._left.clear()
            await self._left.wait()

    def list(self) -> list[SessionInfo]:
        """All of them, oldest first."""
        return [session.info for session in self._sessions.values()]

    def end(self, id: str) -> bool:
        """Send that session a 421 and close it; False: there is none by that id."""
        session = self._sessions.get(id)
        if session is None:
            return False
        session.end("ended by operator")
        return True

    def end_all(self, why: str = "ended by operator", *, finish_message: bool = False) -> int:
        """Send all of them a 421 and close them, at once or after the message that is coming in; how many."""
        for session in self._sessions.values():
            session.end(why, finish_message=finish_message)
        return len(self._sessions)

    def cut_all(self) -> None:
        """Close all of them without a word."""
        for session in tuple(self._sessions.values()):
            session.cut()
