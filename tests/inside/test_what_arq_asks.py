"""What stock arq asks of Redis, which `client.py` is written for: a newer arq may ask otherwise."""

import sys
from collections import defaultdict
from typing import Any

import arq.worker
from arq.connections import ArqRedis
from arq.worker import Worker
from redis.asyncio.client import Pipeline

from app.core.config import settings
from app.core.redis import connection_pool
from tests.support import QUEUE

ASKED: dict[str, list[str]] = defaultdict(list)

# By the function of arq's worker, for one job named "id" that succeeds. `*` is a time.
EXPECTED = {
    "_poll_iteration": [f"zrangebyscore('{QUEUE}',) max,min,num,start"],
    "start_jobs": [
        "WATCH arq:in-progress:id",
        "EXISTS arq:in-progress:id",
        f"ZSCORE {QUEUE} id",
        "PSETEX arq:in-progress:id 310000 b'1'",
    ],
    "run_job": [
        "GET arq:job:id",
        "INCRBY arq:retry:id 1",
        "EXPIRE arq:retry:id 88400",
        "ZREM arq:abort id",
    ],
    "finish_job": [
        "SET arq:result:id * PX 3600000",
        "ZREM arq:abort id",
        f"ZREM {QUEUE} id",
        "DEL arq:in-progress:id arq:retry:id arq:job:id",
    ],
    "_cancel_aborted_jobs": ["ZRANGE arq:abort 0 -1", "ZREMRANGEBYSCORE arq:abort * inf"],
}


def asking_function() -> str:
    """Return the name of the function of arq's worker that is at work."""
    frame = sys._getframe()
    while frame.f_code.co_filename != arq.worker.__file__:
        assert frame.f_back
        frame = frame.f_back
    return frame.f_code.co_name


class RecordingPipeline(Pipeline):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        name = asking_function()
        # The time of now and the result differ in each run.
        shown = ["*" if _is_variable(arg) else str(arg) for arg in args]
        ASKED[name].append(" ".join(shown))
        return super().execute_command(*args, **options)


def _is_variable(value: object) -> bool:
    is_result = isinstance(value, bytes) and len(value) > 1
    return is_result or (isinstance(value, int) and value > 1_600_000_000_000)


class RecordingRedis(ArqRedis):
    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pool = self.connection_pool
        return RecordingPipeline(pool, self.response_callbacks, transaction, shard_hint)

    def zrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
        ASKED[asking_function()].append(f"zrangebyscore{args} {','.join(sorted(kwargs))}")
        return super().zrangebyscore(*args, **kwargs)


async def nothing(ctx: dict[str, Any]) -> None: ...


async def test_arq_asks_what_the_client_is_written_for(redis: ArqRedis) -> None:
    await redis.enqueue_job("nothing", _job_id="id", _queue_name=QUEUE)
    pool = RecordingRedis(
        connection_pool(settings.redis_settings),
        job_serializer=redis.job_serializer,
        job_deserializer=redis.job_deserializer,
    )
    worker = Worker(
        [nothing],
        queue_name=QUEUE,
        redis_pool=pool,
        burst=True,
        max_burst_jobs=1,
        allow_abort_jobs=True,
        handle_signals=False,
        job_serializer=redis.job_serializer,
        job_deserializer=redis.job_deserializer,
    )
    await worker.async_run()
    await worker.close()
    for name, expected in EXPECTED.items():
        assert ASKED[name][: len(expected)] == expected, f"{name} asks in another way"
        del ASKED[name]
    others = {name for name, lines in ASKED.items() if "arq:in-progress" in str(lines)}
    assert not others, "other functions look at locks"
