"""What arq calls when a worker starts and stops, and before each job.

Nothing here may raise once the worker runs: arq would end the worker.
"""

import asyncio
import os
import signal
from typing import Any

import structlog
from arq.connections import ArqRedis

from app.components.worker import results
from app.components.worker.reports import report_until
from app.components.worker.threads import DaemonThreads
from app.core.errors import install_excepthook
from app.core.log import configure_logging
from app.core.redis import PATIENCE_SECONDS, Patience
from app.services.malformed import discard_malformed
from app.services.queues import show_queue

# isort: split
# Your own imports:

# A server that is down when the worker starts ends arq before any hook runs.
install_excepthook()


async def startup(ctx: dict[Any, Any]) -> None:
    """Prepare a worker: logging, threads, patience with Redis, the recorder and the reports.

    `ctx["pool"]` runs what would block the event loop, in as many threads as there are processors.
    A Redis that is away is waited for during `PATIENCE_SECONDS`; at the start arq waits for 5 s.
    """
    configure_logging()
    ctx["pool"] = DaemonThreads(os.cpu_count() or 1)
    redis: ArqRedis = ctx["redis"]
    redis.set_retry(Patience(PATIENCE_SECONDS))

    await discard_malformed(redis, redis.default_queue_name)
    ctx["stopping"] = stopping = asyncio.Event()
    ctx["background"] = [
        asyncio.create_task(results.flush_until(stopping, redis)),
        asyncio.create_task(report_until(stopping, redis, ctx["pool"])),
    ]
    _stop_on_hangup()

    # Your own resources:


async def shutdown(ctx: dict[Any, Any]) -> None:
    """End what `startup` began; the recorder writes the rest first."""
    ctx["stopping"].set()
    await asyncio.gather(*ctx["background"])
    ctx["pool"].shutdown(wait=False, cancel_futures=True)

    # Your own resources:


async def bind_log_context(ctx: dict[Any, Any]) -> None:
    """Put the job into every log line until it ends; arq runs each in its own asyncio task."""
    structlog.contextvars.bind_contextvars(
        job_id=ctx["job_id"],
        job_try=ctx["job_try"],
        task=results.task_name.get(),
        queue=show_queue(ctx["redis"].default_queue_name),
    )


def _stop_on_hangup() -> None:
    """Treat a closed terminal as SIGTERM, unless `nohup` has the worker ignore it."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, os.kill, os.getpid(), signal.SIGTERM)
