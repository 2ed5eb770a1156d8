"""Load tests: store a run, send its jobs in steps, and collect what happened to each job.

A job's id is made of the run's id and the job's number, so that a batch that is sent twice is
enqueued once, and the result of each job is found again. The steps are jobs of the orchestrator:
each sends for a few seconds and queues the next one, and the last one ends the run at its deadline.
"""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from arq import func
from arq.connections import ArqRedis
from arq.constants import expires_extra_ms
from arq.jobs import serialize_job
from arq.typing import WorkerCoroutine
from arq.utils import timestamp_ms
from arq.worker import Function
from pydantic_core import from_json
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app import NAME
from app.core import keys
from app.core.bulk import MAX_BATCH_JOBS, are_queued, enqueue_bulk, read_results, withdraw_jobs
from app.core.config import WORKER_QUEUES
from app.core.memory import require_memory
from app.core.scripts import run_script
from app.core.serializer import serialize
from app.services.jobs import JobError
from app.services.load_test_report import (
    LoadTest,
    LoadTestReport,
    LoadTestRun,
    Outcomes,
    summarize,
)
from app.services.queues import check_queue

MAX_RUNS = 100
LIFETIME_SECONDS = 7 * 24 * 3600
ORCHESTRATOR = "load_test_orchestrator"
LIST = f"`{NAME} load-test list` shows the runs of the last week"
# A run's fields in its hash.
FIELDS = ["run", "sent", "step", "report"]


class WorkerSettings(Protocol):
    """The settings of a queue's worker that a load test reads."""

    functions: Sequence[WorkerCoroutine | Function]
    queue_name: str
    max_jobs: int
    poll_delay: float
    queue_read_limit: int


class RefusedError(JobError):
    """The load test cannot work; the message says why and how to fix it."""


class RunNotFoundError(JobError):
    """No run has this id, it is no longer stored, or what is stored is unreadable."""


async def prepare(redis: ArqRedis, test: LoadTest, settings: WorkerSettings) -> LoadTestRun:
    """Return a new run for the worker settings of the test's queue; nothing is stored yet.

    Raises:
        RefusedError: The queue does not run the task, or a worker is missing.
        MemoryFullError: Redis has no memory left.
    """
    for name in dict.fromkeys(["load_test", test.queue]):
        if name not in WORKER_QUEUES:
            known = ", ".join(WORKER_QUEUES)
            raise RefusedError(f"Queue {name!r} is not one of WORKER_QUEUES: {known}.")
        status = await check_queue(redis, name, WORKER_QUEUES[name])
        if not status.workers:
            raise RefusedError(f"Queue {name}: {status.output}")
    if test.function not in {func(function).name for function in settings.functions}:
        raise RefusedError(
            f"Queue {test.queue} does not run {test.function}: add it to `functions`."
        )
    await require_memory(redis)
    return LoadTestRun(
        id=uuid.uuid4().hex[:12],
        test=test,
        queue_name=settings.queue_name,
        max_jobs=settings.max_jobs,
        poll_delay=settings.poll_delay,
        read_limit=settings.queue_read_limit,
        started=time.time(),
        server_cpu_seconds=await _server_cpu_seconds(redis),
    )


async def start(redis: ArqRedis, run: LoadTestRun) -> None:
    """Store a run, forget the oldest ones, and queue the first step."""
    fields = {"run": run.model_dump_json(exclude={"sent", "step", "report"}), "sent": 0, "step": 0}
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hset(keys.load_test(run.id), mapping=fields)
        pipe.expire(keys.load_test(run.id), LIFETIME_SECONDS)
        pipe.zadd(keys.LOAD_TESTS, {run.id: run.started})
        pipe.zremrangebyscore(keys.LOAD_TESTS, "-inf", run.started - LIFETIME_SECONDS)
        pipe.zrange(keys.LOAD_TESTS, 0, -MAX_RUNS - 1)
        *_, forgotten = await pipe.execute()
    if forgotten:
        await redis.delete(*map(_key, forgotten))
        await redis.zrem(keys.LOAD_TESTS, *forgotten)
    await enqueue_step(redis, run)


async def enqueue_step(redis: ArqRedis, run: LoadTestRun) -> None:
    """Queue the step after `run.step`, unless it is queued already or the run has ended."""
    now = timestamp_ms()
    all_sent = run.sent == run.test.tasks
    due = run.deadline if all_sent else time.time() + run.test.delay_seconds
    job = serialize_job(ORCHESTRATOR, (run.id,), {}, None, now, serializer=serialize)
    await run_script(
        redis,
        "enqueue_load_test_step",
        [keys.load_test(run.id), WORKER_QUEUES["load_test"]["queue_name"]],
        [
            run.step,
            run.step + 1,
            run.step_id(run.step + 1),
            job,
            math.ceil(min(due, run.deadline) * 1000),
            expires_extra_ms,
        ],
    )


