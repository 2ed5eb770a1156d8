"""The figures of a load test, computed by hand here."""

import math
from typing import Any

import pytest

from app.services.load_test_report import Outcomes, histogram, percentiles, summarize


def result(number: int, *, wait: int, work: int, cpu: float = 0) -> dict[str, Any]:
    """A job that was sent at `number` ms."""
    return {
        "et": 1000 + number,
        "st": 1000 + number + wait,
        "ft": 1000 + number + wait + work,
        "t": 1,
        "s": True,
        "r": {"worker": "host:1", "cpu_seconds": cpu},
    }


def limit(outcomes: Outcomes, *, server: float = 0) -> str:
    report = summarize(
        outcomes,
        tasks=outcomes.finished,
        sent=outcomes.finished,
        max_jobs=10,
        poll_delay=0.1,
        read_limit=100,
        server_cpu_seconds=server,
    )
    return report.limit


def outcomes(*results: dict[str, Any]) -> Outcomes:
    outcomes = Outcomes()
    for one in results:
        outcomes.add(one)
    return outcomes


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
    assert histogram([60_000]) == [(math.inf, 1)]
    assert histogram([]) == []


def test_the_times_are_those_of_arq() -> None:
    report = summarize(
        outcomes(result(0, wait=10, work=5), result(100, wait=20, work=80)),
        tasks=3,
        sent=3,
        max_jobs=10,
        poll_delay=0.1,
        read_limit=100,
        server_cpu_seconds=0.02,
    )
    assert (report.succeeded, report.not_finished, report.complete) == (2, 1, False)
    assert (report.wall_seconds, report.jobs_per_second) == (0.2, 10)
    assert report.wait_ms is not None
    assert (report.wait_ms.p50, report.wait_ms.max) == (10, 20)
    assert report.slots_busy == pytest.approx(0.085 / 0.2 / 10, abs=0.001)
    assert (report.server_cores, report.sending_share) == (0.1, 0.5)


def test_the_limit_follows_from_the_figures() -> None:
    slow_sender = [result(number * 100, wait=50, work=1) for number in range(20)]
    assert limit(outcomes(*slow_sender)).startswith("Limited by the sending: it took 97%")
    few = [result(0, wait=60, work=5) for _ in range(5)]
    assert limit(outcomes(*few)).startswith("Limited by the poll: workers look for jobs every")
    full_slots = [result(0, wait=100 * (number // 10), work=100) for number in range(100)]
    assert limit(outcomes(*full_slots)).startswith("Limited by max_jobs: the 10 slots")
    busy = [result(0, wait=10 * n, work=100, cpu=0.0095 * n) for n in range(100)]
    assert "used 0.95 cores, with 92% of its 10 slots busy" in limit(outcomes(*busy))
    idle = [result(0, wait=10 * n, work=5, cpu=0.004 * n) for n in range(100)]
    assert limit(outcomes(*idle), server=0.95).startswith("Limited by the server")
    assert "the CPU came nearest: a worker's process used 0.40 cores" in limit(outcomes(*idle))
    steps = [result(0, wait=112 * (n // 100), work=1) for n in range(1000)]
    assert "Limited by the poll: workers started 99% of the jobs" in limit(outcomes(*steps))
    assert limit(Outcomes()).startswith("No job has finished")
