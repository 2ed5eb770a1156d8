"""Levels by module, one format of arq's lines from the first one on, and wrong settings."""

import asyncio
import json
import os
import sys

import pytest
from arq.connections import ArqRedis

from app.core.config import load_settings, settings

WORKER = "app.components.worker.queues.system.WorkerSettings"


async def run_worker(*options: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "arq",
            WORKER,
            "--burst",
            "--custom-log-dict",
            "app.core.log.LOGGING",
        ),
        *options,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "REDIS_URL": settings.REDIS_URL, **environment},
    )
    _, errors = await process.communicate()
    return errors.decode()


async def test_each_line_of_a_worker_is_json_and_there_once(redis: ArqRedis) -> None:
    text = await run_worker(LOG_FORMAT="json")
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events[0].startswith("Starting worker for")
    assert events[1].startswith("redis_version=")
    assert len(events) == len(set(events))


async def test_a_module_has_a_level_of_its_own(redis: ArqRedis) -> None:
    assert await run_worker(LOG_LEVELS="arq=WARNING") == ""
    assert "Starting worker" in await run_worker(LOG_LEVEL="ERROR", LOG_LEVELS="arq.worker=info")


@pytest.mark.parametrize("text", ["arq", "=DEBUG", "arq=LOUD", "arq="])
def test_a_slip_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LOG_LEVELS", text)
    with pytest.raises(SystemExit, match=r"LOG_LEVELS"):
        load_settings()


def test_every_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "eighty")
    monkeypatch.setenv("LOG_FORMAT", "xml")
    with pytest.raises(SystemExit) as exit_info:
        load_settings()
    lines = str(exit_info.value).splitlines()
    assert [line.split()[0] for line in lines] == ["PORT", "LOG_FORMAT"]
