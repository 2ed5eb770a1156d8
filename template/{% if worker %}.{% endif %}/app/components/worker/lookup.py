"""Tasks by the name of their queue and their own."""

from collections.abc import Sequence
from typing import Any

from arq import func

from app.components.worker import queues
from app.components.worker.arguments import convert
from app.core.config import WORKER_QUEUES
from app.services.jobs import InvalidJobError, require_queue, suggest


def list_tasks(queue: str) -> dict[str, Any]:
    """Return the tasks that a queue's `WorkerSettings` list, each under arq's name for it."""
    functions = map(func, queues.settings(queue).functions)
    return {function.name: function.coroutine for function in functions}


def find_task(queue: str, task: str) -> Any:
    """Return a task by its names.

    Raises:
        InvalidJobError: There is no such queue, or it does not run the task.
    """
    require_queue(queue)
    tasks = list_tasks(queue)
    if task not in tasks:
        others = [name for name in WORKER_QUEUES if task in list_tasks(name)]
        hint = f": queue {others[0]} has it" if others else suggest(task, tasks)
        raise InvalidJobError("task", f"queue {queue} has no task {task!r}{hint}")
    return tasks[task]


def check_job(queue_name: str, task: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Make sure that a worker can run a job that was sent before, by arq's name of its queue.

    Raises:
        InvalidJobError: The queue or the task is gone, or its arguments no longer fit.
        TooLargeError: They are larger than `MAX_ARGUMENTS_BYTES`.
    """
    names = {queue["queue_name"]: name for name, queue in WORKER_QUEUES.items()}
    if queue_name not in names:
        raise InvalidJobError("queue", f"no queue of WORKER_QUEUES is {queue_name!r}")
    settings = queues.settings(names[queue_name])
    crons = {job.name: job.coroutine for job in settings.cron_jobs}
    convert(crons.get(task) or find_task(names[queue_name], task), args, kwargs)
