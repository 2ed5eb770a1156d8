"""Health in each state, as the service, the API and the command line tell it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from fastapi.testclient import TestClient

from app.components.backend.main import app
from app.core import keys
from app.core.config import WORKER_QUEUES, WorkerQueue, settings
from app.core.redis import create_client, redis_settings
from app.services.health import check_disk, check_health, check_redis
from app.services.queues import MAX_WAIT_SECONDS, check_queue, has_worker
from app.services.workers import MAX_SILENCE_SECONDS, Worker
from tests.conftest import API_KEY
from tests.inside import command
from tests.inside.running import run_command, running

NOWHERE = "redis://127.0.0.1:1/0"
KEY = "arq:queue:test"
QUEUE = WorkerQueue(description="", max_jobs=10, timeout_seconds=300, queue_name=KEY)


async def report_as_a_worker(redis: ArqRedis, *, age: float = 1, **values: Any) -> Worker:
    """Report as a worker did, `age` seconds ago."""
    worker = Worker(
        queue="test", host="host", pid=1, started=datetime.now(UTC), version="1"
    ).model_copy(update=values)
    await redis.set(keys.worker(KEY, worker.name), worker.model_dump_json())
    seconds, microseconds = await redis.time()
    await redis.zadd(keys.workers(KEY), {worker.name: seconds + microseconds / 1e6 - age})
    return worker


async def add_job(redis: ArqRedis, job_id: str, *, age: float, running: bool = False) -> None:
    """Put an id into the queue, and lock it as a worker does."""
    await redis.zadd(KEY, {job_id: (time.time() - age) * 1000})
    if running:
        await redis.set(f"arq:in-progress:{job_id}", b"1")


@pytest.fixture
async def every_worker(redis: ArqRedis) -> AsyncIterator[None]:
    """The workers of all queues in WORKER_QUEUES."""
    async with AsyncExitStack() as stack:
        for name in WORKER_QUEUES:
            module = import_module(f"app.components.worker.queues.{name}")
            await stack.enter_async_context(running(module.WorkerSettings))
        yield


async def get(path: str, key: str = API_KEY) -> tuple[int, str, Any]:
    """Ask the API; return the status code, the media type and the response."""

    def ask() -> tuple[int, str, Any]:
        with TestClient(app) as client:
            response = client.get(path, headers={"X-API-Key": key})
        return response.status_code, response.headers["content-type"], response.json()

    return await asyncio.to_thread(ask)


async def test_a_queue_with_a_worker_passes(redis: ArqRedis) -> None:
    await report_as_a_worker(redis, age=4, done=3)
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "pass"
    (worker,) = check.workers
    assert (worker.name, worker.done) == ("host:1", 3)
    assert worker.age_seconds == pytest.approx(4, abs=0.5)


async def test_a_queue_without_a_worker_fails_with_the_way_out(redis: ArqRedis) -> None:
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "fail"
    assert "python -m arq app.components.worker.queues.test.WorkerSettings" in str(check.output)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"age": MAX_SILENCE_SECONDS + 1}, "host:1 has not reported for 17 s"),
        ({"blocked_seconds": 12}, "a task blocked the event loop for 12 s"),
        ({"thread_wait_seconds": 20}, "all threads are stuck"),
        ({"clock_skew_seconds": -600}, "the clock is 600 s behind that of Redis"),
    ],
)
async def test_what_is_wrong_with_a_worker_is_told(
    redis: ArqRedis, values: dict[str, Any], words: str
) -> None:
    await report_as_a_worker(redis, **values)
    await report_as_a_worker(redis, pid=2)
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "warn"
    assert words in str(check.output)
    assert "host:2" in {worker.name for worker in check.workers}


async def test_a_silent_worker_does_not_serve_its_queue(redis: ArqRedis) -> None:
    await report_as_a_worker(redis, age=MAX_SILENCE_SECONDS + 1)
    check = await check_queue(redis, "test", QUEUE)
    assert (check.status, check.workers) == ("fail", [])
    assert "no worker has reported" in str(check.output)
    assert "has not reported for 17 s" in str(check.output)


async def test_a_report_of_the_future_is_no_worker(redis: ArqRedis) -> None:
    await report_as_a_worker(redis, age=0)
    assert await has_worker(redis, QUEUE)
    await redis.zadd(keys.workers(KEY), {"host:1": time.time() + 3600})
    assert not await has_worker(redis, QUEUE)


async def test_a_bad_record_harms_only_itself(redis: ArqRedis) -> None:
    await report_as_a_worker(redis)
    for name, record in {"bad": b"hello", "odd": b"\xff", "none": None, "\x1b[2J": b"{}"}.items():
        await redis.zadd(keys.workers(KEY), {name: time.time()})
        if record:
            await redis.set(keys.worker(KEY, name), record)
    await redis.zadd(keys.workers(KEY), {b"\xff": time.time()})
    await redis.hset(keys.worker(KEY, "hash"), "a", "b")  # type: ignore[misc]
    await redis.zadd(keys.workers(KEY), {"hash": time.time()})
    await redis.zadd(KEY, {b"\xff": 1})
    check = await check_queue(redis, "test", QUEUE)
    assert (check.status, len(check.workers)) == ("warn", 1)  # The odd job waits.


async def test_a_queue_of_another_type_is_told(redis: ArqRedis) -> None:
    await redis.set(KEY, "text")
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "fail"
    assert "WRONGTYPE" in str(check.output)


async def test_jobs_are_counted_by_what_they_do(redis: ArqRedis) -> None:
    await report_as_a_worker(redis)
    await add_job(redis, "running", age=20, running=True)
    await add_job(redis, "oldest", age=10)
    await add_job(redis, "ready", age=5)
    await add_job(redis, "later", age=-60)
    check = await check_queue(redis, "test", QUEUE)
    assert (check.ready, check.running, check.deferred) == (2, 1, 1)
    assert check.oldest_wait_seconds == pytest.approx(10, abs=0.5)
    assert check.status == "pass"


async def test_a_queue_that_waits_warns(redis: ArqRedis) -> None:
    await report_as_a_worker(redis)
    for number in range(3):
        await add_job(redis, str(number), age=MAX_WAIT_SECONDS + 5)
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "warn"
    assert str(check.output).startswith("3 jobs are ready, the oldest for 65 s")


async def test_a_redis_that_is_down_fails_with_the_way_out() -> None:
    async with create_client(redis_settings(NOWHERE)) as client:
        report = await check_health(client)
    assert report.status == "fail"
    assert set(report.checks) == {"disk", "redis"}
    assert str(report.output).startswith("redis: Redis at ")


async def test_a_full_redis_fails_and_a_filling_one_warns(redis: ArqRedis) -> None:
    used = (await redis.info("memory"))["used_memory"]
    try:
        await redis.config_set("maxmemory", int(used * 1.1))
        check = await check_redis(redis)
        assert check.status == "warn"
        assert "of its memory" in str(check.output)
        await redis.config_set("maxmemory", 1)
        check = await check_redis(redis)
        assert check.status == "fail"
        assert "is full: purge" in str(check.output)
        code, _, probe = await get("/readyz")
        assert (code, probe["output"]) == (503, "Redis does not take writes")
        await redis.config_set("maxmemory", 0)
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        check = await check_redis(redis)
        assert check.status == "warn"
        assert "noeviction" in str(check.output)
    finally:
        await redis.config_set("maxmemory", 0)
        await redis.config_set("maxmemory-policy", "noeviction")


async def test_without_the_key_only_the_status_is_told(every_worker: None) -> None:
    code, _, report = await get("/health", key="")
    assert (code, report) == (200, {"status": "pass"})


def test_a_deleted_directory_has_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert check_disk().free_bytes


def test_a_full_disk_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.health.MIN_FREE_BYTES", 2**62)
    assert check_disk().status == "fail"


async def test_the_api_passes_with_every_worker(every_worker: None) -> None:
    code, media_type, report = await get("/health")
    assert (code, report["status"]) == (200, "pass")
    assert media_type == "application/health+json"
    for name in WORKER_QUEUES:
        (check,) = report["checks"][f"queue:{name}"]
        assert len(check["workers"]) == 1


async def test_the_api_fails_without_a_worker(redis: ArqRedis) -> None:
    code, _, report = await get("/health")
    assert (code, report["status"]) == (503, "fail")
    assert (await get("/readyz"))[0] == 200


async def test_the_api_answers_without_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "REDIS_URL", NOWHERE)
    assert (await get("/livez"))[0] == 200
    code, _, probe = await get("/readyz")
    assert (code, probe["status"]) == (503, "fail")
    code, _, report = await get("/health")
    assert (code, report["status"]) == (503, "fail")


async def test_the_command_passes_with_every_worker(every_worker: None) -> None:
    assert await command.run("health", "probe") == (0, "pass\n", "")
    code, output, _ = await command.run("health", "status", "--detailed")
    assert code == 0
    assert output.count("s ago") == len(WORKER_QUEUES)
    code, output, _ = await command.run("health", "status", "--json")
    assert (code, json.loads(output)["status"]) == (0, "pass")
    assert output.isascii()


async def test_the_command_fails_without_a_worker(redis: ArqRedis) -> None:
    code, output, errors = await command.run("health", "status")
    assert (code, errors) == (1, "")
    assert output.count("no worker has reported") == len(WORKER_QUEUES)


async def test_the_command_fails_without_redis() -> None:
    code, output, errors = await run_command("health", "probe", url=NOWHERE)
    assert (code, errors) == (1, "")
    assert output.startswith("fail: redis: Redis at redis://127.0.0.1:1/0 does not answer")
    assert output.count("\n") == 1
