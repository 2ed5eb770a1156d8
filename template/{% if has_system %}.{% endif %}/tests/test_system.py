"""The system tasks, as an example of tests that need files, a missing server and a worker."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.system import WorkerSettings
from app.components.worker.tasks.system import cleanup_temp_files, system_health_check
from app.core.config import settings
from app.core.redis import create_client, redis_settings
from tests.support import run_burst


def write(path: Path, *, age_hours: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    written = time.time() - age_hours * 3600
    os.utime(path, (written, written))


async def test_health_is_measured(ctx: dict[str, Any]) -> None:
    health = await system_health_check(ctx)
    assert health["redis_ping_ms"] > 0
    assert health["disk_free_bytes"] > 0
    assert 0 < health["memory_used_percent"] <= 100


async def test_an_unreachable_redis_is_tried_again(ctx: dict[str, Any]) -> None:
    ctx["redis"] = create_client(redis_settings("redis://127.0.0.1:1"))
    with pytest.raises(Retry):
        await system_health_check(ctx)


async def test_the_worker_deletes_old_files_only(
    redis: ArqRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TEMP_DIR", tmp_path)
    write(tmp_path / "a" / "b" / "old", age_hours=25)
    write(tmp_path / "a" / "new", age_hours=23)
    job = await enqueue(redis, WorkerSettings, cleanup_temp_files)
    worker = await run_burst(WorkerSettings)
    assert (worker.jobs_complete, worker.jobs_failed) == (1, 0)
    cleanup = await job.result(timeout=5)
    assert (cleanup["removed"], cleanup["freed_bytes"], cleanup["errors"]) == (["a/b/old"], 5, [])
    assert (tmp_path / "a" / "new").exists()
