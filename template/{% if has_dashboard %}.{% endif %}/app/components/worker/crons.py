"""The cron jobs of all queues: when each ran and is due, and how to run one now."""

from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import job_key_prefix, result_key_prefix
from arq.cron import CronJob
from redis.exceptions import ConnectionError as RedisConnectionError

from app.components.worker import queues
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
        redis.exceptions.ConnectionError: The connection was lost, and the job is not queued.
    """
    if name not in (crons := _find_crons()):
        raise JobNotFoundError(f"There is no cron job {name!r}.")
    _, queue = crons[name]
    job_id, queue_name = uuid4().hex, WORKER_QUEUES[queue]["queue_name"]
    job = await redis.enqueue_job(name, _job_id=job_id, _queue_name=queue_name)
    # When the connection is lost, arq returns None, as for an id that is taken.
    if not job and not await redis.exists(job_key_prefix + job_id, result_key_prefix + job_id):
        raise RedisConnectionError("the connection was lost before the job was queued")
    return queue


def _find_crons() -> dict[str, tuple[CronJob, str]]:
    """Return each cron job with a queue that has it; in several, one of them runs it each time."""
    return {
        cron.name: (cron, queue)
        for queue in WORKER_QUEUES
        for cron in queues.settings(queue).cron_jobs
    }
