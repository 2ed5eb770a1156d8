"""The history of jobs: those that ended lately, and how many ended in each minute.

The recorder calls `remember` with all results of half a second: a worker of thousands of jobs per
second writes a few commands, and nothing per job.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from arq.connections import ArqRedis
from arq.utils import timestamp_ms
from pydantic import BaseModel, TypeAdapter, ValidationError
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from app.core import keys
from app.core.serializer import Result, message_of
from app.services.jobs import (
    JobSummary,
    add_outcome,
    add_sending,
    or_unreadable,
    state_of,
    to_time,
)
from app.services.queues import show_queue

# How many batches of ended jobs are kept, for how long in milliseconds, and how many jobs of one
# batch: failures first, then the newest. At 200 bytes per job these are at most 40 MB.
MAX_BATCHES = 2000
MAX_AGE_MS = 3 * 24 * 3600 * 1000
MAX_BATCH_JOBS = 100
MAX_ERROR_CHARS = 200
# More digits than a count has: int() refuses a few thousand of them.
MAX_DIGITS = 15
# What one list reads at most, so that it takes the same time however much there is.
BATCHES_PER_READ, MAX_READS = 100, 5

# A cron job that runs every few seconds, and that only `CRONS` tells of.
WATCH = "cron:watch_health"

# The two resolutions: seconds per row, and how long a row is kept, in seconds.
MINUTES = (60, 8 * 3600)
TEN_MINUTES = (600, 3 * 24 * 3600)

# The upper ends of the buckets of waits and run times, in milliseconds.
BUCKETS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, math.inf)


BATCH = TypeAdapter(list[JobSummary])


class Row(BaseModel):
    """What ended in a queue during one row of the history, and how long it waited and ran."""

    start: int
    succeeded: int = 0
    failed: int = 0
    aborted: int = 0
    # Jobs sent in bulk, whose sender counts what has failed.
    bulk: int = 0
    waits: list[int] = []
    runs: list[int] = []

    @property
    def ended(self) -> int:
        """All jobs that ended, however they did."""
        return self.succeeded + self.failed + self.aborted + self.bulk


def remember(results: Sequence[Result], pipe: Pipeline) -> None:
    """Add results to the history: an observer of the recorder."""
    for result in results:
        if result.data["f"].startswith("cron:"):
            ended = f"{state_of(result.data)} {result.data['ft']}"
            pipe.hset(keys.CRONS, result.data["f"], ended)
    # It would hide what else runs.
    results = [result for result in results if result.data["f"] != WATCH]
    _count(results, pipe)
    kept = [result for result in results if not result.data["id"].startswith(keys.BULK_PREFIX)]
    if kept:
        kept.sort(key=lambda result: (result.data["s"], -result.data["ft"]))
        newest_first = sorted(kept[:MAX_BATCH_JOBS], key=lambda result: -result.data["ft"])
        batch = BATCH.dump_json([_summarize(result.data) for result in newest_first])
        pipe.xadd(keys.HISTORY, {"jobs": batch}, maxlen=MAX_BATCHES)
        pipe.xtrim(keys.HISTORY, minid=str(timestamp_ms() - MAX_AGE_MS))


async def list_ended(
    redis: ArqRedis,
    *,
    queue: str | None = None,
    task: str | None = None,
    state: str | None = None,
    limit: int = 100,
) -> list[JobSummary]:
    """Return jobs that ended lately, the newest first.

    Of more than `MAX_BATCH_JOBS` jobs that one worker ended within half a second, the history has
    the failures and the newest.
    """
    wanted = {"queue": queue, "task": task, "state": state}
    found: list[JobSummary] = []
    last = "+"
    for _ in range(MAX_READS):
        batches = await or_empty(
            redis.xrevrange(keys.HISTORY, last, "-", count=BATCHES_PER_READ), []
        )
        found += [
            job
            for _, fields in batches
            for job in _read_batch(fields.get(b"jobs", b""))
            if all(value in (None, getattr(job, name)) for name, value in wanted.items())
        ]
        if len(batches) < BATCHES_PER_READ or len(found) >= limit:
            break
        last = f"({batches[-1][0].decode()}"
    return found[:limit]


async def read_crons(redis: ArqRedis) -> dict[str, tuple[str, datetime]]:
    """Return how and when each cron job last ended, by arq's name for it, such as `cron:sweep`."""
    found: dict[str, tuple[str, datetime]] = {}
    for name, text in (await or_empty(redis.hgetall(keys.CRONS), {})).items():
        state, _, finished = text.partition(b" ")
        if time := to_time(to_count(finished)):
            found[name.decode(errors="replace")] = state.decode(errors="replace"), time
    return found


