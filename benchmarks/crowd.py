#!/usr/bin/env python3
"""How much a crowd that does nothing useful slows down those who send: idle and slow connections beside full load.

One relay, one next hop that takes everything, 20 clients that send 4 KB messages as fast as they get their 250. It
is measured with nobody else there, then with 2,000 idle connections and 200 slow ones, in turns, and the ratio of
the medians is printed. Nothing but Python and Mailroot's own packages is needed; Linux, because the crowd comes
from many loopback addresses.

    .venv/bin/python benchmarks/crowd.py
    .venv/bin/python benchmarks/crowd.py --rounds 5 --seconds 15 --idle 5000 --slow 500

Half of the slow ones are in the middle of a message and send 100 octets every half second, just fast enough to be
let; the other half give a command an octet a second, are ended with a 421 after a minute, and come again.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PER_ADDRESS = 100
_SIZE = 4096


def main() -> int:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="measurements of each kind (4)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each takes (10)")
    parser.add_argument("--clients", type=int, default=20, help="clients that send at full speed (20)")
    parser.add_argument("--idle", type=int, default=2000, help="connections that do nothing (2000)")
    parser.add_argument("--slow", type=int, default=200, help="connections that say very little (200)")
    chosen = parser.parse_args()
    _raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="mailroot-crowd-") as folder, contextlib.ExitStack() as ends:
        port, sink_port = _free_port(), _free_port()
        _start(ends, "next-hop", sink_port)
        _wait_for(sink_port)
        relay = _start_relay(ends, Path(folder), port, sink_port, chosen)
        _wait_for(port)
        _load(port, chosen.clients, 3.0)  # what is loaded at first use is loaded then
        rates: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * chosen.rounds):
            crowded = number % 2 == 1
            with contextlib.ExitStack() as crowd:
                if crowded:
                    _gather(crowd, port, chosen)
                rate, slowest = _load(port, chosen.clients, chosen.seconds)
                memory = _resident(relay.pid)
            rates[crowded].append(rate)
            who = f"{chosen.idle} idle, {chosen.slow} slow" if crowded else "nobody else"
            print(
                f"{who:>24}: {rate:7.0f} messages/s, 99% within {slowest * 1000:5.1f} ms, {memory:5.1f} MiB",
                flush=True,
            )
        alone, together = statistics.median(rates[False]), statistics.median(rates[True])
        print(f"median {alone:.0f} alone, {together:.0f} in the crowd: ratio {together / alone:.2f}")
    return 0


def _raise_file_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(ends: contextlib.ExitStack, role: str, *arguments: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, __file__, f"--as-{role}", *map(str, arguments)], stdout=subprocess.PIPE
    )
    ends.callback(process.wait)
    ends.callback(process.kill)
    return process


def _start_relay(
    ends: contextlib.ExitStack, folder: Path, port: int, sink_port: int, chosen: argparse.Namespace
) -> subprocess.Popen[bytes]:
    config = folder / "mailroot.toml"
    config.write_text(
        f"""\
[service.api]
port = {_free_port()}
token_file = "{folder}/api-token"

[service.log]
file = "{folder}/log"
level = "warning"

[general]
fqdn = "relay.example"
listen = ["127.0.0.1:{port}"]
mailroot = "{folder}/mailroot"
max_connections = {chosen.idle + chosen.slow + chosen.clients + 100}

[limits]
sessions_per_address = {_PER_ADDRESS}

