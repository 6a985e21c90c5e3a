"""The one seam to the operating system: what Windows and Linux do differently stands here and nowhere else.

It must not know anything of mail. Whatever one of the two systems cannot do is said at the function.
"""

import asyncio
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    import winloop

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)

    class _Overlapped(ctypes.Structure):
        _fields_ = (
            ("internal", ctypes.c_void_p),
            ("internal_high", ctypes.c_void_p),
            ("offset", wintypes.DWORD),
            ("offset_high", wintypes.DWORD),
            ("event", wintypes.HANDLE),
        )

    _kernel32.LockFileEx.argtypes = (
        wintypes.HANDLE,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.POINTER(_Overlapped),
    )
    _kernel32.UnlockFileEx.argtypes = (
        wintypes.HANDLE,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.POINTER(_Overlapped),
    )
    _LOCKFILE_FAIL_IMMEDIATELY = 1
    _LOCKFILE_EXCLUSIVE_LOCK = 2
    _ERROR_LOCK_VIOLATION = 33
    _ERROR_IO_PENDING = 997

    def _lock(file: int, wait: bool) -> bool:
        flags = _LOCKFILE_EXCLUSIVE_LOCK | (0 if wait else _LOCKFILE_FAIL_IMMEDIATELY)
        if _kernel32.LockFileEx(msvcrt.get_osfhandle(file), flags, 0, 1, 0, ctypes.byref(_Overlapped())):
            return True
        if not wait and ctypes.get_last_error() in (_ERROR_LOCK_VIOLATION, _ERROR_IO_PENDING):
            return False
        raise ctypes.WinError(ctypes.get_last_error())

    def _unlock(file: int) -> None:
        if not _kernel32.UnlockFileEx(msvcrt.get_osfhandle(file), 0, 1, 0, ctypes.byref(_Overlapped())):
            raise ctypes.WinError(ctypes.get_last_error())

    _kernel32.GetCurrentProcess.restype = wintypes.HANDLE
    _kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
    _kernel32.LocalFree.argtypes = (ctypes.c_void_p,)
    _advapi32.OpenProcessToken.argtypes = (wintypes.HANDLE, wintypes.DWORD, ctypes.POINTER(wintypes.HANDLE))
    _advapi32.GetTokenInformation.argtypes = (
        wintypes.HANDLE,
        ctypes.c_int,
        ctypes.c_void_p,
        wintypes.DWORD,
        ctypes.POINTER(wintypes.DWORD),
    )
    _advapi32.ConvertSidToStringSidW.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
    _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW.argtypes = (
        wintypes.LPCWSTR,
        wintypes.DWORD,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_void_p,
    )
    _advapi32.SetFileSecurityW.argtypes = (wintypes.LPCWSTR, wintypes.DWORD, ctypes.c_void_p)
    _TOKEN_QUERY = 8
    _TOKEN_USER = 1
    _SDDL_REVISION_1 = 1
    _DACL_SECURITY_INFORMATION = 4

    def _own_sid() -> str:
        """The security identifier of the account this process runs as, as text."""
        token = wintypes.HANDLE()
        if not _advapi32.OpenProcessToken(_kernel32.GetCurrentProcess(), _TOKEN_QUERY, ctypes.byref(token)):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            needed = wintypes.DWORD()
            _advapi32.GetTokenInformation(token, _TOKEN_USER, None, 0, ctypes.byref(needed))
            user = ctypes.create_string_buffer(needed.value)
            if not _advapi32.GetTokenInformation(token, _TOKEN_USER, user, needed, ctypes.byref(needed)):
                raise ctypes.WinError(ctypes.get_last_error())
        finally:
            _kernel32.CloseHandle(token)
        sid = ctypes.c_void_p.from_buffer(user)  # TOKEN_USER begins with the pointer to the SID
        text = ctypes.c_void_p()
        if not _advapi32.ConvertSidToStringSidW(sid, ctypes.byref(text)):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            return ctypes.wstring_at(text.value or 0)
        finally:
            _kernel32.LocalFree(text)

    def _make_private(path: Path) -> None:
        inherit = "OICI" if path.is_dir() else ""
        grants = "".join(f"(A;{inherit};FA;;;{who})" for who in (_own_sid(), "SY", "BA"))
        descriptor = ctypes.c_void_p()
        if not _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW(
            f"D:P{grants}", _SDDL_REVISION_1, ctypes.byref(descriptor), None
        ):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            if not _advapi32.SetFileSecurityW(str(path), _DACL_SECURITY_INFORMATION, descriptor):
                raise ctypes.WinError(ctypes.get_last_error())
        finally:
            _kernel32.LocalFree(descriptor)

    def _keep_owner(path: Path, like: Path) -> None:
        """Whoever may replace a file here keeps what `_make_private` gave it."""

    def _sync_folder(path: Path) -> None:
        """NTFS journals its folders itself; Windows has no call to sync one."""

    _kernel32.CreateFileW.argtypes = (
        wintypes.LPCWSTR,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.c_void_p,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.HANDLE,
    )
    _kernel32.CreateFileW.restype = wintypes.HANDLE
    _GENERIC_READ = 0x80000000
    _OPEN_EXISTING = 3
    _ERROR_SHARING_VIOLATION = 32

    def _is_open_for_writing(path: Path) -> bool | None:
        handle = _kernel32.CreateFileW(str(path), _GENERIC_READ, 0, None, _OPEN_EXISTING, 0, None)
        if handle == wintypes.HANDLE(-1).value:
            code = ctypes.get_last_error()
            if code in (_ERROR_SHARING_VIOLATION, _ERROR_LOCK_VIOLATION):
                return True
            raise ctypes.WinError(code)
        _kernel32.CloseHandle(handle)
        return False

    def _on_signal(loop: asyncio.AbstractEventLoop, number: int, call: Callable[[], None]) -> None:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(call))

    def _off_signal(loop: asyncio.AbstractEventLoop, number: int) -> None:
        """`signal.signal` alone sets and takes away here."""

    def _new_event_loop() -> asyncio.AbstractEventLoop:
        return winloop.new_event_loop()  # type: ignore[no-any-return,unused-ignore]
