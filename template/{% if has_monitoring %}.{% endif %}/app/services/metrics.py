"""Prometheus metrics: what each process counts, and the state of Redis at the time of a scrape.

A label is a queue, a task that it lists or `unknown`, a cron job or an outcome, and never an id,
so the number of series is bounded. Each series is there from the start, with 0.
"""

import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from redis.asyncio.client import Pipeline

from app.core import keys
from app.core.serializer import Result
from app.services.jobs import UNKNOWN_TASK, state_of
from app.services.queues import QueueStatus, show_queue
from app.services.rates import BUCKETS

# `bulk` is a job of a load test, however it ended: it says nothing of how other jobs fare.
OUTCOMES = ("succeeded", "failed", "retried", "aborted", "expired", "bulk")
UNKNOWN = "unknown"
# The upper ends of the buckets, in seconds and as Prometheus writes them: those of `rates`.
SECONDS = tuple(end / 1000 for end in BUCKETS)
ENDS = tuple(map(floatToGoString, SECONDS))

# The time at which each series was made doubles their number, and nothing asks for it.
disable_created_metrics()

# What a worker shows, and what the web process shows beside the state of Redis.
WORKER = CollectorRegistry()
WEB = CollectorRegistry()


class Times(Collector):
    """A histogram of seconds by queue and task.

    With prometheus-client's own, the two observations of a job are 4 % of its CPU.
    """

    def __init__(self, name: str, documentation: str) -> None:
        """Take the name and the documentation of the metric."""
        self._metric = name, documentation
        # How many were in each bucket, and their sum in seconds.
        self.series: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
        WORKER.register(self)

    def begin(self, queue: str, task: str) -> tuple[list[int], list[float]]:
        """Show zeros for a task."""
        return self.series.setdefault((queue, task), ([0] * len(SECONDS), [0.0]))

    def observe(self, queue: str, task: str, seconds: float) -> None:
        """Count one job."""
        counts, total = self.series.get((queue, task)) or self.begin(queue, task)
        counts[bisect_left(SECONDS, seconds)] += 1
        total[0] += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the histogram."""
        metric = HistogramMetricFamily(*self._metric, labels=("queue", "task"))
        for labels, (counts, total) in list(self.series.items()):
            buckets = zip(ENDS, accumulate(counts), strict=True)
            metric.add_metric(labels, list(buckets), total[0])
        yield metric


JOBS = Counter(
    "arq_jobs",
    "Jobs by how they ended, and their retries",
    ["queue", "task", "outcome"],
    registry=WORKER,
)
DURATION = Times("arq_job_duration_seconds", "How long the last try of a job ran")
WAIT = Times("arq_job_wait_seconds", "How long a job waited from when it was due")
IN_PROGRESS = Gauge("arq_jobs_in_progress", "Running jobs", ["queue"], registry=WORKER)
LONGEST = Gauge(
    "arq_longest_running_job_start_timestamp_seconds",
    "When the running job that began first did so, or 0",
    ["queue"],
    registry=WORKER,
)
INFO = Gauge("arq_worker_info", "1 for each worker", ["queue", "version"], registry=WORKER)
HEARTBEAT = Gauge(
    "arq_worker_heartbeat_timestamp_seconds",
    "When the event loop of the worker last ran",
    ["queue"],
    registry=WORKER,
)
CRON = Gauge(
    "arq_cron_last_success_timestamp_seconds",
    "When this worker last ran a cron job with success, or 0",
    ["cron"],
    registry=WORKER,
)
ENQUEUED = Counter(
    "arq_jobs_enqueued", "Jobs that this process enqueued", ["queue", "task"], registry=WEB
)
# Tasks enqueue jobs too.
WORKER.register(ENQUEUED)

# The tasks of each queue by arq's names.
_tasks: dict[str, Collection[str]] = {}


def count(results: Sequence[Result], _: Pipeline) -> None:
    """Observe results: count them, and how long each ran."""
    tally: Tally[tuple[str, str, str]] = Tally()
    for data in (result.data for result in results):
        queue, outcome = show_queue(data["q"]), _outcome(data)
        task = _known(queue, data["f"])
        tally[queue, task, outcome] += 1
        if data["t"] > 1:
            tally[queue, task, "retried"] += data["t"] - 1
        DURATION.observe(queue, task, max(data["ft"] - data["st"], 0) / 1000)
        if outcome == "succeeded" and data["f"].startswith("cron:"):
            CRON.labels(task).set(data["ft"] / 1000)
    for labels, number in tally.items():
        JOBS.labels(*labels).inc(number)


def count_start(queue: str, task: str, wait_seconds: float) -> None:
    """Count how long a job waited that starts now."""
    WAIT.observe(queue, _known(queue, task), max(wait_seconds, 0))


def count_enqueued(queue: str, task: str) -> None:
    """Count a job that was enqueued, by the name of its queue in `WORKER_QUEUES`."""
    ENQUEUED.labels(queue, _known(queue, task)).inc()


def begin_enqueueing(queue: str, tasks: Collection[str]) -> None:
    """Show zeros for the jobs that this process can enqueue."""
    _tasks.setdefault(queue, tasks)
    for task in (*tasks, UNKNOWN):
        ENQUEUED.labels(queue, task)


def begin_working(queue: str, version: str, tasks: Collection[str], crons: Collection[str]) -> None:
    """Show zeros for all that a worker of a queue counts; tasks and crons are arq's names."""
    _tasks[queue] = {*tasks, *crons}
    INFO.labels(queue, version).set(1)
    begin_enqueueing(queue, tasks)
    for task in (*tasks, *crons, UNKNOWN):
        for outcome in OUTCOMES:
            JOBS.labels(queue, task, outcome)
        DURATION.begin(queue, task)
        WAIT.begin(queue, task)
    for cron in crons:
        CRON.labels(cron)


