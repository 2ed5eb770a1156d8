"""Blocking work: what computes or reads files runs in a thread, beside the event loop."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(
    ctx: dict[str, Any], function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a blocking function in a thread of `ctx["pool"]`, and return its result.

    Lines that it logs carry the job's id, task and try, as those of the task itself do. Python
    cannot end a thread: a function whose job was aborted or timed out goes on to its end.
    """
    call = partial(copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(ctx["pool"], call)
