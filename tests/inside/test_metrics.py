"""What workers and the web process show to Prometheus."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.jobs import Job
from fastapi.testclient import TestClient
from prometheus_client import generate_latest

from app.components.backend.main import app
from app.components.worker import monitor
from app.components.worker.enqueue import enqueue
from app.core import keys
from app.core.config import WORKER_QUEUES, settings
from app.core.serializer import Result
from app.services import metrics
from tests.conftest import API_KEY, Api
from tests.inside.running import running
from tests.inside.servers import free_port
from tests.support import QUEUE, queue_of, run_burst


async def succeed(ctx: dict[str, Any]) -> None:
    """Do nothing."""


async def fail(ctx: dict[str, Any]) -> None:
    raise ValueError("no")


async def retry_once(ctx: dict[str, Any]) -> None:
    if ctx["job_try"] == 1:
        raise Retry


async def wait(ctx: dict[str, Any]) -> None:
    await asyncio.sleep(60)


TASKS = (succeed, fail, retry_once, wait)
NAMES = [task.__name__ for task in TASKS]


@pytest.fixture(autouse=True)
def known_tasks() -> Iterator[None]:
    """Zeros for the queue of these tests, which is not in WORKER_QUEUES."""
    for metric in (metrics.JOBS, metrics.WAIT.series, metrics.DURATION.series, metrics.CRON):
        metric.clear()
    metrics.begin_working("test", "0", NAMES, ["cron:sweep"])
    yield
    metrics._tasks.pop("test")


def jobs(task: str, outcome: str) -> float | None:
    labels = {"queue": "test", "task": task, "outcome": outcome}
    return metrics.WORKER.get_sample_value("arq_jobs_total", labels)


def waits(task: str) -> float | None:
    labels = {"queue": "test", "task": task}
    return metrics.WORKER.get_sample_value("arq_job_wait_seconds_count", labels)


async def test_each_outcome_is_counted_once(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker would forget these tasks: its queue is not in WORKER_QUEUES.
    monkeypatch.setattr(monitor, "_begin", lambda queue: None)
    queue = queue_of(*TASKS)
    for task in (succeed, succeed, fail, retry_once):
        await enqueue(redis, queue, task)
    for name in ("succeed", "fail"):
        await redis.enqueue_job(name, _job_id=f"{keys.BULK_PREFIX}{name}", _queue_name=QUEUE)
    await redis.enqueue_job("nowhere", _queue_name=QUEUE)
    await redis.zadd(QUEUE, {"lost": 1})
    await run_burst(queue)
    assert [jobs(name, "succeeded") for name in NAMES] == [2, 0, 1, 0]
    assert [jobs(name, "failed") for name in NAMES] == [0, 1, 0, 0]
    assert [jobs(name, "retried") for name in NAMES] == [0, 0, 1, 0]
    assert [jobs(name, "bulk") for name in NAMES] == [1, 1, 0, 0]
    assert (jobs("unknown", "failed"), jobs("unknown", "expired")) == (1, 1)
    assert [waits(name) for name in NAMES] == [3, 2, 2, 0]

    async with running(queue):
        job = await enqueue(redis, queue, wait)
        while not monitor.running_jobs():
            await asyncio.sleep(0.01)
        ((_, _, names),) = monitor.running_jobs()
        assert names["job_id"] == job.job_id
        with pytest.raises(asyncio.CancelledError):
            await job.result(timeout=5, poll_delay=0.01) if await abort(job) else None
    assert (jobs("wait", "aborted"), jobs("wait", "failed")) == (1, 0)
    assert not monitor.running_jobs()


async def abort(job: Job) -> bool:
    await job._redis.zadd("arq:abort", {job.job_id: int(time.time() * 1000)})
    return True


async def test_a_wait_counts_from_when_the_job_was_due(redis: ArqRedis) -> None:
    metrics.count_start("test", "succeed", 0.3)
    metrics.count_start("test", "succeed", -5)
    labels = {"queue": "test", "task": "succeed"}
    assert metrics.WORKER.get_sample_value("arq_job_wait_seconds_sum", labels) == 0.3
    metrics.count_start("test", "succeed", 0.5)
    buckets = [{**labels, "le": end} for end in ("0.005", "0.25", "0.5", "+Inf")]
    name = "arq_job_wait_seconds_bucket"
    assert [metrics.WORKER.get_sample_value(name, bucket) for bucket in buckets] == [1, 1, 3, 3]


async def test_a_clock_that_is_set_back_lowers_no_sum(redis: ArqRedis) -> None:
    data = {"f": "succeed", "q": QUEUE, "id": "x", "s": True, "t": 1, "st": 5000, "ft": 1000}
    metrics.count([Result(data, b"", None)], redis.pipeline())
    labels = {"queue": "test", "task": "succeed"}
    assert metrics.WORKER.get_sample_value("arq_job_duration_seconds_sum", labels) == 0


def test_names_that_a_sender_makes_up_share_a_label() -> None:
    for number in range(1000):
        metrics.count_start("test", f"task-{number}", 0)
    assert waits("unknown") == 1000
    assert b"task-1" not in generate_latest(metrics.WORKER)


async def test_a_worker_serves_its_metrics(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setattr(settings, "WORKER_METRICS_PORT", unused_port)
    url = f"http://127.0.0.1:{unused_port}/metrics"
    async with running(queue_of(succeed)):
        text = await asyncio.to_thread(lambda: urlopen(url, timeout=5).read().decode())
        # Another worker of this host goes on without metrics.
        assert await asyncio.to_thread(monitor._serve) is None
    heartbeat = 'arq_worker_heartbeat_timestamp_seconds{queue="test"'
    (line,) = [line for line in text.splitlines() if line.startswith(heartbeat)]
    assert float(line.split()[-1]) == pytest.approx(time.time(), abs=30)
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(urlopen, url, timeout=5)


@pytest.fixture
def unused_port() -> int:
    return free_port()


async def test_a_slow_job_is_warned_of_once(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor, "BEAT_SECONDS", 0.01)
    monkeypatch.setitem(monitor._timeouts, "wait", 0.2)
    queue = queue_of(wait, job_timeout=1)
    async with running(queue):
        job = await enqueue(redis, queue, wait)
        with pytest.raises(Exception, match="TimeoutError"):
            await job.result(timeout=10, poll_delay=0.01)
    lines = [line for line in capsys.readouterr().err.splitlines() if "slow job" in line]
    assert len(lines) == 1
    assert job.job_id in lines[0]


async def test_the_web_process_counts_what_it_enqueues(api: Api, redis: ArqRedis) -> None:
    def count(text: str) -> float:
        start = 'arq_jobs_enqueued_total{queue="load_test",task="io_simulation_task"}'
        (line,) = [line for line in text.splitlines() if line.startswith(start)]
        return float(line.split()[-1])

    before = count((await api("GET", "/metrics")).text)
    await api("POST", "/jobs", json={"queue": "load_test", "task": "io_simulation_task"})
    assert count((await api("GET", "/metrics")).text) == before + 1


@pytest.mark.parametrize(
    ("host", "networks", "code"),
    [
        ("127.0.0.1", "127.0.0.0/8", 200),
        ("::1", "127.0.0.0/8,::1/128", 200),
        ("10.1.2.3", "127.0.0.0/8, 10.0.0.0/8", 200),
        ("10.1.2.3", "127.0.0.0/8", 403),
        ("127.0.0.1", "", 403),
        ("a name", "0.0.0.0/0", 403),
    ],
)
def test_only_chosen_networks_scrape(
    monkeypatch: pytest.MonkeyPatch, host: str, networks: str, code: int
) -> None:
    monkeypatch.setenv("METRICS_NETWORKS", networks)
    chosen = type(settings)().METRICS_NETWORKS
    monkeypatch.setattr(settings, "METRICS_NETWORKS", chosen)
    with TestClient(app, client=(host, 1)) as client:
        assert client.get("/metrics").status_code == code
        assert client.get("/metrics", headers={"X-API-Key": API_KEY}).status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_what_a_proxy_has_forwarded_needs_the_key(header: str) -> None:
    with TestClient(app, client=("127.0.0.1", 1), headers={header: "for=203.0.113.9"}) as client:
        assert client.get("/metrics").status_code == 403
        assert client.get("/metrics", headers={"X-API-Key": API_KEY}).status_code == 200


def test_without_redis_the_metrics_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "REDIS_URL", "redis://127.0.0.1:1/0")
    with TestClient(app, client=("127.0.0.1", 1)) as client:
        text = client.get("/metrics").text
    assert "arq_redis_up 0.0" in text
    assert "arq_queue_jobs" not in text


async def test_promtool_finds_nothing(api: Api, redis: ArqRedis) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    for text in ((await api("GET", "/metrics")).content, generate_latest(metrics.WORKER)):
        done = subprocess.run(  # noqa: S603 - the test's own words
            [promtool, "check", "metrics"], input=text, capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_a_scrape_of_much_is_few_commands(
    api: Api, redis: ArqRedis, record_property: Any
) -> None:
    now = int(time.time() * 1000)
    name = WORKER_QUEUES["system"]["queue_name"]
    for start in range(0, 100_000, 10_000):
        ids = range(start, start + 10_000)
        await redis.zadd(name, {f"job-{number}": now - 100_000 + number for number in ids})
    await redis.zadd(keys.LETTERS_BY_TIME, {f"job-{number}": number for number in range(9_993)})
    await redis.zadd(keys.LETTERS_BY_TIME, {f"new-{number}": now for number in range(7)})
    await api("GET", "/metrics")
    await redis.config_resetstat()
    begin = time.perf_counter()
    text = (await api("GET", "/metrics")).text
    seconds = time.perf_counter() - begin
    stats = await redis.info("commandstats")
    commands = sum(stat["calls"] for stat in stats.values())
    record_property(
        "figure", f"/metrics of 100,000 jobs: {seconds * 1000:.1f} ms, {commands} commands"
    )
    assert 'arq_queue_jobs{queue="system",state="ready"} 100000.0' in text
    assert "arq_dead_letters 10000.0" in text
    assert "arq_dead_letters_new 7.0" in text
    assert commands < 20 + 10 * len(WORKER_QUEUES)