def beat(queue: str, starts: Iterable[float], now: float) -> None:
    """Show that the event loop runs, and when each running job began, in seconds of the epoch."""
    running = list(starts)
    HEARTBEAT.labels(queue).set(now)
    IN_PROGRESS.labels(queue).set(len(running))
    LONGEST.labels(queue).set(min(running, default=0))


@dataclass
class RedisCollector(Collector):
    """The state of Redis as it was read for one scrape; without queues, Redis did not answer."""

    queues: Sequence[QueueStatus] | None = None
    letters: int = 0
    # Those of the last ten minutes.
    new_letters: int = 0
    # The used share of maxmemory; 0 without a limit.
    memory_ratio: float = 0
    # Whether each cron job did not run at its time.
    missed_crons: dict[str, bool] = field(default_factory=dict)

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        yield GaugeMetricFamily("arq_redis_up", "Whether Redis answers", self.queues is not None)
        if self.queues is None:
            return
        jobs = GaugeMetricFamily("arq_queue_jobs", "Jobs of a queue", labels=["queue", "state"])
        oldest = GaugeMetricFamily(
            "arq_queue_oldest_ready_timestamp_seconds",
            "Since when the oldest ready job has been due, or now",
            labels=["queue"],
        )
        workers = GaugeMetricFamily("arq_workers", "Workers that report", labels=["queue"])
        silent = GaugeMetricFamily(
            "arq_workers_silent", "Workers that were killed or are blocked", labels=["queue"]
        )
        missed = GaugeMetricFamily(
            "arq_cron_missed", "Whether a cron job did not run at its time", labels=["cron"]
        )
        for queue in self.queues:
            for state in ("ready", "running", "deferred"):
                jobs.add_metric([queue.name, state], getattr(queue, state))
            oldest.add_metric([queue.name], time.time() - queue.oldest_wait_seconds)
            workers.add_metric([queue.name], len(queue.workers))
            silent.add_metric([queue.name], queue.silent)
        for cron, is_missed in self.missed_crons.items():
            missed.add_metric([cron], is_missed)
        yield from (jobs, oldest, workers, silent, missed)
        yield GaugeMetricFamily("arq_dead_letters", "Dead letters", self.letters)
        yield GaugeMetricFamily(
            "arq_dead_letters_new", "Dead letters of the last ten minutes", self.new_letters
        )
        yield GaugeMetricFamily(
            "arq_redis_memory_ratio", "The used share of maxmemory", self.memory_ratio
        )


def _known(queue: str, task: str) -> str:
    return task if task in _tasks.get(queue, ()) else UNKNOWN


def _outcome(data: dict[str, Any]) -> str:
    if data["id"].startswith(keys.BULK_PREFIX):
        return "bulk"
    # arq's words for a job whose bytes had expired; it does not know the task then.
    if data["f"] == UNKNOWN_TASK and str(data["r"]) == "job expired":
        return "expired"
    return state_of(data)
