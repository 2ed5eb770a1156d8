"""The state of a queue and of its workers."""

from collections.abc import Sequence
from typing import Protocol

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.cron import CronJob
from arq.typing import WorkerCoroutine
from arq.worker import Function
from redis.exceptions import RedisError

from app.core import keys
from app.core.config import WORKER_QUEUES, WorkerQueue, settings
from app.core.errors import explain
from app.services.checks import Check
from app.services.workers import MAX_SILENCE_SECONDS, Worker, read_worker

MAX_WAIT_SECONDS = settings.MAX_WAIT_SECONDS
# Running jobs stay in arq's queue. They are looked for among this many of its oldest jobs, which is
# more than the workers read in a poll.
QUEUE_WINDOW = 1000
MAX_WORKERS = 1000
MAX_WARNINGS = 5
QUEUE_PREFIX = "arq:queue:"


class QueueSettings(Protocol):
    """A `WorkerSettings` class, as far as the project itself reads it."""

    functions: Sequence[WorkerCoroutine | Function]
    cron_jobs: Sequence[CronJob]
    queue_name: str
    max_jobs: int
    max_tries: int
    poll_delay: float
    queue_read_limit: int


class QueueStatus(Check):
    """A queue of `WORKER_QUEUES` and the workers that serve it."""

    name: str
    ready: int
    running: int
    deferred: int
    oldest_wait_seconds: float
    workers: list[Worker]
    # Workers that were killed, or whose event loop is blocked.
    silent: int = 0


async def list_queues(redis: ArqRedis) -> list[QueueStatus]:
    """Return the queues of `WORKER_QUEUES` as they are now."""
    return [await check_queue(redis, name, queue) for name, queue in WORKER_QUEUES.items()]


async def has_worker(redis: ArqRedis, queue: WorkerQueue) -> bool:
    """Say whether a worker of the queue has reported lately."""
    seconds, _ = await redis.time()
    index = keys.workers(queue["queue_name"])
    return bool(await redis.zcount(index, seconds - MAX_SILENCE_SECONDS, "+inf"))


def show_queue(queue_name: str) -> str:
    """Return the name in `WORKER_QUEUES` of one of arq's queues."""
    return queue_name.removeprefix(QUEUE_PREFIX)


async def check_queue(redis: ArqRedis, name: str, queue: WorkerQueue) -> QueueStatus:
    """Count a queue's jobs and read its workers' records, in three round trips.

    Times are those of Redis, so that the clock of this host does not matter.
    """
    key, index = queue["queue_name"], keys.workers(queue["queue_name"])
    seconds, microseconds = await redis.time()
    now = seconds + microseconds / 1_000_000
    now_ms = int(now * 1000)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zcount(key, "-inf", now_ms)
        pipe.zcount(key, f"({now_ms}", "inf")
        pipe.zrangebyscore(key, "-inf", now_ms, start=0, num=QUEUE_WINDOW, withscores=True)
        pipe.zrange(index, 0, MAX_WORKERS - 1, withscores=True)
        replies = await pipe.execute(raise_on_error=False)
    if errors := [reply for reply in replies if isinstance(reply, RedisError)]:
        return _unreadable(name, errors[0])
    due, deferred, oldest, reported = replies
    names = [
        *(in_progress_key_prefix.encode() + job_id for job_id, _ in oldest),
        *(keys.worker(key, worker_name.decode(errors="replace")) for worker_name, _ in reported),
    ]
    answers = await redis.mget(names) if names else []
    in_progress = [answer is not None for answer in answers[: len(oldest)]]
    records = zip(answers[len(oldest) :], reported, strict=True)
    workers = [
        worker
        for record, (_, time) in records
        if isinstance(record, bytes) and (worker := read_worker(record, time, now))
    ]
    waits = [
        now - score / 1000
        for (_, score), running in zip(oldest, in_progress, strict=True)
        if not running
    ]
    check = QueueStatus(
        name=name,
        ready=due - sum(in_progress),
        running=sum(in_progress),
        deferred=deferred,
        oldest_wait_seconds=round(max(waits, default=0), 3),
        workers=[worker for worker in workers if worker.age_seconds <= MAX_SILENCE_SECONDS],
    )
    check.silent = len(workers) - len(check.workers)
    warnings = [worker.warning for worker in workers if worker.warning]
    if check.oldest_wait_seconds > MAX_WAIT_SECONDS:
        warnings.insert(
            0,
            f"{check.ready} jobs are ready, the oldest for {check.oldest_wait_seconds:.0f} s; "
            "start more workers or raise max_jobs",
        )
    if not check.workers:
        check.status = "fail"
        warnings.insert(
            0,
            "no worker has reported; start one with "
            f"`python -m arq app.components.worker.queues.{name}.WorkerSettings`",
        )
    elif warnings:
        check.status = "warn"
    if warnings:
        more = f" (and {len(warnings) - MAX_WARNINGS} more)" if len(warnings) > MAX_WARNINGS else ""
        check.output = "; ".join(warnings[:MAX_WARNINGS]) + more
    return check


def _unreadable(name: str, error: RedisError) -> QueueStatus:
    return QueueStatus(
        status="fail",
        output=explain(error),
        name=name,
        ready=0,
        running=0,
        deferred=0,
        oldest_wait_seconds=0,
        workers=[],
    )
