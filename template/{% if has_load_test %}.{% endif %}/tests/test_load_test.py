"""The load-test tasks: real work, which leaves the event loop free."""

import asyncio
import hashlib
import time
from typing import Any

import pytest
from arq.connections import ArqRedis

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.load_test import WorkerSettings
from app.components.worker.tasks.load_test import (
    SimulatedError,
    cpu_intensive_task,
    failure_testing_task,
    io_simulation_task,
    memory_operations_task,
)
from app.core.serializer import TaskError
from tests.support import run_burst


async def test_computing_gives_the_digest(ctx: dict[str, Any]) -> None:
    result = await cpu_intensive_task(ctx, rounds=100)
    expected = hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 100).hex()
    assert (result["rounds"], result["digest"]) == (100, expected)


async def test_computing_leaves_the_event_loop_free(ctx: dict[str, Any]) -> None:
    task = asyncio.create_task(cpu_intensive_task(ctx, rounds=1_000_000))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100


async def test_waiting_waits_and_sends(ctx: dict[str, Any]) -> None:
    start = time.perf_counter()
    result = await io_simulation_task(ctx, wait_ms=20, payload_bytes=5000)
    assert result["payload_bytes"] == 5000
    assert 0.02 <= result["seconds"] <= time.perf_counter() - start


async def test_memory_is_moved(ctx: dict[str, Any]) -> None:
    expected = hashlib.blake2b(bytes(range(255, -1, -1)) * 4096, digest_size=8).hexdigest()
    assert (await memory_operations_task(ctx, megabytes=1))["checksum"] == expected


async def test_failing_follows_the_rate_and_the_seed(ctx: dict[str, Any]) -> None:
    async def fails(rate: float, seed: int) -> bool:
        try:
            await failure_testing_task(ctx, failure_rate=rate, seed=seed)
        except SimulatedError:
            return True
        return False

    assert not any([await fails(0, seed) for seed in range(10)])
    assert all([await fails(1, seed) for seed in range(10)])
    first = [await fails(0.5, seed) for seed in range(100)]
    assert first == [await fails(0.5, seed) for seed in range(100)]
    assert 30 < sum(first) < 70


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (cpu_intensive_task, {"rounds": 0}),
        (io_simulation_task, {"wait_ms": -1}),
        (io_simulation_task, {"payload_bytes": 10**9}),
        (memory_operations_task, {"megabytes": 10**6}),
        (failure_testing_task, {"failure_rate": 1.5}),
    ],
)
async def test_an_amount_out_of_range_is_refused(
    ctx: dict[str, Any], task: Any, arguments: dict[str, Any]
) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} is .*: it must be from"):
        await task(ctx, **arguments)


async def test_all_run_in_the_worker(redis: ArqRedis) -> None:
    jobs = [
        await enqueue(redis, WorkerSettings, cpu_intensive_task, rounds=100),
        await enqueue(redis, WorkerSettings, io_simulation_task, wait_ms=1),
        await enqueue(redis, WorkerSettings, memory_operations_task, megabytes=1),
        await enqueue(redis, WorkerSettings, failure_testing_task, failure_rate=0),
    ]
    failing = await enqueue(redis, WorkerSettings, failure_testing_task, failure_rate=1)
    worker = await run_burst(WorkerSettings)
    assert (worker.jobs_complete, worker.jobs_failed) == (4, 1)
    for job in jobs:
        assert (await job.result(timeout=5))["seconds"] > 0
    with pytest.raises(TaskError, match="SimulatedError: asked to fail 100% of the time"):
        await failing.result(timeout=5)
