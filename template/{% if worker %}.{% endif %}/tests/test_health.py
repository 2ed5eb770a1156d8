"""Health in each state, as the service, the API and the command line tell it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import pytest
from arq.connections import ArqRedis
from fastapi.testclient import TestClient

from app.components.backend.main import app
from app.core import keys
from app.core.config import WORKER_QUEUES, WorkerQueue, settings
from app.core.redis import create_client, redis_settings
from app.services.health import check_disk, check_health
from app.services.queues import MAX_WAIT_SECONDS, check_queue
from tests.conftest import API_KEY
from tests.support import run_command, running

NOWHERE = "redis://127.0.0.1:1/0"
KEY = "arq:queue:test"
QUEUE = WorkerQueue(description="", max_jobs=10, timeout_seconds=300, queue_name=KEY)


async def report_as_a_worker(redis: ArqRedis, *, age: float = 1, name: str = "one") -> str:
    """Write a sentinel as arq does, and register it as `startup` does."""
    sentinel = f"{KEY}:health-check:{name}"
    text = "Nov-24 08:30:00 j_complete=3 j_failed=2 j_retried=1 j_ongoing=1 queued=0"
    await redis.psetex(sentinel, int((keys.HEALTH_CHECK_INTERVAL + 1 - age) * 1000), text)
    await redis.zadd(keys.workers(KEY), {sentinel: time.time()})
    return sentinel


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


async def get(path: str) -> tuple[int, str, Any]:
    """Ask the API; return the status code, the media type and the answer."""

    def ask() -> tuple[int, str, Any]:
        with TestClient(app) as client:
            response = client.get(path, headers={"X-API-Key": API_KEY})
        return response.status_code, response.headers["content-type"], response.json()

    return await asyncio.to_thread(ask)


async def test_a_queue_with_a_worker_passes(redis: ArqRedis) -> None:
    sentinel = await report_as_a_worker(redis, age=4)
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "pass"
    (worker,) = check.workers
    assert worker.name == sentinel
    assert worker.age_seconds == pytest.approx(4, abs=0.5)
    assert (worker.j_complete, worker.j_failed, worker.j_retried) == (3, 2, 1)


async def test_a_queue_without_a_worker_fails_with_the_way_out(redis: ArqRedis) -> None:
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "fail"
    assert "python -m arq app.components.worker.queues.test.WorkerSettings" in str(check.output)


async def test_a_worker_that_is_late_is_named(redis: ArqRedis) -> None:
    await report_as_a_worker(redis, name="two")
    late = await report_as_a_worker(redis, age=keys.HEALTH_CHECK_INTERVAL + 0.5)
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "warn"
    assert str(check.output).startswith(late)


async def test_a_worker_that_is_gone_leaves_the_others_healthy(redis: ArqRedis) -> None:
    await redis.delete(await report_as_a_worker(redis, name="killed"))
    await report_as_a_worker(redis, name="alive")
    check = await check_queue(redis, "test", QUEUE)
    assert check.status == "pass"
    assert [worker.name for worker in check.workers] == [f"{KEY}:health-check:alive"]


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
    assert await run_command("health", "probe") == (0, "pass\n", "")
    code, output, _ = await run_command("health", "status", "--detailed")
    assert code == 0
    assert output.count("j_complete=") == len(WORKER_QUEUES)
    code, output, _ = await run_command("health", "status", "--json")
    assert (code, json.loads(output)["status"]) == (0, "pass")


async def test_the_command_fails_without_a_worker(redis: ArqRedis) -> None:
    code, output, errors = await run_command("health", "status")
    assert (code, errors) == (1, "")
    assert output.count("no worker has reported") == len(WORKER_QUEUES)


async def test_the_command_fails_without_redis() -> None:
    code, output, errors = await run_command("health", "probe", url=NOWHERE)
    assert (code, errors) == (1, "")
    assert output.startswith("fail: redis: Redis at redis://127.0.0.1:1/0 does not answer")
    assert output.count("\n") == 1
