"""Tokens of a managed identity: Azure gives them to who asks from inside, without any secret of ours.

Three doors, told apart by the environment as Microsoft's own libraries do: App Service and its like (Functions,
Container Apps, Automation), Azure Arc on machines elsewhere, and else the metadata service of virtual machines.
"""

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from mailroot.clock import Clock
from mailroot.deliver.credentials.base import Fault, Token, TokenTrouble
from mailroot.deliver.credentials.endpoint import accepted, read_issued
from mailroot.net.https import Answer, EndpointError, Endpoints

METADATA = "http://169.254.169.254/metadata/identity/oauth2/token"
ARC = "http://localhost:40342/metadata/identity/oauth2/token"

_APP_SERVICE_HEADER = "X-IDENTITY-HEADER"
_METADATA_VERSION = "2018-02-01"
_LARGEST_PROOF = 4096
_CHALLENGE = re.compile(r'\s*Basic\s+realm="?([^"]+)"?\s*', re.IGNORECASE)


def _arc_folder() -> Path:
    """Where Arc's agent puts what proves that we may read it. Nowhere else is read from, whatever it says."""
    if os.name == "nt":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "AzureConnectedMachineAgent" / "Tokens"
    return Path("/var/opt/azcmagent/tokens")


def _has_arc_agent() -> bool:
    if os.name == "nt":
        programs = Path(os.environ.get("PROGRAMFILES", r"C:\Program Files"))
        return (programs / "AzureConnectedMachineAgent" / "himds.exe").exists()
    return Path("/opt/azcmagent/bin/himds").exists()


@dataclass(frozen=True, slots=True)
class _Door:
    """Where to ask, and how. `proven`: the answer to the first question says what else it wants (Arc)."""

    address: str
    version: str
    headers: Mapping[str, str] = field(repr=False)
    proven: bool = False


class ManagedIdentity:
    """A Grant by the identity of the machine or service that we run in."""

    __slots__ = ("_arc_folder", "_client_id", "_clock", "_door", "_endpoints", "_resource")

    def __init__(
        self,
        resource: str,
        client_id: str,
        endpoints: Endpoints,
        clock: Clock,
        environment: Mapping[str, str],
        *,
        metadata: str = METADATA,
        arc_folder: Path | None = None,
    ) -> None:
        """`client_id`: of a user-assigned identity, "" for the system's. Raises ValueError where the environment
        names something that no secret may be sent to."""
        self._resource = resource
        self._client_id = client_id
        self._endpoints = endpoints
        self._clock = clock
        self._door = _door(environment, metadata)
        self._arc_folder = arc_folder or _arc_folder()
        if self._door.proven and client_id:
            raise ValueError(
                "microsoft: client_id: with Azure Arc there is only the system's identity; leave it out"
            )

    async def fetch(self) -> Token:
        began = self._clock.now()
        asked = {"api-version": self._door.version, "resource": self._resource}
        if self._client_id:
            asked["client_id"] = self._client_id
        address = f"{self._door.address}?{urlencode(asked)}"
        answer = await self._ask(address, self._door.headers)
        secrets = tuple(filter(None, (self._door.headers.get(_APP_SERVICE_HEADER),)))
        if self._door.proven and answer.status == 401:
            proof = await asyncio.to_thread(self._proof, answer.challenge)
            secrets = (proof,)
            answer = await self._ask(address, {**self._door.headers, "Authorization": f"Basic {proof}"})
        if answer.status in (404, 410) and self._door.version == _METADATA_VERSION:
            # Azure's own words for "not yet": the service is being updated, or the identity is new.
            answer = Answer(503, answer.body, answer.retry_after)
        said = accepted(answer, self._door.address, self._clock.now(), secrets)
        return read_issued(said, began, self._door.address).token

    def stamp(self) -> object:
        return None

    async def _ask(self, address: str, headers: Mapping[str, str]) -> Answer:
        try:
            return await self._endpoints.ask("GET", address, headers=headers)
        except EndpointError as error:
            if error.status:
                raise TokenTrouble(
                    f"Azure's identity service gives no usable answer: {error}",
                    fault=Fault.THEIRS,
                    code="unusable",
                    retry=True,
                ) from None
            raise TokenTrouble(
                f"Azure's identity service at {self._door.address} cannot be reached. It is there only inside "
                "Azure, or with Azure Arc's agent, and only with an identity switched on.",
                fault=Fault.NETWORK,
                code="unreachable",
                retry=True,
            ) from None

    def _proof(self, challenge: str) -> str:
        """What Arc's agent wrote into a file that only administrators and members of himds may read."""
        named = _CHALLENGE.fullmatch(challenge)
        path = Path(named[1]) if named is not None else None
        if path is None or path.parent != self._arc_folder or path.suffix != ".key":
            raise TokenTrouble(
                "Azure Arc's agent asks in a way that is not known; no file was read for it.",
                fault=Fault.THEIRS,
                code="unusable",
                retry=True,
            )
        try:
            with path.open("rb") as file:
                octets = file.read(_LARGEST_PROOF + 1)
        except OSError as error:
            group = "an administrator" if os.name == "nt" else "in the group 'himds'"
            raise TokenTrouble(
                f"{path} cannot be read ({(error.strerror or str(error)).lower()}). The account that Mailroot runs "
                f"as has to be {group}.",
                fault=Fault.OURS,
                code="arc_proof",
                retry=False,
            ) from None
        proof = octets.decode("ascii", "replace").strip()
        if len(octets) > _LARGEST_PROOF or not proof.isascii() or not proof.isprintable():
            raise TokenTrouble(f"{path} is not a proof.", fault=Fault.THEIRS, code="unusable", retry=True)
        return proof


def _door(environment: Mapping[str, str], metadata: str) -> _Door:
    address = environment.get("IDENTITY_ENDPOINT", "")
    header = environment.get("IDENTITY_HEADER", "")
    if address and header and not environment.get("IDENTITY_SERVER_THUMBPRINT"):
        _check("IDENTITY_ENDPOINT", address)
        return _Door(address, "2019-08-01", {_APP_SERVICE_HEADER: header, "Metadata": "true"})
    if address and header:
        raise ValueError("microsoft: managed_identity: Service Fabric's is not supported")
    if address and environment.get("IMDS_ENDPOINT"):
        _check("IDENTITY_ENDPOINT", address)
        return _Door(address, "2020-06-01", {"Metadata": "true"}, proven=True)
    if _has_arc_agent():
        return _Door(ARC, "2020-06-01", {"Metadata": "true"}, proven=True)
    return _Door(metadata, _METADATA_VERSION, {"Metadata": "true"})


def _check(name: str, address: str) -> None:
    """Only this computer and its link are asked in the clear."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme == "https" and host:
        return
    try:
        near = host == "localhost" or ip_address(host).is_loopback or ip_address(host).is_link_local
    except ValueError:
        near = False
    if parts.scheme != "http" or not near:
        raise ValueError(f"microsoft: managed_identity: the variable {name} is not an address of this computer")
