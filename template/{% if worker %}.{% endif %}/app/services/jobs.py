"""Jobs by id: look up, abort."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Literal

from arq.connections import ArqRedis
from arq.constants import (
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from arq.utils import timestamp_ms
from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict
from pydantic_core import to_jsonable_python

from app.core import keys
from app.core.config import WORKER_QUEUES
from app.core.serializer import deserialize
from app.services.queues import show_queue

JobState = Literal["queued", "deferred", "running", "retrying", "succeeded", "failed", "aborted"]

# More than this of a job or of a result, in bytes, is not shown.
MAX_SHOWN_BYTES = 1_000_000
# What reading raises where somebody else than arq has written.
UNREADABLE = (AttributeError, KeyError, OSError, OverflowError, TypeError, ValueError)

# arq's own abort, for a job that is in its queue. The id of another would stay in arq's set and
# abort a later job. A deferred job is due at once, so that a worker takes it and drops it.
ABORT = """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score then return 0 end
redis.call('ZADD', 'arq:abort', ARGV[2], ARGV[1])
if tonumber(score) > tonumber(ARGV[2]) then redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1]) end
return 1
"""


EXAMPLE: JsonDict = {
    "id": "report-7",
    "state": "succeeded",
    "queue": "reports",
    "task": "write_report",
    "kwargs": {"month": "2026-11"},
    "tries": 1,
    "enqueued": "2026-11-24T08:30:00.125000Z",
    "started": "2026-11-24T08:30:00.250000Z",
    "finished": "2026-11-24T08:30:02.500000Z",
    "result": {"pages": 12},
}


class Job(BaseModel):
    """A job. Arguments and result are plain JSON: bytes are base64, a secret is asterisks."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    state: JobState
    queue: str | None = None
    task: str | None = None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    tries: int = 0
    enqueued: datetime | None = None
    due: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    result: Any = None
    error: str | None = None
    traceback: str | None = None


class JobNotFoundError(LookupError):
    """There is no job of that id, or its result was kept long enough."""


class JobConflictError(Exception):
    """The id is taken, or the job has finished already."""


class InvalidJobError(ValueError):
    """The job could not run as it was asked for; `parameter` names what is wrong."""

    def __init__(self, parameter: str, message: str) -> None:
        """Keep the name beside the message."""
        super().__init__(message)
        self.parameter = parameter


class TooLargeError(Exception):
    """There is too much to show."""


async def find(redis: ArqRedis, job_id: str) -> Job:
    """Return what is known of a job.

    A running job is one that arq has locked for a worker. Where that was killed, the lock ends 10 s
    after the longest timeout of the queue; the job is retrying then, until a worker takes it.

    Raises:
        JobNotFoundError: There is no such job.
        TooLargeError: The job or its result is larger than `MAX_SHOWN_BYTES`.
    """
    names = [queue["queue_name"] for queue in WORKER_QUEUES.values()]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.getrange(job_key_prefix + job_id, 0, MAX_SHOWN_BYTES)
        pipe.getrange(result_key_prefix + job_id, 0, MAX_SHOWN_BYTES)
        pipe.exists(in_progress_key_prefix + job_id)
        pipe.get(retry_key_prefix + job_id)
        for name in names:
            pipe.zscore(name, job_id)
        payload, result, in_progress, tries, *scores = await pipe.execute()
    check_size(job_id, payload, result)
    queued = [(name, score) for name, score in zip(names, scores, strict=True) if score is not None]
    if not queued:
        # A dead letter outlives the result that it was.
        if raw := result or await redis.hget(keys.LETTERS, job_id):  # type: ignore[misc]
            check_size(job_id, raw)
            return read_result(job_id, raw)
        raise JobNotFoundError(f"there is no job {job_id!r}, or its result has expired")

    name, score = queued[0]
    job = Job(id=job_id, state="queued", queue=show_queue(name), due=to_time(score))
    job.tries = int(tries or 0)
    if in_progress:
        job.state = "running"
    elif not payload:
        job.state, job.error = "failed", "the job expired before a worker took it"
    elif tries:
        job.state = "retrying"
    elif score > timestamp_ms():
        job.state = "deferred"
    if payload:
        try:
            _add_payload(job, deserialize(payload))
        except UNREADABLE:
            job.error = "undecodable: a worker will refuse it"
    return job


async def abort(redis: ArqRedis, job_id: str) -> Job:
    """Have a worker drop a job that waits, or cancel one that runs; return it as it is then.

    Work that a task has handed to a thread goes on to its end.

    Raises:
        JobConflictError: It has finished already.
        JobNotFoundError: There is no such job.
    """
    now = timestamp_ms()
    for queue in WORKER_QUEUES.values():
        if await redis.eval(ABORT, 1, queue["queue_name"], job_id, str(now)):  # type: ignore[misc]
            return await find(redis, job_id)
    job = await find(redis, job_id)
    raise JobConflictError(f"the job {job_id!r} has {job.state} already")


def read_result(job_id: str, raw: bytes) -> Job:
    """Return the job whose result is `raw`; one that cannot be read is a failed job."""
    job = Job(id=job_id, state="failed")
    try:
        data = deserialize(raw)
        _add_payload(job, data)
        job.queue, job.tries = show_queue(str(data["q"])), int(data["t"])
        job.started, job.finished = to_time(data["st"]), to_time(data["ft"])
        outcome = data["r"]
        if data["s"]:
            job.state, job.result = "succeeded", to_json(outcome)
        elif isinstance(outcome, asyncio.CancelledError):
            job.state, job.error = "aborted", "aborted on request"
        else:
            job.error, job.traceback = str(outcome), getattr(outcome, "traceback", None) or None
    except UNREADABLE as error:
        reason = f"undecodable result ({type(error).__name__}): it was not written by a worker"
        return Job(id=job_id, state="failed", error=reason)
    return job


def to_json(value: object) -> Any:
    """Return what JSON can say of a value."""
    try:
        # What is around it in an answer is nested too, and pydantic ends at 254 levels.
        [[[[[[[[shown]]]]]]]] = to_jsonable_python(
            [[[[[[[[value]]]]]]]], bytes_mode="base64", inf_nan_mode="null", fallback=repr
        )
    except ValueError:
        return f"nested too deeply: {value!r:.200}"
    return shown


def check_size(job_id: str, *values: bytes) -> None:
    """Raise TooLargeError where a value is larger than `MAX_SHOWN_BYTES`."""
    if max(map(len, values)) > MAX_SHOWN_BYTES:
        raise TooLargeError(f"the job {job_id!r} is larger than {MAX_SHOWN_BYTES:,} bytes")


def _add_payload(job: Job, data: dict[str, Any]) -> None:
    job.task = str(data["f"]) if data["f"] != "<unknown>" else None
    job.args = [to_json(value) for value in data["a"]]
    job.kwargs = {str(name): to_json(value) for name, value in data["k"].items()}
    job.enqueued = to_time(data["et"])


def to_time(milliseconds: float) -> datetime | None:
    """Return one of arq's times, which is 0 where arq does not know it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
