"""The queues, one module each with the `WorkerSettings` that the arq command runs."""

from collections.abc import Sequence
from typing import Protocol, cast

from arq.cron import CronJob
from arq.typing import WorkerCoroutine
from arq.utils import import_string
from arq.worker import Function


class QueueSettings(Protocol):
    """A `WorkerSettings` class, as far as others than arq read it."""

    functions: Sequence[WorkerCoroutine | Function]
    cron_jobs: Sequence[CronJob]
    queue_name: str
    max_jobs: int
    poll_delay: float
    queue_read_limit: int


def settings(name: str) -> QueueSettings:
    """Return the `WorkerSettings` of a queue of `WORKER_QUEUES`.

    The modules of the queues import every task, so they are imported when one is asked for.
    """
    return cast(QueueSettings, import_string(f"{__name__}.{name}.WorkerSettings"))
