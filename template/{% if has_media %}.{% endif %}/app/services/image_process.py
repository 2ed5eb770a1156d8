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
from contextlib import suppress
from typing import Any, Literal

from anyio import CapacityLimiter

from app.core.config import settings
from app.services.media_files import MediaError, media_error

# Other work on the processor makes an image take longer, but not without end.
ELAPSED_PER_CPU_SECOND = 4

_processes = CapacityLimiter(settings.MEDIA_PROCESSES)


async def in_image_process(work: Literal["copy", "describe"], **arguments: Any) -> dict[str, Any]:
    """Call `copy_image` or `describe_image` of `images` in a process of its own.

    It waits while MEDIA_PROCESSES others run. An abort, a timeout or the worker's end kills it.

    Raises:
        MediaError: The image is damaged, or its work exceeds a limit.
    """
    request = {
        "work": work,
        "root": str(settings.MEDIA_DIR),
        "arguments": arguments,
        "limits": {
            "cpu_seconds": settings.MEDIA_CPU_SECONDS,
            "memory_bytes": settings.MEDIA_MEMORY_MB * 1024 * 1024,
            "parent": os.getpid(),
        },
    }
    async with _processes:
        # In a session of its own, signals for the worker's group do not end it during a drain.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.services.images"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(settings.MEDIA_CPU_SECONDS * ELAPSED_PER_CPU_SECOND):
                output, _ = await process.communicate(json.dumps(request).encode())
        except TimeoutError:
            output = b""
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
    if not output:
        raise media_error(arguments["source"], _reason(process.returncode))
    answer = json.loads(output)
    if "error" in answer:
        raise MediaError(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def _reason(code: int | None) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"its work takes more than {settings.MEDIA_CPU_SECONDS} s (MEDIA_CPU_SECONDS)"
    return f"its decoder ended with code {code}"
