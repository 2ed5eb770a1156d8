"""Load tests: a run is stored, sent by the orchestrator task, and read back job by job.

The jobs of a run have its id and their number as theirs, so that sending a batch twice sends it
once, and so that the result of each is found again.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from arq import func
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from pydantic import BaseModel, Field

from app.core import keys
from app.core.bulk import are_queued, read_results, send_jobs
from app.core.config import WORKER_QUEUES
from app.services.load_test_report import Outcomes, Report, summarize
from app.services.queues import check_queue

LoadTestType = Literal["cpu_intensive", "io_simulation", "memory_operations", "failure_testing"]

RUNS_KEPT = 100
LIFETIME = 7 * 24 * 3600
ORCHESTRATOR = "load_test_orchestrator"
# Results are looked for among this many of the oldest jobs that have none yet.
WINDOW = 1000


class LoadTest(BaseModel):
    """What to run."""

    type: LoadTestType
    tasks: int = Field(default=10, ge=1, le=1_000_000)
    batch_size: int = Field(default=500, ge=1, le=1000)
    delay_seconds: float = Field(default=0, ge=0, le=60, description="Between batches.")
    queue: str = "load_test"
    timeout_seconds: float = Field(default=300, gt=0, le=3000, description="For the whole run.")
    seed: int | None = Field(default=None, description="Decides which tasks fail.")

    @property
    def function(self) -> str:
        """The name of the task function."""
        return f"{self.type}_task"


class Run(BaseModel):
    """A load test as it is stored, with what its worker's settings were."""

    id: str
    test: LoadTest
    queue_name: str
    max_jobs: int
    poll_delay: float
    read_limit: int
    started: float
    server_cpu_seconds: float
    sent: int = 0
    report: Report | None = None

    @property
    def deadline(self) -> float:
        """When to stop waiting, in seconds of the epoch."""
        return self.started + self.test.timeout_seconds

    def job_id(self, number: int) -> str:
        """Return the id of a job of the run."""
        return f"{keys.BULK_PREFIX}{self.id}:{number}"


class RefusedError(ValueError):
    """The load test cannot work; the message says why, and what would mend it."""


class RunNotFoundError(LookupError):
    """No run has that id, or it was too long ago."""


async def start(redis: ArqRedis, test: LoadTest, worker_settings: Any) -> Run:
    """Store a new run, and queue the orchestrator, which sends its jobs.

    `worker_settings` is the class of the queue that the test names.

    Raises:
        RefusedError: The queue does not run the task, or a worker is missing.
    """
    for name in dict.fromkeys(["load_test", test.queue]):
        if name not in WORKER_QUEUES:
            raise RefusedError(f"queue {name!r} is none of {', '.join(WORKER_QUEUES)}")
        health = await check_queue(redis, name, WORKER_QUEUES[name])
        if not health.workers:
            raise RefusedError(f"queue {name}: {health.output}")
    if test.function not in {function.name for function in map(func, worker_settings.functions)}:
        raise RefusedError(f"queue {test.queue} does not list {test.function} in `functions`")
    run = await create_run(redis, test, worker_settings)
    await call_orchestrator(redis, run)
    return run


async def create_run(redis: ArqRedis, test: LoadTest, worker_settings: Any) -> Run:
    """Store a new run, and forget the oldest ones."""
    run = Run(
        id=uuid.uuid4().hex[:12],
        test=test,
        queue_name=worker_settings.queue_name,
        max_jobs=worker_settings.max_jobs,
        poll_delay=worker_settings.poll_delay,
        read_limit=worker_settings.queue_read_limit,
        started=time.time(),
        server_cpu_seconds=await _server_cpu_seconds(redis),
    )
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hset(keys.load_test(run.id), "run", run.model_dump_json(exclude={"sent", "report"}))
        pipe.expire(keys.load_test(run.id), LIFETIME)
        pipe.zadd(keys.LOAD_TESTS, {run.id: run.started})
        pipe.zremrangebyscore(keys.LOAD_TESTS, "-inf", run.started - LIFETIME)
        pipe.zrange(keys.LOAD_TESTS, 0, -RUNS_KEPT - 1)
        *_, forgotten = await pipe.execute()
    if forgotten:
        await redis.delete(*(keys.load_test(run_id.decode()) for run_id in forgotten))
        await redis.zrem(keys.LOAD_TESTS, *forgotten)
    return run


async def call_orchestrator(redis: ArqRedis, run: Run) -> None:
    """Queue the next step of a run: to send what is next or, when its time is over, to report."""
    all_sent = run.sent == run.test.tasks
    await redis.enqueue_job(
        ORCHESTRATOR,
        run.id,
        _job_id=_report_job_id(run) if all_sent else f"{run.id}:from-{run.sent}",
        _queue_name=WORKER_QUEUES["load_test"]["queue_name"],
        _defer_by=max(run.deadline - time.time(), 0) if all_sent else run.test.delay_seconds,
    )


async def load_run(redis: ArqRedis, run_id: str) -> Run:
    """Read a run.

    Raises:
        RunNotFoundError: There is none.
    """
    fields = await redis.hgetall(keys.load_test(run_id))  # type: ignore[misc]
    if not fields:
        raise RunNotFoundError(f"there is no run {run_id!r}")
    run = Run.model_validate_json(fields[b"run"])
    run.sent = int(fields.get(b"sent", 0))
    if b"report" in fields:
        run.report = Report.model_validate_json(fields[b"report"])
    return run


