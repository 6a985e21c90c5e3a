"""Passwords: which are taken, what is kept of them, and the work of checking one, which must not hold up mail.

argon2-cffi is loaded with the first password that is checked or made. What is kept, and why so, is in
docs/decisions/0014-passwords.md.
"""

import asyncio
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from mailroot.smtp.sasl.saslprep import saslprep

# The second choice of OWASP's Password Storage Cheat Sheet: 19 MiB, two passes, one thread.
_MEMORY, _PASSES, _LANES = 19_456, 2, 1
_SALT_LENGTH, _HASH_LENGTH = 16, 32

SCRAM_ITERATIONS = 65_536
"""For new verifiers: 15 ms of the client's time, once for each login. The most that Cyrus SASL's client, and so
Postfix, takes: where there were more it would not log in at all."""

LONGEST_PASSWORD = 256
"""Characters."""

_LONGEST_GIVEN = 8 * LONGEST_PASSWORD
"""The same one, however it was written: with marks that stand by themselves, or are left out."""

_ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,7}),t=([0-9]{1,2}),p=([0-9]{1,2})\$[A-Za-z0-9+/]{11,64}\$[A-Za-z0-9+/]{22,88}"
)
_MOST_MEMORY, _MOST_PASSES, _MOST_LANES = 262_144, 20, 16

NOBODYS_HASH = f"$argon2id$v=19$m={_MEMORY},t={_PASSES},p={_LANES}${'A' * 22}${'A' * 43}"
"""What is checked for users that there are not: the same work, and nobody knows a password for it."""

_LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def generate_password() -> str:
    """A new one of 116 bits, in letters that nobody confuses."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))


def new_password(password: str) -> str:
    """A password that somebody chose, in the form in which it is kept. Raises ValueError, in words for whoever
    chose it, for one that cannot be."""
    if not password:
        raise ValueError("an empty password is none")
    if len(password) > LONGEST_PASSWORD:
        raise ValueError(f"a password of {len(password)} characters; the longest is {LONGEST_PASSWORD}")
    try:
        prepared = saslprep(password, stored=True)
    except ValueError as error:
        # RFC 4616 §2 and RFC 5802 §2.2 want every program to write it alike, and such characters are not.
        raise ValueError(f"not every program could send this password: {error}") from None
    if not prepared.strip():
        raise ValueError("a password of spaces alone")
    return prepared


def given_password(password: str) -> str:
    """A password that a client sent, in the form in which one is kept."""
    if len(password) > _LONGEST_GIVEN:
        return password  # No account has it, and to prepare it would take its time.
    try:
        return saslprep(password)
    except ValueError:
        return password  # No account has it.


def hash_password(password: str) -> str:
    """argon2id (RFC 9106), with its parameters and salt in it. Takes 19 MiB and some 20 ms."""
    from argon2.low_level import Type, hash_secret

    salt = secrets.token_bytes(_SALT_LENGTH)
    octets = password.encode()
    return hash_secret(octets, salt, _PASSES, _MEMORY, _LANES, _HASH_LENGTH, Type.ID).decode()


def verify_password(hashed: str, password: str) -> bool:
    """Whether it is the password. Takes as long either way. Raises CannotCheck."""
    from argon2.exceptions import VerificationError, VerifyMismatchError
    from argon2.low_level import Type, verify_secret

    try:
        return verify_secret(hashed.encode(), password.encode(errors="replace"), Type.ID)
    except VerifyMismatchError:
        return False
    except VerificationError as error:
        # Such as: no memory for it.
        raise CannotCheck(f"argon2: {error}") from None


def is_password_hash(text: str) -> bool:
    """Whether it is an argon2id hash, of work that a server can be asked to do."""
    found = _ARGON2ID.fullmatch(text)
    if found is None:
        return False
    memory, passes, lanes = map(int, found.groups())
    return 8 * lanes <= memory <= _MOST_MEMORY and 1 <= passes <= _MOST_PASSES and 1 <= lanes <= _MOST_LANES


class CannotCheck(Exception):
    """Whether a password is right cannot be known now; the text is for the log."""


class PasswordWork:
    """Checks passwords in threads: a few at a time, since each takes its memory, and a few more that wait.

    One that waits too long is given up, and so is one that would be too many. `verify` does the work of one check.
    """

    def __init__(
        self,
        *,
        at_once: int = 2,
        most_waiting: int = 64,
        patience: float = 10.0,
        verify: Callable[[str, str], bool] = verify_password,
    ) -> None:
        """`patience`: seconds."""
        self._at_once = at_once
        self._most = at_once + most_waiting
        self._patience = patience
        self._verify = verify
        self._open: set[Future[bool]] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    async def verify(self, hashed: str, password: str) -> bool:
        """Whether it is the password. Raises CannotCheck."""
        if self._closed:
            raise CannotCheck("the server is stopping")
        if len(self._open) >= self._most:
            raise CannotCheck("too many logins at once")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._at_once, "passwords")
        work = self._threads.submit(self._verify, hashed, password)
        self._open.add(work)
        loop = asyncio.get_running_loop()
        work.add_done_callback(partial(_tell, loop, self._open.discard))
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            raise CannotCheck("too many logins at once") from None

    def close(self) -> None:
        """Give up what waits; what is being checked ends by itself, in a moment."""
        self._closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _tell(loop: asyncio.AbstractEventLoop, done: Callable[[Future[bool]], None], work: Future[bool]) -> None:
    """In the loop's thread, if there still is a loop."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(done, work)


class KnownGood:
    """Passwords that were right a moment ago, so that a program that logs in for every message is let in at once.

    What is kept is an HMAC-SHA256, with a key of this process, over the account's hash, which a new password
    changes, and the password: nobody can tell either from it. Only who sends the right password finds it here.
    """

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._key = secrets.token_bytes(32)
        self._marks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._marks)

    def mark(self, hashed: str, password: str) -> bytes:
        """What stands for the two."""
        # A hash has no NUL in it: no two pairs are the same octets.
        return hmac.digest(self._key, f"{hashed}\0{password}".encode(errors="replace"), "sha256")

    def knows(self, mark: bytes) -> bool:
        if mark not in self._marks:
            return False
        self._marks.move_to_end(mark)
        return True

    def add(self, mark: bytes) -> None:
        """Remember it; the one not used for longest goes when there are too many."""
        self._marks[mark] = None
        self._marks.move_to_end(mark)
        if len(self._marks) > self._most:
            self._marks.popitem(last=False)
