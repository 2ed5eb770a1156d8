"""Checks of how the jobs fare: failures, dead letters and cron jobs that do not run."""

import time

from arq.connections import ArqRedis

from app.core import keys
from app.core.config import WORKER_QUEUES, settings
from app.services import crons, rates
from app.services.checks import Check, Status
from app.services.jobs import or_empty, to_time

# What the shares of failures and the new letters are counted over.
WINDOW_MINUTES = 10
# Of fewer jobs than this, a share says little.
MIN_ENDED_JOBS = 20


async def check_jobs(redis: ArqRedis) -> dict[str, Check]:
    """Look at the failures of each queue, the dead letters and the cron jobs."""
    rows = await rates.read_rows(redis, list(WORKER_QUEUES), rows=WINDOW_MINUTES)
    checks = {f"failures:{queue}": _check_failures(rows[queue], queue) for queue in WORKER_QUEUES}
    new = await count_new_letters(redis)
    checks["dead-letters"] = _check(
        new >= settings.MAX_NEW_LETTERS,
        "warn",
        f"{new} new dead letters in {WINDOW_MINUTES} minutes; look at their errors, "
        "then requeue or purge them",
    )
    missed = await crons.find_missed(redis)
    names = ", ".join(f"{run.name} of {to_time(run.due_ms):%H:%M:%S} UTC" for run in missed[:5])
    problem = f"not run: {names}; start more workers, or end what fills the queue"
    checks["crons"] = _check(missed, "warn", problem)
    return checks


async def count_new_letters(redis: ArqRedis) -> int:
    """Count the dead letters of the window by their time: a full store has no more than before."""
    since = time.time() - WINDOW_MINUTES * 60
    new: int = await or_empty(redis.zcount(keys.LETTERS_BY_TIME, since * 1000, "+inf"), 0)
    return new


def _check_failures(rows: list[rates.Row], queue: str) -> Check:
    failed, ended = sum(row.failed for row in rows), sum(row.ended - row.bulk for row in rows)
    return _check(
        ended >= MIN_ENDED_JOBS and failed >= settings.MAX_FAILURE_SHARE * ended,
        "fail",
        f"{failed} of {ended} jobs of {queue} failed in {WINDOW_MINUTES} minutes; "
        "look at the errors of its dead letters",
    )


def _check(is_wrong: object, status: Status, problem: str) -> Check:
    return Check(status=status, output=problem) if is_wrong else Check()
