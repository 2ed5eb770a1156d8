"""The tasks of the load-test queue, in a worker."""

import pytest
from arq.connections import ArqRedis

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.load_test import WorkerSettings
from app.components.worker.tasks.load_test import (
    cpu_intensive_task,
    failure_testing_task,
    io_simulation_task,
    memory_operations_task,
)
from app.core.serializer import TaskError
from tests.support import run_burst


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
