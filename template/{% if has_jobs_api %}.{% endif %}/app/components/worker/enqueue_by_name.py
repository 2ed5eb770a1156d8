"""Enqueue jobs by name, for callers outside Python; and tell them which tasks there are."""

import inspect
import json
from typing import Any

from arq.connections import ArqRedis
from arq.utils import timestamp_ms
from pydantic import BaseModel, TypeAdapter

from app.components.worker.arguments import Task, convert, signature_of, types_of
from app.components.worker.enqueue import Options, send_job
from app.components.worker.lookup import find_task, list_tasks
from app.core import keys
from app.core.config import WORKER_QUEUES
from app.services.jobs import InvalidJobError, Job, JobConflictError, to_json, to_time

# Ids of cron jobs, of load tests and of alerts begin with these.
RESERVED_PREFIXES = ("cron:", keys.BULK_PREFIX, keys.ALERT_PREFIX)
# A value of each type in JSON Schema.
EXAMPLES: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "array": [],
    "object": {},
}


class TaskDescription(BaseModel):
    """A task that can be sent by name, with a JSON Schema of its parameters."""

    queue: str
    task: str
    description: str
    parameters: dict[str, Any]


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

    The arguments, what the task takes after `ctx`, are converted to the types that it declares.
    arq takes an id once, until its result expires. `delay` is in seconds.

    Raises:
        InvalidJobError: The queue, the task, the id or a parameter is wrong.
        JobConflictError: The id is taken.
        TooLargeError: The arguments are larger than `MAX_ARGUMENTS_BYTES`.
        MemoryFullError: Redis has no memory left for new jobs.
    """
    positional, named = convert(find_task(queue, task), args, kwargs)
    options: Options = {"_defer_by": delay}
    if job_id is not None:
        if job_id.startswith(RESERVED_PREFIXES):
            raise InvalidJobError("id", f"the project has its own use for ids such as {job_id!r}")
        # Clients shorten /jobs/a/../b to /jobs/b, and proxies /jobs/a//b to /jobs/a/b: the path of
        # another job.
        if {"", ".", ".."} & set(job_id.split("/")):
            message = f"no path leads to {job_id!r}: a part of it is empty, . or .."
            raise InvalidJobError("id", message)
        options["_job_id"] = job_id
    queue_name = WORKER_QUEUES[queue]["queue_name"]
    sent_id = await send_job(redis, queue_name, task, positional, named, options)
    if sent_id is None:
        raise JobConflictError(f"there is a job {job_id!r}: its id is free once its result expires")
    now = timestamp_ms()
    return Job(
        id=sent_id,
        state="deferred" if delay else "queued",
        queue=queue,
        task=task,
        args=[to_json(value) for value in positional],
        kwargs={name: to_json(value) for name, value in named.items()},
        enqueued=to_time(now),
        due=to_time(now + delay * 1000),
    )


def read_texts(task: Task, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Parse as JSON each typed text that the task does not take as text.

    Raises:
        InvalidJobError: The task does not take one of them either way.
        TooLargeError: Together they are larger than `MAX_ARGUMENTS_BYTES`.
    """
    while True:
        try:
            convert(task, args, kwargs)
            return
        except InvalidJobError as error:
            kind, _, name = error.parameter.partition(".")
            values: Any = args if kind == "args" else kwargs
            at = int(name) if name.isdecimal() else name
            try:
                values[at] = json.loads(values[at])
            except (LookupError, RecursionError, TypeError, ValueError):
                # It is missing, was parsed already, or is not JSON.
                raise error from None


def describe_tasks() -> list[TaskDescription]:
    """Return every task of every queue, by the names that `enqueue_by_name` takes."""
    return [
        TaskDescription(
            queue=queue,
            task=name,
            description=(inspect.getdoc(task) or "").partition("\n")[0],
            parameters=_describe_parameters(task),
        )
        for queue in WORKER_QUEUES
        for name, task in list_tasks(queue).items()
    ]


def list_examples() -> list[dict[str, Any]]:
    """Return a job of each queue, as `POST /jobs` takes it, of the task that needs least."""
    examples = {}
    for task in sorted(describe_tasks(), key=lambda task: -len(task.parameters["required"])):
        properties = task.parameters["properties"]
        kwargs = {
            name: EXAMPLES.get(properties[name].get("type")) for name in task.parameters["required"]
        }
        examples[task.queue] = {"queue": task.queue, "task": task.task, "kwargs": kwargs}
    return list(examples.values())


def _describe_parameters(task: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
    required = []
    _, *parameters = signature_of(task).parameters.items()
    for name, parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            schema["additionalProperties"] = True
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue
        described = _describe_type(types_of(task)[name])
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        else:
            described["default"] = to_json(parameter.default)
        schema["properties"][name] = described
    return {**schema, "required": required}


def _describe_type(type_: TypeAdapter[Any] | str) -> dict[str, Any]:
    if isinstance(type_, str):
        return {"not": {}, "description": type_}
    try:
        return type_.json_schema()
    except Exception as error:
        return {"description": f"it has no JSON Schema: {str(error).splitlines()[0]}"}