else:
    import fcntl

    import uvloop

    def _lock(file: int, wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)

    def _make_private(path: Path) -> None:
        path.chmod(0o700 if path.is_dir() else 0o600)

    def _keep_owner(path: Path, like: Path) -> None:
        if os.geteuid() == 0:
            status = like.stat()
            os.chown(path, status.st_uid, status.st_gid)

    def _sync_folder(path: Path) -> None:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _is_open_for_writing(path: Path) -> bool | None:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # Linux grants a read lease only on a file that nobody has open for writing. Should somebody open it in
            # the moment we hold the lease, we get a signal, by default a deadly one: SIGURG does nothing.
            if hasattr(fcntl, "F_SETLEASE"):
                try:
                    fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
                    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
                except BlockingIOError:
                    return True
                except OSError:
                    pass  # not our file, or a file system without leases
                else:
                    return False
            # A .NET program holds an flock on whatever it has open; others may.
            with suppress(OSError):
                if not _lock(file, wait=False):
                    return True
        finally:
            os.close(file)
        return None

    def _on_signal(loop: asyncio.AbstractEventLoop, number: int, call: Callable[[], None]) -> None:
        loop.add_signal_handler(number, call)

    def _off_signal(loop: asyncio.AbstractEventLoop, number: int) -> None:
        loop.remove_signal_handler(number)

    def _new_event_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


class FileLock:
    """An exclusive lock between processes (and between two FileLocks of one process) on a file of its own.

    The operating system releases it when its holder dies, however it dies. The file is created if need be and
    never removed: removing it would let two processes hold "the" lock. Not for concurrent use by threads.
    Every method may raise OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)

    def _open_file(self) -> int:
        if self._file is None:
            raise ValueError(f"the lock on {self.path} is closed")
        return self._file

    def acquire(self) -> None:
        """Take the lock; blocks the calling thread for as long as another holds it."""
        _lock(self._open_file(), wait=True)

    def try_acquire(self) -> bool:
        """Take the lock if it is free, without waiting; whether we have it."""
        return _lock(self._open_file(), wait=False)

    def release(self) -> None:
        """Let the next one have it."""
        _unlock(self._open_file())

    def close(self) -> None:
        """Release the lock if it is held, and close its file. May be called twice."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def make_private(path: Path) -> None:
    """Let nobody but this account read or write the file or folder: mode 0o600 or 0o700.

    On Windows a protected access list for this account, SYSTEM and Administrators, which what is created in
    the folder inherits. Raises OSError.
    """
    _make_private(path)


def keep_owner(path: Path, like: Path) -> None:
    """Give a file the owner and group of another, where this account may (root): what an administrator writes for
    a service with an account of its own is the service's. Raises OSError.

    On Windows it does nothing: access goes by the list that `make_private` sets.
    """
    _keep_owner(path, like)


def sync_folder(path: Path) -> None:
    """Make names created in and removed from a folder durable (fsync of the folder); raises OSError.

    Windows has no such call and needs none: NTFS journals its folders. There it does nothing.
    """
    _sync_folder(path)


def is_open_for_writing(path: Path) -> bool | None:
    """Whether some program has the file open for writing; None: this system cannot tell here.

    Linux tells for our own files (or with CAP_LEASE) on local disks, and for all that lock what they write, as
    .NET does. Windows tells always, and takes one that keeps others from writing for a writer. Raises OSError when
    the file cannot be opened for reading.
    """
    return _is_open_for_writing(path)


def is_readable_by_others(path: Path) -> bool | None:
    """Whether every account of this computer may read the file; None: this system does not say so in a file's mode
    (Windows, with its access lists). Raises OSError."""
    return None if sys.platform == "win32" else bool(path.stat().st_mode & 0o004)


@contextmanager
def on_signals(*, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """While it lasts, call `stop` in the running event loop when the process is told to end (SIGTERM, Ctrl+C; on
    Windows Ctrl+C and Ctrl+Break), and `reload` when it is told to read its configuration again (SIGHUP; Windows
    has no such signal). Outside the main thread, where Python takes no signals, it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    wanted = dict.fromkeys(("SIGINT", "SIGTERM", "SIGBREAK"), stop) | {"SIGHUP": reload}
    before = {}
    for name, call in wanted.items():
        number = getattr(signal, name, None)
        if number is not None:
            before[number] = signal.getsignal(number)
            _on_signal(loop, number, call)
    try:
        yield
    finally:
        for number, handler in before.items():
            _off_signal(loop, number)
            signal.signal(number, handler)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A fast event loop: uvloop, on Windows winloop."""
    return _new_event_loop()


def free_disk(path: Path) -> int:
    """Octets that may still be written on the disk that holds `path`; raises OSError."""
    return shutil.disk_usage(path).free
