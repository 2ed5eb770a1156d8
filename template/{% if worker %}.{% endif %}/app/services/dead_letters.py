"""Dead letters: jobs that have failed for good, kept until they are requeued or purged.

A letter is the failed result that arq wrote, byte for byte, under the id of its job. It is written
only while that result is there, so that a late letter does not bring back a job that was requeued.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Annotated, Any, Self

from arq.connections import ArqRedis
from arq.constants import expires_extra_ms, result_key_prefix
from arq.utils import timestamp_ms
from pydantic import BaseModel, ConfigDict, Field, StrictStr, model_validator
from redis.asyncio.client import Pipeline

from app.core import keys
from app.core.config import WORKER_QUEUES
from app.core.memory import require_memory
from app.core.scripts import queue_script, run_script
from app.core.serializer import CONTEXT, Result, context_of, deserialize, require_shape, serialize
from app.services.jobs import (
    UNKNOWN_TASK,
    UNREADABLE,
    InvalidJobError,
    Job,
    JobNotFoundError,
    TooLargeError,
    check_size,
    read_result,
    show_id,
    state_of,
)

MAX_LETTERS = 10_000
MAX_LETTERS_BYTES = 64_000_000
MAX_AGE_SECONDS = 30 * 24 * 3600
# What is read from Redis at a time. A larger letter is not read at all: no worker wrote it.
PAGE_LETTERS = 500
PAGE_BYTES = 2_000_000
MAX_ERROR_CHARS = 1000

LETTER_KEYS = (keys.LETTERS, keys.LETTERS_BY_TIME, keys.LETTERS_BYTES)
REFUSALS = {
    0: "another process has just requeued or purged it",
    -1: "a job with this id is in its queue",
    -2: "a newer job with this id has finished",
}

# Raises InvalidJobError or TooLargeError if a queue, by arq's name for it, cannot run a task with
# these arguments.
CheckJob = Callable[[str, str, Sequence[Any], dict[str, Any]], object]
Name = Annotated[StrictStr, Field(min_length=1)]


class Filter(BaseModel):
    """Which letters: those that meet every condition that is given."""

    model_config = ConfigDict(extra="forbid")

    queue: Name | None = None
    task: Name | None = None
    error: Name | None = Field(default=None, description="The class of an error, as ValueError.")
    older_than_seconds: float = Field(default=0, ge=0, le=MAX_AGE_SECONDS)


class Selection(Filter):
    """Which letters to change: those of some ids or of a filter, or `all` of them."""

    model_config = ConfigDict(strict=True)

    ids: list[Name] | None = Field(default=None, min_length=1, max_length=MAX_LETTERS)
    all: bool = False

    @model_validator(mode="after")
    def _say_which(self) -> Self:
        has_filter = any([self.ids, self.queue, self.task, self.error, self.older_than_seconds])
        if self.all == bool(has_filter):
            message = 'select letters by ids, queue, task, error or age, or all by {"all": true}'
            raise ValueError(message)
        return self


class Requeued(BaseModel):
    """How many letters are jobs again, and why the others are not, by their id."""

    requeued: int
    refused: dict[str, str]


def record(results: Sequence[Result], pipe: Pipeline) -> None:
    """Observe a worker's results: keep each failure as a letter.

    It is kept once its result is in Redis, and only while it is the job's result.
    """
    for data, raw in results:
        if state_of(data) == "failed" and not data["id"].startswith(keys.BULK_PREFIX):
            queue_script(pipe, "record_letter", *_letter(data["id"].encode(), raw, data["ft"]))


async def sweep(redis: ArqRedis) -> int:
    """Keep what no worker could: the failures of a worker that was killed.

    Results of queues outside `WORKER_QUEUES`, and those that cannot be read, are not ours: another
    arq application may use the same Redis.

    Returns:
        How many letters are new.
    """
    await _repair(redis)
    new = 0
    async for job_id, raw in _read_results(redis):
        job = _describe(job_id, raw)
        if job.state != "failed" or job.queue not in WORKER_QUEUES:
            continue
        failed_ms = round(job.finished.timestamp() * 1000) if job.finished else timestamp_ms()
        if await redis.zscore(keys.LETTERS_BY_TIME, job_id) != failed_ms:
            new += await keep(redis, job_id, raw, failed_ms)
    return new


async def keep(redis: ArqRedis, job_id: bytes, raw: bytes, failed_ms: int) -> bool:
    """Keep a failed result, which is in Redis, as a letter; return False if it was not kept."""
    return bool(await run_script(redis, "record_letter", *_letter(job_id, raw, failed_ms)) == 1)


async def list_letters(redis: ArqRedis, selection: Filter, limit: int) -> list[Job]:
    """Return the newest `limit` letters of a selection, without arguments and tracebacks."""
    letters: list[Job] = []
    async for page in _select(redis, selection):
        for job_id, raw in page:
            letter = _describe(job_id, raw)
            letter.traceback, letter.error = None, (letter.error or "")[:MAX_ERROR_CHARS]
            letters.append(letter)
            if len(letters) == limit:
                return letters
    return letters


async def count_letters(redis: ArqRedis, selection: Filter) -> int:
    """Return how many letters a selection has."""
    return sum([len(page) async for page in _select(redis, selection)])


async def load_letter(redis: ArqRedis, letter_id: str) -> Job:
    """Return all that is known of a letter.

    Raises:
        JobNotFoundError: No letter has this id.
        TooLargeError: The letter is too large to show.
    """
    # The id is the end of a path, which may be empty.
    async for page in _select(redis, Selection.model_construct(ids=[letter_id])):
        for job_id, raw in page:
            check_size(letter_id, raw)
            return read_result(show_id(job_id), raw)
    raise JobNotFoundError(f"there is no dead letter {letter_id!r}")


async def requeue(redis: ArqRedis, selection: Selection, check_job: CheckJob) -> Requeued:
    """Send the jobs of a selection again, each under its id and with its arguments, once.

    A job that could not run is refused, and its letter stays.
    """
    await require_memory(redis)
    requeued, refused = 0, dict.fromkeys(selection.ids or [], "there is no such letter")
    async for page in _select(redis, selection):
        now = timestamp_ms()
        sent: list[str] = []
        arguments: list[Any] = [now, expires_extra_ms]
        for job_id, raw in page:
            shown = show_id(job_id)
            refused.pop(shown, None)
            try:
                arguments += job_id, raw, *_to_job(raw, now, check_job)
            except (InvalidJobError, TooLargeError) as error:
                refused[shown] = str(error)
            else:
                sent.append(shown)
        done = await run_script(redis, "requeue_letters", LETTER_KEYS, arguments) if sent else []
        for shown, outcome in zip(sent, done, strict=True):
            if outcome == 1:
                requeued += 1
            else:
                refused[shown] = REFUSALS[outcome]
    return Requeued(requeued=requeued, refused=refused)


async def purge(redis: ArqRedis, selection: Selection) -> int:
    """Delete the letters of a selection; return how many there were."""
    await _repair(redis)
    purged = 0
    async for page in _select(redis, selection):
        arguments: list[bytes] = []
        for job_id, raw in page:
            # A letter that was too large to read is deleted whatever it is.
            arguments += job_id, b"" if raw == UNREADABLE else raw
        purged += await run_script(redis, "purge_letters", LETTER_KEYS, arguments)
    return purged


def _letter(job_id: bytes, raw: bytes, failed_ms: int) -> tuple[list[str | bytes], list[Any]]:
    """Return the keys and arguments of the script that records a letter."""
    digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    oldest_ms = timestamp_ms() - MAX_AGE_SECONDS * 1000
    arguments = [job_id, digest, failed_ms, oldest_ms, MAX_LETTERS, MAX_LETTERS_BYTES]
    return [*LETTER_KEYS, result_key_prefix.encode() + job_id], arguments


def _describe(job_id: bytes, raw: bytes) -> Job:
    return read_result(show_id(job_id), raw, with_arguments=False)


def _to_job(raw: bytes, now: int, check_job: CheckJob) -> tuple[str, bytes]:
    """Return the queue and the job of a letter."""
    try:
        data = deserialize(raw)
        require_shape(data)
        if data["f"] == UNKNOWN_TASK:
            raise ValueError("arq could not read it")
        queue = str(data["q"])
    except Exception:
        message = "its task and arguments are lost: it had expired or was unreadable"
        raise InvalidJobError("task", message) from None
    check_job(queue, data["f"], data["a"], data["k"])
    # As arq's `serialize_job` does it, with what the job carried.
    job = {"t": None, "f": data["f"], "a": data["a"], "k": data["k"], "et": now}
    return queue, serialize({**job, CONTEXT: context_of(data)})


async def _select(redis: ArqRedis, selection: Filter) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Yield the ids and letters of a selection, newest first, in pages of `PAGE_BYTES`."""
    age = selection.older_than_seconds
    until: float | str = timestamp_ms() - age * 1000 if age else "+inf"
    if not await _are_letters(redis):
        return
    ids = await redis.zrevrangebyscore(keys.LETTERS_BY_TIME, until, "-inf")
    if isinstance(selection, Selection) and selection.ids is not None:
        wanted = set(selection.ids)
        ids = [job_id for job_id in ids if show_id(job_id) in wanted]
    for start in range(0, len(ids), PAGE_LETTERS):
        some = ids[start : start + PAGE_LETTERS]
        async with redis.pipeline(transaction=False) as pipe:
            for job_id in some:
                pipe.hstrlen(keys.LETTERS, job_id)
            sizes = await pipe.execute()
        for page in _split(some, sizes):
            letters = await redis.hmget(keys.LETTERS, page)  # type: ignore[misc]
            found = zip(page, letters, strict=True)
            yield [pair for pair in found if pair[1] is not None and _matches(selection, *pair)]
        for job_id, size in zip(some, sizes, strict=True):
            if size > PAGE_BYTES and _matches(selection, job_id, UNREADABLE):
                yield [(job_id, UNREADABLE)]


