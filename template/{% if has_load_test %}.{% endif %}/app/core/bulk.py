"""Enqueue many jobs, and read their results, with one round trip per batch instead of per job."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from arq.connections import ArqRedis
from arq.constants import result_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms
from pydantic import BaseModel, Field

from app.core.memory import require_memory
from app.core.redis import MAX_QUEUED_MS
from app.core.scripts import run_script
from app.core.serializer import TaskError, deserialize, serialize

# Redis serves no other client while it works on a batch: 1,000 jobs take it about 2 ms.
MAX_BATCH_JOBS = 1000

Milliseconds = Annotated[int, Field(ge=0, lt=2**53)]


class JobResult(BaseModel):
    """A job's result as arq stores it; times are milliseconds of the epoch, 0 for unknown."""

    enqueued: Milliseconds = Field(default=0, alias="et")
    started: Milliseconds = Field(default=0, alias="st")
    finished: Milliseconds = Field(default=0, alias="ft")
    tries: int = Field(default=1, alias="t")
    success: bool = Field(alias="s")
    value: Any = Field(alias="r")


def batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Divide the numbers of jobs into batches of `MAX_BATCH_JOBS`."""
    for start in range(0, len(numbers), MAX_BATCH_JOBS):
        yield numbers[start : start + MAX_BATCH_JOBS]


async def enqueue_bulk(
    redis: ArqRedis, queue_name: str, function: str, jobs: Iterable[tuple[str, dict[str, Any]]]
) -> int:
    """Enqueue a batch of jobs, each an id and keyword arguments, in arq's own format.

    Returns:
        How many jobs were new: as with arq's `enqueue_job`, an id is enqueued once.

    Raises:
        MemoryFullError: Redis has no memory left.
    """
    await require_memory(redis)
    now = timestamp_ms()
    arguments: list[Any] = [now, MAX_QUEUED_MS]
    for job_id, kwargs in jobs:
        arguments += job_id, serialize_job(function, (), kwargs, None, now, serializer=serialize)
    return int(await run_script(redis, "enqueue_bulk", [queue_name], arguments))


async def withdraw_jobs(redis: ArqRedis, queue_name: str, job_ids: Sequence[str]) -> None:
    """Remove a batch of jobs from their queue, except those that are running."""
    await run_script(redis, "withdraw_jobs", [queue_name], job_ids)


async def read_results(redis: ArqRedis, job_ids: Sequence[str]) -> list[JobResult | None]:
    """Return the result of each job of a batch, or None for a job without one."""
    values = await redis.mget([result_key_prefix + job_id for job_id in job_ids])
    return [None if value is None else _read(value) for value in values]


def _read(value: bytes) -> JobResult:
    try:
        return JobResult.model_validate(deserialize(value))
    except (ValueError, TypeError):
        return JobResult(s=False, r=TaskError("the result is unreadable"))


async def are_queued(redis: ArqRedis, queue_name: str, job_ids: Sequence[str]) -> list[bool]:
    """Return for each job of a batch whether it waits or runs: arq keeps both in its queue."""
    scores = await redis.zmscore(queue_name, list(job_ids))
    return [score is not None for score in scores]
