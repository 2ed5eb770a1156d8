"""Workers: the record that each process keeps of itself, and what is wrong with one, in words."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from arq.connections import ArqRedis
from pydantic import AwareDatetime, BaseModel, Field, ValidationError
from redis.asyncio.client import Pipeline

from app.core import keys
from app.core.scripts import run_script
from app.core.serializer import Result

REPORT_SECONDS = 5
# A worker that has missed three reports does not serve its queue.
MAX_SILENCE_SECONDS = 16
# A silent worker is named for a minute: after that, it is more likely gone than blocked.
RECORD_SECONDS = 60
# Jobs are due by the sender's clock, and taken by the worker's.
MAX_CLOCK_SKEW_SECONDS = 5
# A blocked event loop starts and ends no job, and sees neither an abort nor SIGTERM.
MAX_BLOCKED_SECONDS = 2
MAX_THREAD_WAIT_SECONDS = 15


class Worker(BaseModel):
    """A worker process, as it last reported."""

    queue: str
    host: str
    pid: int
    started: AwareDatetime
    version: str
    running: int = 0
    done: int = 0
    failed: int = 0
    memory_bytes: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    # How far the worker's clock is ahead of that of Redis.
    clock_skew_seconds: float = 0
    # For how long the event loop was blocked, the longest time of the last minute.
    blocked_seconds: float = 0
    # How long a call has waited for one of the threads.
    thread_wait_seconds: float = 0
    # How long ago the worker reported, by the clock of Redis.
    age_seconds: float = 0

    @property
    def name(self) -> str:
        """Host and process id."""
        return f"{self.host}:{self.pid}"

    @property
    def warning(self) -> str | None:
        """What is wrong, and how to fix it."""
        if self.age_seconds > MAX_SILENCE_SECONDS:
            return (
                f"{self.name} has not reported for {self.age_seconds:.0f} s: it was killed, "
                "or a task blocks its event loop"
            )
        if self.blocked_seconds > MAX_BLOCKED_SECONDS:
            return (
                f"{self.name}: a task blocked the event loop for {self.blocked_seconds:.0f} s; "
                "run what computes or waits by `in_thread`"
            )
        if self.thread_wait_seconds > MAX_THREAD_WAIT_SECONDS:
            return (
                f"{self.name}: a call has waited for a thread for {self.thread_wait_seconds:.0f} s,"
                " so all threads are stuck or too slow; restart the worker and give calls a timeout"
            )
        if abs(self.clock_skew_seconds) > MAX_CLOCK_SKEW_SECONDS:
            side = "ahead of" if self.clock_skew_seconds > 0 else "behind"
            return (
                f"{self.name}: the clock is {abs(self.clock_skew_seconds):.0f} s {side} that of "
                "Redis, so jobs start too early or too late; synchronize the clocks"
            )
        return None


# The jobs of this process by queue and success.
_ended: Counter[tuple[str, bool]] = Counter()


def count(results: Sequence[Result], _: Pipeline) -> None:
    """Observe results: count those of this process."""
    _ended.update((result.data["q"], result.data["s"]) for result in results)


async def report(redis: ArqRedis, worker: Worker) -> float:
    """Write a worker's record, and return the time of Redis, in seconds of the epoch.

    `arq --check` passes too: a worker that stops deletes the key that others of its host share.
    """
    queue_name = redis.default_queue_name
    worker.done, worker.failed = _ended[queue_name, True], _ended[queue_name, False]
    names = [
        keys.workers(queue_name),
        keys.worker(queue_name, worker.name),
        keys.sentinel(queue_name),
    ]
    sentinel = f"j_complete={worker.done} j_failed={worker.failed} j_ongoing={worker.running}"
    arguments = [worker.name, worker.model_dump_json(), RECORD_SECONDS, sentinel]
    arguments.append((keys.HEALTH_CHECK_INTERVAL + 1) * 1000)
    seconds, microseconds = await run_script(redis, "report_worker", names, arguments)
    return int(seconds) + int(microseconds) / 1_000_000


async def sign_off(redis: ArqRedis, worker: Worker) -> None:
    """Take the record of a worker that stops away."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zrem(keys.workers(redis.default_queue_name), worker.name)
        pipe.delete(keys.worker(redis.default_queue_name, worker.name))
        await pipe.execute()


def read_worker(record: Any, reported: float, now: float) -> Worker | None:
    """Return the worker of a record, or None for one that is gone or unreadable.

    `reported` and `now` are times of Redis, in seconds of the epoch.
    """
    try:
        worker = Worker.model_validate_json(record or b"")
    except ValidationError:
        return None
    worker.age_seconds = round(max(now - reported, 0), 3)
    return worker
