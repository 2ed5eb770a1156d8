"""Load tests: store a run, send its jobs in steps, and collect what happened to each job.

A job's id is made of the run's id and the job's number, so that a batch that is sent twice is
enqueued once, and the result of each job is found again. The steps are jobs of the orchestrator:
each sends for a few seconds and queues the next one, and the last one ends the run at its deadline.
"""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence

from arq import func
from arq.connections import ArqRedis
from arq.jobs import serialize_job
from arq.utils import timestamp_ms
from pydantic_core import from_json
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app import NAME
from app.core import bulk, keys
from app.core.config import WORKER_QUEUES
from app.core.memory import require_memory
from app.core.redis import MAX_QUEUED_MS
from app.core.scripts import run_script
from app.core.serializer import serialize
from app.services.jobs import UNREADABLE, JobConflictError, JobNotFoundError, or_unreadable
from app.services.load_test_report import (
    LoadTest,
    LoadTestReport,
    LoadTestRun,
    Outcomes,
    summarize,
)
from app.services.malformed import discard_other_types
from app.services.queues import QueueSettings, check_queue

MAX_RUNS = 100
LIFETIME_SECONDS = 7 * 24 * 3600
ORCHESTRATOR = "load_test_orchestrator"
LIST = f"`{NAME} load-test list` shows the runs of the last week"
# A run's fields in its hash.
FIELDS = ["run", "sent", "step", "report"]
_PREFIX = keys.load_test("").encode()


async def prepare(
    redis: ArqRedis, test: LoadTest, find_settings: Callable[[str], QueueSettings]
) -> LoadTestRun:
    """Return a new run, with the settings of the queue's worker; nothing is stored yet.

    Raises:
        JobConflictError: The queue is unknown or does not run the task, or a worker is missing.
        MemoryFullError: Redis has no memory left.
    """
    for name in dict.fromkeys([test.queue, "load_test"]):
        if name not in WORKER_QUEUES:
            known = ", ".join(WORKER_QUEUES)
            raise JobConflictError(f"Queue {name!r} is not one of WORKER_QUEUES: {known}.")
        status = await check_queue(redis, name, WORKER_QUEUES[name])
        if not status.workers:
            raise JobConflictError(f"Queue {name}: {status.output}")
    settings = find_settings(test.queue)
    if test.function not in {func(function).name for function in settings.functions}:
        raise JobConflictError(
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
    await discard_other_types(redis, {keys.LOAD_TESTS: keys.TYPES[keys.LOAD_TESTS]})
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hset(keys.load_test(run.id), mapping=fields)
        pipe.expire(keys.load_test(run.id), LIFETIME_SECONDS)
        pipe.zadd(keys.LOAD_TESTS, {run.id: run.started})
        pipe.zremrangebyscore(keys.LOAD_TESTS, "-inf", run.started - LIFETIME_SECONDS)
        pipe.zrange(keys.LOAD_TESTS, 0, -MAX_RUNS - 1)
        *_, forgotten = await pipe.execute()
    if forgotten:
        await redis.delete(*(_PREFIX + run_id for run_id in forgotten))
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
            MAX_QUEUED_MS,
        ],
    )


async def load_run(redis: ArqRedis, run_id: str) -> LoadTestRun:
    """Read a run.

    Raises:
        JobNotFoundError: No run has this id, or what is stored is not a run of this version.
    """
    found = await _load_runs(redis, [run_id.encode(errors="replace")])
    for run in found.values():
        if run:
            return run
        raise JobNotFoundError(f"Run {run_id!r} is unreadable: {LIST}.")
    raise JobNotFoundError(f"There is no run {run_id!r}: {LIST}.")


async def list_runs(redis: ArqRedis, limit: int = MAX_RUNS) -> dict[str, LoadTestRun | None]:
    """Return the newest runs by their ids, the newest first; None is one that is unreadable."""
    if await redis.type(keys.LOAD_TESTS) != b"zset":
        return {}
    return await _load_runs(redis, await redis.zrange(keys.LOAD_TESTS, 0, limit - 1, desc=True))


async def send(redis: ArqRedis, run: LoadTestRun, *, seconds: float) -> None:
    """Send the next batches for `seconds`, or one batch if the test has a delay between batches.

    It stops at the deadline, and when the run has ended or is no longer stored. It can be
    interrupted anywhere and called again: no job is sent twice.
    """
    test, stop = run.test, time.monotonic() + seconds
    while run.sent < test.tasks and not run.is_over:
        numbers = range(run.sent, min(run.sent + test.batch_size, test.tasks))
        arguments = (
            {"seed": test.seed + number}
            if test.type == "failure_testing" and test.seed is not None
            else {}
            for number in numbers
        )
        jobs = zip(run.job_ids(numbers), arguments, strict=True)
        await bulk.enqueue_bulk(redis, run.queue_name, test.function, jobs)
        run.sent = numbers.stop
        if not await _update(redis, run, "sent", run.sent):
            return
        if test.delay_seconds or time.monotonic() >= stop:
            return


