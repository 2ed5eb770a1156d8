"""The project's command with a queue `test`: `python -m tests.inside.command MODULE ARGUMENTS`."""

import asyncio
import importlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

from typer.testing import CliRunner

from app.cli.main import app
from app.core.config import WORKER_QUEUES, WorkerQueue, settings
from tests.support import QUEUE


def queues_with(queue: Any) -> tuple[dict[str, WorkerQueue], dict[str, Any]]:
    """Return the entry of a queue `test` in WORKER_QUEUES, and the module that has its settings."""
    entry = WorkerQueue(description="", max_jobs=10, timeout_seconds=300, queue_name=QUEUE)
    module = type("module", (), {"WorkerSettings": queue})
    return {"test": entry}, {"app.components.worker.queues.test": module}


async def start(module: str, *arguments: str) -> Process:
    """Start the command, whose queue `test` is the `WorkerSettings` of a module."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, module, *arguments),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "REDIS_URL": settings.REDIS_URL, "COLUMNS": "80"},
    )


async def run(*arguments: str, answer: str = "") -> tuple[int, str, str]:
    """Run the command in this process; return its exit code, output and error output."""
    runner = CliRunner(env={"COLUMNS": "80"})
    result = await asyncio.to_thread(runner.invoke, app, arguments, input=answer)
    assert isinstance(result.exception, SystemExit | None)
    if result.exception and isinstance(said := result.exception.code, str):
        # Python writes it to the error output, and the runner to the other one.
        return 1, result.stdout.removesuffix(f"{said}\n"), f"{result.stderr}{said}\n"
    return result.exit_code, result.stdout, result.stderr


if __name__ == "__main__":
    from app.cli import run as run_here

    entries, modules = queues_with(importlib.import_module(sys.argv.pop(1)).WorkerSettings)
    WORKER_QUEUES.update(entries)
    sys.modules.update(modules)
    run_here()
