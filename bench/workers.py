"""The project's own workers, with the jobs of the bench beside their own tasks.

arq ignores what a class inherits: each class here is made whole.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from app.components.worker.client import worker_client
from app.components.worker.queues import load_test, media, system
from app.components.worker.tasks import load_test as tasks
from arq.worker import func

from bench.jobs import COUNTER, noop

QUEUE = vars(load_test.WorkerSettings)


def counted(task: Callable[..., Any]) -> Any:
    """Return a task that is counted when it ends."""

    @wraps(task)
    async def run(ctx: dict[str, Any]) -> Any:
        try:
            return await task(ctx)
        finally:
            COUNTER.add()

    return func(run, name=task.__name__)


def worker(*functions: Any, **settings: Any) -> type:
    """Return a class for arq."""
    return type("WorkerSettings", (), {**settings, "functions": functions})


def load_test_worker() -> type:
    """Return the worker of load tests, of the queue that `BENCH_QUEUE` names, if it does."""
    settings = dict(QUEUE)
    if name := os.environ.get("BENCH_QUEUE"):
        settings |= {"queue_name": name, "redis_pool": worker_client(name, QUEUE["max_jobs"])}
    kinds = (
        tasks.cpu_intensive_task,
        tasks.failure_testing_task,
        tasks.io_simulation_task,
        tasks.memory_operations_task,
    )
    return worker(noop, *map(counted, kinds), **settings)


Project = load_test_worker()

# Each queue as it is, with the no-op beside its own tasks.
QUEUES = {
    module.__name__.rpartition(".")[2]: worker(
        *module.WorkerSettings.functions, noop, **vars(module.WorkerSettings)
    )
    for module in (system, load_test, media)
}
System, LoadTest, Media = QUEUES.values()
