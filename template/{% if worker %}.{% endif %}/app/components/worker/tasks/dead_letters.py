"""The sweep: dead letters that no worker could write."""

from typing import Any

from arq import cron
from arq.cron import CronJob

from app.core.config import WORKER_QUEUES
from app.services import dead_letters


async def sweep_dead_letters(ctx: dict[str, Any]) -> int:
    """Keep the failed results that are no dead letters yet; return how many there were."""
    return await dead_letters.sweep(ctx["redis"])


def sweep_of(queue: str) -> tuple[CronJob, ...]:
    """Return the cron job for the first queue of `WORKER_QUEUES`, and none for the others."""
    if queue != next(iter(WORKER_QUEUES)):
        return ()
    return (cron(sweep_dead_letters, minute=set(range(0, 60, 5)), keep_result=3600),)
