"""Runs the work on an image in a child process, which ends with its job.

A decoder cannot be interrupted in a thread: a small file that takes hours to decode would keep the
thread for hours. A process can be killed, and has limits of its own.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal

from anyio import Lock, Semaphore

from app.core.config import settings
from app.services.media_files import MediaError, media_error

# Other work on the processor makes an image take longer, but not without end.
ELAPSED_PER_CPU_SECOND = 4

_places = Semaphore(settings.MEDIA_PROCESSES)
_turn = Lock()


async def in_image_process(work: Literal["copy", "describe"], **arguments: Any) -> dict[str, Any]:
    """Call `copy_image` or `describe_image` of `images` in a process of its own.

    It waits while MEDIA_PROCESSES others run. What needs more than MEDIA_MEMORY_MB is tried again
    alone, with the memory of all. An abort, a timeout or the worker's end kills the process.

    Raises:
        MediaError: The image is damaged, or its work exceeds a limit.
    """
    async with _places:
        answer = await _run(work, arguments, settings.MEDIA_MEMORY_MB)
    if answer.get("needs_memory") and settings.MEDIA_PROCESSES > 1:
        async with _alone():
            memory_mb = settings.MEDIA_MEMORY_MB * settings.MEDIA_PROCESSES
            answer = await _run(work, arguments, memory_mb)
    if "error" in answer:
        raise MediaError(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    """Wait until no other process runs, and keep others from starting."""
    async with _turn, AsyncExitStack() as stack:
        for _ in range(settings.MEDIA_PROCESSES):
            await stack.enter_async_context(_places)
        yield


async def _run(work: str, arguments: dict[str, Any], memory_mb: int) -> dict[str, Any]:
    """Return the answer of `images.main`."""
    request = {
        "work": work,
        "root": str(settings.MEDIA_DIR),
        "arguments": arguments,
        "limits": {
            "cpu_seconds": settings.MEDIA_CPU_SECONDS,
            "memory_bytes": memory_mb * 1024 * 1024,
            "parent": os.getpid(),
        },
    }
    # In a session of its own, signals for the worker's group do not end it during a drain.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.services.images"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        start_new_session=True,
    )
    is_late = False
    try:
        async with asyncio.timeout(settings.MEDIA_CPU_SECONDS * ELAPSED_PER_CPU_SECOND):
            output, _ = await process.communicate(json.dumps(request).encode())
    except TimeoutError:
        output, is_late = b"", True
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if not output:
        raise media_error(arguments["source"], _reason(process.returncode, is_late=is_late))
    answer: dict[str, Any] = json.loads(output)
    return answer


def _reason(code: int | None, *, is_late: bool) -> str:
    if is_late or code == -signal.SIGXCPU:
        return f"its work takes more than {settings.MEDIA_CPU_SECONDS} s (MEDIA_CPU_SECONDS)"
    if code == -signal.SIGKILL:
        return "its process was killed, perhaps since the machine had no memory left"
    return f"its decoder ended with code {code}"