class Collector:
    """Reads the results of a run as they come, each once."""

    def __init__(self, redis: ArqRedis, run: LoadTestRun) -> None:
        """Begin with the first job of the run."""
        self.redis, self.run = redis, run
        self.outcomes = Outcomes()
        # Jobs from this number on are still to be looked at. Of those before, these had not ended.
        self._next = 0
        self._open: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Whether it is known of each job what happened to it."""
        return self.outcomes.finished + self.outcomes.lost == self.run.test.tasks

    async def collect(self) -> None:
        """Read the results that have come since the last call; queue a step that was lost."""
        run = self.run
        if run.is_over:
            await self._look_at(run.sent)
            return
        ended = bulk.MAX_BATCH_JOBS
        while ended >= bulk.MAX_BATCH_JOBS // 2:
            room = bulk.MAX_BATCH_JOBS - len(self._open)
            ended = await self._look_at(min(self._next + room, run.sent))
        if not ended:
            queue = WORKER_QUEUES["load_test"]["queue_name"]
            if await bulk.are_queued(self.redis, queue, [run.step_id(run.step)]) == [False]:
                await enqueue_step(self.redis, run)

    async def report(self) -> LoadTestReport:
        """Return the figures so far.

        When the run has ended, they are stored as its report, unless it has one, which is returned
        then; and its jobs that are still queued are withdrawn.
        """
        run = self.run
        used = await _server_cpu_seconds(self.redis) - run.server_cpu_seconds
        report = summarize(self.outcomes, run, used)
        if not (self.is_complete or run.is_over):
            return report
        if not await _update(self.redis, run, "report", report.model_dump_json()):
            stored = (await _load_runs(self.redis, [run.id.encode()])).get(run.id)
            report = (stored and stored.report) or report
        for numbers in bulk.batches(self._open):
            await bulk.withdraw_jobs(self.redis, run.queue_name, run.job_ids(numbers))
        queue = WORKER_QUEUES["load_test"]["queue_name"]
        # The next step may have been queued since `run.step` was read.
        steps = [run.step_id(step) for step in (run.step, run.step + 1)]
        await bulk.withdraw_jobs(self.redis, queue, steps)
        return report

    async def _look_at(self, stop: int) -> int:
        """Look at the open jobs and at those up to `stop`; return how many have ended."""
        numbers = [*self._open, *range(self._next, stop)]
        still_open = []
        for batch in bulk.batches(numbers):
            job_ids = self.run.job_ids(batch)
            # A job leaves the queue as its result is written: the other way round, one that ends
            # in between would have neither.
            queued = await bulk.are_queued(self.redis, self.run.queue_name, job_ids)
            results = await bulk.read_results(self.redis, job_ids)
            for number, result, is_queued in zip(batch, results, queued, strict=True):
                if result is not None:
                    self.outcomes.add(result)
                elif is_queued:
                    still_open.append(number)
                else:
                    self.outcomes.lost += 1
        self._next, self._open = stop, still_open
        return len(numbers) - len(still_open)


async def watch(collector: Collector, interval: float = 0.2) -> AsyncIterator[RedisError | None]:
    """Collect every `interval` seconds until the run ends; wait while Redis does not answer.

    Yields:
        Why Redis does not answer, or None, after each look.

    Raises:
        JobNotFoundError: The run is no longer stored.
        RedisError: Redis does not answer at the deadline.
    """
    run, redis = collector.run, collector.redis
    while True:
        is_over, outage = run.is_over, None
        try:
            stored = (await _load_runs(redis, [run.id.encode()])).get(run.id)
            if stored is None:
                raise JobNotFoundError(
                    f"Run {run.id} is no longer stored: Redis has lost its data."
                )
            run.sent, run.step = stored.sent, stored.step
            await collector.collect()
        except (RedisConnectionError, RedisTimeoutError) as error:
            if is_over:
                raise
            outage = error
        yield outage
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


async def _load_runs(redis: ArqRedis, run_ids: Sequence[bytes]) -> dict[str, LoadTestRun | None]:
    async with redis.pipeline(transaction=False) as pipe:
        for run_id in run_ids:
            pipe.hmget(_PREFIX + run_id, FIELDS)  # type: ignore[arg-type]
        stored = await pipe.execute(raise_on_error=False)
    runs: dict[str, LoadTestRun | None] = {}
    for run_id, values in zip(run_ids, map(or_unreadable, stored), strict=True):
        # The sorted set remembers a run for longer than its hash lives.
        if any(value is not None for value in values):
            name = run_id.decode(errors="backslashreplace")
            runs[name] = None if values == UNREADABLE else _parse(name, values)
    return runs


def _parse(run_id: str, values: Sequence[bytes | None]) -> LoadTestRun | None:
    known = zip(FIELDS, values, strict=True)
    try:
        fields = {name: from_json(value) for name, value in known if value is not None}
        run = LoadTestRun.model_validate(fields.pop("run") | fields | {"id": run_id})
        return run if run.sent <= run.test.tasks else None
    except (ValueError, TypeError, KeyError):
        return None


async def _update(redis: ArqRedis, run: LoadTestRun, field: str, value: str | int) -> bool:
    """Set a field of a run; return False if the run has its report or is no longer stored."""
    key = keys.load_test(run.id)
    return bool(await run_script(redis, "update_load_test", [key], [field, value]))


async def _server_cpu_seconds(redis: ArqRedis) -> float:
    cpu = await redis.info("cpu")
    return float(cpu["used_cpu_sys"] + cpu["used_cpu_user"])
