"""Tasks that measure workers: a few milliseconds of computing, waiting, memory use or failing.

`enqueue` and the API refuse arguments that are out of range.
"""

import asyncio
import hashlib
import os
import random
import socket
import time
from typing import Annotated, Any, NotRequired, TypedDict

from pydantic import Field
from redis.exceptions import RedisError

from app.components.worker.retries import try_again
from app.components.worker.threads import in_thread
from app.core.memory import MemoryFullError
from app.services.load_test import Collector, enqueue_step, load_run, send

# How long a step of the orchestrator sends before it frees its slot.
STEP_SECONDS = 5
WORKER = f"{socket.gethostname()}:{os.getpid()}"


class LoadResult(TypedDict):
    """What every task returns: its duration, and its worker's CPU time so far."""

    seconds: float
    worker: str
    cpu_seconds: float
    payload_bytes: NotRequired[int]


class OrchestratorResult(TypedDict):
    """How far `load_test_orchestrator` has come with a run."""

    run_id: str
    sent: int
    complete: bool


class SimulatedError(Exception):
    """The failure that `failure_testing_task` was asked for."""


async def cpu_intensive_task(
    ctx: dict[str, Any], rounds: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
) -> LoadResult:
    """Derive a key in `rounds` rounds of SHA-256.

    hashlib lets other threads run meanwhile, so neither the event loop nor the next job waits.
    """
    start = time.perf_counter()
    await in_thread(ctx, hashlib.pbkdf2_hmac, "sha256", b"password", b"salt", rounds)
    return _measure(start)


async def io_simulation_task(
    ctx: dict[str, Any],
    wait_ms: Annotated[float, Field(ge=0, le=60_000)] = 5,
    payload_bytes: Annotated[int, Field(ge=0, le=1_000_000)] = 1024,
) -> LoadResult:
    """Wait as for a slow service, then send a payload to Redis and back; return `payload_bytes`.

    Raises:
        arq.Retry: Redis does not answer.
        redis.exceptions.RedisError: Redis did not answer on the last try either.
    """
    start = time.perf_counter()
    await asyncio.sleep(wait_ms / 1000)
    try:
        payload = await ctx["redis"].echo(bytes(payload_bytes))
    except RedisError as error:
        raise try_again(ctx, error) from error
    return LoadResult(payload_bytes=len(payload), **_measure(start))


async def memory_operations_task(
    ctx: dict[str, Any], megabytes: Annotated[int, Field(ge=1, le=256)] = 4
) -> LoadResult:
    """Fill, copy, reverse and hash a block of memory in two copies."""
    start = time.perf_counter()
    await in_thread(ctx, _move_memory, megabytes * 1024 * 1024)
    return _measure(start)


async def failure_testing_task(
    ctx: dict[str, Any],
    failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.5,
    seed: int | None = None,
) -> LoadResult:
    """Fail after a moment, with the given probability; the same seed always gives the same outcome.

    Raises:
        SimulatedError: As asked for.
    """
    start = time.perf_counter()
    await asyncio.sleep(0.001)
    if random.Random(seed).random() < failure_rate:  # noqa: S311 - nothing secret depends on it
        raise SimulatedError(f"asked to fail {failure_rate:.0%} of the time")
    return _measure(start)


async def load_test_orchestrator(ctx: dict[str, Any], run_id: str) -> OrchestratorResult:
    """Send the next jobs of a run and queue the next step, or end the run at its deadline.

    A step is short, so that the queue's short timeout is enough for a long run, and the run goes
    on after its worker was killed.

    Raises:
        arq.Retry: Redis does not answer, or is full.
        redis.exceptions.RedisError: Redis did not answer on the last try either.
        MemoryFullError: Redis was full on the last try too.
        JobNotFoundError: The run is not stored, or no longer.
    """
    redis = ctx["redis"]
    try:
        run = await load_run(redis, run_id)
        collector = Collector(redis, run)
        await send(redis, run, seconds=STEP_SECONDS)
        if run.is_over:
            await collector.collect()
            await collector.report()
        else:
            await enqueue_step(redis, run)
    except (RedisError, MemoryFullError) as error:
        raise try_again(ctx, error) from error
    return OrchestratorResult(run_id=run_id, sent=run.sent, complete=collector.is_complete)


def _move_memory(size: int) -> None:
    pattern = bytes(range(256))
    block = bytearray(pattern * (size // len(pattern)))
    block.reverse()
    hashlib.blake2b(block)


def _measure(start: float) -> LoadResult:
    return LoadResult(
        seconds=round(time.perf_counter() - start, 6),
        worker=WORKER,
        cpu_seconds=round(time.process_time(), 6),
    )
