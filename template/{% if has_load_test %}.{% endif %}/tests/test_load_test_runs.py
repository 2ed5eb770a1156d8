"""Load test runs: every job is accounted for as what became of it."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import job_key_prefix, result_key_prefix
from arq.worker import Worker

from app.components.worker.queues.load_test import WorkerSettings
from app.core.bulk import read_results, send_jobs
from app.core.config import WORKER_QUEUES, WorkerQueue
from app.core.serializer import serialize
from app.services.dead_letters import Selection, list_letters, sweep
from app.services.load_test import (
    Collector,
    LoadTest,
    RefusedError,
    Run,
    RunNotFoundError,
    create_run,
    list_runs,
    load_run,
    read_report,
    send,
    start,
    watch,
)
from app.services.load_test_report import Report
from tests.support import run_burst, run_command, running

QUEUE = WorkerSettings.queue_name


@pytest.fixture(autouse=True)
def load_test_queue_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is there, even where its entry is commented out."""
    entry = WorkerQueue(
        description="",
        max_jobs=WorkerSettings.max_jobs,
        timeout_seconds=WorkerSettings.job_timeout,
        queue_name=QUEUE,
    )
    monkeypatch.setitem(WORKER_QUEUES, "load_test", entry)


@pytest.fixture
async def worker(redis: ArqRedis) -> AsyncIterator[Worker]:
    async with running(WorkerSettings) as worker:
        yield worker


async def wait_for_report(redis: ArqRedis, run: Run) -> Report:
    collector = Collector(redis, run)
    async for _ in watch(collector, interval=0.01):
        pass
    return await collector.report()


async def test_every_job_is_counted(redis: ArqRedis, worker: Worker) -> None:
    run = await start(
        redis, LoadTest(type="io_simulation", tasks=250, batch_size=100), WorkerSettings
    )
    report = await wait_for_report(redis, run)
    assert report.complete
    assert (report.sent, report.succeeded, report.failed, report.lost) == (250, 250, 0, 0)
    assert report.run_ms is not None
    assert 5 <= report.run_ms.p50 <= report.run_ms.p99 <= report.run_ms.max
    assert sum(count for _, count in report.histogram) == 250
    assert report.jobs_per_second == pytest.approx(250 / report.wall_seconds, rel=0.01)
    assert (await load_run(redis, run.id)).report == report
    assert await redis.zcard(QUEUE) == 0


async def test_failures_are_those_of_the_seed(redis: ArqRedis, worker: Worker) -> None:
    run = await start(redis, LoadTest(type="failure_testing", tasks=300, seed=7), WorkerSettings)
    report = await wait_for_report(redis, run)
    truth = sum(random.Random(7 + number).random() < 0.5 for number in range(300))  # noqa: S311
    assert (report.failed, report.succeeded) == (truth, 300 - truth)
    assert report.failures == {"SimulatedError: asked to fail 50% of the time": truth}
    # Those letters would push out the ones that matter.
    assert await sweep(redis) == 0
    assert await list_letters(redis, Selection(), 1) == []


async def test_batches_wait_for_their_delay(redis: ArqRedis, worker: Worker) -> None:
    test = LoadTest(type="io_simulation", tasks=3, batch_size=1, delay_seconds=0.2)
    report = await wait_for_report(redis, await start(redis, test, WorkerSettings))
    assert report.complete
    assert report.wall_seconds > 0.4
    assert report.limit.startswith("Limited by the sending")


async def test_the_orchestrator_reports_when_nobody_waits(redis: ArqRedis, worker: Worker) -> None:
    run = await start(
        redis, LoadTest(type="io_simulation", tasks=5, timeout_seconds=0.5), WorkerSettings
    )
    async with asyncio.timeout(10):
        while (report := (await load_run(redis, run.id)).report) is None:
            await asyncio.sleep(0.05)
    assert (report.succeeded, report.complete) == (5, True)


async def test_sending_twice_sends_once(redis: ArqRedis) -> None:
    run = await create_run(redis, LoadTest(type="io_simulation", tasks=10), WorkerSettings)
    await send(redis, run, seconds=1)
    run.sent = 0
    await send(redis, run, seconds=1)
    worker = await run_burst(WorkerSettings)
    assert worker.jobs_complete == 10
    run.sent = 0
    await send(redis, run, seconds=1)
    assert await redis.zcard(QUEUE) == 0


async def test_jobs_that_are_gone_are_lost(redis: ArqRedis) -> None:
    run = await create_run(redis, LoadTest(type="io_simulation", tasks=10), WorkerSettings)
    await send(redis, run, seconds=1)
    await redis.zrem(QUEUE, run.job_id(3), run.job_id(4))
    await run_burst(WorkerSettings)
    report = await wait_for_report(redis, run)
    assert (report.succeeded, report.lost, report.not_finished) == (8, 2, 0)
    assert not report.complete


async def test_a_run_whose_time_is_over_tells_what_there_is(redis: ArqRedis) -> None:
    run = await create_run(
        redis, LoadTest(type="io_simulation", tasks=10, timeout_seconds=0.1), WorkerSettings
    )
    await send(redis, run, seconds=1)
    report = await wait_for_report(redis, run)
    assert (report.sent, report.succeeded, report.not_finished) == (10, 0, 10)
    assert report.limit.startswith("No job has finished")