async def load_run(redis: ArqRedis, run_id: str) -> LoadTestRun:
    """Read a run.

    Raises:
        RunNotFoundError: No run has this id, or what is stored is not a run of this version.
    """
    found = await _load_runs(redis, [run_id.encode(errors="replace")])
    if not found:
        raise RunNotFoundError(f"There is no run {run_id!r}: {LIST}.")
    (run,) = found.values()
    if run is None:
        raise RunNotFoundError(f"Run {run_id!r} is unreadable: {LIST}.")
    return run


async def list_runs(redis: ArqRedis, limit: int = MAX_RUNS) -> dict[str, LoadTestRun | None]:
    """Return the newest runs by their ids, the newest first; None is one that is unreadable."""
    return await _load_runs(redis, await redis.zrange(keys.LOAD_TESTS, 0, limit - 1, desc=True))


async def send(redis: ArqRedis, run: LoadTestRun, *, seconds: float) -> None:
    """Send the next batches for `seconds`, or one batch if the test has a delay between batches.

    It stops at the deadline, and when the run has ended or is no longer stored. It can be
    interrupted anywhere and called again: no job is sent twice.
    """
    test, stop = run.test, time.monotonic() + seconds
    while run.sent < test.tasks and not run.is_over:
        numbers = range(run.sent, min(run.sent + test.batch_size, test.tasks))
        jobs = zip(run.job_ids(numbers), _arguments(test, numbers), strict=True)
        await enqueue_bulk(redis, run.queue_name, test.function, jobs)
        run.sent = numbers.stop
        if not await _update(redis, run, "sent", run.sent):
            return
        if test.delay_seconds or time.monotonic() >= stop:
            return


class Collector:
    """Reads the results of a run as they come, each once."""

    def __init__(self, redis: ArqRedis, run: LoadTestRun) -> None:
        """Begin with the first job of the run."""
        self.redis = redis
        self.run = run
        self.outcomes = Outcomes()
        self._next = 0
        # The jobs before the next one that have no result yet.
        self._open: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Whether it is known of each job what happened to it."""
        return self.outcomes.finished + self.outcomes.lost == self.run.test.tasks

    async def collect(self) -> None:
        """Read the results that have come since the last call; queue a step that was lost."""
        if self.run.is_over:
            await self._collect_rest()
            return
        found = MAX_BATCH_JOBS
        while found >= MAX_BATCH_JOBS // 2:
            stop = min(self._next + MAX_BATCH_JOBS - len(self._open), self.run.sent)
            found = await self._read([*self._open, *range(self._next, stop)])
            self._next = stop
        if not found:
            await self._count_lost_jobs()
            await self._replace_lost_step()

    async def report(self) -> LoadTestReport:
        """Return the figures so far; if the run has ended, return the ones stored with it."""
        server_cpu_seconds = await _server_cpu_seconds(self.redis)
        used = server_cpu_seconds - self.run.server_cpu_seconds
        report = summarize(self.outcomes, self.run, used)
        return await self._end(report) if self.is_complete or self.run.is_over else report

    async def _read(self, numbers: list[int]) -> int:
        results = await read_results(self.redis, self.run.job_ids(numbers))
        self._open = []
        for number, result in zip(numbers, results, strict=True):
            if result is None:
                self._open.append(number)
            else:
                self.outcomes.add(result)
        return len(numbers) - len(self._open)

    async def _collect_rest(self) -> None:
        """Read what there is of each job that has no result yet, once."""
        rest = [*self._open, *range(self._next, self.run.sent)]
        still_open: list[int] = []
        for numbers in _batches(rest):
            await self._read(numbers)
            await self._count_lost_jobs()
            still_open += self._open
        self._open, self._next = still_open, self.run.sent

    async def _count_lost_jobs(self) -> None:
        run, waiting = self.run, self._open
        queued = await are_queued(self.redis, run.queue_name, run.job_ids(waiting))
        gone = [number for number, found in zip(waiting, queued, strict=True) if not found]
        # A job leaves the queue as its result is written, so look for that once more.
        await self._read(gone)
        self.outcomes.lost += len(self._open)
        self._open = [number for number, found in zip(waiting, queued, strict=True) if found]

    async def _replace_lost_step(self) -> None:
        run, queue = self.run, WORKER_QUEUES["load_test"]["queue_name"]
        (queued,) = await are_queued(self.redis, queue, [run.step_id(run.step)])
        if not queued:
            await enqueue_step(self.redis, run)

    async def _end(self, report: LoadTestReport) -> LoadTestReport:
        """Store the report if it is the first one, and withdraw the jobs that are still queued."""
        run, queue = self.run, WORKER_QUEUES["load_test"]["queue_name"]
        if not await _update(self.redis, run, "report", report.model_dump_json()):
            stored = (await _load_runs(self.redis, [run.id.encode()])).get(run.id)
            report = (stored and stored.report) or report
        for numbers in _batches(self._open):
            await withdraw_jobs(self.redis, run.queue_name, run.job_ids(numbers))
        await withdraw_jobs(self.redis, queue, [run.step_id(run.step)])
        return report


@dataclass
class LoadTestProgress:
    """How far a run is; `outage` says why Redis does not answer."""

    done: int = 0
    failed: int = 0
    queued: int = 0
    outage: RedisError | None = None


async def watch(collector: Collector, interval: float = 0.2) -> AsyncIterator[LoadTestProgress]:
    """Collect until the run ends, and yield how far it is; wait while Redis does not answer.

    Args:
        collector: The collector of the run.
        interval: The seconds between two looks.

    Raises:
        RunNotFoundError: The run is no longer stored.
        RedisError: Redis does not answer at the deadline.
    """
    run, redis = collector.run, collector.redis
    progress = LoadTestProgress()
    while True:
        is_over = run.is_over
        try:
            sent, step = await redis.hmget(keys.load_test(run.id), ["sent", "step"])  # type: ignore[misc]
            if sent is None:
                raise RunNotFoundError(
                    f"Run {run.id} is no longer stored: Redis has lost its data."
                )
            run.sent, run.step = int(sent), int(step)
            await collector.collect()
            progress.queued = await redis.zcard(run.queue_name)
            progress.outage = None
        except (RedisConnectionError, RedisTimeoutError) as error:
            if is_over:
                raise
            progress.outage = error
        progress.done = collector.outcomes.finished
        progress.failed = collector.outcomes.failed
        yield progress
        if collector.is_complete or is_over:
            return
        await asyncio.sleep(interval)


async def read_report(redis: ArqRedis, run: LoadTestRun) -> LoadTestReport:
    """Return a run's report: the stored one, or the figures so far."""
    if run.report:
        return run.report
    collector = Collector(redis, run)
    await collector.collect()
    return await collector.report()


