"""Sending a job by its function, so that a mistake in it shows where it is made."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict

from arq import func
from arq.connections import ArqRedis
from arq.jobs import Job
from arq.typing import WorkerCoroutine
from arq.worker import Function

from app.core.serializer import deserialize, serialize

P = ParamSpec("P")
Task = Callable[Concatenate[dict[str, Any], P], Awaitable[object]]


class Queue(Protocol):
    """A `WorkerSettings` class, as far as sending goes."""

    functions: Sequence[WorkerCoroutine | Function]
    queue_name: str


class Options(TypedDict, total=False):
    """arq's own options of `enqueue_job`."""

    _job_id: str
    _defer_by: float | timedelta
    _defer_until: datetime
    _expires: float | timedelta


async def enqueue(
    redis: ArqRedis, queue: Queue, task: Task[P], *args: P.args, **kwargs: P.kwargs
) -> Job:
    """Queue a job that runs as soon as a worker is free.

    Args:
        redis: A client that writes jobs as the workers read them, as `create_client` gives one.
        queue: The `WorkerSettings` class of the queue.
        task: The task function itself.
        *args: What the task takes after `ctx`.
        **kwargs: The same by name.

    Raises:
        TypeError: The task does not take these arguments, or one cannot be written as msgpack.
        ValueError: The queue does not list the task.
    """
    job = await enqueue_with(redis, queue, {}, task, *args, **kwargs)
    if job is None:
        raise RuntimeError("arq gave a new job an id that is taken")
    return job


async def enqueue_with(
    redis: ArqRedis,
    queue: Queue,
    options: Options,
    task: Task[P],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Job | None:
    """Queue a job under an id of your own, for later, or with a time after which it is dropped.

    Returns:
        The job, or None where the id is taken: arq keeps an id until the job's result expires.

    Raises:
        TypeError: As for `enqueue`.
        ValueError: As for `enqueue`.
    """
    name = _registered_name(queue, task)
    try:
        inspect.signature(task).bind({}, *args, **kwargs)
        # Reading back finds what can be written and not read, such as a tuple as a key.
        deserialize(serialize({"args": args, "kwargs": kwargs}))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {error}") from None
    keywords: dict[str, Any] = {**kwargs, **options}
    return await redis.enqueue_job(name, *args, _queue_name=queue.queue_name, **keywords)


def _registered_name(queue: Queue, task: Callable[..., Awaitable[object]]) -> str:
    for function in map(func, queue.functions):
        if function.coroutine is task:
            return function.name
    raise ValueError(
        f"{queue.queue_name} does not run {task.__qualname__}: add it to the `functions` of "
        f"{queue.__module__}.WorkerSettings"
    )
