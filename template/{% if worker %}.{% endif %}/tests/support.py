"""Helpers for tests: a queue of its own, real workers, and the project's command."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from arq.worker import Worker, create_worker

from app import NAME
from app.components.worker.client import worker_client
from app.components.worker.hooks import bind_log_context, shutdown, startup
from app.components.worker.results import decode, encode
from app.components.worker.retries import MAX_TRIES
from app.core import keys
from app.core.config import settings

BIN = Path(sys.executable).parent
QUEUE = "arq:queue:test"


def queue_of(*functions: Any, **options: Any) -> Any:
    """Return a `WorkerSettings` class like the shipped ones, with its own tasks and settings."""
    values = {
        "functions": functions,
        "cron_jobs": (),
        "queue_name": QUEUE,
        "max_tries": MAX_TRIES,
        "allow_abort_jobs": True,
        "poll_delay": 0.01,
        "redis_settings": settings.redis_settings,
        "redis_pool": worker_client(options.get("queue_name", QUEUE), options.get("max_jobs", 10)),
        "job_serializer": encode,
        "job_deserializer": decode,
        "health_check_key": keys.sentinel(QUEUE),
        "on_startup": startup,
        "on_shutdown": shutdown,
        "on_job_start": bind_log_context,
    }
    return type("WorkerSettings", (), values | options)


async def run_burst(queue: type[Any]) -> Worker:
    """Run a queue's worker until the queue is empty, as `arq --burst` does, without cron jobs."""
    worker = create_worker(queue, burst=True, poll_delay=0.01, cron_jobs=None, handle_signals=False)
    try:
        await worker.async_run()
    finally:
        await worker.close()
    return worker


@asynccontextmanager
async def running(queue: type[Any]) -> AsyncIterator[Worker]:
    """Keep a queue's worker running, from its first report until the block ends."""
    worker = create_worker(queue, poll_delay=0.01, handle_signals=False)
    task = asyncio.create_task(worker.async_run())
    try:
        async with asyncio.timeout(60):
            while worker._pool is None or not await worker.pool.exists(worker.health_check_key):
                await asyncio.sleep(0.01)
        yield worker
    finally:
        while not task.done():
            # Again, since `asyncio.wait_for` may swallow a cancellation before Python 3.12.
            task.cancel()
            await asyncio.wait([task], timeout=0.5)
        # A job that is cancelled while it starts or ends would leave half of its work undone.
        if jobs := list(worker.tasks.values()):
            await asyncio.wait(jobs, timeout=0.2)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        worker.tasks.clear()
        await worker.close()


async def run_command(*arguments: str, url: str = settings.REDIS_URL) -> tuple[int, str, str]:
    """Run the project's command; return its exit code, output and error output."""
    process = await asyncio.create_subprocess_exec(
        BIN / NAME,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "REDIS_URL": url},
    )
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()