async def read_rows(
    redis: ArqRedis, queues: Sequence[str], *, resolution: tuple[int, int] = MINUTES, rows: int = 60
) -> dict[str, list[Row]]:
    """Return the last rows of the history of each queue of `WORKER_QUEUES`, the oldest first.

    The last row is not over yet. The resolution is `MINUTES` or `TEN_MINUTES`.
    """
    seconds, _ = resolution
    newest = timestamp_ms() // 1000 // seconds * seconds
    starts = range(newest - (rows - 1) * seconds, newest + 1, seconds)
    async with redis.pipeline(transaction=False) as pipe:
        for start in starts:
            pipe.hgetall(keys.history_row(seconds, start))
        replies = await pipe.execute(raise_on_error=False)
    hashes = [reply if isinstance(reply, dict) else {} for reply in map(or_unreadable, replies)]
    return {
        queue: [
            _read_row(start, queue, fields) for start, fields in zip(starts, hashes, strict=True)
        ]
        for queue in queues
    }


def percentile(rows: Sequence[Sequence[int]], share: float) -> float | None:
    """Return what this share of all waits, or runs, of some rows took at most, in milliseconds.

    It is the upper end of a bucket, and None if nothing was counted.
    """
    counts = [sum(counts) for counts in zip(*rows, strict=True)]
    wanted, seen = share * sum(counts), 0
    for end, count in zip(BUCKETS, counts, strict=True):
        seen += count
        if count and seen >= wanted:
            return end
    return None


def to_count(raw: object) -> int:
    """Return a number that Redis counts, or 0 for anything else that its key may hold."""
    return int(raw) if isinstance(raw, bytes) and raw.isdigit() and len(raw) <= MAX_DIGITS else 0


async def or_empty(reading: Any, empty: Any) -> Any:
    """Return what a command reads, or `empty` if its key has another type."""
    try:
        return await reading
    except ResponseError as error:
        # A key of another type, which another program has written.
        if "WRONGTYPE" in str(error):
            return empty
        raise


def _count(results: Sequence[Result], pipe: Pipeline) -> None:
    counts: Counter[tuple[int, str]] = Counter()
    for result in results:
        data = result.data
        queue, minute = show_queue(data["q"]), data["ft"] // 60_000
        is_bulk = data["id"].startswith(keys.BULK_PREFIX)
        counts[minute, f"{queue}:{'bulk' if is_bulk else state_of(data)}"] += 1
        counts[minute, f"{queue}:runs:{bisect_left(BUCKETS, data['ft'] - data['st'])}"] += 1
        if result.due_ms:
            wait = max(data["st"] - result.due_ms, 0)
            counts[minute, f"{queue}:waits:{bisect_left(BUCKETS, wait)}"] += 1
    for seconds, lifetime in (MINUTES, TEN_MINUTES):
        for (minute, field), count in counts.items():
            pipe.hincrby(keys.history_row(seconds, minute * 60), field, count)
        for key in {keys.history_row(seconds, minute * 60) for minute, _ in counts}:
            pipe.expire(key, lifetime)


def _summarize(data: dict[str, Any]) -> JobSummary:
    job = JobSummary(id=data["id"], state=state_of(data))
    add_sending(job, data)
    add_outcome(job, data)
    if job.state == "failed":
        error = f"{type(data['r']).__name__}: {message_of(data['r'])}".removesuffix(": ")
        job.error = error[:MAX_ERROR_CHARS]
    return job


def _read_batch(raw: bytes) -> list[JobSummary]:
    try:
        return BATCH.validate_json(raw)
    except ValidationError:
        # Another program or another release has written it: the others are shown.
        return []


def _read_row(start: int, queue: str, fields: dict[bytes, bytes]) -> Row:
    def count(field: str) -> int:
        return to_count(fields.get(f"{queue}:{field}".encode()))

    return Row(
        start=start,
        succeeded=count("succeeded"),
        failed=count("failed"),
        aborted=count("aborted"),
        bulk=count("bulk"),
        waits=[count(f"waits:{bucket}") for bucket in range(len(BUCKETS))],
        runs=[count(f"runs:{bucket}") for bucket in range(len(BUCKETS))],
    )
