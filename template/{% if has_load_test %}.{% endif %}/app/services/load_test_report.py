"""Load tests as data: what to run, the run as it is stored, and the report on its jobs."""

import asyncio
import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.core import keys
from app.core.bulk import MAX_BATCH_JOBS, JobResult

MAX_TASKS = 1_000_000
# A run is said to be limited by a part that was busy for at least this share of it.
MIN_LIMIT_SHARE = 0.75
MAX_FAILURES = 10
MAX_ERROR_CHARS = 200
TIMELINE_PARTS = 40
# The upper ends of the histogram's bars, in milliseconds. None is the end of the last one.
BARS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)

REMEDIES = {
    "worker CPU": "start more workers",
    "worker slots": "raise max_jobs or start more workers",
    "Redis CPU": "run fewer jobs on this server",
    "polls": "raise queue_read_limit or lower poll_delay",
    "sending": "send larger batches",
}

LoadTestType = Literal["cpu_intensive", "io_simulation", "memory_operations", "failure_testing"]
Count = Annotated[int, Field(ge=0, le=MAX_TASKS)]
Positive = Annotated[float, Field(gt=0, lt=1e10)]


class Percentiles(BaseModel, allow_inf_nan=False):
    """Percentiles of milliseconds, by nearest rank."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class LoadTestReport(BaseModel, allow_inf_nan=False):
    """What happened to every job of a run."""

    sent: Count
    succeeded: Count
    failed: Count
    aborted: Count
    lost: Count
    not_finished: Count
    retried: Count
    complete: bool
    wall_seconds: float
    jobs_per_second: float
    wait_ms: Percentiles | None
    run_ms: Percentiles | None
    histogram: list[tuple[int | None, Count]]
    # How many jobs ended in each of equal parts of the run.
    timeline: list[Count] = Field(default=[], max_length=TIMELINE_PARTS)
    failures: dict[str, Count]
    slots_busy: float
    worker_cores: float
    server_cores: float
    sending_share: float
    poll_share: float
    limit: str

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs were sent, succeeded and failed, and what else there was, by its words."""
        rare = ("aborted", "lost", "not_finished", "retried")
        names = ("sent", "succeeded", "failed", *(name for name in rare if getattr(self, name)))
        return {name.replace("_", " "): getattr(self, name) for name in names}

    @property
    def busy(self) -> dict[str, float]:
        """The share of the run for which each part was busy, the busiest first."""
        shares = {
            "worker CPU": self.worker_cores,
            "worker slots": self.slots_busy,
            "Redis CPU": self.server_cores,
            # More than polls allow: the workers were told of new jobs instead of polling for them.
            "polls": self.poll_share if self.poll_share <= 1.1 else 0,
            "sending": self.sending_share,
        }
        return dict(sorted(shares.items(), key=lambda part: part[1], reverse=True))


class LoadTest(BaseModel, allow_inf_nan=False):
    """What to run."""

    type: LoadTestType
    tasks: int = Field(default=10, ge=1, le=MAX_TASKS)
    batch_size: int = Field(default=500, ge=1, le=MAX_BATCH_JOBS)
    delay_seconds: float = Field(default=0, ge=0, le=60, description="Between batches.")
    queue: str = "load_test"
    timeout_seconds: float = Field(default=300, gt=0, le=3000, description="For the whole run.")
    seed: int | None = Field(
        default=None, ge=-(2**63), lt=2**63, description="Decides which jobs fail."
    )

    @property
    def function(self) -> str:
        """The name of the task function."""
        return f"{self.type}_task"


class LoadTestRun(BaseModel, allow_inf_nan=False):
    """A load test as it is stored, with the settings that its worker had."""

    id: str
    test: LoadTest
    queue_name: str
    max_jobs: int = Field(ge=1)
    poll_delay: Positive
    read_limit: int = Field(ge=1)
    started: Positive
    server_cpu_seconds: float
    sent: int = Field(default=0, ge=0, le=MAX_TASKS)
    step: int = Field(default=0, ge=0)
    report: LoadTestReport | None = None

    @property
    def deadline(self) -> float:
        """When the run ends at the latest, in seconds of the epoch."""
        return self.started + self.test.timeout_seconds

    @property
    def age_seconds(self) -> float:
        """How long ago the run was started."""
        return time.time() - self.started

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return time.time() >= self.deadline

    @property
    def state(self) -> str:
        """How the run has ended, or that it has not."""
        if self.report is None:
            return "no report" if self.is_over else "running"
        if not self.report.complete:
            return "incomplete"
        return f"{self.report.failed:,} failed" if self.report.failed else "succeeded"

    def job_ids(self, numbers: Sequence[int]) -> list[str]:
        """Return the ids of the jobs with these numbers."""
        return [f"{keys.BULK_PREFIX}{self.id}:{number}" for number in numbers]

    def step_id(self, step: int) -> str:
        """Return the id of the orchestrator's job for a step."""
        return f"{keys.BULK_PREFIX}{self.id}:step-{step}"


