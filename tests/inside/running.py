"""What tests keep running: a worker, and the project's command."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from arq.worker import Worker, create_worker

from app import NAME
from app.core.config import settings

BIN = Path(sys.executable).parent


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
