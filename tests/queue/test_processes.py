"""Several processes on one queue: nothing lost, nothing claimed twice, and each gets its share."""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mailroot.clock import SystemClock
from mailroot.queue.base import Search, State
from mailroot.queue.sqlite import open_queue

pytestmark = pytest.mark.quick

WORKER = """
import asyncio, sys
from pathlib import Path

from mailroot.clock import SystemClock
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.outcome import Deferred, Delivered
from mailroot.mail.reply import Reply
from mailroot.queue import fresh
from mailroot.queue.base import LeaseLost, Message, Settlement
from mailroot.queue.sqlite import open_queue

folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
fresh.MESSAGES = 20  # most go through the database, where the other may take them
lines = []


async def put(queue, number):
    draft = queue.draft()
    await draft.write(b"x" * 4096)
    envelope = Envelope(Address("a", "example.com"), (Recipient(Address("b", "example.org")),))
    origin = Origin(Door.SMTP, 5.0)
    await draft.commit(Message(envelope, origin, b"Received: x\\r\\n", "<1@x>", f"{name} {number}"))


async def settle(queue, claim):
    record = claim.record
    lines.append(f"{record.id} {record.attempts} {name}")
    reply = Reply(450, "4.2.0", "busy") if record.attempts == 1 else Reply(250, "2.0.0", "Ok")
    outcome = (Deferred if record.attempts == 1 else Delivered)(reply, name, 1.0)
    await queue.settle(claim, Settlement(((0, outcome),), SystemClock().now()))


async def deliver(queue, storing):
    while True:
        claims = await queue.claim(20)
        await asyncio.gather(*(settle(queue, claim) for claim in claims))
        if not claims and storing.done() and not (await queue.counts()).queued:
            return


async def store(queue):
    for start in range(0, count, 20):
        await asyncio.gather(*(put(queue, number) for number in range(start, start + 20)))


async def main():
    queue = await open_queue(folder, SystemClock())
    print("open", flush=True)
    sys.stdin.readline()
    storing = asyncio.ensure_future(store(queue))
    await asyncio.gather(storing, deliver(queue, storing))
    await queue.close()
    print("\\n".join(lines))


asyncio.run(main())
"""

EACH = 400


async def test_two_processes_share_a_queue(tmp_path: Path) -> None:
    folder = tmp_path / "Queue"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), name, str(EACH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "open\n"
        outputs = await asyncio.gather(
            *(asyncio.to_thread(process.communicate, "go\n", timeout=100) for process in processes)
        )
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    attempts: Counter[tuple[str, str]] = Counter()
    shares: Counter[str] = Counter()
    for output, _ in outputs:
        for line in output.splitlines():
            message, attempt, name = line.split()
            attempts[message, attempt] += 1
            shares[name] += 1
    # Every message was tried twice, each attempt by one process alone.
    assert len(attempts) == 4 * EACH
    assert set(attempts.values()) == {1}
    assert min(shares.values()) > EACH / 2
    queue = await open_queue(folder, SystemClock())
    records = await queue.find(Search(), 10 * EACH)
    assert Counter(record.message.subject for record in records) == Counter(
        f"{name} {number}" for name in ("one", "two") for number in range(EACH)
    )
    assert all(record.state is State.FINISHED and record.attempts == 2 for record in records)
    hosts = [[attempt.outcome.host for attempt in await queue.story(record.id)] for record in records]
    assert all(len(story) == 2 for story in hosts)
    await queue.close()
