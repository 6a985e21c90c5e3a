"""A queue of a million messages: it opens in seconds, and memory does not grow with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mailroot.queue import schema

pytestmark = pytest.mark.slow

FILL = """
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :count)
    INSERT INTO message (
        id, state, worker, due, attempts, arrived, size, envelope, origin, message_id, subject, prefix, story
    )
    SELECT
        n, :state, 0, 1000 + n % 977, 1, n, 200,
        '["sender' || n || '@example.com",["someone' || n || '@example.org"]]',
        '["smtp","192.0.2.7","client.example.com",""]', '<' || n || '@example.com>', 'Invoice ' || n,
        iif(:state = 2, x'', zeroblob(150)),
        '[[0],"deferred",1.0,"mx.example.org [192.0.2.1]:25",450,"4.2.0","Mailbox busy"]' || char(10)
    FROM number
"""

CHILD = """
import asyncio, json, sys, time
from pathlib import Path

from mailroot.clock import SystemClock
from mailroot.mail.outcome import Delivered
from mailroot.mail.reply import Reply
from mailroot.queue.base import MessageId, Search, Settlement, State
from mailroot.queue.sqlite import open_queue


def peak():
    # Not getrusage: what a process counts there begins with the peak of the one that started it.
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


async def main():
    results, before = {}, peak()
    took = results["took"] = {}

    async def timed(name, work):
        start = time.perf_counter()
        result = await work
        took[name] = round(time.perf_counter() - start, 3)
        return result

    queue = await timed("open", open_queue(Path(sys.argv[1]), SystemClock()))
    results["due"] = await timed("next due", queue.next_due())
    claims = await timed("claim", queue.claim(100))
    results["claimed"] = [claim.record.id for claim in claims]
    outcome = Delivered(Reply(250, "2.0.0", "Ok"), "mx", 1.0)
    await timed("settle", asyncio.gather(*(queue.settle(c, Settlement(((0, outcome),), 0.0)) for c in claims)))
    counts = await timed("counts", queue.counts())
    results["counts"] = [counts.queued, counts.leased, counts.held, counts.finished, counts.oldest]

    async def found(name, search):
        results[name] = [record.id for record in await timed(name, queue.find(search, 100))]

    await found("newest", Search())
    await found("one sender", Search(sender="sender7@"))
    await found("nothing", Search(text="no such text"))
    await found("a day", Search(since=5000.0, until=5003.0))
    await found("held", Search(states=(State.HELD,)))
    results["held now"] = await timed("hold", queue.hold(Search(recipient="someone12345@")))
    results["record"] = (await timed("record", queue.record(MessageId(77)))).message.subject
    results["forgotten"] = await timed("forget", queue.forget(500.0))
    await timed("close", queue.close())
    results["grown"] = peak() - before
    print(json.dumps(results))


asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("state", [0, 2])
def test_a_million_messages(tmp_path: Path, state: int) -> None:
    count = 1_000_000
    file = tmp_path / "queue.sqlite3"
    schema.prepare(file)
    connection = schema.connect(file, write=True)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA wal_autocheckpoint = 1000")
    connection.execute("DROP INDEX place")
    connection.execute(FILL, {"count": count, "state": state})
    [index] = [text for text in schema._statements() if "CREATE INDEX" in text]
    connection.execute(index[index.index("CREATE") :])
    if state == 0:
        connection.execute("INSERT INTO body (id, octets) SELECT id, zeroblob(50) FROM message")
    connection.close()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert child.returncode == 0, child.stderr
    results = json.loads(child.stdout)
    print(results["took"], results["grown"])  # shown by `pytest -rP`
    # Ten times what is needed on a slow machine; a queue that reads itself in takes minutes and gigabytes.
    assert results["grown"] < 60
    assert max(results["took"].values()) < 30
    assert results["newest"] == list(range(count, count - 100, -1))
    assert results["one sender"] == [7]
    assert results["nothing"] == []
    assert results["a day"] == [5002, 5001, 5000]
    assert results["held"] == []
    assert results["record"] == "Invoice 77"
    if state == 0:
        assert results["due"] == 1000
        assert results["claimed"] == [977 * n for n in range(1, 101)]
        assert results["counts"] == [count - 100, 0, 0, 100, 1.0]
        assert results["held now"] == [12345]
        assert results["forgotten"] == 0
    else:
        assert results["due"] is None
        assert results["counts"] == [0, 0, 0, count, None]
        assert results["held now"] == []
        assert results["forgotten"] == 0
