"""The cron jobs of all queues: when each ran and is due, and how to run one now."""

from dataclasses import dataclass
from datetime import datetime

from arq.connections import ArqRedis
from arq.cron import CronJob

from app.components.worker import queues
from app.components.worker.enqueue import send_job
from app.core.config import WORKER_QUEUES
from app.services.jobs import JobNotFoundError
from app.services.rates import read_crons


@dataclass
class CronStatus:
    """How and when a cron job last ended, if it did, and in how many seconds it is due."""

    name: str
    state: str | None
    finished: datetime | None
    due_seconds: float | None


async def list_crons(redis: ArqRedis) -> list[CronStatus]:
    """Return every cron job, by name."""
    ended, found = await read_crons(redis), []
    for name, (cron, queue) in sorted(_find_crons().items()):
        # arq's default is the zone of the machine.
        zone = getattr(queues.settings(queue), "timezone", None)
        now = datetime.now(zone).astimezone(zone)
        cron.calculate_next(now)
        due = (cron.next_run - now).total_seconds() if cron.next_run else None
        state, finished = ended.get(name, (None, None))
        found.append(CronStatus(name, state, finished, due))
    return found


async def run_cron(redis: ArqRedis, name: str) -> str:
    """Queue a cron job now, and return its queue: arq knows the job as a function of its name.

    Raises:
        JobNotFoundError: There is no such cron job.
        MemoryFullError: Redis has no memory left for new jobs.
        redis.exceptions.ConnectionError: The connection was lost, and the job is not queued.
    """
    if name not in (crons := _find_crons()):
        raise JobNotFoundError(f"There is no cron job {name!r}.")
    _, queue = crons[name]
    await send_job(redis, WORKER_QUEUES[queue]["queue_name"], name, (), {}, {})
    return queue


def _find_crons() -> dict[str, tuple[CronJob, str]]:
    """Return each cron job with a queue that has it; in several, one of them runs it each time."""
    return {
        cron.name: (cron, queue)
        for queue in WORKER_QUEUES
        for cron in queues.settings(queue).cron_jobs
    }
