"""Maintenance: measure what the worker runs on, and delete old temporary files."""

import os
import stat
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

import psutil
import structlog
from pydantic import Field
from redis.exceptions import RedisError

from app.components.worker.retries import try_again
from app.components.worker.threads import in_thread
from app.core.config import settings
from app.core.directories import CHECKOUTS

# A result is kept in Redis: of a hundred thousand files the first paths and the sums are enough.
MAX_LISTED_PATHS = 1000
# Ten years. Above it `max_age_hours` is more likely a mistake, such as a time in seconds.
MAX_AGE_HOURS = 87_600

log = structlog.stdlib.get_logger(__name__)


class SystemHealth(TypedDict):
    """Figures of the worker's machine and of its connection to Redis."""

    redis_ping_ms: float
    disk_free_bytes: int
    disk_used_percent: float
    memory_available_bytes: int
    memory_used_percent: float
    load_1m: float
    load_per_cpu: float


class Cleanup(TypedDict):
    """What a cleanup deleted: the first paths, relative to the directory, and the sums."""

    directory: str
    removed: list[str]
    removed_count: int
    freed_bytes: int
    errors: list[str]


async def system_health_check(ctx: dict[str, Any]) -> SystemHealth:
    """Measure Redis, disk, memory and load, and log the figures.

    Raises:
        arq.Retry: Redis does not answer.
        redis.exceptions.RedisError: Redis did not answer on the last try either.
    """
    start = time.perf_counter()
    try:
        await ctx["redis"].ping()
    except RedisError as error:
        raise try_again(ctx, error) from error
    ping_seconds = time.perf_counter() - start

    disk = psutil.disk_usage(".")
    memory = psutil.virtual_memory()
    load_1m, _, _ = psutil.getloadavg()
    health = SystemHealth(
        redis_ping_ms=round(ping_seconds * 1000, 3),
        disk_free_bytes=disk.free,
        disk_used_percent=disk.percent,
        memory_available_bytes=memory.available,
        memory_used_percent=memory.percent,
        load_1m=round(load_1m, 2),
        load_per_cpu=round(load_1m / (psutil.cpu_count() or 1), 2),
    )
    log.info("system health", **health)
    return health


async def cleanup_temp_files(
    ctx: dict[str, Any], max_age_hours: Annotated[float, Field(ge=0, le=MAX_AGE_HOURS)] = 24
) -> Cleanup:
    """Delete the files below `TEMP_DIR` that have not been written to for `max_age_hours`.

    A copy that keeps its source's time, as `cp -p` and `tar` make it, is as old as its source.
    Symbolic links are neither followed nor deleted, and checkouts and what is mounted below the
    directory are left alone. Directories stay, even empty ones, since a process may be about to
    write there.

    Raises:
        ValueError: The age is negative, not a number, or longer than ten years.
    """
    # NaN fails every comparison.
    if not 0 <= max_age_hours <= MAX_AGE_HOURS:
        raise ValueError(
            f"max_age_hours is {max_age_hours}: it cannot be negative, NaN or above {MAX_AGE_HOURS}"
        )
    written_before = time.time() - max_age_hours * 3600
    cleanup = await in_thread(ctx, _delete_old_files, settings.TEMP_DIR, written_before)
    log.info("temporary files removed", **cleanup)
    return cleanup


def _delete_old_files(directory: Path, written_before: float) -> Cleanup:
    cleanup = Cleanup(
        directory=str(directory), removed=[], removed_count=0, freed_bytes=0, errors=[]
    )
    if not directory.is_dir():
        return cleanup
    device = directory.stat().st_dev
    # A bind mount of the same file system has the same device number: only this list shows it.
    mounts = {partition.mountpoint for partition in psutil.disk_partitions(all=True)}
    try:
        # fwalk and dir_fd name each file within a directory that is open, so that a link put in the
        # place of a directory between the check and the deletion leads nowhere else.
        for parent, directories, names, parent_fd in os.fwalk(directory, follow_symlinks=False):
            if os.fstat(parent_fd).st_dev != device:
                directories.clear()
                continue
            if CHECKOUTS.intersection([*directories, *names]):
                cleanup["errors"].append(f"{_printable(parent)}: it is a checkout")
                directories.clear()
                continue
            directories[:] = [name for name in directories if f"{parent}/{name}" not in mounts]
            for name in names:
                path = _printable(os.path.relpath(f"{parent}/{name}", directory))
                try:
                    found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
                    if not stat.S_ISREG(found.st_mode) or found.st_mtime >= written_before:
                        continue
                    os.unlink(name, dir_fd=parent_fd)
                except OSError as error:
                    if len(cleanup["errors"]) < MAX_LISTED_PATHS:
                        cleanup["errors"].append(f"{path}: {error.strerror}")
                    continue
                cleanup["removed_count"] += 1
                cleanup["freed_bytes"] += found.st_size
                if len(cleanup["removed"]) < MAX_LISTED_PATHS:
                    cleanup["removed"].append(path)
    except (OSError, RecursionError) as error:
        # Directories that are nested too deep, for example. What is done is still told.
        cleanup["errors"].append(f"the cleanup ended early: {error}")
    return cleanup


def _printable(path: str) -> str:
    """Return a path that is valid UTF-8, as a result has to be, whatever bytes its name has."""
    return os.fsencode(path).decode(errors="backslashreplace")
