"""What arq calls when a worker starts and stops, and before each job.

Nothing here may raise once the worker runs: arq would end the worker.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from app.components.worker import results
from app.core import keys
from app.core.errors import exit_with_a_line
from app.core.log import configure_logging
from app.core.redis import PATIENCE_SECONDS, Patience
from app.services.malformed import discard_malformed
from app.services.queues import show_queue

# isort: split
# Your own imports:

# A server that is down when the worker starts ends arq before any hook runs.
exit_with_a_line()

log = structlog.stdlib.get_logger(__name__)


async def startup(ctx: dict[Any, Any]) -> None:
    """Prepare a worker: logging, threads, patience with Redis, the recorder, the list of workers.

    `ctx["pool"]` runs what would block the event loop, in as many threads as there are processors.
    A Redis that is away is waited for during `PATIENCE_SECONDS`; at the start arq waits for 5 s.
    """
    configure_logging()
    ctx["pool"] = ThreadPoolExecutor(os.cpu_count())
    redis: ArqRedis = ctx["redis"]
    redis.set_retry(Patience(PATIENCE_SECONDS))

    queue = redis.default_queue_name
    await discard_malformed(redis, queue)
    key, now = keys.workers(queue), time.time()
    # A worker that was killed could not take its name off the list. One that has just started
    # has not reported yet.
    for name in await redis.zrangebyscore(key, "-inf", now - 2 * keys.HEALTH_CHECK_INTERVAL):
        if not await redis.exists(name):
            await redis.zrem(key, name)
    await redis.zadd(key, {keys.sentinel(queue): now})
    ctx["stopping"] = stopping = asyncio.Event()
    ctx["background"] = [
        asyncio.create_task(_repeat(results.FLUSH_SECONDS, stopping, results.flush, redis)),
    ]

    # Your own resources:


async def shutdown(ctx: dict[Any, Any]) -> None:
    """End what `startup` began; the recorder writes the rest first."""
    ctx["stopping"].set()
    await asyncio.gather(*ctx["background"])
    ctx["pool"].shutdown(wait=False, cancel_futures=True)
    redis: ArqRedis = ctx["redis"]
    queue = redis.default_queue_name
    await redis.zrem(keys.workers(queue), keys.sentinel(queue))

    # Your own resources:


async def bind_log_context(ctx: dict[Any, Any]) -> None:
    """Put the job into every log line until it ends; arq runs each in its own asyncio task."""
    structlog.contextvars.bind_contextvars(
        job_id=ctx["job_id"],
        job_try=ctx["job_try"],
        task=results.task_name.get(),
        queue=show_queue(ctx["redis"].default_queue_name),
    )


async def _repeat(
    seconds: float,
    stopping: asyncio.Event,
    do: Callable[[ArqRedis], Awaitable[None]],
    redis: ArqRedis,
) -> None:
    """Do something again and again, and once more when the worker stops."""
    while not stopping.is_set():
        try:
            async with asyncio.timeout(seconds):
                await stopping.wait()
        except TimeoutError:
            pass
        try:
            await do(redis)
        except RedisError as error:
            log.warning("not written to Redis yet", what=do.__qualname__, error=str(error))
