"""A process killed right after each durability step: nothing acknowledged is missing, nothing is there by half."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mailroot.clock import SystemClock
from mailroot.queue.base import SMALL, MessageId, Search, State
from mailroot.queue.sqlite import open_queue

SMALL_BODY = b"small\r\n"
LARGE_BODY = b"large\r\n" * (SMALL // 4)

CHILD = '''
import asyncio, os, sys
from pathlib import Path

from mailroot.clock import SystemClock
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.outcome import Delivered
from mailroot.mail.reply import Reply
from mailroot.queue import bodies, sqlite, stored, writer
from mailroot.queue.base import SMALL, Message, Report, Settlement

SMALL_BODY = b"small\\r\\n"
LARGE_BODY = b"large\\r\\n" * (SMALL // 4)
folder, where, when, calls = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


def arm():
    """Die before or after the given step, the n-th time it is done from now on."""
    module, owner, name = where.split(".")
    target = getattr({"bodies": bodies, "writer": writer, "stored": stored, "sqlite": sqlite}[module], owner)
    step = getattr(target, name)
    left = [calls]

    def dying(*arguments):
        left[0] -= 1
        if not left[0] and when == "before":
            os._exit(77)
        result = step(*arguments)
        if not left[0]:
            os._exit(77)
        return result

    setattr(target, name, dying)


def message(subject):
    envelope = Envelope(Address("a", "example.com"), (Recipient(Address("b", "example.org")),))
    return Message(envelope, Origin(Door.SMTP, 5.0), b"Received: x\\r\\n", "<1@x>", subject)


async def put(queue, body, subject):
    draft = queue.draft()
    for start in range(0, len(body), 50_000):
        await draft.write(body[start : start + 50_000])
    await draft.commit(message(subject))
    say("stored", draft.id)


async def settle(queue, claim):
    say("settling", claim.record.id)
    reports = tuple(Report(message("report"), body) for body in (SMALL_BODY, LARGE_BODY))
    outcome = Delivered(Reply(250, "2.0.0", "Ok"), "mx", 1.0)
    await queue.settle(claim, Settlement(((0, outcome),), 0.0, reports))
    say("settled", claim.record.id)


async def main():
    queue = await sqlite.open_queue(folder, SystemClock())
    for _ in range(2):
        await put(queue, SMALL_BODY, "small")
        await put(queue, LARGE_BODY, "large")
    claims = await queue.claim(2)
    arm()
    await asyncio.gather(
        put(queue, SMALL_BODY, "small"),
        put(queue, LARGE_BODY, "large"),
        *(settle(queue, claim) for claim in claims),
    )
    await queue.hold(__import__("mailroot.queue.base").queue.base.Search())
    await queue.close()
    say("closed")


asyncio.run(main())
'''

STEPS = [
    ("bodies.BodyFile._write", "after"),
    ("bodies.BodyFile._sync", "before"),
    ("bodies.BodyFile._sync", "after"),
    ("bodies.BodyFile._close", "after"),
    ("bodies.BodyFile._sync_name", "before"),
    ("bodies.BodyFile._sync_name", "after"),
    ("writer.Writer._apply", "before"),
    ("writer.Writer._apply", "after"),
    ("writer.Writer._commit", "before"),
    ("writer.Writer._commit", "after"),
    ("writer.Writer._deliver", "before"),
    ("writer.Writer._checkpoint", "before"),
    ("writer.Writer._checkpoint", "after"),
    ("sqlite.SqliteQueue._answer", "before"),
    ("sqlite.SqliteQueue._answer", "after"),
    ("bodies.Bodies._remove", "before"),
    ("bodies.Bodies._remove", "after"),
]


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize(("where", "when"), STEPS)
async def test_killed_at_a_step(tmp_path: Path, where: str, when: str, calls: int) -> None:
    folder = tmp_path / "Queue"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), where, when, str(calls)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode in (0, 77), child.stderr
    said: dict[str, set[MessageId]] = {"stored": set(), "settling": set(), "settled": set(), "closed": set()}
    for line in child.stdout.splitlines():
        what, *ids = line.split()
        said[what].update(MessageId(int(each)) for each in ids)
    if child.returncode == 0:
        assert "closed" in child.stdout  # the step was not done so often

    queue = await open_queue(folder, SystemClock())
    records = {record.id: record for record in await queue.find(Search(), 100)}
    assert said["stored"] <= records.keys()
    assert said["settled"] == {each for each in said["settled"] if records[each].state is State.FINISHED}
    finished = {each for each, record in records.items() if record.state is State.FINISHED}
    assert finished <= said["settling"]
    # A settlement and its reports are there together or not at all.
    subjects = Counter(record.message.subject for record in records.values())
    assert subjects["report"] == 2 * len(finished)
    assert not any(record.leased for record in records.values())

    await queue.release(Search())
    claims = await queue.claim(100)
    assert {claim.record.id for claim in claims} == records.keys() - finished
    for claim in claims:
        octets = b"".join([piece async for piece in claim.content.chunks()])
        assert octets in (b"Received: x\r\n" + SMALL_BODY, b"Received: x\r\n" + LARGE_BODY)
        assert len(octets) == claim.record.size == claim.content.size
    for task in queue._tasks[1:]:  # the sweep
        await task
    await queue.close()
    left = {path.name.partition("-")[0] for path in (folder / "bodies").iterdir()}
    large = [claim for claim in claims if claim.record.size > SMALL]
    assert len(left) == len(large)
