"""The recorder: it encodes what a worker writes, and tells its observers of each result.

arq calls no hook for a job whose tries are used up, that expired, whose task is unknown or whose
bytes are undecodable, and it tells no hook how a job ended. But it encodes a result every time.

An observer is a function that is called with all results since the last flush, oldest first, and
a pipeline. It queues its commands there, without awaiting any; those of all observers leave in one
write, every `FLUSH_SECONDS` and when the worker stops. A flush that does not reach Redis is
repeated, so a command may run twice. One that replies `LATER`, as a script can, is sent again with
the next flush. Observers see a result before or after arq has written it to Redis; they run on the
worker's event loop and are called with up to a thousand results at a time, so they must be quick.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import structlog
from arq.connections import ArqRedis
from redis.asyncio.client import Pipeline

from app.core.serializer import Result, deserialize, require_shape, serialize
from app.services import dead_letters, history, workers

Observer = Callable[[Sequence[Result], Pipeline], None]

OBSERVERS: tuple[Observer, ...] = (dead_letters.record, history.remember, workers.count)

# A larger result is not kept: the job has succeeded, and says how large its result was.
MAX_RESULT_BYTES = 1_000_000
FLUSH_SECONDS = 0.5
LATER = b"LATER"
# How often a command is sent that replies LATER: for 10 s.
MAX_TRIES = 20
# A worker of this many results in half a second, or of this many commands that an unreachable
# Redis has not taken, forgets the oldest. The sweep finds the failures among them.
MAX_WAITING = 10_000

# The task whose job arq decodes. arq's `ctx` lacks it, and calls `on_job_start` next, in the same
# asyncio task, so that it cannot be another job's.
task_name: ContextVar[str] = ContextVar("task_name", default="unknown")

# arq runs one worker per process, and calls `encode` without saying for which.
_results: deque[Result] = deque(maxlen=MAX_WAITING)
_waiting: deque[tuple[Any, int]] = deque(maxlen=MAX_WAITING)

log = structlog.stdlib.get_logger(__name__)


def encode(data: dict[str, Any]) -> bytes:
    """Encode a job or a result for arq, and keep a result for the observers."""
    raw = serialize(data)
    if data.get("s") and len(raw) > MAX_RESULT_BYTES:
        text = f"a result of {len(raw):,} bytes was not kept: the limit is {MAX_RESULT_BYTES:,}"
        data = {**data, "r": text}
        raw = serialize(data)
    if "s" in data:
        _results.append(Result(data, raw))
    return raw


def decode(raw: bytes) -> dict[str, Any]:
    """Decode a job for arq, and keep the name of its task for the log context.

    Raises:
        ValueError: arq records the job as failed.
    """
    job = deserialize(raw)
    require_shape(job)
    task_name.set(job["f"])
    return job


async def flush_until(stopping: asyncio.Event, redis: ArqRedis) -> None:
    """Flush every `FLUSH_SECONDS`, and once more when the worker stops."""
    while not stopping.is_set():
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await stopping.wait()
        except TimeoutError:
            pass
        try:
            await flush(redis)
        except Exception as error:
            log.warning("the recorder waits for Redis", error=str(error))


async def flush(redis: ArqRedis) -> None:
    """Show the observers what is new, and send what they have to write.

    Raises:
        RedisError: Redis is out of reach. The commands wait for the next flush.
    """
    if not (_results or _waiting):
        return
    results = list(_results)
    _results.clear()
    async with redis.pipeline(transaction=False) as pipe:
        for observe in OBSERVERS if results else ():
            try:
                observe(results, pipe)
            except Exception:
                log.exception("an observer failed", observer=observe.__qualname__)
        sent = [*_waiting, *((command, MAX_TRIES) for command in pipe.command_stack)]
        _waiting.clear()
        pipe.command_stack = [command for command, _ in sent]
        try:
            replies = await pipe.execute(raise_on_error=False)
        except BaseException:
            _waiting.extend(sent)
            raise
    for (command, tries), reply in zip(sent, replies, strict=True):
        if reply == LATER and tries > 1:
            _waiting.append((command, tries - 1))
    if errors := [reply for reply in replies if isinstance(reply, Exception)]:
        log.warning(
            "Redis refused what the recorder wrote", count=len(errors), error=str(errors[0])
        )
