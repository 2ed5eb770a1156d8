"""Jobs as the API and the command line show them."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from redis.exceptions import ResponseError

from app.core.config import WORKER_QUEUES
from app.core.serializer import context_of, deserialize
from app.services.queues import show_queue

JobState = Literal["queued", "deferred", "running", "retrying", "succeeded", "failed", "aborted"]

# A job or a result that is larger than this is not shown.
MAX_SHOWN_BYTES = 1_000_000
# pydantic writes 254 levels as JSON, and a response adds some of its own.
MAX_NESTING = 240
# What a key of another type is read as: a byte that msgpack never writes.
UNREADABLE = b"\xc1"
# arq's name for the task of a job that it could not read.
UNKNOWN_TASK = "<unknown>"


class JobSummary(BaseModel):
    """A job as a list shows it."""

    id: str
    state: JobState
    queue: str | None = None
    task: str | None = None
    tries: int = 0
    enqueued: datetime | None = None
    due: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    error: str | None = None
    # Of the request that enqueued it.
    request_id: str | None = None


class Job(JobSummary):
    """A job. Arguments and result are plain JSON: bytes are base64, a secret is asterisks."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    result: Any = None
    traceback: str | None = None


class JobError(Exception):
    """What a caller asked for cannot be done; the message says why."""


class JobNotFoundError(JobError):
    """No job has this id, or its result has expired."""


class JobConflictError(JobError):
    """The id is taken, or the job has finished already."""


class InvalidJobError(JobError):
    """The job could not run; `parameter` names what is wrong with the request."""

    def __init__(self, parameter: str, message: str) -> None:
        """Keep the parameter's name beside the message."""
        super().__init__(message)
        self.parameter = parameter


class TooLargeError(JobError):
    """The job is too large to send or to show."""


def require_queue(queue: str) -> None:
    """Raise InvalidJobError if a name is not that of a queue of `WORKER_QUEUES`."""
    if queue not in WORKER_QUEUES:
        message = f"there is no queue {queue!r}{suggest(queue, WORKER_QUEUES)}"
        raise InvalidJobError("queue", message)


def suggest(name: str, names: Iterable[str]) -> str:
    """Return how a message about an unknown name ends: with the name that was meant, or all."""
    known = sorted(names)
    close = get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f": there are {', '.join(known)}"


def read_result(job_id: str, raw: bytes, *, with_arguments: bool = True) -> Job:
    """Return the job whose result is `raw`; a result that cannot be read is a failed job."""
    job = Job(id=job_id, state="failed")
    try:
        data = deserialize(raw)
        add_sending(job, data)
        add_outcome(job, data)
        if with_arguments:
            add_arguments(job, data)
        if job.state == "succeeded":
            job.result = to_json(data["r"])
        elif job.state == "failed":
            job.error, job.traceback = str(data["r"]), getattr(data["r"], "traceback", None) or None
    except Exception as error:
        # Whatever another program has written harms this record only.
        reason = f"unreadable result ({type(error).__name__}): it was not written by a worker"
        return Job(id=job_id, state="failed", error=reason)
    return job


def state_of(data: dict[str, Any]) -> JobState:
    """Return how the job of a result has ended."""
    if data["s"]:
        return "succeeded"
    return "aborted" if isinstance(data["r"], asyncio.CancelledError) else "failed"


def add_sending(job: JobSummary, data: dict[str, Any]) -> None:
    """Add what arq wrote when the job was sent, without its arguments."""
    job.task = str(data["f"]) if data["f"] != UNKNOWN_TASK else None
    job.enqueued = to_time(data["et"])
    job.request_id = context_of(data).get("request_id")


def add_arguments(job: Job, data: dict[str, Any]) -> None:
    """Add the arguments that the job was sent with."""
    job.args = [to_json(value) for value in data["a"]]
    job.kwargs = {str(name): to_json(value) for name, value in data["k"].items()}


def add_outcome(job: JobSummary, data: dict[str, Any]) -> None:
    """Add what arq wrote when the job ended, without what it returned or raised."""
    job.state = state_of(data)
    job.queue, job.tries = show_queue(str(data["q"])), int(data["t"])
    job.started, job.finished = to_time(data["st"]), to_time(data["ft"])
    if job.state == "aborted":
        job.error = "aborted on request"


def to_json(value: object) -> Any:
    """Return a value as JSON can carry it: bytes as base64, a secret as asterisks."""
    if _is_nested_deeper(value, MAX_NESTING):
        return "nested too deeply to show"
    return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="null", fallback=repr)


def _is_nested_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_nested_deeper(part, levels - 1) for part in parts)


def or_unreadable(answer: Any) -> Any:
    """Return what a command in a pipeline gave, or `UNREADABLE` if its key has another type."""
    if not isinstance(answer, ResponseError):
        return answer
    if "WRONGTYPE" in str(answer):
        return UNREADABLE
    raise answer


def check_size(job_id: str, raw: bytes) -> None:
    """Raise TooLargeError if a job or result is larger than `MAX_SHOWN_BYTES`."""
    if len(raw) > MAX_SHOWN_BYTES:
        raise TooLargeError(f"the job {job_id!r} is larger than {MAX_SHOWN_BYTES:,} bytes")


def to_time(milliseconds: float) -> datetime | None:
    """Return one of arq's times, or None for 0 or what is not a time: arq does not know it."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
    except (OverflowError, ValueError, OSError):
        return None


def show_id(job_id: bytes) -> str:
    """Return a job's id as text; one that is not UTF-8 has its other bytes as `\\xff`."""
    return job_id.decode(errors="backslashreplace")
