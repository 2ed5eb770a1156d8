"""The jobs for SAQ, as its documentation sets it up. `python -m bench.saq_jobs TASK COUNT` sends them."""

import asyncio
import os
import sys
from typing import Any

from saq import Queue

from bench.jobs import noop, simulate_io

queue = Queue.from_url(os.environ["REDIS_URL"])


async def io(_ctx: dict[str, Any]) -> dict[str, float | str]:
    """Wait and ask Redis."""
    return await simulate_io(queue.redis.echo)


settings = {"queue": queue, "functions": [noop, io], "concurrency": 50}


async def send(task: str, count: int) -> None:
    """Queue jobs, whose results are kept for an hour as arq keeps them."""
    await queue.connect()
    for _ in range(count):
        await queue.enqueue(task, timeout=60, ttl=3600)
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], int(sys.argv[2])))
