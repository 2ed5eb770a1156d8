"""Jobs by id: look up, abort."""

from typing import Any

from arq.connections import ArqRedis
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from arq.utils import timestamp_ms

from app.core import keys
from app.core.config import WORKER_QUEUES
from app.core.scripts import run_script
from app.core.serializer import deserialize, require_shape
from app.services.jobs import (
    MAX_SHOWN_BYTES,
    InvalidJobError,
    Job,
    JobConflictError,
    JobNotFoundError,
    JobState,
    add_arguments,
    add_sending,
    check_size,
    or_unreadable,
    read_result,
    to_count,
    to_time,
)
from app.services.queues import show_queue


async def find(redis: ArqRedis, job_id: str) -> Job:
    """Return what is known of a job.

    A running job is one that arq has locked for a worker. If that worker was killed, the lock ends
    10 s after the longest timeout of the queue; until another worker takes the job, it is retrying.

    Raises:
        JobNotFoundError: There is no such job.
        TooLargeError: The job or its result is larger than `MAX_SHOWN_BYTES`.
    """
    job, _ = await _look_up(redis, job_id)
    return job


async def load_call(redis: ArqRedis, job_id: str) -> tuple[str, str, list[Any], dict[str, Any]]:
    """Return the queue, the task and the arguments of a job as they were sent.

    `find` shows them as JSON: a secret as asterisks.

    Raises:
        InvalidJobError: They cannot be read.
        JobNotFoundError: There is no such job.
        TooLargeError: As `find`.
    """
    job, raw = await _look_up(redis, job_id)
    try:
        data = deserialize(raw)
        require_shape(data)
    except ValueError as error:
        raise InvalidJobError("id", f"the job {job_id!r} cannot be read: {error}") from None
    return job.queue or "", data["f"], data["a"], data["k"]


async def abort(redis: ArqRedis, job_id: str) -> Job:
    """Have a worker drop a waiting job or cancel a running one; return the job as it is then.

    Work that a task has handed to a thread continues to its end.

    Raises:
        JobConflictError: The job has finished already.
        JobNotFoundError: There is no such job.
    """
    now = str(timestamp_ms())
    for queue in WORKER_QUEUES.values():
        queue_keys = (queue["queue_name"], abort_jobs_ss)
        if await run_script(redis, "abort_job", queue_keys, (job_id, now)):
            return await find(redis, job_id)
    job = await find(redis, job_id)
    raise JobConflictError(f"the job {job_id!r} has {job.state} already")


def unfinished_state(is_running: object, tries: object, due_ms: float) -> JobState:
    """Return the state of a job in a queue: whether it is locked, was tried before, or is due."""
    if is_running:
        return "running"
    if tries:
        return "retrying"
    return "deferred" if due_ms > timestamp_ms() else "queued"


async def _look_up(redis: ArqRedis, job_id: str) -> tuple[Job, bytes]:
    """Return a job, and the bytes that it was read from: those of its result or of itself."""
    names = [queue["queue_name"] for queue in WORKER_QUEUES.values()]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.getrange(job_key_prefix + job_id, 0, MAX_SHOWN_BYTES)
        pipe.getrange(result_key_prefix + job_id, 0, MAX_SHOWN_BYTES)
        pipe.hget(keys.LETTERS, job_id)
        pipe.exists(in_progress_key_prefix + job_id)
        pipe.get(retry_key_prefix + job_id)
        for name in names:
            pipe.zscore(name, job_id)
        payload, result, letter, in_progress, tries, *scores = await pipe.execute(
            raise_on_error=False
        )
    payload, result = or_unreadable(payload), or_unreadable(result)
    queued = [
        (name, score) for name, score in zip(names, scores, strict=True) if isinstance(score, float)
    ]
    if not queued:
        # A dead letter outlives the result that it was.
        raw = result or (letter if isinstance(letter, bytes) else b"")
        if not raw:
            raise JobNotFoundError(f"there is no job {job_id!r}, or its result has expired")
        check_size(job_id, raw)
        return read_result(job_id, raw), raw

    check_size(job_id, payload)
    name, score = queued[0]
    job = Job(id=job_id, state=unfinished_state(in_progress, tries, score), queue=show_queue(name))
    job.due, job.tries = to_time(score), to_count(tries)
    if payload:
        try:
            data = deserialize(payload)
            add_sending(job, data)
            add_arguments(job, data)
        except Exception as error:
            job.error = f"unreadable job ({type(error).__name__}): a worker will refuse it"
    elif not in_progress:
        job.state, job.error = "failed", "the job expired before a worker took it"
    return job, payload