def error_class(error: str | None) -> str:
    """Return the class that an error's text begins with."""
    return (error or "").partition(":")[0]


def _matches(selection: Filter, job_id: bytes, raw: bytes) -> bool:
    if (selection.queue, selection.task, selection.error) == (None, None, None):
        return True
    job = _describe(job_id, raw)
    return (
        selection.queue in (None, job.queue)
        and selection.task in (None, job.task)
        and selection.error in (None, error_class(job.error))
    )


def _split(names: Sequence[bytes], sizes: Sequence[int]) -> Iterator[list[bytes]]:
    """Yield the names in pages of `PAGE_BYTES`, without those whose value is larger."""
    page: list[bytes] = []
    room = PAGE_BYTES
    for name, size in zip(names, sizes, strict=True):
        if size > PAGE_BYTES:
            continue
        if size > room:
            yield page
            page, room = [], PAGE_BYTES
        page.append(name)
        room -= size
    if page:
        yield page


async def _read_results(redis: ArqRedis) -> AsyncIterator[tuple[bytes, bytes]]:
    """Yield the id and bytes of each result but those of jobs sent in bulk.

    Each command is short, so that other clients wait for a few milliseconds at most.
    """
    prefix, bulk = result_key_prefix.encode(), (result_key_prefix + keys.BULK_PREFIX).encode()
    cursor = -1
    while cursor:
        cursor, found = await redis.scan(
            max(cursor, 0), match=f"{result_key_prefix}*", count=PAGE_LETTERS, _type="string"
        )
        names = [name for name in found if not name.startswith(bulk)]
        async with redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.strlen(name)
            sizes = await pipe.execute()
        for page in _split(names, sizes):
            for name, raw in zip(page, await redis.mget(page), strict=True):
                if raw:
                    yield name.removeprefix(prefix), raw


async def _repair(redis: ArqRedis) -> None:
    """Delete keys of another type, index letters that are in the hash only."""
    if not await _are_letters(redis):
        await redis.delete(*LETTER_KEYS)
    ids = await redis.hkeys(keys.LETTERS)  # type: ignore[misc]
    lost = set(ids).difference(await redis.zrange(keys.LETTERS_BY_TIME, 0, -1))
    if lost:
        await redis.zadd(keys.LETTERS_BY_TIME, dict.fromkeys(lost, timestamp_ms()))
    await redis.delete(keys.LETTERS_BYTES)


async def _are_letters(redis: ArqRedis) -> bool:
    """Return whether the keys have the types of ours, or are not there."""
    return await redis.type(keys.LETTERS) in (b"hash", b"none") and await redis.type(
        keys.LETTERS_BY_TIME
    ) in (b"zset", b"none")
