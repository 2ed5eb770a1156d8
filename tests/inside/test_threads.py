"""Blocking work in threads."""

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest
import structlog

from app.components.worker.threads import in_thread


def describe(word: str, *, loud: bool = False) -> tuple[str, bool, dict[str, Any], int]:
    return word, loud, structlog.contextvars.get_contextvars(), threading.get_ident()


def throw(kind: type[BaseException]) -> None:
    raise kind


async def test_a_thread_keeps_the_log_context(ctx: dict[str, Any]) -> None:
    with structlog.contextvars.bound_contextvars(job_id="one"):
        word, loud, context, thread = await in_thread(ctx, describe, "hello", loud=True)
    assert (word, loud, context) == ("hello", True, {"job_id": "one"})
    assert thread != threading.get_ident()


async def test_an_error_in_a_thread_reaches_the_task(ctx: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(ctx, divmod, 1, 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_thread(ctx, next, iter(()))
    # These would end the worker, or have arq run the job again.
    for kind in (SystemExit, GeneratorExit, BaseException, CancelledError, asyncio.CancelledError):
        with pytest.raises(RuntimeError, match=kind.__name__):
            await in_thread(ctx, throw, kind)
