"""The media tasks, as an example of tests that need files and a worker."""

from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from PIL import ExifTags, Image

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.media import WorkerSettings
from app.components.worker.tasks.media import convert_image, make_thumbnail
from app.core.config import settings
from tests.support import run_burst


@pytest.fixture
def media_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A media directory with a photo of 40 by 20 pixels, taken with the camera on its side."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "photo.jpg", exif=exif)
    monkeypatch.setattr(settings, "MEDIA_DIR", tmp_path)
    return tmp_path


async def test_a_thumbnail_is_small_and_upright(ctx: dict[str, Any], media_dir: Path) -> None:
    result = await make_thumbnail(ctx, "photo.jpg", "small/photo.png", max_side=10)
    with Image.open(media_dir / "small" / "photo.png") as image:
        assert image.size == (5, 10) == (result["width"], result["height"])


async def test_the_worker_converts_an_image(redis: ArqRedis, media_dir: Path) -> None:
    job = await enqueue(redis, WorkerSettings, convert_image, "photo.jpg", image_format="png")
    worker = await run_burst(WorkerSettings)
    assert (worker.jobs_complete, worker.jobs_failed) == (1, 0)
    assert (await job.result(timeout=5))["path"] == "photo.png"