[delivery.advanced]
smart_host = ["[127.0.0.1]:{sink_port}"]
"""
    )
    code = "import sys; from mailroot.cli.main import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", "--config", str(config)], cwd=folder, stdout=subprocess.DEVNULL
    )
    ends.callback(process.wait)
    ends.callback(process.send_signal, signal.SIGTERM)
    return process


def _wait_for(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as connection:
            if connection.recv(1):
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing greets on port {port}")


def _gather(ends: contextlib.ExitStack, port: int, chosen: argparse.Namespace) -> None:
    """Have the crowd there, all of it greeted."""
    crowd = _start(ends, "crowd", port, chosen.idle, chosen.slow)
    assert crowd.stdout is not None
    if crowd.stdout.readline() != b"all there\n":
        raise SystemExit("the crowd did not come in")


def _load(port: int, clients: int, seconds: float) -> tuple[float, float]:
    """Messages per second, and the time within which 99% of them got their 250."""
    with contextlib.ExitStack() as ends:
        load = _start(ends, "load", port, clients, seconds)
        assert load.stdout is not None
        rate, slowest = json.loads(load.stdout.read() or b"null") or (0.0, 0.0)
    return rate, slowest


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


# The next hop


class _NextHop(asyncio.Protocol):
    """Says yes to everything, and forgets it."""

    def __init__(self) -> None:
        self._buffer = b""
        self._in_content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 next.example\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answers = []
        while True:
            end = self._buffer.find(b"\r\n.\r\n" if self._in_content else b"\r\n")
            if end < 0:
                break
            line, self._buffer = self._buffer[:end], self._buffer[end + (5 if self._in_content else 2) :]
            if self._in_content:
                self._in_content = False
                answers.append(b"250 2.0.0 taken\r\n")
            elif line[:4].upper() == b"EHLO":
                answers.append(b"250-next.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif line[:4].upper() == b"DATA":
                self._in_content = True
                answers.append(b"354 go\r\n")
            else:
                answers.append(b"250 2.0.0 ok\r\n")
        self._transport.write(b"".join(answers))


async def _serve_next_hop(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_NextHop, "127.0.0.1", port, backlog=500)
    await server.serve_forever()


# Those who send

_HEADER = (
    b"From: a@example.com\r\nTo: b@example.net\r\nSubject: load\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n"
)
_MESSAGE = _HEADER + (b"0123456789" * 7 + b"\r\n") * ((_SIZE - len(_HEADER)) // 72) + b".\r\n"
_ENVELOPE = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"


class _Sender(asyncio.Protocol):
    """One message after the other over one connection; `times` has when each 250 came and how long it took."""

    def __init__(self, times: list[tuple[float, float]]) -> None:
        self._times = times
        self._buffer = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\r\n")
        for line in lines:
            if line[3:4] == b"-":
                continue
            match line[:3]:
                case b"220":
                    self._transport.write(b"EHLO client.example\r\n")
                case b"354":
                    self._transport.write(_MESSAGE)
                case b"250" if b"Sender OK" not in line and line[:9] != b"250 2.1.5":
                    now = time.perf_counter()
                    if b"Queued mail" in line:
                        self._times.append((now, now - self._began))
                    self._began = now
                    self._transport.write(_ENVELOPE)
                case b"250":
                    pass
                case _:
                    raise SystemExit(f"the relay said {line!r}")


async def _send(port: int, clients: int, seconds: float) -> None:
    times: list[tuple[float, float]] = []
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    for _ in range(clients):
        await loop.create_connection(lambda: _Sender(times), "127.0.0.1", port)
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    slowest = sorted(duration for _, duration in times)[len(times) * 99 // 100] if times else 0.0
    print(json.dumps((len(times) / took, slowest)), flush=True)


# The crowd

_SLOW_ENVELOPE = b"EHLO slow.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<slow@relay.example>\r\nDATA\r\n"


async def _greeted(port: int, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from one of many addresses, none of which may relay."""
    address = f"127.1.{number // _PER_ADDRESS // 250}.{number // _PER_ADDRESS % 250 + 1}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    line = await reader.readline()
    if not line.startswith(b"220 "):
        raise SystemExit(f"the relay said {line!r} to number {number} of the crowd")
    return reader, writer


async def _be_slow(port: int, number: int, there: asyncio.Semaphore) -> None:
    """In the middle of a message, or of a command; again when that has been ended."""
    first = True
    while True:
        with contextlib.suppress(ConnectionError):
            reader, writer = await _greeted(port, number)
            if first:
                there.release()
                first = False
            if number % 2:
                writer.write(_SLOW_ENVELOPE)
                while not (await reader.readline()).startswith(b"354 "):
                    pass
            while not reader.at_eof():
                writer.write(b"x" * 98 + b"\r\n" if number % 2 else b"x")
                await asyncio.sleep(0.5 if number % 2 else 1.0)
                await writer.drain()
            writer.close()


async def _be_there(port: int, idle: int, slow: int) -> None:
    connections = []
    for first in range(0, idle, 50):
        connections += await asyncio.gather(*(_greeted(port, n) for n in range(first, min(first + 50, idle))))
    there = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(_be_slow(port, idle + number, there)) for number in range(slow)]
    for _ in tasks:
        await there.acquire()
    print("all there", flush=True)
    await asyncio.gather(*tasks)
    await asyncio.Event().wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--as-next-hop", port]:
            asyncio.run(_serve_next_hop(int(port)))
        case ["--as-load", port, clients, seconds]:
            asyncio.run(_send(int(port), int(clients), float(seconds)))
        case ["--as-crowd", port, idle, slow]:
            asyncio.run(_be_there(int(port), int(idle), int(slow)))
        case _:
            sys.exit(main())
