"""What the workers of the fault trials run, `python -m arq tests.faults.workers.Client`.

Each run of a job is counted in Redis, on a connection of its own that no fault touches.
"""

import asyncio
import os
import time
from typing import Any

import arq.utils
from redis.asyncio import Redis

from app.components.worker.queues import load_test

# How far the clock of this worker is ahead of the others'.
if AHEAD_SECONDS := float(os.environ.get("AHEAD_SECONDS", "0")):
    right_time = time.time
    time.time = arq.utils.time = lambda: right_time() + AHEAD_SECONDS  # type: ignore[attr-defined]

COUNTS = Redis.from_url(os.environ["COUNT_URL"])
SETTINGS = dict(vars(load_test.WorkerSettings)) | {
    "cron_jobs": (),
    # A job of a killed worker runs again after 10 s more.
    "job_timeout": int(os.environ.get("JOB_TIMEOUT", "5")),
    "job_completion_wait": 5,
    "max_tries": 5,
}


async def count(ctx: dict[str, Any], milliseconds: int) -> None:
    """Count this run, and work for a while."""
    await COUNTS.hincrby("runs", ctx["job_id"])
    await asyncio.sleep(milliseconds / 1000)
    await COUNTS.hincrby("ends", ctx["job_id"])


Client = type("WorkerSettings", (), SETTINGS | {"functions": (count,)})
# The way back: arq's own client, from `redis_settings`.
Stock = type("WorkerSettings", (), {n: v for n, v in vars(Client).items() if n != "redis_pool"})
