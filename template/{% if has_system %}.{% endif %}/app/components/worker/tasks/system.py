"""Maintenance: a look at what the worker runs on, and the removal of old temporary files."""

import asyncio
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any, TypedDict

import psutil
import structlog
from redis.exceptions import RedisError

from app.components.worker.retries import try_again
from app.core.config import settings

# A result is kept in Redis for an hour: a count says enough of a hundred thousand files.
LISTED = 1000

log = structlog.stdlib.get_logger(__name__)


class SystemHealth(TypedDict):
    """Figures of the worker's machine and of its way to Redis."""

    redis_ping_ms: float
    disk_free_bytes: int
    disk_used_percent: float
    memory_available_bytes: int
    memory_used_percent: float
    load_1m: float
    load_per_cpu: float


class Cleanup(TypedDict):
    """What a cleanup removed: the first paths, relative to the directory, and the sums."""

    directory: str
    removed: list[str]
    removed_count: int
    freed_bytes: int
    errors: list[str]


async def system_health_check(ctx: dict[str, Any]) -> SystemHealth:
    """Measure Redis, disk, memory and load, and log what was found.

    Raises:
        arq.Retry: Redis does not answer.
        redis.exceptions.RedisError: It has not answered at the last try either.
    """
    start = time.perf_counter()
    try:
        await ctx["redis"].ping()
    except RedisError as error:
        raise try_again(ctx, error) from error
    ping = time.perf_counter() - start

    disk = shutil.disk_usage(Path.cwd())
    memory = psutil.virtual_memory()
    load = os.getloadavg()[0]
    health = SystemHealth(
        redis_ping_ms=round(ping * 1000, 3),
        disk_free_bytes=disk.free,
        disk_used_percent=round(100 * disk.used / disk.total, 1),
        memory_available_bytes=memory.available,
        memory_used_percent=memory.percent,
        load_1m=round(load, 2),
        load_per_cpu=round(load / (os.cpu_count() or 1), 2),
    )
    log.info("system health", **health)
    return health


async def cleanup_temp_files(ctx: dict[str, Any], max_age_hours: float = 24) -> Cleanup:
    """Delete the files below `TEMP_DIR` that have not been written to for `max_age_hours`.

    It stays below the directory: symbolic links are neither followed nor deleted. Directories are
    left, empty or not, since somebody may be about to write there.

    Raises:
        ValueError: The age is negative.
    """
    if max_age_hours < 0:
        raise ValueError(f"max_age_hours is {max_age_hours}: it cannot be negative")
    written_before = time.time() - max_age_hours * 3600
    cleanup = await asyncio.get_running_loop().run_in_executor(
        ctx["pool"], _delete_files, settings.TEMP_DIR, written_before
    )
    log.info("temporary files removed", **cleanup)
    return cleanup


def _delete_files(directory: Path, written_before: float) -> Cleanup:
    cleanup = Cleanup(
        directory=str(directory), removed=[], removed_count=0, freed_bytes=0, errors=[]
    )
    if not directory.is_dir():
        return cleanup
    # fwalk and dir_fd name each file within a directory that is open, so that nobody can put a
    # link in the place of a directory between the look and the deletion.
    for parent, _, names, parent_fd in os.fwalk(directory, follow_symlinks=False):
        for name in names:
            path = str(Path(parent, name).relative_to(directory))
            try:
                found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode) or found.st_mtime >= written_before:
                    continue
                os.unlink(name, dir_fd=parent_fd)
            except OSError as error:
                if len(cleanup["errors"]) < LISTED:
                    cleanup["errors"].append(f"{path}: {error.strerror}")
                continue
            cleanup["removed_count"] += 1
            cleanup["freed_bytes"] += found.st_size
            if len(cleanup["removed"]) < LISTED:
                cleanup["removed"].append(path)
    return cleanup
