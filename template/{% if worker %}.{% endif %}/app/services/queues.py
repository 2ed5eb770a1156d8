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
MAX_PROBLEMS = 5
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
    ready: int = 0
    running: int = 0
    deferred: int = 0
    oldest_wait_seconds: float = 0
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
    # Redis may count a moment later. What another program has put further ahead is no worker.
    first, last = seconds - MAX_SILENCE_SECONDS, seconds + MAX_SILENCE_SECONDS
    return bool(await redis.zcount(index, first, last))


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
        return QueueStatus(name=name, status="fail", output=explain(errors[0]), workers=[])
    due, deferred, oldest, reported = replies
    locks = [in_progress_key_prefix.encode() + job_id for job_id, _ in oldest]
    records = [keys.worker(key, worker.decode(errors="replace")) for worker, _ in reported]
    values = await redis.mget(*locks, *records) if locks or records else []
    is_running = [value is not None for value in values[: len(locks)]]
    waits = [
        now - due_ms / 1000
        for (_, due_ms), running in zip(oldest, is_running, strict=True)
        if not running
    ]
    found = [
        read_worker(record, time, now)
        for record, (_, time) in zip(values[len(locks) :], reported, strict=True)
    ]
    workers = [worker for worker in found if worker]
    serving = [worker for worker in workers if worker.age_seconds <= MAX_SILENCE_SECONDS]
    check = QueueStatus(
        name=name,
        ready=due - sum(is_running),
        running=sum(is_running),
        deferred=deferred,
        oldest_wait_seconds=round(max(waits, default=0), 3),
        workers=serving,
        silent=len(workers) - len(serving),
    )
    problems = []
    if not serving:
        problems.append(
            "no worker has reported; start one with "
            f"`python -m arq app.components.worker.queues.{name}.WorkerSettings`"
        )
    if check.oldest_wait_seconds > MAX_WAIT_SECONDS:
        problems.append(
            f"{check.ready} jobs are ready, the oldest for {check.oldest_wait_seconds:.0f} s; "
            "start more workers or raise max_jobs"
        )
    problems += [worker.warning for worker in workers if worker.warning]
    if problems:
        more = f" (and {len(problems) - MAX_PROBLEMS} more)" if len(problems) > MAX_PROBLEMS else ""
        check.output = "; ".join(problems[:MAX_PROBLEMS]) + more
        check.status = "warn" if serving else "fail"
    return check
