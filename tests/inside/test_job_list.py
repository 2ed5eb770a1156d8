"""The list of jobs: those that wait or run, and those that ended."""

import asyncio
from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis

from app.core.config import WORKER_QUEUES
from app.services import job_list
from app.services.job_list import list_jobs
from app.services.job_lookup import find
from app.services.jobs import InvalidJobError
from tests.inside.running import running
from tests.support import queue_of

QUEUE = next(iter(WORKER_QUEUES))
QUEUE_NAME = WORKER_QUEUES[QUEUE]["queue_name"]


async def work(ctx: dict[str, Any], what: str = "", size: int = 0) -> None:
    if what == "wait":
        await asyncio.sleep(60)
    if what == "retry":
        raise Retry(defer=60)


SETTINGS = queue_of(work, queue_name=QUEUE_NAME)


async def send(redis: ArqRedis, job_id: str, *args: Any, **options: Any) -> None:
    await redis.enqueue_job("work", *args, _job_id=job_id, _queue_name=QUEUE_NAME, **options)


async def states(redis: ArqRedis, **wanted: Any) -> dict[str, str]:
    return {job.id: job.state for job in await list_jobs(redis, **wanted)}


async def test_every_state_is_listed(redis: ArqRedis) -> None:
    await send(redis, "done")
    await send(redis, "again", "retry")
    async with running(SETTINGS):
        await send(redis, "runs", "wait")
        await send(redis, "later", _defer_by=60)
        wanted = {"done": "succeeded", "again": "retrying", "runs": "running", "later": "deferred"}
        async with asyncio.timeout(60):
            while (found := await states(redis)) != wanted:
                await asyncio.sleep(0.05)
        assert await states(redis, state="running") == {"runs": "running"}
        assert await states(redis, state="succeeded", task="work") == {"done": "succeeded"}
        assert await states(redis, task="none") == {}
    assert found == wanted


async def test_a_job_that_ends_meanwhile_is_not_listed(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(redis, "ends")

    async def read_before(reading: Any, _: Any) -> Any:
        found = await reading
        await redis.delete("arq:job:ends", QUEUE_NAME)
        return found

    monkeypatch.setattr(job_list, "or_empty", read_before)
    assert await job_list._list_unfinished(redis, QUEUE, None) == []


async def test_a_large_job_is_listed_by_its_head(redis: ArqRedis) -> None:
    await send(redis, "large", "x" * 200_000)
    (job,) = await list_jobs(redis)
    assert (job.id, job.task, job.state) == ("large", "work", "queued")


async def test_bad_records_harm_only_themselves(redis: ArqRedis) -> None:
    await send(redis, "good")
    await redis.zadd(QUEUE_NAME, {b"\xff": 1, b"expired": 2, b"raw": 3})
    await redis.set("arq:job:raw", b"\xff\x00")
    await redis.lpush("arq:retry:good", "x")  # type: ignore[misc]
    found = await states(redis)
    assert (found["good"], found["expired"]) == ("queued", "failed")
    failed = {job.id: job.error for job in await list_jobs(redis, state="failed")}
    assert failed["expired"] == (await find(redis, "expired")).error
    assert found.keys() == {"good", "\\xff", "expired", "raw"}
    await redis.set(QUEUE_NAME, "text")
    assert await states(redis) == {}


async def test_a_misspelt_queue_is_an_error(redis: ArqRedis) -> None:
    with pytest.raises(InvalidJobError, match=f"did you mean '{QUEUE}'"):
        await list_jobs(redis, queue=f"{QUEUE}x")


async def test_many_others_hide_no_job_in_the_wanted_state(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "MAX_WAITING", 2)
    await redis.set("arq:in-progress:runs", "1")
    await redis.set("arq:retry:again", "1")
    for job_id in ("runs", "again", "first", "second"):
        await send(redis, job_id)
    for number in range(3):
        await send(redis, f"later-{number}", _defer_by=60 + number)
    assert list(await states(redis)) == ["later-2", "later-1"]
    assert list(await states(redis, state="queued")) == ["second", "first"]
    assert list(await states(redis, state="running")) == ["runs"]
    assert list(await states(redis, state="retrying")) == ["again"]


async def test_only_the_newest_are_listed(redis: ArqRedis) -> None:
    for number in range(5):
        await send(redis, str(number), _defer_by=60 + number)
    assert [job.id for job in await list_jobs(redis, limit=2)] == ["4", "3"]
