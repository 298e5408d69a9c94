"""The threads beside the event loop: results, errors, cancellation before and after the beginning, the end."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from storage.threads import Workers
from tests.support.aio import async_test


@pytest.fixture
def workers() -> Iterator[Workers]:
    """One thread."""
    made = Workers(1, "test")
    yield made
    made.close()


@async_test
async def test_results_and_errors_come_back(workers: Workers) -> None:
    """The result or exception of work reaches its caller."""
    assert await workers.run(lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await workers.run(lambda: next(iter(())))
    assert await workers.run(threading.get_ident) != threading.get_ident()


@async_test
async def test_no_more_threads_than_allowed() -> None:
    """Work beyond the number of threads waits for one."""
    workers = Workers(2, "test")
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1

    await asyncio.gather(*(workers.run(work) for _ in range(8)))
    workers.close()
    assert most == 2


@async_test
async def test_cancelled_before_it_began_it_is_not_done(workers: Workers) -> None:
    """A caller that goes away takes work with it that no thread has begun."""
    gate = threading.Event()
    done: list[int] = []
    first = asyncio.create_task(workers.run(gate.wait))
    second = asyncio.create_task(workers.run(done.append, 1))
    await asyncio.sleep(0.02)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    await first
    await workers.run(lambda: None)
    assert done == []


@async_test
async def test_cancelled_after_it_began_the_caller_waits(workers: Workers) -> None:
    """Resources of work may be released once its caller has returned, even when cancelled twice."""
    began, gate, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        began.set()
        gate.wait()
        ended.append(1)

    task = asyncio.create_task(workers.run(work))
    await asyncio.to_thread(began.wait)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]


@async_test
async def test_an_end_loses_nothing_queued(workers: Workers) -> None:
    """Closing does what is queued and refuses what comes later."""
    done: list[int] = []
    tasks = [asyncio.create_task(workers.run(done.append, number)) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(workers.close)
    await asyncio.gather(*tasks)
    assert done == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="ended"):
        await workers.run(done.append, 5)
