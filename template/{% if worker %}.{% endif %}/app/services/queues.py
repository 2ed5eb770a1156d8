"""The state of a queue and of its workers."""

import re
import time

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from pydantic import BaseModel

from app.core import keys
from app.core.config import WORKER_QUEUES, WorkerQueue
from app.services.checks import Check

# A ready job that has waited longer than this, in seconds, says that the queue needs more workers.
MAX_WAIT_SECONDS = 60
# Running jobs stay in arq's queue. They are looked for among this many of its oldest jobs, which is
# more than the workers read in a poll.
QUEUE_WINDOW = 1000
QUEUE_PREFIX = "arq:queue:"


class Worker(BaseModel):
    """What a worker last reported through its sentinel key."""

    name: str
    age_seconds: float
    j_complete: int
    j_failed: int
    j_retried: int
    j_ongoing: int


class QueueStatus(Check):
    """A queue of `WORKER_QUEUES` and the workers that serve it."""

    name: str
    ready: int
    running: int
    deferred: int
    oldest_wait_seconds: float
    workers: list[Worker]


async def list_queues(redis: ArqRedis) -> list[QueueStatus]:
    """Return the queues of `WORKER_QUEUES` as they are now."""
    return [await check_queue(redis, name, queue) for name, queue in WORKER_QUEUES.items()]


def show_queue(queue_name: str) -> str:
    """Return the name in `WORKER_QUEUES` of one of arq's queues."""
    return queue_name.removeprefix(QUEUE_PREFIX)


async def check_queue(redis: ArqRedis, name: str, queue: WorkerQueue) -> QueueStatus:
    """Count a queue's jobs and read its workers' reports, in two round trips."""
    key, now = queue["queue_name"], time.time()
    now_ms = int(now * 1000)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zcount(key, "-inf", now_ms)
        pipe.zcount(key, f"({now_ms}", "inf")
        pipe.zrangebyscore(key, "-inf", now_ms, start=0, num=QUEUE_WINDOW, withscores=True)
        pipe.zrange(keys.workers(key), 0, -1)
        due, deferred, oldest, registered = await pipe.execute()
    # A worker without our hooks reports under arq's default key.
    sentinels = [f"{key}:health-check", *(sentinel.decode() for sentinel in registered)]
    async with redis.pipeline(transaction=False) as pipe:
        for job_id, _ in oldest:
            pipe.exists(in_progress_key_prefix + job_id.decode())
        for sentinel in sentinels:
            pipe.get(sentinel)
            pipe.pttl(sentinel)
        answers = await pipe.execute()
    in_progress, reports = answers[: len(oldest)], answers[len(oldest) :]

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
        workers=[
            _read_report(sentinel, text.decode(), ttl_ms)
            for sentinel, text, ttl_ms in zip(sentinels, reports[::2], reports[1::2], strict=True)
            if text
        ],
    )
    late = [worker for worker in check.workers if worker.age_seconds > keys.HEALTH_CHECK_INTERVAL]
    if not check.workers:
        check.status = "fail"
        check.output = (
            "no worker has reported; start one with "
            f"`python -m arq app.components.worker.queues.{name}.WorkerSettings`"
        )
    elif check.oldest_wait_seconds > MAX_WAIT_SECONDS:
        check.status = "warn"
        check.output = (
            f"{check.ready} jobs are ready, the oldest for {check.oldest_wait_seconds:.0f} s; "
            "start more workers or raise max_jobs"
        )
    elif late:
        check.status = "warn"
        check.output = (
            f"{late[0].name} has not reported for {late[0].age_seconds:.1f} s; "
            "a task may block its event loop"
        )
    return check


def _read_report(sentinel: str, text: str, ttl_ms: int) -> Worker:
    # arq writes "Nov-24 08:30:00 j_complete=1 j_failed=0 …", to last a second over the interval.
    figures = {name: int(value) for name, value in re.findall(r"(j_\w+)=(\d+)", text)}
    age = keys.HEALTH_CHECK_INTERVAL + 1 - ttl_ms / 1000
    return Worker(name=sentinel, age_seconds=round(age, 3), **figures)
