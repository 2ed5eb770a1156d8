"""Dead letters: jobs that have failed for good, kept until somebody requeues or purges them.

A letter is the failed result that arq wrote, byte for byte, under the id of its job. It is written
only while that result is there, so that one that is late brings back no job that was requeued.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from arq.connections import ArqRedis
from arq.constants import expires_extra_ms, result_key_prefix
from arq.jobs import serialize_job
from arq.utils import timestamp_ms
from pydantic import BaseModel, Field
from redis.asyncio.client import Pipeline

from app.core import keys
from app.core.scripts import queue_script, run_script
from app.core.serializer import Result, deserialize, serialize
from app.services.jobs import Job, JobNotFoundError, check_size, read_result

LETTERS_KEPT = 10_000
LIFETIME = 30 * 24 * 3600
MAX_LETTERS_BYTES = 64_000_000
PAGE = 500

# The scripts know arq's keys: `arq:job:`, `arq:result:` and `arq:retry:` with a job's id.

# Failed results that are no letters yet, among a page of all keys. A result has `s: true` or
# `s: false` in msgpack; since arguments can hold either, some of those that are found succeeded.
SWEEP = """
local yes, no, pattern = '\\161s\\195', '\\161s\\194', 'arq:result:*'
local page = redis.call('SCAN', ARGV[1], 'MATCH', pattern, 'COUNT', 500, 'TYPE', 'string')
local found = {}
for _, key in ipairs(page[2]) do
    local id, raw = string.sub(key, #'arq:result:' + 1), redis.call('GET', key)
    local failed = string.find(raw, no, 1, true) or not string.find(raw, yes, 1, true)
    local in_bulk = string.sub(id, 1, #ARGV[2]) == ARGV[2]
    if failed and not in_bulk and redis.call('HGET', KEYS[1], id) ~= raw then
        table.insert(found, id)
        table.insert(found, raw)
    end
end
return {page[1], found}
"""

# Each letter goes as its job comes, and only the letter that was read: 1 says that it was there
# and went, 0 that somebody was faster, -1 that a job of its id is in a queue again.
REQUEUE = """
local done = {}
for i = 3, #ARGV, 4 do
    local id, letter, queue, job = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    if redis.call('HGET', KEYS[1], id) ~= letter then
        table.insert(done, 0)
    elseif redis.call('EXISTS', 'arq:job:' .. id) == 1 then
        table.insert(done, -1)
    else
        redis.call('ZADD', queue, ARGV[1], id)
        redis.call('PSETEX', 'arq:job:' .. id, ARGV[2], job)
        redis.call('DEL', 'arq:result:' .. id, 'arq:retry:' .. id)
        redis.call('HDEL', KEYS[1], id)
        redis.call('ZREM', KEYS[2], id)
        table.insert(done, 1)
    end
end
return done
"""

# The result goes too: it would be the same letter at the next sweep.
PURGE = """
local done = 0
for i = 1, #ARGV, 2 do
    if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
        if redis.call('GET', 'arq:result:' .. ARGV[i]) == ARGV[i + 1] then
            redis.call('DEL', 'arq:result:' .. ARGV[i])
        end
        redis.call('HDEL', KEYS[1], ARGV[i])
        redis.call('ZREM', KEYS[2], ARGV[i])
        done = done + 1
    end
end
return done
"""


class Selection(BaseModel):
    """Which letters: those that meet everything that is given."""

    ids: list[str] | None = Field(default=None, max_length=LETTERS_KEPT)
    queue: str | None = None
    task: str | None = None
    older_than_seconds: float = Field(default=0, ge=0, le=LIFETIME)


class Requeued(BaseModel):
    """What became of the letters: how many are jobs again, and why others are not, by their id."""

    requeued: int
    refused: dict[str, str]


def record(results: Sequence[Result], pipe: Pipeline) -> None:
    """Observe a worker's results: keep each failure as a letter.

    It is kept once its result is in Redis, and only while it is the job's result.
    """
    for data, raw in results:
        if not (
            data["s"]
            or isinstance(data["r"], asyncio.CancelledError)
            or data["id"].startswith(keys.BULK_PREFIX)
        ):
            queue_script(pipe, "record_letter", *_letter(data["id"], raw, data["ft"]))


def _letter(job_id: str, raw: bytes, failed_ms: int) -> tuple[list[str], list[Any]]:
    names = [keys.LETTERS, keys.LETTERS_BY_TIME, keys.LETTERS_BYTES, result_key_prefix + job_id]
    digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    oldest_ms = timestamp_ms() - LIFETIME * 1000
    return names, [job_id, digest, failed_ms, oldest_ms, LETTERS_KEPT, MAX_LETTERS_BYTES]


async def sweep(redis: ArqRedis) -> int:
    """Keep what no worker could: the failures of one that was killed, and what others wrote.

    Returns:
        How many letters are new.
    """
    newer_than, new, cursor = 0.0, 0, b"0"
    if await redis.zcard(keys.LETTERS_BY_TIME) >= LETTERS_KEPT:
        # An older one would go at once.
        ((_, newer_than),) = await redis.zrange(keys.LETTERS_BY_TIME, 0, 0, withscores=True)
    while True:
        cursor, found = await _call(redis, SWEEP, cursor, keys.BULK_PREFIX)
        for job_id, raw in zip(found[::2], found[1::2], strict=True):
            job = read_result(job_id.decode(errors="replace"), raw)
            failed_ms = int(job.finished.timestamp() * 1000) if job.finished else timestamp_ms()
            if job.state == "failed" and failed_ms > newer_than:
                letter = _letter(job.id, raw, failed_ms)
                new += await run_script(redis, "record_letter", *letter) == 1
        if cursor == b"0":
            return new


async def list_letters(redis: ArqRedis, selection: Selection, limit: int) -> list[Job]:
    """Return the newest `limit` letters of a selection."""
    letters: list[Job] = []
    async for page in _select(redis, selection):
        letters += [job for job, _ in page]
        if len(letters) >= limit:
            break
    return letters[:limit]


async def load_letter(redis: ArqRedis, letter_id: str) -> Job:
    """Return a letter.

    Raises:
        JobNotFoundError: There is none of that id.
        TooLargeError: It is too large to show.
    """
    raw = await redis.hget(keys.LETTERS, letter_id)  # type: ignore[misc]
    if raw is None:
        raise JobNotFoundError(f"there is no dead letter {letter_id!r}")
    check_size(letter_id, raw)
    return read_result(letter_id, raw)


async def requeue(redis: ArqRedis, selection: Selection) -> Requeued:
    """Send the jobs of a selection again, each under its id and with its arguments, once."""
    requeued, refused = 0, dict.fromkeys(selection.ids or [], "there is no such letter")
    async for page in _select(redis, selection):
        now = timestamp_ms()
        arguments: list[Any] = [now, expires_extra_ms]
        sent = []
        for job, raw in page:
            refused.pop(job.id, None)
            if job.task is None:
                refused[job.id] = (
                    "its task and arguments are lost: it had expired or was undecodable"
                )
                continue
            data = deserialize(raw)
            job_bytes = serialize_job(
                data["f"], data["a"], data["k"], None, now, serializer=serialize
            )
            arguments += job.id, raw, data["q"], job_bytes
            sent.append(job.id)
        for job_id, done in zip(sent, await _call(redis, REQUEUE, *arguments), strict=True):
            requeued += done == 1
            if done == 0:
                refused[job_id] = "somebody else has just requeued or purged it"
            elif done == -1:
                refused[job_id] = "a job of this id is in its queue"
    await redis.delete(keys.LETTERS_BYTES)
    return Requeued(requeued=requeued, refused=refused)


async def purge(redis: ArqRedis, selection: Selection) -> int:
    """Delete the letters of a selection; return how many there were."""
    purged = 0
    async for page in _select(redis, selection):
        purged += await _call(redis, PURGE, *(part for job, raw in page for part in (job.id, raw)))
    await redis.delete(keys.LETTERS_BYTES)
    return purged


async def _select(redis: ArqRedis, selection: Selection) -> AsyncIterator[list[tuple[Job, bytes]]]:
    age = selection.older_than_seconds
    until: float | str = timestamp_ms() - age * 1000 if age else "+inf"
    newest_first = await redis.zrevrangebyscore(keys.LETTERS_BY_TIME, until, "-inf")
    ids = [job_id.decode() for job_id in newest_first]
    if selection.ids is not None:
        wanted = set(selection.ids)
        ids = [job_id for job_id in ids if job_id in wanted]
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        letters = await redis.hmget(keys.LETTERS, page)  # type: ignore[misc]
        jobs = [(read_result(id_, raw), raw) for id_, raw in zip(page, letters, strict=True) if raw]
        yield [
            (job, raw)
            for job, raw in jobs
            if selection.queue in (None, job.queue) and selection.task in (None, job.task)
        ]


async def _call(redis: ArqRedis, script: str, *arguments: Any) -> Any:
    return await redis.eval(script, 2, keys.LETTERS, keys.LETTERS_BY_TIME, *arguments)  # type: ignore[misc]
