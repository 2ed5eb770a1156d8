"""The figures of a load test, and what they say about the limit."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from app.core.serializer import TaskError

# From this share of a resource on, a run is said to be limited by it.
BUSY = 0.75
# The upper ends of the histogram's bars, in milliseconds.
BARS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, math.inf)


class Percentiles(BaseModel):
    """Of a list of milliseconds, by nearest rank."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Report(BaseModel):
    """What became of every job of a run."""

    sent: int
    succeeded: int
    failed: int
    aborted: int
    lost: int
    not_finished: int
    retried: int
    complete: bool
    wall_seconds: float
    jobs_per_second: float
    wait_ms: Percentiles | None
    run_ms: Percentiles | None
    histogram: list[tuple[float, int]]
    failures: dict[str, int]
    slots_busy: float
    worker_cores: float
    server_cores: float
    sending_share: float
    poll_share: float
    limit: str


@dataclass
class WorkerTimes:
    """What the results of one worker's jobs say of its process."""

    first_finish: int
    last_finish: int
    first_cpu: float
    last_cpu: float


@dataclass
class Outcomes:
    """What the results read so far add up to; the times are milliseconds."""

    succeeded: int = 0
    failed: int = 0
    aborted: int = 0
    lost: int = 0
    retried: int = 0
    waits: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    first_sent: float = math.inf
    last_sent: float = 0
    last_finish: float = 0
    workers: dict[str, WorkerTimes] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """The jobs that have ended, however they did."""
        return self.succeeded + self.failed + self.aborted

    def add(self, result: dict[str, Any]) -> None:
        """Count one of arq's raw results."""
        sent, started, finished = result["et"], result["st"], result["ft"]
        self.retried += result["t"] > 1
        # arq knows no time of enqueueing for a job that it could not read or that has expired.
        if sent:
            self.waits.append(max(started - sent, 0))
            self.first_sent = min(self.first_sent, sent)
            self.last_sent = max(self.last_sent, sent)
        self.runs.append(finished - started)
        self.last_finish = max(self.last_finish, finished)
        if result["s"]:
            self.succeeded += 1
            self._add_worker(result["r"], finished)
        elif isinstance(result["r"], TaskError):
            self.failed += 1
            self.failures[str(result["r"])] += 1
        else:
            self.aborted += 1

    def _add_worker(self, result: dict[str, Any], finished: int) -> None:
        cpu = result["cpu_seconds"]
        times = self.workers.setdefault(result["worker"], WorkerTimes(finished, finished, cpu, cpu))
        if cpu < times.first_cpu:
            times.first_cpu, times.first_finish = cpu, finished
        if cpu > times.last_cpu:
            times.last_cpu, times.last_finish = cpu, finished


def summarize(
    outcomes: Outcomes,
    *,
    tasks: int,
    sent: int,
    max_jobs: int,
    poll_delay: float,
    read_limit: int,
    server_cpu_seconds: float,
) -> Report:
    """Turn outcomes into a report.

    Args:
        outcomes: What was read.
        tasks: How many jobs the run was to have.
        sent: How many have been sent.
        max_jobs: The jobs that one worker of the queue runs at a time.
        poll_delay: The seconds between two looks of a worker for jobs.
        read_limit: The jobs that a worker starts at most after each look.
        server_cpu_seconds: The CPU time that Redis has used during the run.
    """
    wall = max(outcomes.last_finish - outcomes.first_sent, 1) / 1000 if outcomes.finished else 0
    workers = max(len(outcomes.workers), 1)
    shares = {
        "slots_busy": sum(outcomes.runs) / 1000 / (wall * workers * max_jobs) if wall else 0,
        "worker_cores": max(map(_cores, outcomes.workers.values()), default=0),
        "server_cores": server_cpu_seconds / wall if wall else 0,
        "sending_share": (
            (outcomes.last_sent - outcomes.first_sent) / 1000 / wall if outcomes.waits else 0
        ),
        "poll_share": (
            outcomes.finished * poll_delay / (wall * workers * read_limit) if wall else 0
        ),
    }
    wait = percentiles(outcomes.waits)
    return Report(
        sent=sent,
        succeeded=outcomes.succeeded,
        failed=outcomes.failed,
        aborted=outcomes.aborted,
        lost=outcomes.lost,
        not_finished=tasks - outcomes.finished - outcomes.lost,
        retried=outcomes.retried,
        complete=outcomes.finished == tasks,
        wall_seconds=round(wall, 3),
        jobs_per_second=round(outcomes.finished / wall, 1) if wall else 0,
        wait_ms=wait,
        run_ms=percentiles(outcomes.runs),
        histogram=histogram(outcomes.runs),
        failures=dict(outcomes.failures.most_common(10)),
        limit=_limit(**shares, max_jobs=max_jobs, poll_delay=poll_delay, wait=wait),
        **{name: round(share, 3) for name, share in shares.items()},
    )


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of a list, or None of an empty one."""
    if not values:
        return None
    ranked = sorted(values)

    def rank(percent: int) -> float:
        return ranked[math.ceil(len(ranked) * percent / 100) - 1]

    return Percentiles(p50=rank(50), p90=rank(90), p95=rank(95), p99=rank(99), max=ranked[-1])


def histogram(values: Sequence[float]) -> list[tuple[float, int]]:
    """Count the values up to each of `BARS`, without the empty bars at both ends."""
    counts = [0] * len(BARS)
    for value in values:
        counts[bisect_left(BARS, value)] += 1
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return []
    return list(zip(BARS, counts, strict=True))[filled[0] : filled[-1] + 1]


def _cores(times: WorkerTimes) -> float:
    seconds = (times.last_finish - times.first_finish) / 1000
    return (times.last_cpu - times.first_cpu) / seconds if seconds else 0


def _limit(
    *,
    slots_busy: float,
    worker_cores: float,
    server_cores: float,
    sending_share: float,
    poll_share: float,
    max_jobs: int,
    poll_delay: float,
    wait: Percentiles | None,
) -> str:
    if wait is None:
        return "No job has finished, so nothing can be said of the limit."
    polls = wait.p50 / 1000 / poll_delay
    if sending_share >= BUSY and polls <= 2:
        return (
            f"Limited by the sending: it took {sending_share:.0%} of the run, and half of the jobs "
            f"waited for {wait.p50:.0f} ms at most."
        )
    if polls <= 1.5:
        return (
            f"Limited by the poll: workers look for jobs every {poll_delay * 1000:g} ms, and "
            f"half of the jobs waited for {wait.p50:.0f} ms at most."
        )
    resources = {
        "the CPU": (
            worker_cores,
            f"a worker's process used {worker_cores:.2f} cores, with {slots_busy:.0%} of its "
            f"{max_jobs} slots busy.",
        ),
        "max_jobs": (
            slots_busy,
            f"the {max_jobs} slots of each worker were busy for {slots_busy:.0%} of the run, while "
            f"its process used {worker_cores:.2f} cores.",
        ),
        "the server": (server_cores, f"Redis used {server_cores:.2f} cores, and can use one."),
        "the poll": (
            poll_share,
            f"workers started {poll_share:.0%} of the jobs that queue_read_limit and poll_delay "
            "allow.",
        ),
    }
    # More slots would not help a busy process, however full they are.
    name = "the CPU" if worker_cores >= BUSY else max(resources, key=resources.__getitem__)
    share, figures = resources[name]
    if share < BUSY:
        return f"Limited by nothing all the time; {name} came nearest: {figures}"
    return f"Limited by {name}: {figures}"
