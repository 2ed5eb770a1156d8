"""What arq calls around a worker's life and its jobs. None may raise: arq would end the worker."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import structlog
from arq.connections import ArqRedis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.errors import exit_with_a_line
from app.core.log import configure_logging
from app.core.redis import HEALTH_CHECK_INTERVAL, sentinel_key, workers_key
from app.core.serializer import deserialize

# A server that is down when the worker starts ends arq before any hook runs.
exit_with_a_line()

# redis-py tries only its own errors again: while it connects, the operating system's are raw.
RETRY = Retry(
    ExponentialBackoff(cap=1, base=0.1),
    retries=30,
    supported_errors=(RedisConnectionError, RedisTimeoutError, OSError),  # type: ignore[arg-type]
)

_function: ContextVar[str] = ContextVar("function")


async def startup(ctx: dict[Any, Any]) -> None:
    """Prepare a worker: logging, threads, patience with Redis, and its name on the list of workers.

    `ctx["pool"]` runs what would block the event loop, in as many threads as there are processors.
    A Redis that restarts is waited for up to 30 s; at the start arq waits for 5 s, and says so.
    """
    configure_logging()
    ctx["pool"] = ThreadPoolExecutor(os.cpu_count())
    redis: ArqRedis = ctx["redis"]
    redis.set_retry(RETRY)

    queue = redis.default_queue_name
    key, now = workers_key(queue), time.time()
    # A worker that was killed could not take its name off the list. One that has just started
    # has not reported yet.
    for name in await redis.zrangebyscore(key, "-inf", now - 2 * HEALTH_CHECK_INTERVAL):
        if not await redis.exists(name):
            await redis.zrem(key, name)
    await redis.zadd(key, {sentinel_key(queue): now})


async def shutdown(ctx: dict[Any, Any]) -> None:
    """Take the worker's name off the list again, and end its threads."""
    ctx["pool"].shutdown(wait=False, cancel_futures=True)
    redis: ArqRedis = ctx["redis"]
    queue = redis.default_queue_name
    await redis.zrem(workers_key(queue), sentinel_key(queue))


def read_job(data: bytes) -> dict[str, Any]:
    """Decode a job for the worker, and keep the name of its function for `bind_job`.

    arq's `ctx` does not hold the name. It decodes a job and calls `on_job_start` in one asyncio
    task of its own, so the variable cannot be that of another job.
    """
    job = deserialize(data)
    _function.set(job["f"])
    return job


async def bind_job(ctx: dict[Any, Any]) -> None:
    """Put the job into every log line until it ends; arq runs each in its own asyncio task."""
    structlog.contextvars.bind_contextvars(
        job_id=ctx["job_id"],
        job_try=ctx["job_try"],
        task=_function.get("unknown"),
        queue=ctx["redis"].default_queue_name,
    )
