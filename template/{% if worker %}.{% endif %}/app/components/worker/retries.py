"""Trying again: for faults that pass by themselves, such as a server that restarts.

except ConnectionError as error:
    raise try_again(ctx, error) from error
"""

import random
from typing import Any

from arq import Retry

# A job's tries, with those that a worker was stopped in. `max_tries` of each queue is this.
MAX_TRIES = 5


def try_again(
    ctx: dict[str, Any], error: Exception, *, first: float = 1, most: float = 300
) -> Exception:
    """Return what to raise: arq's `Retry`, or `error` itself on the last try.

    arq would end a job whose tries are used up by "max retries exceeded", and tell nobody why.

    Args:
        ctx: arq's context.
        error: What went wrong.
        first: The longest wait before the second try, in seconds. It doubles with each try.
        most: The longest wait of all, in seconds.
    """
    if ctx["job_try"] >= MAX_TRIES:
        return error
    wait = min(first * 2 ** (ctx["job_try"] - 1), most)
    # Half of it is chance, so that the jobs of one outage do not come back together.
    return Retry(defer=random.uniform(wait / 2, wait))  # noqa: S311 - nothing secret depends on it
