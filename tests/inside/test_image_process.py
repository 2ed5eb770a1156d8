"""Images in processes of their own: limits hold, and no process outlives its job or its worker."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from arq.connections import ArqRedis
from PIL import Image

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.media import WorkerSettings
from app.components.worker.tasks import media
from app.components.worker.tasks.media import MediaError, describe_media, make_thumbnail
from app.core.config import settings
from tests.inside.pictures import jpeg_of_empty_scans

# arq reads what stands in a class itself. A drain of a minute would be long for a test.
ShortDrain = type("ShortDrain", (), {**vars(WorkerSettings), "job_completion_wait": 1})


@pytest.fixture(autouse=True)
def media_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "MEDIA_DIR", tmp_path)
    Image.new("RGB", (400, 300), "red").save(tmp_path / "good.png")
    (tmp_path / "scans.jpg").write_bytes(jpeg_of_empty_scans(50_000))
    return tmp_path


@asynccontextmanager
async def worker(media_dir: Path, **environment: str) -> AsyncIterator[psutil.Process]:
    """Run the stock arq command on the media queue, as in production."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "arq", f"{__name__}.ShortDrain"),
        env={**os.environ, "MEDIA_DIR": str(media_dir), **environment},
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(condition: Any) -> Any:
    async with asyncio.timeout(120):
        while not (found := condition()):
            await asyncio.sleep(0.02)
    return found


async def child_at_work(process: psutil.Process) -> psutil.Process:
    """Wait for a child that has left Python for the decoder."""
    child: psutil.Process = (await until(process.children))[0]
    await until(lambda: child.cpu_times().user > 0.5)
    return child


async def test_a_hostile_image_fails_and_a_good_one_does_not_wait(
    redis: ArqRedis, media_dir: Path
) -> None:
    async with worker(media_dir, MEDIA_CPU_SECONDS="6") as process:
        hostile = await enqueue(redis, WorkerSettings, describe_media, "scans.jpg")
        await child_at_work(process)
        good = await enqueue(redis, WorkerSettings, make_thumbnail, "good.png", "small.png")
        assert (await good.result(timeout=120))["width"] == 256
        assert process.children()
        with pytest.raises(Exception, match=r"scans\.jpg: its work takes more than 6 s"):
            await hostile.result(timeout=120)


async def test_a_killed_process_is_told(redis: ArqRedis, media_dir: Path) -> None:
    async with worker(media_dir) as process:
        job = await enqueue(redis, WorkerSettings, describe_media, "scans.jpg")
        (await child_at_work(process)).kill()
        with pytest.raises(Exception, match=r"scans\.jpg: its process was killed"):
            await job.result(timeout=120)


async def test_a_new_try_deletes_what_a_killed_one_has_left(
    ctx: dict[str, Any], media_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_killed(*_: object, part: str, **__: object) -> None:
        (media_dir / part).touch()

    monkeypatch.setattr(media, "in_image_process", be_killed)
    await make_thumbnail(ctx, "good.png", "small.png")
    assert list(media_dir.glob(".*.part"))
    monkeypatch.undo()
    monkeypatch.setattr(settings, "MEDIA_DIR", media_dir)
    await make_thumbnail(ctx | {"job_try": 2}, "good.png", "small.png")
    names = sorted(path.name for path in media_dir.iterdir())
    assert names == ["good.png", "scans.jpg", "small.png"]


async def test_an_aborted_job_ends_its_process(redis: ArqRedis, media_dir: Path) -> None:
    async with worker(media_dir) as process:
        job = await enqueue(redis, WorkerSettings, make_thumbnail, "scans.jpg", "small.png")
        child = await child_at_work(process)
        assert await job.abort(timeout=10)
        assert not child.is_running()
    assert sorted(path.name for path in media_dir.iterdir()) == ["good.png", "scans.jpg"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_the_end_of_a_worker_ends_its_processes(
    redis: ArqRedis, media_dir: Path, end: signal.Signals
) -> None:
    async with worker(media_dir) as process:
        await enqueue(redis, WorkerSettings, make_thumbnail, "scans.jpg", "small.png")
        child = await child_at_work(process)
        process.send_signal(end)
        await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_memory_is_limited(
    ctx: dict[str, Any], media_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "MEDIA_MEMORY_MB", 128)
    Image.new("RGB", (7000, 7000)).save(media_dir / "large.png")
    Image.new("RGBA", (8300, 8300)).save(media_dir / "larger.png")
    # Each has 128 MB, and what needs more has 256 MB once the others have ended.
    names = ("good.png", "large.png", "larger.png", "good.png", "large.png")
    jobs = [asyncio.create_task(describe_media(ctx, name)) for name in names]
    most = await watch(jobs)
    found = await asyncio.gather(*jobs, return_exceptions=True)
    assert [isinstance(one, MediaError) for one in found] == [False, False, True, False, False]
    assert str(found[2]).startswith("larger.png: it needs more memory than")
    assert most == settings.MEDIA_PROCESSES


def is_decoder(process: psutil.Process) -> bool:
    try:
        return "app.services.images" in process.cmdline()
    except psutil.Error:
        # It has just ended.
        return False


async def watch(jobs: list[asyncio.Task[Any]]) -> int:
    """Return how many decoders ran at a time at most."""
    most, this = 0, psutil.Process()
    while not all(job.done() for job in jobs):
        most = max(most, sum(map(is_decoder, this.children())))
        await asyncio.sleep(0.01)
    return most


async def test_as_many_run_at_a_time_as_the_setting_says(ctx: dict[str, Any]) -> None:
    jobs = [asyncio.create_task(describe_media(ctx, "good.png")) for _ in range(8)]
    most = await watch(jobs)
    await asyncio.gather(*jobs)
    assert most == settings.MEDIA_PROCESSES