@dataclass
class Outcomes:
    """The sums over the results read so far; times are milliseconds."""

    succeeded: int = 0
    failed: int = 0
    aborted: int = 0
    lost: int = 0
    retried: int = 0
    waits: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    finishes: list[int] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    first_sent: float = math.inf
    last_sent: float = 0
    # The CPU seconds of each worker's process after the first and the last of its jobs, and when
    # these finished.
    workers: dict[str, tuple[tuple[float, int], tuple[float, int]]] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """The number of jobs that have ended, with or without success."""
        return self.succeeded + self.failed + self.aborted

    def add(self, result: JobResult) -> None:
        """Count a result."""
        self.retried += result.tries > 1
        # arq does not know when a job was enqueued that had expired or could not be decoded.
        if result.enqueued:
            self.waits.append(max(result.started - result.enqueued, 0))
            self.first_sent = min(self.first_sent, result.enqueued)
            self.last_sent = max(self.last_sent, result.enqueued)
        if result.finished:
            self.runs.append(max(result.finished - result.started, 0))
            self.finishes.append(result.finished)
        if result.success:
            self.succeeded += 1
            match result.value:
                case {"worker": str(worker), "cpu_seconds": float(cpu)} if math.isfinite(cpu):
                    now = cpu, result.finished
                    first, last = self.workers.get(worker, (now, now))
                    self.workers[worker] = min(first, now), max(last, now)
        elif isinstance(result.value, asyncio.CancelledError):
            self.aborted += 1
        else:
            self.failed += 1
            self.failures[str(result.value)[:MAX_ERROR_CHARS]] += 1


def summarize(outcomes: Outcomes, run: LoadTestRun, server_cpu_seconds: float) -> LoadTestReport:
    """Turn outcomes into a report; `server_cpu_seconds` is what Redis has used during the run."""
    last_finish = max(outcomes.finishes, default=0)
    first_sent = min(outcomes.first_sent, last_finish)
    # Without a job that has run, every rate and every share is 0.
    wall = max(last_finish - first_sent, 1) / 1000 if outcomes.runs else math.inf
    workers = max(len(outcomes.workers), 1)
    started_at_most = run.read_limit * workers * wall / run.poll_delay
    report = LoadTestReport(
        sent=run.sent,
        succeeded=outcomes.succeeded,
        failed=outcomes.failed,
        aborted=outcomes.aborted,
        lost=outcomes.lost,
        not_finished=run.test.tasks - outcomes.finished - outcomes.lost,
        retried=outcomes.retried,
        complete=outcomes.finished == run.test.tasks,
        wall_seconds=round(wall, 3) if outcomes.runs else 0,
        jobs_per_second=round(outcomes.finished / wall, 1),
        wait_ms=percentiles(outcomes.waits),
        run_ms=percentiles(outcomes.runs),
        histogram=histogram(outcomes.runs),
        timeline=timeline(outcomes.finishes, first_sent),
        failures=dict(outcomes.failures.most_common(MAX_FAILURES)),
        slots_busy=round(sum(outcomes.runs) / 1000 / (wall * workers * run.max_jobs), 3),
        worker_cores=round(max(map(_cores, outcomes.workers.values()), default=0), 3),
        server_cores=round(max(server_cpu_seconds, 0) / wall, 3),
        sending_share=round(max(outcomes.last_sent - first_sent, 0) / 1000 / wall, 3),
        poll_share=round(outcomes.finished / started_at_most, 3),
        limit="",
    )
    report.limit = _limit(report, run.poll_delay * 1000)
    return report


def _cores(of_worker: tuple[tuple[float, int], tuple[float, int]]) -> float:
    (first_cpu, first_ms), (last_cpu, last_ms) = of_worker
    return (last_cpu - first_cpu) * 1000 / (last_ms - first_ms) if last_ms > first_ms else 0


def compare(
    first: tuple[LoadTestRun, LoadTestReport], second: tuple[LoadTestRun, LoadTestReport]
) -> list[tuple[str, float, float, str]]:
    """Return each figure's name, both values, and the second as a multiple of the first."""
    figures, others = _figures(*first), _figures(*second)
    return [
        (name, figure, others[name], f"{others[name] / figure:.2f}" if figure else "-")
        for name, figure in figures.items()
    ]


