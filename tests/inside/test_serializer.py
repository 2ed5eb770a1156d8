"""Jobs and results in Redis: what survives, and that reading them runs no code."""

import asyncio
import pickle
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import default_queue_name, job_key_prefix
from arq.jobs import Job

from app.core.serializer import TaskError, deserialize, serialize
from tests.support import queue_of, run_burst


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Level(IntEnum):
    LOW = 1


async def fail(ctx: dict[str, Any]) -> None:
    raise KeyError("lost")


WorkerSettings = queue_of(fail, queue_name=default_queue_name)


def test_an_exception_comes_back_as_data() -> None:
    error = deserialize(serialize({"r": ValueError("no such thing")}))["r"]
    assert isinstance(error, TaskError)
    assert str(error) == "ValueError: no such thing"


@pytest.mark.parametrize(
    "value", [datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), {(1, Level.LOW): 1}]
)
def test_what_could_not_be_read_back_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"out of range|unhashable"):
        serialize({"s": True, "r": value})


def test_arq_still_recognizes_an_aborted_job() -> None:
    result = deserialize(serialize({"r": asyncio.CancelledError()}))["r"]
    assert isinstance(result, asyncio.CancelledError)


async def test_waiting_for_a_failed_job_raises_its_error(redis: ArqRedis) -> None:
    job = await redis.enqueue_job("fail")
    assert job is not None
    worker = await run_burst(WorkerSettings)
    assert worker.jobs_failed == 1
    with pytest.raises(TaskError, match="KeyError: 'lost'"):
        await job.result(timeout=5)


async def test_a_planted_pickle_is_not_executed(redis: ArqRedis, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    await redis.set(job_key_prefix + "bomb", pickle.dumps(Bomb(planted)))
    await redis.zadd(default_queue_name, {"bomb": 1})
    worker = await run_burst(WorkerSettings)
    assert worker.jobs_failed == 1
    assert not planted.exists()
    with pytest.raises(TaskError, match="DeserializationError"):
        await Job("bomb", redis, _deserializer=deserialize).result(timeout=5)
