"""Trying again: later each time, and with the real error in the end."""

from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.constants import default_queue_name

from app.components.worker import retries
from app.components.worker.retries import MAX_TRIES, try_again
from app.core.serializer import TaskError
from tests.support import queue_of, run_burst

ERROR = ConnectionError("gone")


async def flaky(ctx: dict[str, Any], faults: int) -> int:
    if ctx["job_try"] <= faults:
        raise try_again(ctx, ERROR, first=0.01) from ERROR
    return int(ctx["job_try"])


WorkerSettings = queue_of(flaky, queue_name=default_queue_name)


def wait_of(job_try: int, **limits: float) -> float:
    retry = try_again({"job_try": job_try}, ERROR, **limits)
    assert isinstance(retry, Retry)
    return (retry.defer_score or 0) / 1000


def test_each_try_waits_for_longer_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_TRIES", 9999)
    for job_try, longest in ((1, 2), (2, 4), (3, 5), (4, 5), (5000, 5)):
        waits = {wait_of(job_try, first=2.0, most=5) for _ in range(100)}
        assert longest / 2 <= min(waits) <= max(waits) <= longest
        assert len(waits) > 10


async def test_a_fault_that_passes_costs_tries(redis: ArqRedis) -> None:
    jobs = [await redis.enqueue_job("flaky", faults) for faults in (0, 2, MAX_TRIES - 1)]
    await run_burst(WorkerSettings)
    assert [await job.result(timeout=5) for job in jobs if job] == [1, 3, MAX_TRIES]


async def test_a_fault_that_stays_is_told(redis: ArqRedis) -> None:
    job = await redis.enqueue_job("flaky", MAX_TRIES)
    await run_burst(WorkerSettings)
    assert job
    with pytest.raises(TaskError, match="ConnectionError: gone"):
        await job.result(timeout=5)
