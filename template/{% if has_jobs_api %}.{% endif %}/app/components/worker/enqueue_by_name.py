"""Enqueue jobs by name, for callers outside Python: checked and converted as the task declares."""

import inspect
import re
from typing import Any, get_type_hints

from arq import func
from arq.connections import ArqRedis
from arq.utils import timestamp_ms
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from app.components.worker import queues
from app.core.config import WORKER_QUEUES
from app.core.serializer import deserialize, serialize
from app.services.jobs import InvalidJobError, Job, JobConflictError, to_json, to_time


async def enqueue_by_name(
    redis: ArqRedis,
    queue: str,
    task: str,
    args: list[Any],
    kwargs: dict[str, Any],
    *,
    job_id: str | None = None,
    delay: float = 0,
) -> Job:
    """Queue a job by the names of its queue and its task.

    Args:
        redis: The client.
        queue: A queue of `WORKER_QUEUES`.
        task: A task that its `WorkerSettings` list.
        args: What the task takes after `ctx`, converted to the types that it declares.
        kwargs: The same by name.
        job_id: An id of your own: arq takes one once, until its result expires.
        delay: How long the job waits at least, in seconds.

    Raises:
        InvalidJobError: The queue, the task or one of its parameters is wrong.
        JobConflictError: The id is taken.
    """
    coroutine = _find_task(queue, task)
    positional, named = _convert(coroutine, args, kwargs)
    job = await redis.enqueue_job(
        task,
        *positional,
        _job_id=job_id,
        _queue_name=WORKER_QUEUES[queue]["queue_name"],
        _defer_by=delay,
        **named,
    )
    if job is None:
        raise JobConflictError(f"there is a job {job_id!r}: its id is free once its result expires")
    now = timestamp_ms()
    return Job(
        id=job.job_id,
        state="deferred" if delay else "queued",
        queue=queue,
        task=task,
        args=[to_json(value) for value in positional],
        kwargs={name: to_json(value) for name, value in named.items()},
        enqueued=to_time(now),
        due=to_time(now + delay * 1000),
    )


def list_tasks(queue: str) -> dict[str, Any]:
    """Return the tasks that a queue's `WorkerSettings` list, each under arq's name for it."""
    functions = map(func, queues.settings(queue).functions)
    return {function.name: function.coroutine for function in functions}


def _find_task(queue: str, task: str) -> Any:
    if queue not in WORKER_QUEUES:
        raise InvalidJobError("queue", f"queue {queue!r} is none of {', '.join(WORKER_QUEUES)}")
    tasks = {name: list_tasks(name) for name in WORKER_QUEUES}
    if task not in tasks[queue]:
        others = [name for name, of_queue in tasks.items() if task in of_queue]
        whose = f"it is one of {', '.join(others)}" if others else "no queue has it"
        raise InvalidJobError("task", f"queue {queue} has no task {task!r}: {whose}")
    return tasks[queue][task]


def _convert(
    coroutine: Any, args: list[Any], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments as the task declares them, such as a time for a text."""
    for name in kwargs:
        # They would be `enqueue_job`'s own, such as `_expires`.
        if name.startswith("_") or name in ("function", "self"):
            raise InvalidJobError(f"kwargs.{name}", f"{name!r} cannot be sent by name")
    signature = inspect.signature(coroutine)
    try:
        signature.bind({}, *args, **kwargs)
    except TypeError as error:
        named = re.search("'(.+)'", str(error))
        raise InvalidJobError(f"kwargs.{named[1]}" if named else "args", str(error)) from None
    try:
        hints = get_type_hints(coroutine)
    except NameError:
        # Imported for the type checker only.
        hints = {}
    _, *names = signature.parameters
    return (
        tuple(
            # What `*args` takes goes on with the name of the last one.
            _convert_value(f"args.{at}", hints.get(names[min(at, len(names) - 1)], Any), value)
            for at, value in enumerate(args)
        ),
        {
            name: _convert_value(f"kwargs.{name}", hints.get(name, Any), value)
            for name, value in kwargs.items()
        },
    )


def _convert_value(parameter: str, hint: Any, value: object) -> object:
    try:
        value = TypeAdapter(hint).validate_python(value)
        deserialize(serialize({"value": value}))
    except ValidationError as error:
        raise InvalidJobError(parameter, f"{parameter}: {error.errors()[0]['msg']}") from None
    except (TypeError, ValueError, PydanticUserError) as error:
        raise InvalidJobError(parameter, f"{parameter}: {error}") from None
    return value
