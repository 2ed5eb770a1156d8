"""Helpers for tests: a queue of its own, and a worker that runs its jobs."""

from typing import Any

from arq.worker import Worker, create_worker

from app.components.worker.client import worker_client
from app.components.worker.hooks import bind_log_context, shutdown, startup
from app.components.worker.results import decode, encode
from app.components.worker.retries import MAX_TRIES
from app.core import keys
from app.core.config import settings

QUEUE = "arq:queue:test"


def queue_of(*functions: Any, **options: Any) -> Any:
    """Return a `WorkerSettings` class like the shipped ones, with its own tasks and settings."""
    values = {
        "functions": functions,
        "cron_jobs": (),
        "queue_name": QUEUE,
        "max_tries": MAX_TRIES,
        "allow_abort_jobs": True,
        "poll_delay": 0.01,
        "redis_settings": settings.redis_settings,
        "redis_pool": worker_client(options.get("queue_name", QUEUE), options.get("max_jobs", 10)),
        "job_serializer": encode,
        "job_deserializer": decode,
        "health_check_key": keys.sentinel(QUEUE),
        "on_startup": startup,
        "on_shutdown": shutdown,
        "on_job_start": bind_log_context,
    }
    return type("WorkerSettings", (), values | options)


async def run_burst(queue: type[Any]) -> Worker:
    """Run a queue's worker until the queue is empty, as `arq --burst` does, without cron jobs."""
    worker = create_worker(queue, burst=True, poll_delay=0.01, cron_jobs=None, handle_signals=False)
    try:
        await worker.async_run()
    finally:
        await worker.close()
    return worker
