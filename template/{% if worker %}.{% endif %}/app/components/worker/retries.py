"""Retries: for faults that pass by themselves, such as a server that restarts.

except ConnectionError as error:
    raise try_again(ctx, error) from error
"""

import random
from typing import Any

from arq import Retry, func

from app.components.worker import queues
from app.components.worker.results import task_name
from app.services.queues import show_queue

# A job's tries, those in which its worker stopped included. `max_tries` of each queue is this.
MAX_TRIES = 5


def try_again(
    ctx: dict[str, Any], error: Exception, *, first: float = 1, most: float = 300
) -> Exception:
    """Return what to raise: arq's `Retry`, or `error` itself on the last try.

    arq would end a job whose tries are used up with "max retries exceeded" instead of the reason.
    The last try is that of `func(max_tries=…)`, `cron(max_tries=…)` or the queue. By default a cron
    job has one, and arq waits a minute at least before it runs a cron job again.

    Args:
        ctx: arq's context.
        error: What went wrong.
        first: The longest wait before the second try, in seconds. It doubles with each try.
        most: The longest wait of all, in seconds.
    """
    if ctx["job_try"] >= _max_tries(ctx):
        return error
    # A float that is doubled more than 1,024 times overflows.
    wait = min(first * 2 ** min(ctx["job_try"] - 1, 32), most)
    # Half of the wait is jitter, so that the jobs of one outage do not all return at once.
    return Retry(defer=random.uniform(wait / 2, wait))  # noqa: S311 - nothing secret depends on it


def _max_tries(ctx: dict[str, Any]) -> int:
    """Return the tries that this job has, which arq's context does not tell."""
    try:
        queue = queues.settings(show_queue(ctx["redis"].default_queue_name))
    except (ImportError, KeyError):
        # A test calls the task itself.
        return MAX_TRIES
    name = task_name.get()
    tries = {function.name: function.max_tries for function in map(func, queue.functions)}
    tries |= {cron_job.name: cron_job.max_tries for cron_job in queue.cron_jobs}
    own = tries.get(name)
    return queue.max_tries if own is None else own