def _batches(numbers: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), MAX_BATCH_JOBS):
        yield numbers[start : start + MAX_BATCH_JOBS]


def _key(run_id: bytes) -> bytes:
    return keys.load_test("").encode() + run_id


async def _load_runs(redis: ArqRedis, run_ids: Sequence[bytes]) -> dict[str, LoadTestRun | None]:
    async with redis.pipeline(transaction=False) as pipe:
        for run_id in run_ids:
            pipe.hmget(_key(run_id), FIELDS)  # type: ignore[arg-type]
        stored = await pipe.execute(raise_on_error=False)
    runs: dict[str, LoadTestRun | None] = {}
    for run_id, values in zip(run_ids, stored, strict=True):
        if isinstance(values, ResponseError) and str(values).startswith("WRONGTYPE"):
            values = [b""]
        if isinstance(values, Exception):
            raise values
        # The sorted set remembers a run for longer than its hash lives.
        if any(value is not None for value in values):
            name = run_id.decode(errors="backslashreplace")
            runs[name] = _parse(name, values)
    return runs


def _parse(run_id: str, values: Sequence[bytes | None]) -> LoadTestRun | None:
    try:
        run, *state = [from_json(value or b"null") for value in values]
        fields = zip(FIELDS[1:], state, strict=True)
        known = {name: value for name, value in fields if value is not None}
        return LoadTestRun.model_validate(run | known | {"id": run_id})
    except (ValueError, TypeError):
        return None


async def _update(redis: ArqRedis, run: LoadTestRun, field: str, value: str | int) -> bool:
    """Set a field of a run; return False if the run has its report or is no longer stored."""
    key = keys.load_test(run.id)
    return bool(await run_script(redis, "update_load_test", [key], [field, value]))


def _arguments(test: LoadTest, numbers: Sequence[int]) -> list[dict[str, Any]]:
    if test.type == "failure_testing" and test.seed is not None:
        return [{"seed": test.seed + number} for number in numbers]
    return [{}] * len(numbers)


async def _server_cpu_seconds(redis: ArqRedis) -> float:
    cpu = await redis.info("cpu")
    return float(cpu["used_cpu_sys"] + cpu["used_cpu_user"])
