"""The history and the rates: the jobs that ended lately, and how many per minute."""

import asyncio
import time
from typing import Any

import msgpack
import pytest
from arq import func
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms

from app.components.worker import results
from app.core import keys
from app.core.serializer import serialize
from app.services import history
from app.services.dead_letters import Filter, Selection, list_letters, purge, sweep
from app.services.job_list import list_jobs
from app.services.rates import (
    BUCKETS,
    MINUTES,
    TEN_MINUTES,
    percentile,
    read_crons,
    read_rows,
)
from tests.support import queue_of, run_burst


async def work(ctx: dict[str, Any], outcome: str = "return") -> str:
    if outcome == "raise":
        # A file system gives such names, which UTF-8 cannot carry.
        raise ValueError("it went wrong\udcff")
    if outcome == "cancel":
        raise asyncio.CancelledError
    return outcome


QUEUE = queue_of(work)
# A time without a zone cannot be compared with others.
NAIVE = b'[{"id": "a", "state": "failed", "finished": "2026-01-01T00:00:00"}]'


async def run(redis: ArqRedis, *outcomes: str) -> None:
    for number, outcome in enumerate(outcomes):
        job_id = f"{outcome}-{number}"
        await redis.enqueue_job("work", outcome, _job_id=job_id, _queue_name=QUEUE.queue_name)
    await run_burst(QUEUE)


async def test_ended_jobs_are_listed_newest_first(redis: ArqRedis) -> None:
    await run(redis, "return")
    await run(redis, "raise")
    failed, succeeded = await list_jobs(redis)
    assert (failed.id, failed.state, failed.error) == (
        "raise-0",
        "failed",
        "ValueError: it went wrong?",
    )
    assert (succeeded.id, succeeded.state, succeeded.error) == ("return-0", "succeeded", None)
    assert [job.id for job in await list_jobs(redis, state="failed")] == ["raise-0"]
    assert [job.id for job in await list_jobs(redis, limit=1)] == ["raise-0"]
    assert await list_jobs(redis, task="other") == []
    assert len(await list_jobs(redis, task="work")) == 2


async def test_minutes_count_what_ended(redis: ArqRedis) -> None:
    await run(redis, "return", "return", "raise")
    for resolution in (MINUTES, TEN_MINUTES):
        rows = (await read_rows(redis, ["test"], resolution=resolution, rows=2))["test"]
        assert sum(row.succeeded for row in rows) == 2
        assert sum(row.failed for row in rows) == 1
        assert sum(sum(row.runs) for row in rows) == sum(sum(row.waits) for row in rows) == 3


async def test_a_delay_that_was_asked_for_is_no_wait(redis: ArqRedis) -> None:
    now = timestamp_ms()
    job = serialize_job("work", ("return",), {}, None, now - 300_000, serializer=serialize)
    await redis.set(job_key_prefix + "deferred", job)
    await redis.zadd(QUEUE.queue_name, {"deferred": now})
    await run_burst(QUEUE)
    rows = (await read_rows(redis, ["test"], resolution=MINUTES, rows=2))["test"]
    # The last bucket is that of more than a minute.
    assert sum(row.waits[-1] for row in rows) == 0
    assert sum(sum(row.waits) for row in rows) == 1


async def test_a_burst_keeps_its_failures(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_BATCH_JOBS", 2)
    monkeypatch.setattr(results, "FLUSH_SECONDS", 60)
    await run(redis, "raise", "return", "return", "return")
    jobs = await list_jobs(redis)
    assert len(jobs) == 2
    assert "raise-0" in {job.id for job in jobs}


async def test_a_host_whose_clock_is_ahead_deletes_nothing(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(redis, "raise")
    ended = await list_jobs(redis)
    monkeypatch.setattr("arq.utils.time", lambda: time.time() + 40 * 24 * 3600)
    await run(redis, "return", "raise")
    assert await sweep(redis) == 0
    assert await purge(redis, Selection(older_than_seconds=3600)) == 0
    letters = await list_letters(redis, Filter(), 9)
    assert {letter.id for letter in letters} == {"raise-0", "raise-1"}
    assert (await list_jobs(redis))[-1:] == ended


async def test_jobs_in_bulk_are_counted_but_not_listed(redis: ArqRedis) -> None:
    job_id = f"{keys.BULK_PREFIX}1"
    await redis.enqueue_job("work", "raise", _job_id=job_id, _queue_name=QUEUE.queue_name)
    await run_burst(QUEUE)
    assert await list_jobs(redis) == []
    rows = (await read_rows(redis, ["test"], rows=2))["test"]
    assert [sum(row.ended for row in rows), sum(row.failed for row in rows)] == [1, 0]


async def test_cron_jobs_are_remembered(redis: ArqRedis) -> None:
    # arq registers a cron job as a function of this name.
    queue = queue_of(func(work, name="cron:work"))
    await redis.enqueue_job("cron:work", _queue_name=queue.queue_name)
    await run_burst(queue)
    ((name, (state, _)),) = (await read_crons(redis)).items()
    assert (name, state) == ("cron:work", "succeeded")


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[1]", b"[{}]", msgpack.packb({"a": 1}), NAIVE])
async def test_a_bad_batch_harms_only_itself(redis: ArqRedis, raw: bytes) -> None:
    await run(redis, "return")
    await redis.xadd(keys.HISTORY, {"jobs": raw})
    await redis.xadd(keys.HISTORY, {"other": raw})
    await redis.hset(keys.CRONS, mapping={b"\xff": raw})  # type: ignore[misc]
    assert [job.id for job in await list_jobs(redis)] == ["return-0"]
    assert await read_crons(redis) == {}


async def test_a_key_of_another_type_is_an_empty_history(redis: ArqRedis) -> None:
    for key in (keys.HISTORY, keys.CRONS):
        await redis.set(key, "text")
    assert await list_jobs(redis) == []
    assert await read_crons(redis) == {}


def test_percentiles_are_the_ends_of_buckets() -> None:
    first, second = ([0] * len(BUCKETS) for _ in range(2))
    assert percentile([first, second], 0.5) is None
    first[0], second[3] = 9, 1
    assert percentile([first, second], 0.5) == 5
    assert percentile([first, second], 0.99) == 50
