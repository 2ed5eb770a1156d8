"""The list of jobs: those that wait or run, and those that ended lately."""

import msgpack
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.utils import timestamp_ms

from app.core.config import WORKER_QUEUES
from app.services.history import list_ended
from app.services.job_lookup import EXPIRED, unfinished_state
from app.services.jobs import (
    JobState,
    JobSummary,
    or_empty,
    or_unreadable,
    require_queue,
    show_id,
    to_count,
    to_time,
)

UNFINISHED: tuple[JobState, ...] = ("queued", "deferred", "running", "retrying")
# Of each queue, this many jobs are looked at: those that are due last, or for `running` and
# `retrying` those that were due first.
MAX_WAITING = 500
# arq writes the name of the task before its arguments, so the beginning of a job tells it.
HEAD_BYTES = 300


async def list_jobs(
    redis: ArqRedis,
    *,
    queue: str | None = None,
    task: str | None = None,
    state: str | None = None,
    limit: int = 100,
) -> list[JobSummary]:
    """Return the newest jobs that meet every condition that is given.

    Jobs that wait or run come first, by when they are due, then those that ended lately. `queue` is
    one of `WORKER_QUEUES`, `task` arq's name of a task.

    Raises:
        InvalidJobError: There is no such queue.
    """
    if queue is not None:
        require_queue(queue)

    def matches(job: JobSummary) -> bool:
        wanted = (queue, job.queue), (task, job.task), (state, job.state)
        return all(value in (None, own) for value, own in wanted)

    found: list[JobSummary] = []
    if state not in ("succeeded", "aborted"):
        for name in WORKER_QUEUES if queue is None else (queue,):
            found += filter(matches, await _list_unfinished(redis, name, state))
    found.sort(key=lambda job: job.due.timestamp() if job.due else 0, reverse=True)
    if state not in UNFINISHED:
        found += await list_ended(redis, matches, limit)
    return found[:limit]


async def _list_unfinished(redis: ArqRedis, queue: str, state: str | None) -> list[JobSummary]:
    queue_name = WORKER_QUEUES[queue]["queue_name"]
    # The other jobs of a long queue would hide those that are asked for.
    if state in ("running", "retrying"):
        reading = redis.zrange(queue_name, 0, MAX_WAITING - 1, withscores=True)
    else:
        last = timestamp_ms() if state == "queued" else "+inf"
        reading = redis.zrevrangebyscore(queue_name, last, "-inf", 0, MAX_WAITING, withscores=True)
    scores = await or_empty(reading, [])
    if not scores:
        return []
    ids = [job_id for job_id, _ in scores]
    async with redis.pipeline(transaction=False) as pipe:
        pipe.mget([in_progress_key_prefix.encode() + job_id for job_id in ids])
        pipe.mget([retry_key_prefix.encode() + job_id for job_id in ids])
        for job_id in ids:
            pipe.getrange(job_key_prefix.encode() + job_id, 0, HEAD_BYTES)
        # A job that has ended since is no longer there.
        pipe.zmscore(queue_name, ids)
        replies = map(or_unreadable, await pipe.execute(raise_on_error=False))
        locks, tries, *heads, scores = replies
    jobs = []
    for job_id, score, lock, count, head in zip(ids, scores, locks, tries, heads, strict=True):
        if score is None:
            continue
        job = JobSummary(
            id=show_id(job_id),
            state=unfinished_state(lock, count, score),
            queue=queue,
            task=_read_task(head),
            tries=to_count(count),
            due=to_time(score),
        )
        if not head and not lock:
            job.state, job.error = "failed", EXPIRED
        jobs.append(job)
    return jobs


def _read_task(head: bytes) -> str | None:
    unpacker = msgpack.Unpacker()
    unpacker.feed(head)
    try:
        for _ in range(unpacker.read_map_header()):
            if unpacker.unpack() == "f":
                return str(unpacker.unpack())
            unpacker.skip()
    except (msgpack.UnpackException, ValueError):
        # The job is not one that arq has written with our serializer, or its name is very long.
        pass
    return None
