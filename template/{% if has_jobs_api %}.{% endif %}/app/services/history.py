"""The history of jobs: those that ended lately.

The recorder calls `remember` with all results of half a second: a worker of thousands of jobs per
second writes a few commands, and nothing per job.
"""

from collections.abc import Callable, Sequence
from typing import Any

from arq.connections import ArqRedis
from pydantic import TypeAdapter, ValidationError
from redis.asyncio.client import Pipeline

from app.core import keys
from app.core.scripts import queue_script
from app.core.serializer import Result, message_of
from app.services.jobs import WATCH, JobSummary, add_outcome, add_sending, or_empty, state_of

# How many batches of ended jobs are kept, for how long in milliseconds, and how many jobs of one
# batch: failures first, then the newest. At 200 bytes per job these are at most 40 MB.
MAX_BATCHES = 2000
MAX_AGE_MS = 3 * 24 * 3600 * 1000
MAX_BATCH_JOBS = 100
MAX_ERROR_CHARS = 200
# What one list reads at most, so that it takes the same time however much there is.
BATCHES_PER_READ, MAX_READS = 100, 5

BATCH = TypeAdapter(list[JobSummary])


def remember(results: Sequence[Result], pipe: Pipeline) -> None:
    """Add results to the history: an observer of the recorder."""
    kept = [
        result
        for result in results
        if result.data["f"] != WATCH and not result.data["id"].startswith(keys.BULK_PREFIX)
    ]
    if kept:
        kept.sort(key=lambda result: (result.data["s"], -result.data["ft"]))
        newest_first = sorted(kept[:MAX_BATCH_JOBS], key=lambda result: -result.data["ft"])
        batch = BATCH.dump_json([_summarize(result.data) for result in newest_first])
        pipe.xadd(keys.HISTORY, {"jobs": batch}, maxlen=MAX_BATCHES)
        queue_script(pipe, "trim_history", [keys.HISTORY], [MAX_AGE_MS])


async def list_ended(
    redis: ArqRedis, matches: Callable[[JobSummary], bool], limit: int
) -> list[JobSummary]:
    """Return the jobs that ended lately and match, the newest first.

    Of more than `MAX_BATCH_JOBS` jobs that one worker ended within half a second, the history has
    the failures and the newest.
    """
    found: list[JobSummary] = []
    last = "+"
    for _ in range(MAX_READS):
        batches = await or_empty(
            redis.xrevrange(keys.HISTORY, last, "-", count=BATCHES_PER_READ), []
        )
        for _, fields in batches:
            found += filter(matches, _read_batch(fields.get(b"jobs", b"")))
        if len(batches) < BATCHES_PER_READ or len(found) >= limit:
            break
        last = f"({batches[-1][0].decode()}"
    return found[:limit]


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