async def list_runs(redis: ArqRedis) -> list[Run]:
    """Return the runs that are kept, the newest first."""
    run_ids = [run_id.decode() for run_id in await redis.zrange(keys.LOAD_TESTS, 0, -1, desc=True)]
    return [await load_run(redis, run_id) for run_id in run_ids]


async def send(redis: ArqRedis, run: Run, *, seconds: float) -> None:
    """Send the batches that are next, for so long, or one batch where a delay is asked for.

    It can be interrupted anywhere and called again: no job is sent twice.
    """
    test, stop = run.test, time.monotonic() + seconds
    while run.sent < test.tasks:
        numbers = range(run.sent, min(run.sent + test.batch_size, test.tasks))
        await send_jobs(
            redis,
            run.queue_name,
            test.function,
            [(run.job_id(number), _arguments(test, number)) for number in numbers],
        )
        run.sent = numbers.stop
        await redis.hset(keys.load_test(run.id), "sent", str(run.sent))  # type: ignore[misc]
        if test.delay_seconds or time.monotonic() >= stop:
            return


class Collector:
    """Reads the results of a run as they come, each once."""

    def __init__(self, redis: ArqRedis, run: Run) -> None:
        """Begin with the first job of the run."""
        self.redis = redis
        self.run = run
        self.outcomes = Outcomes()
        self._next = 0
        self._open: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Whether it is known of each job what became of it."""
        return self.outcomes.finished + self.outcomes.lost == self.run.test.tasks

    async def collect(self) -> None:
        """Read the results that have come since the last call."""
        found = WINDOW
        while found >= WINDOW // 2:
            stop = min(self._next + WINDOW - len(self._open), self.run.test.tasks)
            found = await self._read([*self._open, *range(self._next, stop)])
            self._next = stop
        if not found:
            await self._look_for_lost_jobs()

    async def report(self) -> Report:
        """Return the figures so far; those of a complete run are stored with it."""
        report = summarize(
            self.outcomes,
            tasks=self.run.test.tasks,
            sent=self.run.sent,
            max_jobs=self.run.max_jobs,
            poll_delay=self.run.poll_delay,
            read_limit=self.run.read_limit,
            server_cpu_seconds=await _server_cpu_seconds(self.redis) - self.run.server_cpu_seconds,
        )
        if self.is_complete or time.time() >= self.run.deadline:
            await self._store(report)
        return report

    async def _store(self, report: Report) -> None:
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.load_test(self.run.id), "report", report.model_dump_json())
            # The orchestrator need not do it again when the run's time is over.
            pipe.zrem(WORKER_QUEUES["load_test"]["queue_name"], _report_job_id(self.run))
            pipe.delete(job_key_prefix + _report_job_id(self.run))
            await pipe.execute()

    async def _read(self, numbers: list[int]) -> int:
        results = await read_results(self.redis, [self.run.job_id(number) for number in numbers])
        self._open = []
        for number, result in zip(numbers, results, strict=True):
            if result is None:
                self._open.append(number)
            else:
                self.outcomes.add(result)
        return len(numbers) - len(self._open)

    async def _look_for_lost_jobs(self) -> None:
        sent = [number for number in self._open if number < self.run.sent]
        queued = await are_queued(
            self.redis, self.run.queue_name, [self.run.job_id(number) for number in sent]
        )
        gone = {number for number, is_queued in zip(sent, queued, strict=True) if not is_queued}
        if gone:
            # A job leaves the queue as its result is written: look once more for that.
            still_open = [number for number in self._open if number not in gone]
            await self._read(sorted(gone))
            self.outcomes.lost += len(self._open)
            self._open = still_open


@dataclass
class Progress:
    """How far a run is."""

    done: int
    failed: int
    queued: int
    seconds: float


async def watch(collector: Collector, interval: float = 0.2) -> AsyncIterator[Progress]:
    """Collect until the run is complete or its time is over, and tell how far it is."""
    run, redis = collector.run, collector.redis
    while True:
        run.sent = (await load_run(redis, run.id)).sent
        await collector.collect()
        yield Progress(
            done=collector.outcomes.finished,
            failed=collector.outcomes.failed,
            queued=await redis.zcard(run.queue_name),
            seconds=time.time() - run.started,
        )
        if collector.is_complete or time.time() >= run.deadline:
            return
        await asyncio.sleep(interval)


async def read_report(redis: ArqRedis, run: Run) -> Report:
    """Return a run's report: the stored one, or one of what there is now."""
    if run.report:
        return run.report
    collector = Collector(redis, run)
    await collector.collect()
    return await collector.report()


def _report_job_id(run: Run) -> str:
    return f"{run.id}:report"


def _arguments(test: LoadTest, number: int) -> dict[str, Any]:
    if test.type == "failure_testing" and test.seed is not None:
        return {"seed": test.seed + number}
    return {}


async def _server_cpu_seconds(redis: ArqRedis) -> float:
    cpu = await redis.info("cpu")
    return float(cpu["used_cpu_sys"] + cpu["used_cpu_user"])
