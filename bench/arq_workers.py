"""What the bench starts with the stock arq command beside the project's own workers.

arq reads the `__dict__` of a class and ignores what it inherits: each class here is made whole.
"""

from typing import Any

from app.components.worker.queues import load_test, media, system
from app.components.worker.tasks.load_test import io_simulation_task

from bench.noop import noop

QUEUE = vars(load_test.WorkerSettings)
# How fast arq may go. The project's hooks and its format of jobs are left out.
SPEED = ("max_jobs", "job_timeout", "keep_result", "poll_delay", "queue_read_limit")
SERVER = {name: QUEUE[name] for name in ("queue_name", "redis_settings")}


def worker(*functions: Any, **settings: Any) -> type:
    """Return a class for arq."""
    return type("WorkerSettings", (), {**settings, "functions": functions})


Project = worker(noop, **QUEUE)
Bare = worker(noop, io_simulation_task, **SERVER, **{name: QUEUE[name] for name in SPEED})
Defaults = worker(noop, io_simulation_task, **SERVER, max_jobs=50)

# Each queue as it is, with the no-op beside its own tasks.
QUEUES = {
    module.__name__.rpartition(".")[2]: worker(
        *module.WorkerSettings.functions, noop, **vars(module.WorkerSettings)
    )
    for module in (system, load_test, media)
}
System, LoadTest, Media = QUEUES.values()
