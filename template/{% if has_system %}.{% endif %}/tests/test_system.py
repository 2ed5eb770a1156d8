"""The system tasks: real figures, and files that are really gone."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.system import WorkerSettings
from app.components.worker.retries import MAX_TRIES
from app.components.worker.tasks.system import cleanup_temp_files, system_health_check
from app.core.config import settings
from app.core.redis import create_client, redis_settings
from tests.support import run_burst


@pytest.fixture
def temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "temp"
    directory.mkdir()
    monkeypatch.setattr(settings, "TEMP_DIR", directory)
    return directory


def write(path: Path, *, age_hours: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    written = time.time() - age_hours * 3600
    os.utime(path, (written, written))
    return path


async def test_health_is_measured(ctx: dict[str, Any]) -> None:
    health = await system_health_check(ctx)
    assert 0 < health["redis_ping_ms"] < 1000
    assert health["disk_free_bytes"] > 0
    assert 0 < health["memory_used_percent"] <= 100
    assert health["load_1m"] >= 0


async def test_a_redis_that_is_away_is_tried_again(ctx: dict[str, Any]) -> None:
    ctx["redis"] = create_client(redis_settings("redis://127.0.0.1:1"))
    with pytest.raises(Retry):
        await system_health_check(ctx)
    ctx["job_try"] = MAX_TRIES
    with pytest.raises(RedisError):
        await system_health_check(ctx)


async def test_old_files_go_and_new_ones_stay(ctx: dict[str, Any], temp_dir: Path) -> None:
    old = write(temp_dir / "a" / "b" / "old", age_hours=25)
    new = write(temp_dir / "a" / "new", age_hours=23)
    cleanup = await cleanup_temp_files(ctx)
    assert not old.exists()
    assert new.exists()
    assert cleanup["removed"] == ["a/b/old"]
    assert (cleanup["removed_count"], cleanup["freed_bytes"], cleanup["errors"]) == (1, 5, [])


async def test_links_are_not_followed(ctx: dict[str, Any], temp_dir: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "old", age_hours=25)
    (temp_dir / "directory").symlink_to(outside.parent)
    (temp_dir / "file").symlink_to(outside)
    cleanup = await cleanup_temp_files(ctx, max_age_hours=0)
    assert outside.exists()
    assert cleanup["removed"] == []


async def test_a_directory_that_is_a_link_is_left_alone(
    ctx: dict[str, Any], temp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(temp_dir / "old", age_hours=25)
    (tmp_path / "link").symlink_to(temp_dir)
    monkeypatch.setattr(settings, "TEMP_DIR", tmp_path / "link")
    assert (await cleanup_temp_files(ctx))["removed_count"] == 0
    assert old.exists()


async def test_a_missing_directory_holds_nothing(
    ctx: dict[str, Any], temp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TEMP_DIR", temp_dir / "missing")
    assert (await cleanup_temp_files(ctx))["removed_count"] == 0


async def test_a_negative_age_is_refused(ctx: dict[str, Any], temp_dir: Path) -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        await cleanup_temp_files(ctx, max_age_hours=-1)


async def test_both_run_in_the_worker(redis: ArqRedis, temp_dir: Path) -> None:
    write(temp_dir / "old", age_hours=2)
    health = await enqueue(redis, WorkerSettings, system_health_check)
    cleanup = await enqueue(redis, WorkerSettings, cleanup_temp_files, max_age_hours=1)
    worker = await run_burst(WorkerSettings)
    assert (worker.jobs_complete, worker.jobs_failed) == (2, 0)
    assert (await health.result(timeout=5))["disk_free_bytes"] > 0
    assert (await cleanup.result(timeout=5))["removed"] == ["old"]


def test_both_run_by_the_clock() -> None:
    assert {job.name for job in WorkerSettings.cron_jobs} >= {
        "cron:system_health_check",
        "cron:cleanup_temp_files",
    }
