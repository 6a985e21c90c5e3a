"""A full disk is the client's 4xx, not the end: nothing is lost, and the service goes on when there is room. Here
nothing is watched that would refuse mail before (`limits.min_free_disk`): the disk is full to the last octet."""

import smtplib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.mail import arrived, message
from rig.relay import Relay
from rig.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "proc")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_clients_get_4xx_until_there_is_room(
    start_relay: Callable[..., Relay], small_disk: Path, sink: Sink
) -> None:
    relay = start_relay(sink.port, {"general": {"mailroot": str(small_disk)}, "limits": {"min_free_disk": 0}})
    filler = small_disk / "filler"
    before = message("text", b"before\r\n")
    after = message("text", b"after\r\n")
    large = message("block", b"x" * 70 + b"\r\n" + b"y" * 500_000 + b"\r\n")
    with smtplib.SMTP(relay.host, relay.port) as client:
        client.sendmail("a@example.com", ["b@example.net"], before)
        sink.wait(1)
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass  # now it is full
        refusals = []
        for octets in (after, large):
            for _ in range(3):
                with pytest.raises(smtplib.SMTPResponseException) as refused:
                    client.sendmail("a@example.com", ["b@example.net"], octets)
                refusals.append(refused.value.smtp_code)
        assert {code // 100 for code in refusals} == {4}
        filler.unlink()
        client.sendmail("a@example.com", ["b@example.net"], after)
        client.sendmail("a@example.com", ["b@example.net"], large)
    received = [one.octets for one in sink.wait(3)]
    assert [any(arrived(octets, sent) for octets in received) for sent in (before, after, large)] == [True] * 3
    assert len(received) == 3
