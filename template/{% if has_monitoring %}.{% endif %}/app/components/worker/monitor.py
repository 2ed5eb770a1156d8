"""What a worker shows of itself while it runs: its metrics, and jobs that are slow."""

import asyncio
import itertools
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import structlog
from arq import func
from arq.connections import ArqRedis
from prometheus_client import start_http_server
from redis.exceptions import RedisError

from app import NAME
from app.components.worker import queues
from app.components.worker.tracing import runs_are_traced, trace_run
from app.core.config import WORKER_QUEUES, settings
from app.services import metrics
from app.services.crons import report_crons
from app.services.queues import show_queue

BEAT_SECONDS = 1
# How often the next runs of cron jobs are written to Redis.
BEATS_PER_REPORT = 5
# After this share of its timeout a job is logged as slow, once.
SLOW_SHARE = 0.5

log = structlog.stdlib.get_logger(__name__)


# The start of each job, in seconds of the epoch, and the names of its log context. Some time after
# a job, arq drops its task, and the entry goes with it: a callback, or a custom object, would
# each be 1 % of a job's CPU.
_running: WeakKeyDictionary[asyncio.Task[Any], tuple[float, dict[str, Any]]] = WeakKeyDictionary()
# The tasks of jobs that were logged as slow.
_slow: WeakSet[asyncio.Task[Any]] = WeakSet()
_timeouts: dict[str, float] = {}


def note_start(ctx: dict[str, Any], names: dict[str, Any]) -> None:
    """Note that the job of the current asyncio task starts, by the names of its log context."""
    task, now = asyncio.current_task(), time.time()
    if task:
        _running[task] = now, names
        if span := trace_run(names):
            task.add_done_callback(lambda _: span.end())
    metrics.count_start(names["queue"], names["task"], now - ctx["score"] / 1000)


def running_jobs() -> list[tuple[asyncio.Task[Any], float, dict[str, Any]]]:
    """Return the task of each running job, its start, and the names of its log context."""
    return [(task, *job) for task, job in _running.items() if not task.done()]


async def monitor_until(stopping: asyncio.Event, redis: ArqRedis) -> None:
    """Serve the metrics of this worker, and look at its jobs, until it stops."""
    queue = show_queue(redis.default_queue_name)
    _begin(queue)
    server = _serve()
    beats = itertools.count()
    while not stopping.is_set():
        now = time.time()
        running = running_jobs()
        metrics.beat(queue, [start for _, start, _ in running], now)
        for task, start, names in running:
            timeout = _timeouts.get(names["task"], 300)
            if task not in _slow and now - start > timeout * SLOW_SHARE:
                _slow.add(task)
                log.warning("slow job", seconds=round(now - start), timeout=timeout, **names)
        if next(beats) % BEATS_PER_REPORT == 0 and queue in WORKER_QUEUES:
            try:
                await report_crons(redis, queues.settings(queue).cron_jobs)
            except (RedisError, OSError) as error:
                log.warning("the schedule cannot be written", error=str(error))
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await stopping.wait()
    if server:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _begin(queue: str) -> None:
    """Show the worker's own series from the start, and learn the timeouts of its tasks."""
    tasks, crons = [], []
    if queue in WORKER_QUEUES:
        worker, timeout = queues.settings(queue), WORKER_QUEUES[queue]["timeout_seconds"]
        functions = [func(function) for function in worker.functions]
        _timeouts.update({task.name: task.timeout_s or timeout for task in functions})
        _timeouts.update({cron.name: cron.timeout_s or timeout for cron in worker.cron_jobs})
        tasks = [function.name for function in functions]
        crons = [cron.name for cron in worker.cron_jobs]
    # `startup` may set a provider after this.
    runs_are_traced.cache_clear()
    metrics.begin_working(queue, version(NAME), tasks, crons)


def _serve() -> Any:
    if not settings.WORKER_METRICS_PORT:
        return None
    try:
        # It runs in a thread, so it also responds while a task blocks the event loop.
        server, _ = start_http_server(
            settings.WORKER_METRICS_PORT, settings.HOST, registry=metrics.WORKER
        )
    except OSError as error:
        log.error(
            "The worker runs without metrics: give it a free WORKER_METRICS_PORT.",
            port=settings.WORKER_METRICS_PORT,
            error=str(error),
        )
        return None
    return server
