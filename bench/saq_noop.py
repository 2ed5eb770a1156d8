"""The no-op for SAQ, as its documentation sets it up. `python -m bench.saq_noop COUNT` sends jobs."""

import asyncio
import os
import sys

from saq import Queue

from bench.noop import noop

queue = Queue.from_url(os.environ["REDIS_URL"])
settings = {"queue": queue, "functions": [noop], "concurrency": 50}


async def send(count: int) -> None:
    """Queue jobs, whose results are kept for an hour as arq keeps them."""
    await queue.connect()
    for _ in range(count):
        await queue.enqueue("noop", timeout=60, ttl=3600)
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(send(int(sys.argv[1])))
