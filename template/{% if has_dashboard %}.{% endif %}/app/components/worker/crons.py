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
    due_seconds: float


async def list_crons(redis: ArqRedis) -> list[CronStatus]:
    """Return every cron job, by name; of several with one name, the one that is due first."""
    ended = await read_crons(redis)
    due: dict[str, float] = {}
    for cron, queue in _find_crons():
        # arq's default is the zone of the machine.
        zone = getattr(queues.settings(queue), "timezone", None)
        now = datetime.now(zone).astimezone(zone)
        cron.calculate_next(now)
        if cron.next_run:
            # Python subtracts two times of one zone as if its clocks were never changed.
            seconds = cron.next_run.timestamp() - now.timestamp()
            due[cron.name] = min(due.get(cron.name, seconds), seconds)
    found = []
    for name, seconds in sorted(due.items()):
        state, finished = ended.get(name, (None, None))
        found.append(CronStatus(name, state, finished, seconds))
    return found


async def run_cron(redis: ArqRedis, name: str) -> str:
    """Queue a cron job now, and return its queue: arq knows the job as a function of its name.

    Raises:
        JobNotFoundError: There is no such cron job.
        MemoryFullError: Redis has no memory left for new jobs.
        redis.exceptions.ConnectionError: The connection was lost, and the job is not queued.
    """
    queue = next((queue for cron, queue in _find_crons() if cron.name == name), None)
    if queue is None:
        raise JobNotFoundError(f"There is no cron job {name!r}.")
    await send_job(redis, WORKER_QUEUES[queue]["queue_name"], name, (), {}, {})
    return queue


def _find_crons() -> list[tuple[CronJob, str]]:
    """Return the cron jobs of each queue. One that several have runs in one of them each time."""
    return [(cron, queue) for queue in WORKER_QUEUES for cron in queues.settings(queue).cron_jobs]
