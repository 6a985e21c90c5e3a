"""Windows accounts: the machine's and its domain's, for Basic authentication.

By LogonUserW and friends, through ctypes. On other systems everything here can be imported and nothing works.
"""

import os
import sys
from dataclasses import dataclass

from mailroot.policy.auth.base import Denied, Granted, Unavailable, Verdict
from mailroot.policy.auth.contexts import LoginUndecided, Threads
from mailroot.policy.auth.settings import WindowsSettings

_DEADLINE = 30.0
_LONGEST_NAME, _LONGEST_PASSWORD = 256, 256
"""LogonUserW's own limits, CREDUI_MAX_USERNAME_LENGTH and PWLEN."""

_SID_TYPE_USER = 1
_RID_GUEST = 501

_REASONS = {
    5: "access is denied",
    1326: "wrong password, or no such account",
    1327: "an account restriction, such as an empty password",
    1328: "not at this hour",
    1329: "not from this computer",
    1330: "the password has expired",
    1331: "account is disabled",
    1385: "the account may not log on from the network",
    1396: "the account name is not that of this domain",
    1793: "the account has expired",
    1907: "the password must be changed first",
    1909: "account is locked out",
}
"""What LogonUserW says about an account (System Error Codes, 1300 to 1999)."""

_UNDECIDED = {
    1311: "no domain controller can be reached",
    1314: "this service has not the right to check passwords",
    1722: "the domain controller does not answer",
    1717: "the domain controller does not answer",
    1753: "the domain controller does not answer",
    1355: "the domain does not exist, or cannot be reached",
    1787: "this computer has no account in its domain",
    1788: "this computer and its domain do not trust each other",
    1789: "this computer and its domain do not trust each other",
    1790: "the network logon failed",
    1792: "the service for logons does not run",
    50: "not supported here",
}
"""What it says about itself: nobody knows then whether the password is right."""


class WindowsAccounts:
    """Windows' own accounts. What is granted is the account as Windows writes it, "DOMAIN\\jo", however the client
    wrote it: "jo" in the default domain, "DOMAIN\\jo" or "jo@domain.example"."""

    name = "Windows"

    def __init__(self, settings: WindowsSettings) -> None:
        """Raises ValueError where there are no Windows accounts."""
        if os.name != "nt":
            raise ValueError(
                "authentication.windows: Windows accounts are on Windows only; right would be to leave it out"
            )
        self._domain = settings.domain
        self._threads = Threads(_DEADLINE)

    @property
    def has_accounts(self) -> bool:
        return True

    async def check(self, user: str, password: str) -> Verdict | None:
        """Never None: Windows does not tell unknown names from wrong passwords."""
        name, domain = split_name(user, self._domain)
        if not name or not password:
            return Denied("no name, or no password", user)
        if len(user) > _LONGEST_NAME or len(password) > _LONGEST_PASSWORD or "\0" in user or "\0" in password:
            return Denied("a name or password that Windows does not take", user[:_LONGEST_NAME])
        try:
            return await self._threads.run(lambda: _log_on(name, domain, password, user))
        except LoginUndecided as error:
            return Unavailable(str(error))


def split_name(user: str, default_domain: str) -> tuple[str, str | None]:
    """Name and domain for LogonUserW: "DOMAIN\\jo" apart; "jo@domain.example" as it is, without a domain; any other
    name in the default domain, "." for this computer where there is none."""
    domain, backslash, name = user.partition("\\")
    if backslash:
        return name, domain or "."
    if "@" in user:
        return user, None
    return user, default_domain or "."


@dataclass(frozen=True, slots=True)
class Identity:
    """What Windows knows about an account. `name` is as it writes it, "DOMAIN\\jo"; `kind` a SID_NAME_USE;
    `relative_id` the last number of its security identifier."""

    name: str
    kind: int
    relative_id: int

    @property
    def is_person(self) -> bool:
        """Whether it is an account of its own: not Guest, whom Windows lets anybody be where it is enabled, and not
        a group or ANONYMOUS LOGON."""
        return self.kind == _SID_TYPE_USER and self.relative_id != _RID_GUEST


