"""Sending jobs: at once, under an id, and for later."""

from datetime import timedelta
from typing import Any

from arq.connections import ArqRedis
from arq.jobs import JobStatus

from app.components.worker.enqueue import enqueue, enqueue_with
from tests.support import queue_of, run_burst


async def add(ctx: dict[str, Any], left: int, right: int = 1) -> int:
    return left + right


WorkerSettings = queue_of(add)


async def test_a_job_runs_with_its_arguments(redis: ArqRedis) -> None:
    job = await enqueue(redis, WorkerSettings, add, 2, right=3)
    assert await job.status() is JobStatus.queued
    await run_burst(WorkerSettings)
    total: int = await job.result(timeout=5)
    assert total == 5


async def test_an_id_is_enqueued_once(redis: ArqRedis) -> None:
    first = await enqueue_with(redis, WorkerSettings, {"_job_id": "once"}, add, 1)
    assert first is not None
    assert await enqueue_with(redis, WorkerSettings, {"_job_id": "once"}, add, 2) is None
    await run_burst(WorkerSettings)
    assert await first.result(timeout=5) == 2


async def test_a_job_can_wait(redis: ArqRedis) -> None:
    later = timedelta(hours=1)
    job = await enqueue_with(redis, WorkerSettings, {"_defer_by": later}, add, 1)
    assert job is not None
    assert await job.status() is JobStatus.deferred
