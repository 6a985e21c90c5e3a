"""Threads for calls that wait."""

import asyncio
import threading

import pytest

from mailroot.policy.auth.contexts import _MOST_WAITING, _STEPS_AT_ONCE, LoginUndecided, Threads

pytestmark = pytest.mark.quick


async def test_results_and_errors() -> None:
    threads = Threads(60)
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


async def test_who_takes_too_long_is_left_alone() -> None:
    gate = threading.Event()
    threads = Threads(0.001)
    with pytest.raises(LoginUndecided, match="no answer"):
        await threads.run(gate.wait)
    gate.set()


async def test_a_few_at_once_and_a_row_behind_them() -> None:
    gate = threading.Event()
    threads = Threads(60)
    running = 0
    most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait()
        with lock:
            running -= 1

    tasks = [asyncio.ensure_future(threads.run(work)) for _ in range(_MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(LoginUndecided, match="too many"):
        await threads.run(work)
    gate.set()
    await asyncio.gather(*tasks)
    assert most <= _STEPS_AT_ONCE
    await threads.run(lambda: None)
