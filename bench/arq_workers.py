"""What the bench starts with the stock arq command beside the project's own workers.

arq reads the `__dict__` of a class and ignores what it inherits: each class here is made whole.
"""

import os
from typing import Any

import arq.connections
from app.components.worker.queues import load_test, media, system
from app.components.worker.tasks.load_test import io_simulation_task
from app.core.redis import Client
from arq.connections import RedisSettings

from bench.noop import COUNTER, noop

QUEUE = vars(load_test.WorkerSettings)
# How fast arq may go. The project's hooks and its format of jobs are left out.
SPEED = ("max_jobs", "job_timeout", "keep_result", "poll_delay", "queue_read_limit", "allow_abort_jobs")
SERVER = {
    "queue_name": QUEUE["queue_name"],
    "redis_settings": RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://127.0.0.1")),
}
if os.environ.get("BENCH_STOCK"):
    # The project's own took its place when it was imported.
    (arq.connections.ArqRedis,) = Client.__bases__


def worker(*functions: Any, **settings: Any) -> type:
    """Return a class for arq."""
    return type("WorkerSettings", (), {**settings, "functions": functions})


async def io(ctx: dict[str, Any]) -> None:
    """Run the project's `io_simulation_task`, and count it."""
    await io_simulation_task(ctx)
    COUNTER.add()


Project = worker(noop, io, **QUEUE)
Bare = worker(noop, io, **SERVER, **{name: QUEUE[name] for name in SPEED})
Defaults = worker(noop, io, **SERVER, max_jobs=50)

# Each queue as it is, with the no-op beside its own tasks.
QUEUES = {
    module.__name__.rpartition(".")[2]: worker(
        *module.WorkerSettings.functions, noop, **vars(module.WorkerSettings)
    )
    for module in (system, load_test, media)
}
System, LoadTest, Media = QUEUES.values()
