"""The schedule of the cron jobs, as the workers that have them report it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.cron import CronJob
from arq.utils import timestamp_ms, to_unix_ms
from pydantic import BaseModel, Field, ValidationError

from app.core import keys
from app.core.serializer import MAX_TIME_MS
from app.services.jobs import or_empty
from app.services.rates import read_crons

# A run is late that has not started so long after its time, in milliseconds.
MAX_DELAY_MS = 15_000
# arq enqueues a run up to a second before its time.
MAX_EARLY_MS = 2000
# A cron job that no worker has reported for so long is gone, or its queue has no worker.
MAX_AGE_MS = 60_000


class Run(BaseModel):
    """A run of a cron job, and when its worker last reported it, in milliseconds of the epoch."""

    name: str
    job_id: str
    due_ms: Annotated[int, Field(gt=0, lt=MAX_TIME_MS)]
    seen_ms: int


async def report_crons(redis: ArqRedis, crons: Sequence[CronJob]) -> None:
    """Write the next run of each cron job, unless the last one that was written has not ended.

    A cron job without `keep_result` is left out: nothing tells that it has run. So is one that is
    not `unique`, whose runs have ids of their own.
    """
    soon_ms = timestamp_ms() + MAX_EARLY_MS
    known = {run.name: run for run in await list_runs(redis)}
    ended = await read_crons(redis)
    reported: dict[str, Run] = {}
    for cron in crons:
        if cron.next_run is None or not cron.keep_result_s or not cron.unique:
            continue
        due_ms, run = to_unix_ms(cron.next_run), known.get(cron.name)
        job_id = cron.job_id or f"{cron.name}:{due_ms}"
        # A later one may be of a schedule that has been changed.
        if run is None or _has_ended(run, ended) or run.due_ms > soon_ms:
            run = Run(name=cron.name, job_id=job_id, due_ms=due_ms, seen_ms=0)
        run.seen_ms = timestamp_ms()
        # Several cron jobs may have one name: the run that is due first.
        reported[cron.name] = min(reported.get(cron.name, run), run, key=lambda run: run.due_ms)
    if reported:
        runs = {name: run.model_dump_json() for name, run in reported.items()}
        await redis.hset(keys.SCHEDULE, mapping=runs)  # type: ignore[misc]


async def list_runs(redis: ArqRedis) -> list[Run]:
    """Return the next run of each cron job that a worker has, or the last one if it is missing."""
    runs, oldest_ms = [], timestamp_ms() - MAX_AGE_MS
    for text in (await or_empty(redis.hgetall(keys.SCHEDULE), {})).values():
        try:
            run = Run.model_validate_json(text)
        except ValidationError:
            # Another program has written it.
            continue
        if run.seen_ms > oldest_ms:
            runs.append(run)
    return runs


async def find_missed(redis: ArqRedis) -> list[Run]:
    """Return the runs that have not started within `MAX_DELAY_MS` of their time."""
    ended = await read_crons(redis)
    late_ms = timestamp_ms() - MAX_DELAY_MS
    late = [
        run for run in await list_runs(redis) if run.due_ms < late_ms and not _has_ended(run, ended)
    ]
    return [run for run in late if not await redis.exists(in_progress_key_prefix + run.job_id)]


def _has_ended(run: Run, ended: dict[str, tuple[str, datetime]]) -> bool:
    _, time = ended.get(run.name, ("", None))
    # What goes before the jobs that wait runs as soon as arq enqueues it.
    return time is not None and time.timestamp() * 1000 >= run.due_ms - MAX_EARLY_MS
