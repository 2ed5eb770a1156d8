"""The jobs for taskiq, as its documentation has it. `python -m bench.taskiq_jobs TASK COUNT` sends them."""

import asyncio
import os
import sys

from redis.asyncio import Redis
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.jobs import noop, simulate_io

URL = os.environ["REDIS_URL"]
# A stream keeps the jobs of a worker that is killed, as arq and SAQ do. Results are kept for an hour.
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=3600))
redis = Redis.from_url(URL)


async def io() -> dict[str, float | str]:
    """Wait and ask Redis."""
    return await simulate_io(redis.echo)


tasks = {name: broker.register_task(task, task_name=name) for name, task in (("noop", noop), ("io", io))}


async def send(task: str, count: int) -> None:
    """Queue jobs."""
    await broker.startup()
    for _ in range(count):
        await tasks[task].kiq()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], int(sys.argv[2])))
