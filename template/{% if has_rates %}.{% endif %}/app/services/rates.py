"""Rates: how many jobs ended in each minute, how long they waited and ran, and when crons ended.

The recorder calls `count` with all results of half a second: a worker of thousands of jobs per
second writes a few commands, and nothing per job.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from arq.connections import ArqRedis
from arq.utils import timestamp_ms
from pydantic import BaseModel
from redis.asyncio.client import Pipeline

from app.core import keys
from app.core.serializer import Result
from app.services.jobs import WATCH, or_empty, or_unreadable, state_of, to_count, to_time
from app.services.queues import show_queue

# The two resolutions: seconds per row, and how long a row is kept, in seconds.
MINUTES = (60, 8 * 3600)
TEN_MINUTES = (600, 3 * 24 * 3600)

# The upper ends of the buckets of waits and run times, in milliseconds.
BUCKETS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, math.inf)


class Row(BaseModel):
    """What ended in a queue during one row, and how long it waited and ran."""

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


def count(results: Sequence[Result], pipe: Pipeline) -> None:
    """Add results to the rows of their minutes: an observer of the recorder."""
    counts: Counter[tuple[int, str]] = Counter()
    for result in results:
        data, state = result.data, state_of(result.data)
        if data["f"].startswith("cron:"):
            pipe.hset(keys.CRONS, data["f"], f"{state} {data['ft']}")
        if data["f"] == WATCH:
            continue
        queue, minute = show_queue(data["q"]), data["ft"] // 60_000
        is_bulk = data["id"].startswith(keys.BULK_PREFIX)
        counts[minute, f"{queue}:{'bulk' if is_bulk else state}"] += 1
        counts[minute, f"{queue}:runs:{bisect_left(BUCKETS, data['ft'] - data['st'])}"] += 1
        if result.due_ms:
            wait = max(data["st"] - result.due_ms, 0)
            counts[minute, f"{queue}:waits:{bisect_left(BUCKETS, wait)}"] += 1
    for seconds, lifetime in (MINUTES, TEN_MINUTES):
        for (minute, field), number in counts.items():
            pipe.hincrby(keys.history_row(seconds, minute * 60), field, number)
        for key in {keys.history_row(seconds, minute * 60) for minute, _ in counts}:
            pipe.expire(key, lifetime)


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
    """Return the last rows of each queue of `WORKER_QUEUES`, the oldest first.

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


def _read_row(start: int, queue: str, fields: dict[bytes, bytes]) -> Row:
    def read(field: str) -> int:
        return to_count(fields.get(f"{queue}:{field}".encode()))

    return Row(
        start=start,
        succeeded=read("succeeded"),
        failed=read("failed"),
        aborted=read("aborted"),
        bulk=read("bulk"),
        waits=[read(f"waits:{bucket}") for bucket in range(len(BUCKETS))],
        runs=[read(f"runs:{bucket}") for bucket in range(len(BUCKETS))],
    )
