"""Malformed jobs: what would end arq's worker each time it starts becomes a dead letter instead."""

import math
import re

import structlog
from arq.connections import ArqRedis
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from arq.utils import timestamp_ms

from app.core import keys
from app.core.serializer import TaskError, serialize
from app.services.dead_letters import keep
from app.services.jobs import UNKNOWN_TASK, or_unreadable, show_id

# How many of the next jobs of a queue are looked at: a worker takes no more in a poll.
MAX_JOBS = 1000
RESULT_SECONDS = 3600
# A count of tries that arq can read and increment.
TRIES = re.compile(rb"[0-9]{1,9}")
# What PTTL returns for a key without an expiry.
LASTS_FOREVER = -1

log = structlog.stdlib.get_logger(__name__)


async def discard_malformed(redis: ArqRedis, queue_name: str) -> int:
    """Make dead letters of jobs that a worker cannot even take; return how many there were.

    Their id is not UTF-8, their time is not a number, or one of arq's keys for them holds a value
    of another type. Keys of the project that have another type, such as a queue, and ids to abort
    that are not UTF-8, are deleted.
    """
    await discard_other_types(redis, {**keys.TYPES, queue_name: "zset", abort_jobs_ss: "zset"})
    aborts = [job_id for job_id in await redis.zrange(abort_jobs_ss, 0, -1) if not _is_text(job_id)]
    if aborts:
        await redis.zrem(abort_jobs_ss, *aborts)

    jobs = await redis.zrange(queue_name, 0, MAX_JOBS - 1, withscores=True)
    if at_zero := [job_id for job_id, score in jobs if score == 0]:
        # arq takes this time for none, and never runs the job.
        await redis.zadd(queue_name, dict.fromkeys(at_zero, 1), xx=True)
    malformed = {job_id for job_id, score in jobs if not _is_text(job_id) or math.isinf(score)}
    # These would be the last of the queue for ever.
    malformed.update(await redis.zrangebyscore(queue_name, "+inf", "+inf", 0, MAX_JOBS))
    next_jobs = [job_id for job_id, _ in jobs]
    async with redis.pipeline(transaction=False) as pipe:
        for job_id in next_jobs:
            pipe.type(job_key_prefix.encode() + job_id)
            pipe.get(retry_key_prefix.encode() + job_id)
            pipe.pttl(in_progress_key_prefix.encode() + job_id)
        # Any other error says nothing about a job.
        values = [or_unreadable(value) for value in await pipe.execute(raise_on_error=False)]
    for job_id, kind, tries, lock_ms in zip(
        next_jobs, values[::3], values[1::3], values[2::3], strict=True
    ):
        if lock_ms == LASTS_FOREVER:
            # No worker wrote it: none would ever run the job.
            await redis.delete(in_progress_key_prefix.encode() + job_id)
        is_count = tries is None or TRIES.fullmatch(tries)
        if kind not in (b"string", b"none") or not is_count:
            malformed.add(job_id)
    for job_id in malformed:
        await _discard(redis, queue_name, job_id)
    return len(malformed)


async def discard_other_types(redis: ArqRedis, types: dict[str, str]) -> None:
    """Delete the keys that have another type than this: what reads and writes them would fail."""
    async with redis.pipeline(transaction=False) as pipe:
        for name in types:
            pipe.type(name)
        found = await pipe.execute()
    for name, kind in zip(types, found, strict=True):
        if kind not in (types[name].encode(), b"none"):
            log.warning("deleted a key of another type", key=name)
            await redis.delete(name)


async def _discard(redis: ArqRedis, queue_name: str, job_id: bytes) -> None:
    now, shown = timestamp_ms(), show_id(job_id)
    error = TaskError("malformed job: a worker cannot take it")
    raw = serialize(
        {"f": UNKNOWN_TASK, "a": [], "k": {}, "et": 0, "s": False, "r": error, "t": 0}
        | {"st": now, "ft": now, "q": queue_name, "id": shown}
    )
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zrem(queue_name, job_id)
        for prefix in (job_key_prefix, retry_key_prefix, in_progress_key_prefix):
            pipe.delete(prefix.encode() + job_id)
        pipe.set(result_key_prefix.encode() + job_id, raw, ex=RESULT_SECONDS)
        await pipe.execute()
    await keep(redis, job_id, raw, now)
    log.warning("made a dead letter of a malformed job", job_id=shown, queue=queue_name)


def _is_text(job_id: bytes) -> bool:
    return show_id(job_id).encode() == job_id
