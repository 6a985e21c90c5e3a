"""Watches the certificates in use: changed files are taken, and an end that comes near is told once a day.

Whoever is connected notices nothing of it. What a file must be like is `net.certificates`' business.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import assert_never

from mailroot.clock import Clock
from mailroot.events import Bus, CertificateEnding, CertificateLoaded, CertificateRefused
from mailroot.net.certificates import CertificateInfo, Certificates, Loaded, Refused
from mailroot.units import DAY

_LOOK_EVERY = 30.0
_TOLD_FROM = 30
"""Days before its end from which on a certificate is told of."""


class CertificateWatch:
    """Looks after the certificates of the virtual server `server`."""

    def __init__(self, certificates: Certificates, bus: Bus, clock: Clock, *, server: str) -> None:
        self._certificates = certificates
        self._bus = bus
        self._clock = clock
        self._server = server
        # By fingerprint: when its end was told last.
        self._told: dict[str, float] = {}
        # By file: why it was refused last.
        self._refused: dict[str, str] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        for info in self._certificates.shown():
            self._loaded(info)
        while True:
            # In a thread: the files may be on another computer.
            self._tell_changes(await asyncio.to_thread(self._certificates.refresh))
            self._tell_ends()
            await self._clock.sleep_until(self._clock.now() + _LOOK_EVERY)

    def _tell_changes(self, changes: Sequence[Loaded | Refused]) -> None:
        refused: dict[str, str] = {}
        for change in changes:
            match change:
                case Loaded(info):
                    self._loaded(info)
                case Refused(file, reason):
                    refused[file] = reason
                    if self._refused.get(file) != reason:
                        self._bus.publish(CertificateRefused(self._server, file, reason))
                case _:
                    assert_never(change)
        self._refused = refused

    def _loaded(self, info: CertificateInfo) -> None:
        self._bus.publish(CertificateLoaded(self._server, info.file, info.names, info.ends))

    def _tell_ends(self) -> None:
        now = self._clock.now()
        shown = self._certificates.shown()
        self._told = {info.fingerprint: self._told.get(info.fingerprint, -math.inf) for info in shown}
        for info in shown:
            days = math.floor((info.ends - now) / DAY)
            if days < _TOLD_FROM and now >= self._told[info.fingerprint] + DAY:
                self._told[info.fingerprint] = now
                self._bus.publish(CertificateEnding(self._server, info.file, info.names, days))
