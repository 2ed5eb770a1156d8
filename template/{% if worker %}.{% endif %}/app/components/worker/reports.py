"""What a worker says of itself while it runs: see `services/workers.py`."""

import asyncio
import mmap
import os
import socket
import time
from concurrent.futures import Executor, Future
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from arq import Worker as ArqWorker
from arq.connections import ArqRedis

from app import NAME
from app.services.queues import show_queue
from app.services.workers import REPORT_SECONDS, Worker, report, sign_off

# How long the longest block of the event loop stays in the reports, in seconds.
BLOCKED_WINDOW_SECONDS = 60

log = structlog.stdlib.get_logger(__name__)


async def report_until(stopping: asyncio.Event, redis: ArqRedis, pool: Executor) -> None:
    """Report every `REPORT_SECONDS`, from the event loop that also runs the jobs."""
    loop = asyncio.get_running_loop()
    worker = Worker(
        queue=show_queue(redis.default_queue_name),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=datetime.now(UTC),
        version=version(NAME),
    )
    due = loop.time()
    blocked_at = due
    probe: Future[Any] | None = None
    while not stopping.is_set():
        now = loop.time()
        if now - due >= worker.blocked_seconds or now - blocked_at > BLOCKED_WINDOW_SECONDS:
            worker.blocked_seconds, blocked_at = round(now - due, 3), now
        # A call that waits for a thread shows how long other calls wait.
        if probe is None or probe.done():
            probe, probe_start = pool.submit(int), now
        worker.thread_wait_seconds = 0 if probe.done() else round(now - probe_start, 3)
        worker.running = _running_jobs()
        worker.memory_bytes = _memory_bytes()
        try:
            start = time.time()
            redis_time = await report(redis, worker)
            end = time.time()
        except Exception as error:
            log.warning("the worker cannot report", error=str(error))
        else:
            if end - start < 1:
                worker.clock_skew_seconds = round((start + end) / 2 - redis_time, 3)
        due = loop.time() + REPORT_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await stopping.wait()
    await sign_off(redis, worker)


def _running_jobs() -> int:
    run_job = ArqWorker.run_job.__qualname__
    return sum(
        getattr(task.get_coro(), "__qualname__", "") == run_job for task in asyncio.all_tasks()
    )


def _memory_bytes() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        # Only Linux tells it in this way.
        return None
