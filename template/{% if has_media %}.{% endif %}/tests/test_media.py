"""The media tasks: real files, and every kind of file that is not what it seems."""

import hashlib
import zlib
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from arq.connections import ArqRedis
from PIL import ExifTags, Image

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.media import WorkerSettings
from app.components.worker.tasks.media import (
    MediaError,
    convert_image,
    describe_media,
    make_thumbnail,
)
from app.core.config import settings
from tests.support import run_burst


@pytest.fixture
def media_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "media"
    directory.mkdir()
    monkeypatch.setattr(settings, "MEDIA_DIR", directory)
    return directory


@pytest.fixture
def photo(media_dir: Path) -> Path:
    """A JPEG of 40 by 20 pixels, taken with the camera on its side."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Lux"
    Image.new("RGB", (40, 20), "red").save(media_dir / "photo.jpg", exif=exif)
    return media_dir / "photo.jpg"


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    header = pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


async def test_a_thumbnail_is_small_and_upright(ctx: dict[str, Any], photo: Path) -> None:
    result = await make_thumbnail(ctx, "photo.jpg", "small/photo.png", max_side=10)
    with Image.open(photo.parent / "small" / "photo.png") as image:
        assert image.size == (5, 10) == (result["width"], result["height"])
        assert image.format == "PNG"
    assert result["size_bytes"] == (photo.parent / "small" / "photo.png").stat().st_size


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
async def test_every_mode_converts_to_every_format(
    ctx: dict[str, Any], media_dir: Path, mode: str, image_format: Any
) -> None:
    Image.new(mode, (8, 8)).save(media_dir / "source.tiff")
    result = await convert_image(ctx, "source.tiff", image_format)
    with Image.open(media_dir / result["path"]) as image:
        assert image.size == (8, 8)
        assert image.format == image_format.upper()


async def test_transparency_becomes_white_in_a_jpeg(ctx: dict[str, Any], media_dir: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(media_dir / "clear.png")
    await convert_image(ctx, "clear.png", "jpeg")
    with Image.open(media_dir / "clear.jpeg") as image:
        assert image.getpixel((4, 4)) == (255, 255, 255)


async def test_an_image_is_described(ctx: dict[str, Any], photo: Path) -> None:
    description = await describe_media(ctx, "photo.jpg")
    assert description["size_bytes"] == photo.stat().st_size
    assert (description["mime_type"], description["mode"]) == ("image/jpeg", "RGB")
    assert (description["width"], description["height"]) == (40, 20)
    assert description["exif"] == {"Orientation": "6", "Make": "Lux"}
    assert description["sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bomb.png", png_of_size(60_000, 60_000), "pixels"),
        ("large.png", png_of_size(10_000, 6_000), "60,000,000 pixels are more than 50,000,000"),
        ("text.jpg", b"just a text", "not an image of JPEG, PNG"),
        ("empty.jpg", b"", "not an image of JPEG, PNG"),
        ("short.png", png_of_size(100, 100), "image file is truncated"),
    ],
)
async def test_a_file_that_is_no_sound_image_is_refused(
    ctx: dict[str, Any], media_dir: Path, name: str, content: bytes, message: str
) -> None:
    (media_dir / name).write_bytes(content)
    for work in (describe_media(ctx, name), make_thumbnail(ctx, name, "out.png")):
        with pytest.raises(MediaError, match=message) as error:
            await work
        assert str(error.value).startswith(f"{name}: ")
    assert names_in(media_dir) == [name]


async def test_a_truncated_photo_is_refused(ctx: dict[str, Any], photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:-100])
    with pytest.raises(MediaError, match=r"photo\.jpg: .*[Tt]runcated"):
        await convert_image(ctx, "photo.jpg")
    assert names_in(photo.parent) == ["photo.jpg"]


@pytest.mark.parametrize("path", ["../outside.png", "/etc/passwd", ".", "link.png", "a\0b"])
async def test_a_path_stays_in_the_media_directory(
    ctx: dict[str, Any], photo: Path, tmp_path: Path, path: str
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "outside.png")
    (photo.parent / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(MediaError, match=r"out of MEDIA_DIR|embedded null"):
        await describe_media(ctx, path)
    with pytest.raises(MediaError, match=r"out of MEDIA_DIR|embedded null"):
        await make_thumbnail(ctx, "photo.jpg", path)


@pytest.mark.parametrize(
    ("target", "message"), [("out.exe", "the suffix names none"), ("out", "the suffix names none")]
)
async def test_a_target_needs_a_format(
    ctx: dict[str, Any], photo: Path, target: str, message: str
) -> None:
    with pytest.raises(MediaError, match=message):
        await make_thumbnail(ctx, "photo.jpg", target)


async def test_a_failed_write_leaves_nothing(
    ctx: dict[str, Any], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        await convert_image(ctx, "photo.jpg", "png")
    assert names_in(photo.parent) == ["photo.jpg"]


async def test_all_run_in_the_worker(redis: ArqRedis, photo: Path) -> None:
    jobs = [
        await enqueue(redis, WorkerSettings, make_thumbnail, "photo.jpg", "small.jpg", max_side=8),
        await enqueue(redis, WorkerSettings, convert_image, "photo.jpg", image_format="png"),
        await enqueue(redis, WorkerSettings, describe_media, "photo.jpg"),
    ]
    worker = await run_burst(WorkerSettings)
    assert (worker.jobs_complete, worker.jobs_failed) == (3, 0)
    paths = [(await job.result(timeout=5))["path"] for job in jobs]
    assert paths == ["small.jpg", "photo.png", "photo.jpg"]
