"""The project's command, run as its own process."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from pathlib import Path

from app import NAME
from app.core.config import settings

BIN = Path(sys.executable).parent


async def start_command(*arguments: str, url: str = settings.REDIS_URL) -> Process:
    """Start the project's command."""
    return await asyncio.create_subprocess_exec(
        BIN / NAME,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "REDIS_URL": url},
    )


async def run_command(*arguments: str, url: str = settings.REDIS_URL) -> tuple[int, str, str]:
    """Run the project's command; return its exit code, output and error output."""
    process = await start_command(*arguments, url=url)
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()