def _figures(run: LoadTestRun, report: LoadTestReport) -> dict[str, float]:
    figures = {
        "Tasks": run.test.tasks,
        "max_jobs": run.max_jobs,
        "Jobs/s": report.jobs_per_second,
        "Failed": report.failed,
    }
    for name, times in (("Wait", report.wait_ms), ("Run", report.run_ms)):
        figures[f"{name} p50, ms"] = times.p50 if times else 0
        figures[f"{name} p99, ms"] = times.p99 if times else 0
    return figures


def show_bar(upper: int | None) -> str:
    """Return the name of a bar of the histogram, by its upper end in milliseconds."""
    return f"<= {upper:,} ms" if upper else "longer"


def draw_run_times(report: LoadTestReport) -> str:
    """Return the histogram of the run times as SVG."""
    # Loading it takes a tenth of a second.
    import leather

    jobs = report.succeeded + report.failed
    chart = leather.Chart(f"{jobs:,} jobs, {report.jobs_per_second:,.1f} jobs/s")
    bars = [(show_bar(upper), count) for upper, count in report.histogram]
    chart.add_columns(bars or [("-", 0)])
    return _to_svg(chart, 400, "Run times", x="Run time", y="Jobs")


def draw_rates(runs: Sequence[tuple[LoadTestRun, LoadTestReport]]) -> str:
    """Return a line for each run of the jobs per second that ended over time, as SVG."""
    import leather

    chart = leather.Chart()
    for run, report in runs:
        part = report.wall_seconds / max(len(report.timeline), 1)
        line = [(at * part, count / part) for at, count in enumerate(report.timeline) if part]
        chart.add_line(line or [(0, 0)], name=run.id)
    return _to_svg(chart, 240, "Jobs per second over time", x="Seconds", y="Jobs/s")


def _to_svg(chart: Any, height: int, label: str, *, x: str, y: str) -> str:
    """Return a chart that scales with its page."""
    chart.add_x_axis(name=x)
    chart.add_y_axis(name=y)
    svg: str = chart.to_svg(width=800, height=height)
    size, box = f'width="800" height="{height}"', f'viewBox="0 0 800 {height}"'
    return svg.replace(size, f'{box} role="img" aria-label="{label}"', 1)


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of a list, or None for an empty one."""
    if not values:
        return None
    ranked = sorted(values)
    p50, p90, p95, p99 = (ranked[math.ceil(len(ranked) * p / 100) - 1] for p in (50, 90, 95, 99))
    return Percentiles(p50=p50, p90=p90, p95=p95, p99=p99, max=ranked[-1])


def timeline(finishes: Sequence[int], start: float) -> list[int]:
    """Count the jobs that ended in each of `TIMELINE_PARTS` equal parts of a run."""
    part = max(max(finishes, default=0) - start, 1) / TIMELINE_PARTS
    counts = Counter(min(int((at - start) / part), TIMELINE_PARTS - 1) for at in finishes)
    return [counts[number] for number in range(TIMELINE_PARTS)] if finishes else []


def histogram(values: Sequence[float]) -> list[tuple[int | None, int]]:
    """Count the values up to each of `BARS`, without the empty bars at both ends."""
    bars = Counter(bisect_left(BARS, value) for value in values)
    if not bars:
        return []
    return [((*BARS, None)[bar], bars[bar]) for bar in range(min(bars), max(bars) + 1)]


def _limit(report: LoadTestReport, poll_ms: float) -> str:
    if report.wait_ms is None:
        return "No job has finished, so the limit is unknown."
    wait_ms = report.wait_ms.p50
    if report.sending_share >= MIN_LIMIT_SHARE and wait_ms <= 2 * poll_ms:
        return f"Limited by sending: half of the jobs waited {wait_ms:.0f} ms at most."
    # A worker that is told of new jobs instead of polling starts them sooner than this.
    if poll_ms / 4 <= wait_ms <= poll_ms * 1.5:
        return f"Limited by polls every {poll_ms:g} ms: half of the jobs waited {wait_ms:.0f} ms."
    part, share = next(iter(report.busy.items()))
    # A busy process gains nothing from more slots, however full these are.
    if report.worker_cores >= MIN_LIMIT_SHARE:
        part, share = "worker CPU", report.worker_cores
    if share < MIN_LIMIT_SHARE:
        return f"Limited by no single part; the busiest was {part}, at {share:.0%}."
    return f"Limited by {part}, {share:.0%} busy: {REMEDIES[part]}."
