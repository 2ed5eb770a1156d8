"""Work for measuring workers: a few milliseconds each of computing, waiting, memory or failing."""

import asyncio
import hashlib
import os
import random
import socket
import time
from typing import Any, TypedDict

from redis.exceptions import RedisError

from app.components.worker.retries import try_again
from app.services.load_test import Collector, call_orchestrator, load_run, send

# How long the orchestrator sends before it lets go of its slot, in seconds.
STEP_SECONDS = 5
WORKER = f"{socket.gethostname()}:{os.getpid()}"


class LoadResult(TypedDict):
    """What every task returns: its duration, and by whose CPU time a report tells the limit."""

    seconds: float
    worker: str
    cpu_seconds: float


class CpuResult(LoadResult):
    """What `cpu_intensive_task` did."""

    rounds: int
    digest: str


class IoResult(LoadResult):
    """What `io_simulation_task` did."""

    payload_bytes: int


class MemoryResult(LoadResult):
    """What `memory_operations_task` did."""

    megabytes: int
    checksum: str


class FailureResult(LoadResult):
    """What `failure_testing_task` did when it did not fail."""

    failure_rate: float


class OrchestratorResult(TypedDict):
    """How far `load_test_orchestrator` has come with a run."""

    run_id: str
    sent: int
    complete: bool


class SimulatedError(Exception):
    """The failure that `failure_testing_task` was asked for."""


async def cpu_intensive_task(ctx: dict[str, Any], rounds: int = 10_000) -> CpuResult:
    """Derive a key in `rounds` rounds of SHA-256.

    hashlib lets other threads run meanwhile: neither the event loop nor the next job waits.

    Raises:
        ValueError: `rounds` is not from 1 to 10,000,000.
    """
    _check("rounds", rounds, 1, 10_000_000)
    start = time.perf_counter()
    digest = await asyncio.get_running_loop().run_in_executor(
        ctx["pool"], hashlib.pbkdf2_hmac, "sha256", b"password", b"salt", rounds
    )
    return CpuResult(rounds=rounds, digest=digest.hex(), **_measure(start))


async def io_simulation_task(
    ctx: dict[str, Any], wait_ms: float = 5, payload_bytes: int = 1024
) -> IoResult:
    """Send a payload to Redis and back, after a wait as for a slower service.

    Raises:
        arq.Retry: Redis does not answer.
        redis.exceptions.RedisError: It has not answered at the last try either.
        ValueError: `wait_ms` is not from 0 to 60,000, or `payload_bytes` not from 0 to 1,000,000.
    """
    _check("wait_ms", wait_ms, 0, 60_000)
    _check("payload_bytes", payload_bytes, 0, 1_000_000)
    start = time.perf_counter()
    await asyncio.sleep(wait_ms / 1000)
    try:
        payload = await ctx["redis"].echo(bytes(payload_bytes))
    except RedisError as error:
        raise try_again(ctx, error) from error
    return IoResult(payload_bytes=len(payload), **_measure(start))


async def memory_operations_task(ctx: dict[str, Any], megabytes: int = 4) -> MemoryResult:
    """Fill, copy, reverse and check a block of memory, of which two copies exist at a time.

    Raises:
        ValueError: `megabytes` is not from 1 to 256.
    """
    _check("megabytes", megabytes, 1, 256)
    start = time.perf_counter()
    checksum = await asyncio.get_running_loop().run_in_executor(
        ctx["pool"], _move_memory, megabytes * 1024 * 1024
    )
    return MemoryResult(megabytes=megabytes, checksum=checksum, **_measure(start))


async def failure_testing_task(
    ctx: dict[str, Any], failure_rate: float = 0.5, seed: int | None = None
) -> FailureResult:
    """Fail after a moment, with the given probability; the same seed decides the same way.

    Raises:
        SimulatedError: As asked for.
        ValueError: `failure_rate` is not from 0 to 1.
    """
    _check("failure_rate", failure_rate, 0, 1)
    start = time.perf_counter()
    await asyncio.sleep(0.001)
    if random.Random(seed).random() < failure_rate:  # noqa: S311 - nothing secret depends on it
        raise SimulatedError(f"asked to fail {failure_rate:.0%} of the time")
    return FailureResult(failure_rate=failure_rate, **_measure(start))


async def load_test_orchestrator(ctx: dict[str, Any], run_id: str) -> OrchestratorResult:
    """Send a stored run, and write its report when its time is over.

    It works in steps of a few seconds and queues itself for the next one, so that the queue's
    short timeout holds, and the run goes on after a worker was killed.

    Raises:
        RunNotFoundError: Nobody has stored the run, or it was too long ago.
    """
    redis = ctx["redis"]
    run = await load_run(redis, run_id)
    if run.sent < run.test.tasks:
        await send(redis, run, seconds=STEP_SECONDS)
    elif run.report is None and time.time() >= run.deadline:
        collector = Collector(redis, run)
        await collector.collect()
        await collector.report()
        return OrchestratorResult(run_id=run_id, sent=run.sent, complete=collector.is_complete)

    await call_orchestrator(redis, run)
    return OrchestratorResult(run_id=run_id, sent=run.sent, complete=False)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}: it must be from {least} to {most}")


def _move_memory(size: int) -> str:
    pattern = bytes(range(256))
    block = bytearray(pattern * (size // len(pattern)))
    block.reverse()
    return hashlib.blake2b(block, digest_size=8).hexdigest()


def _measure(start: float) -> LoadResult:
    return LoadResult(
        seconds=round(time.perf_counter() - start, 6),
        worker=WORKER,
        cpu_seconds=round(time.process_time(), 6),
    )