def judge(code: int, user: str) -> Denied | Unavailable:
    """What a refusal of LogonUserW with this error means."""
    if code in _UNDECIDED:
        return Unavailable(_UNDECIDED[code])
    return Denied(_REASONS.get(code, f"Windows' error {code}"), user)


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)

    _LOGON_NETWORK, _PROVIDER_DEFAULT = 3, 0
    _TOKEN_USER = 1
    _INSUFFICIENT_BUFFER = 122
    _LARGEST_ANSWER = 65536

    _kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
    _advapi32.LogonUserW.argtypes = (
        wintypes.LPCWSTR,
        wintypes.LPCWSTR,
        wintypes.LPCWSTR,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.POINTER(wintypes.HANDLE),
    )
    _advapi32.GetTokenInformation.argtypes = (
        wintypes.HANDLE,
        ctypes.c_int,
        ctypes.c_void_p,
        wintypes.DWORD,
        ctypes.POINTER(wintypes.DWORD),
    )
    _advapi32.LookupAccountSidW.argtypes = (
        wintypes.LPCWSTR,
        ctypes.c_void_p,
        wintypes.LPWSTR,
        ctypes.POINTER(wintypes.DWORD),
        wintypes.LPWSTR,
        ctypes.POINTER(wintypes.DWORD),
        ctypes.POINTER(ctypes.c_int),
    )
    _advapi32.LookupAccountNameW.argtypes = (
        wintypes.LPCWSTR,
        wintypes.LPCWSTR,
        ctypes.c_void_p,
        ctypes.POINTER(wintypes.DWORD),
        wintypes.LPWSTR,
        ctypes.POINTER(wintypes.DWORD),
        ctypes.POINTER(ctypes.c_int),
    )
    _advapi32.GetSidSubAuthorityCount.argtypes = (ctypes.c_void_p,)
    _advapi32.GetSidSubAuthorityCount.restype = ctypes.POINTER(ctypes.c_ubyte)
    _advapi32.GetSidSubAuthority.argtypes = (ctypes.c_void_p, wintypes.DWORD)
    _advapi32.GetSidSubAuthority.restype = ctypes.POINTER(wintypes.DWORD)

    def _log_on(name: str, domain: str | None, password: str, user: str) -> Verdict:
        token = wintypes.HANDLE()
        # Network: no profile, no cached passwords, and the right to it is one that users have.
        if not _advapi32.LogonUserW(name, domain, password, _LOGON_NETWORK, _PROVIDER_DEFAULT, ctypes.byref(token)):
            return judge(ctypes.get_last_error(), user)
        try:
            identity = _token_identity(token)
        except OSError as error:
            return Unavailable(f"Windows does not say whose logon it is: {error.strerror}")
        finally:
            _kernel32.CloseHandle(token)
        return Granted(identity.name) if identity.is_person else Denied("a guest, or nobody's account", user)

    def _token_identity(token: wintypes.HANDLE) -> Identity:
        needed = wintypes.DWORD()
        _advapi32.GetTokenInformation(token, _TOKEN_USER, None, 0, ctypes.byref(needed))
        answer = ctypes.create_string_buffer(min(needed.value, _LARGEST_ANSWER))
        if not _advapi32.GetTokenInformation(token, _TOKEN_USER, answer, len(answer), ctypes.byref(needed)):
            raise ctypes.WinError(ctypes.get_last_error())
        sid = ctypes.c_void_p.from_buffer(answer)  # TOKEN_USER begins with the pointer to the SID
        return _sid_identity(sid)

    def identify(account: str) -> Identity:
        """What Windows knows about "DOMAIN\\jo". Raises OSError where that cannot be found out."""
        sid_size, domain_size, kind = wintypes.DWORD(), wintypes.DWORD(), ctypes.c_int()
        sizes = ctypes.byref(sid_size), ctypes.byref(domain_size)
        _advapi32.LookupAccountNameW(None, account, None, sizes[0], None, sizes[1], ctypes.byref(kind))
        if ctypes.get_last_error() != _INSUFFICIENT_BUFFER:
            raise ctypes.WinError(ctypes.get_last_error())
        sid = ctypes.create_string_buffer(min(sid_size.value, _LARGEST_ANSWER))
        domain = ctypes.create_unicode_buffer(min(domain_size.value, _LARGEST_ANSWER))
        if not _advapi32.LookupAccountNameW(None, account, sid, sizes[0], domain, sizes[1], ctypes.byref(kind)):
            raise ctypes.WinError(ctypes.get_last_error())
        return _sid_identity(ctypes.cast(sid, ctypes.c_void_p))

    def _sid_identity(sid: ctypes.c_void_p) -> Identity:
        name, domain = ctypes.create_unicode_buffer(512), ctypes.create_unicode_buffer(512)
        name_size, domain_size, kind = wintypes.DWORD(512), wintypes.DWORD(512), ctypes.c_int()
        if not _advapi32.LookupAccountSidW(
            None, sid, name, ctypes.byref(name_size), domain, ctypes.byref(domain_size), ctypes.byref(kind)
        ):
            raise ctypes.WinError(ctypes.get_last_error())
        numbers = _advapi32.GetSidSubAuthorityCount(sid).contents.value
        relative_id = _advapi32.GetSidSubAuthority(sid, numbers - 1).contents.value if numbers else 0
        return Identity(f"{domain.value}\\{name.value}", kind.value, relative_id)

else:

    def _log_on(name: str, domain: str | None, password: str, user: str) -> Verdict:
        return Unavailable("there are no Windows accounts here")

    def identify(account: str) -> Identity:
        """What Windows knows about "DOMAIN\\jo". Raises OSError where that cannot be found out: here."""
        raise OSError("there are no Windows accounts here")
