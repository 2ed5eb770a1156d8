"""The figures of a load test, computed by hand here."""

from typing import Any

import pytest

from app.core.bulk import JobResult
from app.core.serializer import TaskError
from app.services.load_test_report import (
    LoadTest,
    LoadTestReport,
    LoadTestRun,
    Outcomes,
    histogram,
    percentiles,
    summarize,
)


def result(number: int, *, wait: int, work: int, cpu: float = 0) -> JobResult:
    """Return the result of a job that was sent at `number` ms."""
    start = 1000 + number + wait
    value = {"worker": "host:1", "cpu_seconds": cpu}
    return JobResult(et=1000 + number, st=start, ft=start + work, t=1, s=True, r=value)


def report_of(*results: JobResult, tasks: int | None = None, server: float = 0) -> LoadTestReport:
    tasks = max(tasks or len(results), 1)
    run = LoadTestRun(
        id="run",
        test=LoadTest(type="io_simulation", tasks=tasks),
        queue_name="queue",
        max_jobs=10,
        poll_delay=0.1,
        read_limit=100,
        started=1,
        server_cpu_seconds=0,
        sent=tasks,
    )
    outcomes = Outcomes()
    for one in results:
        outcomes.add(one)
    return summarize(outcomes, run, server)


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    found = percentiles(range(100, 0, -1))
    assert found is not None
    assert (found.p50, found.p90, found.p95, found.p99, found.max) == (50, 90, 95, 99, 100)
    of_one = percentiles([7])
    assert of_one is not None
    assert (of_one.p50, of_one.p99) == (7, 7)
    assert percentiles([]) is None


def test_the_histogram_has_no_empty_ends() -> None:
    assert histogram([2, 3, 50, 40]) == [(2, 1), (5, 1), (10, 0), (20, 0), (50, 2)]
    assert histogram([60_000]) == [(None, 1)]
    assert histogram([]) == []


def test_a_report_with_a_long_job_is_read_back() -> None:
    report = report_of(result(0, wait=1, work=60_000))
    assert LoadTestReport.model_validate_json(report.model_dump_json()) == report


def test_the_times_are_those_of_arq() -> None:
    results = result(0, wait=10, work=5), result(100, wait=20, work=80)
    report = report_of(*results, tasks=3, server=0.02)
    assert (report.succeeded, report.not_finished, report.complete) == (2, 1, False)
    assert (report.wall_seconds, report.jobs_per_second) == (0.2, 10)
    assert report.wait_ms is not None
    assert (report.wait_ms.p50, report.wait_ms.max) == (10, 20)
    assert report.slots_busy == pytest.approx(0.085 / 0.2 / 10, abs=0.001)
    assert (report.server_cores, report.sending_share) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("results", "server", "limit"),
    [
        ([result(n * 100, wait=50, work=1) for n in range(20)], 0, "Limited by sending: half"),
        ([result(0, wait=60, work=5) for _ in range(5)], 0, "Limited by polls every 100 ms"),
        (
            [result(0, wait=100 * (n // 10), work=100) for n in range(100)],
            0,
            "Limited by worker slots, 100% busy: raise max_jobs",
        ),
        (
            [result(0, wait=10 * n, work=100, cpu=0.0095 * n) for n in range(100)],
            0,
            "Limited by worker CPU, 95% busy: start more workers.",
        ),
        (
            [result(0, wait=10 * n, work=5, cpu=0.004 * n) for n in range(100)],
            0.95,
            "Limited by Redis CPU, 96% busy",
        ),
        (
            [result(0, wait=10 * n, work=5, cpu=0.004 * n) for n in range(100)],
            0,
            "Limited by no single part; the busiest was worker CPU, at 40%.",
        ),
        (
            [result(0, wait=112 * (n // 100), work=1) for n in range(1000)],
            0,
            "Limited by polls, 99% busy: raise queue_read_limit",
        ),
        # A worker that is told of new jobs does not wait for its poll.
        ([result(0, wait=2, work=5) for _ in range(5)], 0, "Limited by no single part"),
        ([], 0, "No job has finished"),
    ],
)
def test_the_limit_follows_from_the_figures(
    results: list[JobResult], server: float, limit: str
) -> None:
    report = report_of(*results, server=server)
    assert report.limit.startswith(limit)
    assert len(report.limit) <= 78


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        {"worker": 1, "cpu_seconds": 1.0},
        {"worker": "a", "cpu_seconds": float("nan")},
        {"worker": "a", "cpu_seconds": float("inf")},
        {"worker": "a"},
    ],
)
def test_the_result_of_another_task_is_counted(value: Any) -> None:
    report = report_of(JobResult(et=2, st=1, ft=1, t=1, s=True, r=value))
    assert (report.succeeded, report.worker_cores) == (1, 0)


def test_a_result_without_times_is_counted() -> None:
    report = report_of(JobResult(s=False, r=TaskError("x" * 1000)))
    assert (report.failed, report.failures) == (1, {"x" * 200: 1})
    assert (report.wall_seconds, report.jobs_per_second) == (0, 0)
