"""What arq calls around a worker's life and its jobs. None may raise: arq would end the worker."""

import asyncio
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
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core import keys
from app.core.errors import exit_with_a_line
from app.core.log import configure_logging
from app.core.serializer import deserialize, serialize
from app.services.dead_letters import record

# A server that is down when the worker starts ends arq before any hook runs.
exit_with_a_line()

# redis-py tries only its own errors again: while it connects, the operating system's are raw.
RETRY = Retry(
    ExponentialBackoff(cap=1, base=0.1),
    retries=30,
    supported_errors=(RedisConnectionError, RedisTimeoutError, OSError),  # type: ignore[arg-type]
)

_function: ContextVar[str] = ContextVar("function")
# The context of the worker that an asyncio task belongs to: arq starts each in that of `startup`.
_worker: ContextVar[dict[Any, Any]] = ContextVar("worker")

log = structlog.stdlib.get_logger(__name__)


async def startup(ctx: dict[Any, Any]) -> None:
    """Prepare a worker: logging, threads, patience with Redis, and its name on the list of workers.

    `ctx["pool"]` runs what would block the event loop, in as many threads as there are processors.
    A Redis that restarts is waited for up to 30 s; at the start arq waits for 5 s, and says so.
    """
    configure_logging()
    ctx["pool"] = ThreadPoolExecutor(os.cpu_count())
    ctx["recording"] = set()
    _worker.set(ctx)
    redis: ArqRedis = ctx["redis"]
    redis.set_retry(RETRY)

    queue = redis.default_queue_name
    key, now = keys.workers(queue), time.time()
    # A worker that was killed could not take its name off the list. One that has just started
    # has not reported yet.
    for name in await redis.zrangebyscore(key, "-inf", now - 2 * keys.HEALTH_CHECK_INTERVAL):
        if not await redis.exists(name):
            await redis.zrem(key, name)
    await redis.zadd(key, {keys.sentinel(queue): now})


async def shutdown(ctx: dict[Any, Any]) -> None:
    """Take the worker's name off the list again, and end its threads and its dead letters."""
    await asyncio.gather(*ctx["recording"])
    ctx["pool"].shutdown(wait=False, cancel_futures=True)
    redis: ArqRedis = ctx["redis"]
    queue = redis.default_queue_name
    await redis.zrem(keys.workers(queue), keys.sentinel(queue))


def read_job(data: bytes) -> dict[str, Any]:
    """Decode a job for the worker, and keep the name of its function for `bind_job`.

    arq's `ctx` does not hold the name. It decodes a job and calls `on_job_start` in one asyncio
    task of its own, so the variable cannot be that of another job.
    """
    job = deserialize(data)
    _function.set(job["f"])
    return job


def write_result(data: dict[str, Any]) -> bytes:
    """Encode a job or a result for the worker, and see to the dead letter of one that failed.

    arq calls no hook for a job whose tries are used up, that expired, or whose function is unknown
    or bytes are undecodable, and tells no hook how a job ended. But it writes a result each time.
    """
    raw = serialize(data)
    if data.get("s") is False and not isinstance(data["r"], asyncio.CancelledError):
        task, ctx = asyncio.current_task(), _worker.get(None)
        if task and ctx and not data["id"].startswith(keys.BULK_PREFIX):
            # The result is in Redis when arq's task for the job ends.
            task.add_done_callback(lambda _: _start_recording(ctx, data["id"], raw))
    return raw


def _start_recording(ctx: dict[Any, Any], job_id: str, raw: bytes) -> None:
    recording = asyncio.get_running_loop().create_task(_record(ctx["redis"], job_id, raw))
    ctx["recording"].add(recording)
    recording.add_done_callback(ctx["recording"].discard)


async def _record(redis: ArqRedis, job_id: str, raw: bytes) -> None:
    try:
        await record(redis, job_id, raw)
    except RedisError as error:
        log.warning("a dead letter waits for the sweep", job_id=job_id, error=str(error))


async def bind_job(ctx: dict[Any, Any]) -> None:
    """Put the job into every log line until it ends; arq runs each in its own asyncio task."""
    structlog.contextvars.bind_contextvars(
        job_id=ctx["job_id"],
        job_try=ctx["job_try"],
        task=_function.get("unknown"),
        queue=ctx["redis"].default_queue_name,
    )
