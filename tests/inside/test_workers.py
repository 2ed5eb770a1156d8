"""Workers report as long as they run, whatever happens to the keys or beside them."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from arq.connections import ArqRedis

from app.components.worker import reports
from app.components.worker.threads import DaemonThreads, in_thread
from app.core import keys
from app.core.config import WorkerQueue
from app.services.queues import QueueStatus, check_queue
from tests.inside.running import running
from tests.support import QUEUE, queue_of, run_burst

THIS = WorkerQueue(description="", max_jobs=10, timeout_seconds=300, queue_name=QUEUE)


async def echo(ctx: dict[str, Any], word: str) -> str:
    return word


BLOCKED = asyncio.Event()


async def block(ctx: dict[str, Any]) -> None:
    time.sleep(3)
    BLOCKED.set()


async def hang(ctx: dict[str, Any]) -> None:
    await in_thread(ctx, threading.Event().wait)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "REPORT_SECONDS", 0.05)


async def until(redis: ArqRedis, is_right: Callable[[QueueStatus], object]) -> QueueStatus:
    async with asyncio.timeout(60):
        while not is_right(check := await check_queue(redis, "test", THIS)):
            await asyncio.sleep(0.05)
    return check


async def test_a_worker_is_listed_while_it_runs(redis: ArqRedis) -> None:
    async with running(queue_of(echo)):
        check = await until(redis, lambda check: check.workers)
        assert check.status == "pass"
        await redis.enqueue_job("echo", "hello", _queue_name=QUEUE)
        done = check.workers[0].done
        await until(redis, lambda check: check.workers[0].done == done + 1)
    assert (await check_queue(redis, "test", THIS)).workers == []
    assert not await redis.exists(keys.workers(QUEUE))


async def test_a_worker_is_listed_again_after_flushall(redis: ArqRedis) -> None:
    async with running(queue_of(echo)) as worker:
        await until(redis, lambda check: check.workers)
        await redis.flushall()
        await until(redis, lambda check: check.workers)
        # `arq --check` passes as well, and before arq itself reports again.
        assert await redis.exists(worker.health_check_key)


async def test_a_worker_beside_it_may_end(redis: ArqRedis) -> None:
    async with running(queue_of(echo)) as worker:
        await run_burst(queue_of(echo))
        await until(redis, lambda check: check.workers)
        async with asyncio.timeout(60):
            while not await redis.exists(worker.health_check_key):
                await asyncio.sleep(0.05)


async def test_a_blocked_loop_is_told(redis: ArqRedis) -> None:
    async with running(queue_of(block)):
        await redis.enqueue_job("block", _queue_name=QUEUE)
        # It blocks this client too, whose calls would end for want of time.
        await BLOCKED.wait()
        await until(redis, lambda check: "blocked the event loop for 3 s" in str(check.output))


async def test_stuck_threads_are_told(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.workers.MAX_THREAD_WAIT_SECONDS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    async with running(queue_of(hang, job_timeout=1)):
        for _ in range(2):
            await redis.enqueue_job("hang", _queue_name=QUEUE)
        await until(redis, lambda check: "all threads are stuck" in str(check.output))


def test_daemon_threads_run_cancel_and_end() -> None:
    pool = DaemonThreads(2)
    assert list(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result(5)
    free = threading.Event()
    held = [pool.submit(free.wait) for _ in range(2)]
    while not all(future.running() for future in held):
        time.sleep(0.01)
    waiting = pool.submit(abs, -1)
    pool.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    free.set()
    assert [future.result(5) for future in held] == [True, True]
