"""The no-op for taskiq, as its documentation sets it up. `python -m bench.taskiq_noop COUNT` sends jobs."""

import asyncio
import os
import sys

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.noop import noop

URL = os.environ["REDIS_URL"]
# A stream keeps the jobs of a worker that is killed, as arq and SAQ do. Results are kept for an hour.
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=3600))
task = broker.register_task(noop, task_name="noop")


async def send(count: int) -> None:
    """Queue jobs."""
    await broker.startup()
    for _ in range(count):
        await task.kiq()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(send(int(sys.argv[1])))
