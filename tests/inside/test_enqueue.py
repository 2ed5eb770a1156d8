"""Sending jobs: what arrives, and what is refused before it reaches Redis."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import JobStatus
from arq.worker import func

from app.components.worker.enqueue import Options, enqueue, enqueue_with
from tests.support import queue_of, run_burst

NAIVE = datetime(2026, 1, 2)  # noqa: DTZ001 - without a time zone on purpose


async def add(ctx: dict[str, Any], left: int, right: int = 1) -> int:
    return left + right


async def echo(ctx: dict[str, Any], value: object) -> object:
    return value


async def elsewhere(ctx: dict[str, Any]) -> None:
    raise NotImplementedError


WorkerSettings = queue_of(add, func(echo, name="repeat"))


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


@pytest.mark.parametrize(
    "options",
    [
        {"_defer_until": datetime.fromtimestamp(0, UTC)},
        {"_defer_until": datetime(2001, 1, 1)},  # noqa: DTZ001 - as arq takes it
        {"_defer_by": timedelta(days=-30)},
        {"_defer_by": -1e9},
    ],
)
async def test_a_time_that_is_past_is_now(redis: ArqRedis, options: Options) -> None:
    job = await enqueue_with(redis, WorkerSettings, options, add, 1)
    assert job is not None
    await run_burst(WorkerSettings)
    assert await job.result(timeout=5) == 2


@pytest.mark.parametrize("job_id", ["a\nb", "\x1b[2J", "\ud800"])
async def test_an_id_that_cannot_be_printed_is_refused(redis: ArqRedis, job_id: str) -> None:
    with pytest.raises(TypeError, match=r"add: the id '.*' has characters"):
        await enqueue_with(redis, WorkerSettings, {"_job_id": job_id}, add, 1)
    assert await redis.dbsize() == 0


async def test_a_function_with_a_name_of_its_own_is_found(redis: ArqRedis) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    values = [None, True, 1.5, "é", b"\x00", [1, [2]], {"a": {1: "b"}}, moment]
    jobs = [await enqueue(redis, WorkerSettings, echo, value) for value in values]
    await run_burst(WorkerSettings)
    assert [await job.result(timeout=5) for job in jobs] == values


@pytest.mark.parametrize(
    ("task", "arguments", "error", "message"),
    [
        (add, {"wrong": 1}, TypeError, "add: missing a required argument: 'left'"),
        (add, {"left": 1, "wrong": 1}, TypeError, "add: got an unexpected keyword argument"),
        (add, {"left": "one"}, TypeError, "add: kwargs.left: Input should be a valid integer"),
        (add, {"left": 2**64}, TypeError, "add: kwargs.left: .* more than 64 bits as text"),
        (echo, {"value": object()}, TypeError, "repeat: kwargs.value: a job cannot carry object"),
        (echo, {"value": NAIVE}, TypeError, "repeat: kwargs.value: .* give it a time zone"),
        (elsewhere, {}, ValueError, "arq:queue:test does not run elsewhere: add it to"),
    ],
)
async def test_a_mistake_is_refused_before_redis(
    redis: ArqRedis, task: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await enqueue(redis, WorkerSettings, task, **arguments)
    assert await redis.dbsize() == 0