async def test_an_aborted_and_a_repeated_job_are_told_apart(redis: ArqRedis) -> None:
    run = await create_run(redis, LoadTest(type="io_simulation", tasks=3), WorkerSettings)
    now = int(time.time() * 1000)
    result = {"et": now, "st": now, "ft": now + 5, "t": 1, "s": False}
    work = {"worker": "host:1", "cpu_seconds": 1.0}
    outcomes: list[dict[str, Any]] = [
        {"r": asyncio.CancelledError()},
        {"r": TimeoutError()},
        {"s": True, "t": 2, "r": work},
    ]
    for number, outcome in enumerate(outcomes):
        await redis.set(result_key_prefix + run.job_id(number), serialize({**result, **outcome}))
    report = await read_report(redis, run)
    assert (report.aborted, report.failed, report.succeeded, report.retried) == (1, 1, 1, 1)
    assert report.failures == {"TimeoutError": 1}


async def test_sent_jobs_are_those_of_arq(redis: ArqRedis) -> None:
    assert await send_jobs(redis, QUEUE, "io_simulation_task", [("a", {"wait_ms": 1})]) == 1
    assert await send_jobs(redis, QUEUE, "io_simulation_task", [("a", {}), ("b", {})]) == 1
    by_arq = await redis.enqueue_job("io_simulation_task", _job_id="c", _queue_name=QUEUE)
    assert by_arq is not None
    assert await redis.enqueue_job("io_simulation_task", _job_id="a", _queue_name=QUEUE) is None
    ours, theirs = [await redis.pttl(job_key_prefix + job_id) for job_id in ("a", "c")]
    assert ours == pytest.approx(theirs, abs=5000)
    await run_burst(WorkerSettings)
    results = await read_results(redis, ["a", "b", "c", "d"])
    assert [result and result["s"] for result in results] == [True, True, True, None]


async def test_what_cannot_work_is_refused(redis: ArqRedis, worker: Worker) -> None:
    with pytest.raises(RefusedError, match="queue 'lunch' is none of"):
        await start(redis, LoadTest(type="io_simulation", queue="lunch"), WorkerSettings)
    await worker.pool.delete(worker.health_check_key)
    with pytest.raises(RefusedError, match=r"start one with `python -m arq .*load_test"):
        await start(redis, LoadTest(type="io_simulation"), WorkerSettings)
    assert await list_runs(redis) == []


async def test_a_queue_without_the_task_is_refused(
    redis: ArqRedis, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerSettings, "functions", WorkerSettings.functions[:1])
    with pytest.raises(RefusedError, match="does not list io_simulation_task"):
        await start(redis, LoadTest(type="io_simulation"), WorkerSettings)


async def test_the_oldest_runs_are_forgotten(
    redis: ArqRedis, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.load_test.RUNS_KEPT", 2)
    runs = [
        await start(redis, LoadTest(type="io_simulation", tasks=1), WorkerSettings)
        for _ in range(3)
    ]
    assert [run.id for run in await list_runs(redis)] == [runs[2].id, runs[1].id]
    with pytest.raises(RunNotFoundError):
        await load_run(redis, runs[0].id)


async def test_the_command_reports(worker: Worker, tmp_path: Path) -> None:
    code, output, errors = await run_command(
        "load-test", "run", "--type", "io_simulation", "--tasks", "10"
    )
    assert (code, errors) == (0, "")
    assert "10 sent, 10 succeeded, 0 failed" in output
    assert "Limited by" in output
    code, output, _ = await run_command(
        "load-test", "run", "--type", "failure_testing", "--seed", "1", "--json"
    )
    first = json.loads(output)
    assert (code, first["report"]["complete"], first["test"]["tasks"]) == (0, True, 10)
    code, output, _ = await run_command("load-test", "run", "--type", "io_simulation", "--no-wait")
    second = output.split()[1]
    assert code == 0
    code, output, _ = await run_command("load-test", "list")
    assert output.count("\n") == 3
    code, output, _ = await run_command("load-test", "results", second)
    assert (code, output.split()[:2]) == (0, ["Run", f"{second}:"])
    code, output, _ = await run_command("load-test", "compare", first["id"], second)
    assert (code, output.split()[:2]) == (0, [first["id"], second])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--type", "io_simulation", "--tasks", "0"], "tasks: Input should be greater"),
        (["run", "--type", "io_simulation", "--plot", "plot.jpg"], "must end in .png or .svg"),
        (["run", "--type", "io_simulation", "--plot", "no/plot.png"], "no directory no"),
        (["results", "lunch"], "load-test list` shows those that are kept"),
        (["io"], "no worker has reported; start one with"),
    ],
)
async def test_the_command_says_what_is_wrong(
    redis: ArqRedis, arguments: list[str], message: str
) -> None:
    code, output, errors = await run_command("load-test", *arguments)
    assert (code, output) == (1, "")
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("suffix", ["png", "svg"])
async def test_the_command_draws(worker: Worker, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / f"plot.{suffix}"
    code, _, errors = await run_command(
        "load-test", "run", "--type", "io_simulation", "--plot", str(plot)
    )
    assert (code, errors) == (0, "")
    assert plot.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
