"""Real arq workers inside a test's event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from arq.worker import Worker, create_worker


async def run_burst(queue: type[Any]) -> Worker:
    """Run a queue's worker until the queue is empty, as `arq --burst` does, but no cron job."""
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
        async with asyncio.timeout(10):
            while worker._pool is None or not await worker.pool.exists(worker.health_check_key):
                await asyncio.sleep(0.01)
        yield worker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        # A job that is cancelled while it starts or ends leaves half of its work to nobody.
        if jobs := list(worker.tasks.values()):
            await asyncio.wait(jobs, timeout=0.2)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        worker.tasks.clear()
        await worker.close()
