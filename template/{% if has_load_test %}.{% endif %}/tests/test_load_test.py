"""The load-test queue: its tasks run in a worker, and a run counts each of its jobs."""

import pytest
from arq.connections import ArqRedis

from app.components.worker.enqueue import enqueue
from app.components.worker.queues import settings
from app.components.worker.queues.load_test import WorkerSettings
from app.components.worker.tasks.load_test import (
    cpu_intensive_task,
    failure_testing_task,
    io_simulation_task,
    memory_operations_task,
)
from app.core.config import WORKER_QUEUES, WorkerQueue
from app.core.serializer import TaskError
from app.services.load_test import Collector, prepare, start, watch
from app.services.load_test_report import LoadTest
from tests.support import run_burst, running


async def test_each_task_runs_in_the_worker(redis: ArqRedis) -> None:
    jobs = [
        await enqueue(redis, WorkerSettings, cpu_intensive_task, rounds=100),
        await enqueue(redis, WorkerSettings, io_simulation_task, wait_ms=1),
        await enqueue(redis, WorkerSettings, memory_operations_task, megabytes=1),
        await enqueue(redis, WorkerSettings, failure_testing_task, failure_rate=0),
    ]
    failing = await enqueue(redis, WorkerSettings, failure_testing_task, failure_rate=1)
    await run_burst(WorkerSettings)
    for job in jobs:
        assert (await job.result(timeout=5))["seconds"] > 0
    with pytest.raises(TaskError, match="SimulatedError: asked to fail 100% of the time"):
        await failing.result(timeout=5)


async def test_a_run_counts_each_job(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    # The queue may be commented out in WORKER_QUEUES.
    entry = WorkerQueue(
        description="",
        max_jobs=WorkerSettings.max_jobs,
        timeout_seconds=WorkerSettings.job_timeout,
        queue_name=WorkerSettings.queue_name,
    )
    monkeypatch.setitem(WORKER_QUEUES, "load_test", entry)
    async with running(WorkerSettings):
        run = await prepare(redis, LoadTest(type="io_simulation", tasks=50), settings)
        await start(redis, run)
        collector = Collector(redis, run)
        async for _ in watch(collector, interval=0.01):
            pass
    report = await collector.report()
    assert (report.sent, report.succeeded, report.failed, report.lost) == (50, 50, 0, 0)
