"""Work on image files below `MEDIA_DIR`: thumbnails, other formats, descriptions."""

import asyncio
import hashlib
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TypedDict

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from app.core.config import settings

# Only these decoders see a file; Pillow has others that few images need.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# A small file can unpack to gigabytes. This allows 200 MB of pixels, more than any camera needs.
MAX_PIXELS = 50_000_000


class MediaError(Exception):
    """A file that cannot be worked on; the message names it and says why."""


class ImageFile(TypedDict):
    """An image that a task has written; the path is relative to `MEDIA_DIR`."""

    path: str
    width: int
    height: int
    size_bytes: int


class MediaDescription(TypedDict):
    """What an image file holds."""

    path: str
    size_bytes: int
    mime_type: str
    width: int
    height: int
    mode: str
    exif: dict[str, str]
    sha256: str


async def make_thumbnail(
    ctx: dict[str, Any], source: str, target: str, max_side: int = 256
) -> ImageFile:
    """Write a copy of an image that fits into a square, upright as its EXIF orientation says.

    Args:
        ctx: arq's context.
        source: The image's path, relative to `MEDIA_DIR`.
        target: Where to write it, likewise. The suffix names the format; an existing file is
            replaced when the new one is complete.
        max_side: The longest side of the copy, in pixels, from 1 to 4096.

    Raises:
        MediaError: The source is no sound image, or a path leads out of `MEDIA_DIR`.
        ValueError: `max_side` is out of range.
    """
    if not 1 <= max_side <= 4096:
        raise ValueError(f"max_side is {max_side}: it must be from 1 to 4096")
    return await asyncio.get_running_loop().run_in_executor(
        ctx["pool"], _copy_image, source, target, max_side
    )


async def convert_image(
    ctx: dict[str, Any],
    source: str,
    image_format: Literal["jpeg", "png", "webp"] = "webp",
) -> ImageFile:
    """Write an image in another format beside the source, as `photo.png` to `photo.webp`.

    Args:
        ctx: arq's context.
        source: The image's path, relative to `MEDIA_DIR`.
        image_format: The format, which is also the new suffix. JPEG has no transparency: it gets
            a white background.

    Raises:
        MediaError: The source is no sound image, has that format, or its path leads out of
            `MEDIA_DIR`.
    """
    if image_format not in ("jpeg", "png", "webp"):
        raise MediaError(f"{source}: no format {image_format!r}, only jpeg, png and webp")
    target = str(Path(source).with_suffix(f".{image_format}"))
    if target == source:
        raise MediaError(f"{source}: the file has that format already")
    return await asyncio.get_running_loop().run_in_executor(
        ctx["pool"], _copy_image, source, target, None
    )


async def describe_media(ctx: dict[str, Any], source: str) -> MediaDescription:
    """Read an image whole, and return its size, type, EXIF data and checksum.

    Raises:
        MediaError: The file is no sound image, or its path leads out of `MEDIA_DIR`.
    """
    return await asyncio.get_running_loop().run_in_executor(ctx["pool"], _describe, source)


def _copy_image(source: str, target: str, max_side: int | None) -> ImageFile:
    path = _inside_media_dir(target)
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format not in FORMATS:
        raise MediaError(f"{target}: the suffix names none of {', '.join(FORMATS)}")
    with _load_image(source) as loaded:
        image = _with_plain_mode(ImageOps.exif_transpose(loaded))
    if max_side:
        image.thumbnail((max_side, max_side))
    if image_format == "JPEG" and image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    size_bytes = _write_image(image, path, image_format)
    return ImageFile(path=target, width=image.width, height=image.height, size_bytes=size_bytes)


def _describe(source: str) -> MediaDescription:
    path = _inside_media_dir(source)
    with _load_image(source) as image, path.open("rb") as file:
        return MediaDescription(
            path=source,
            size_bytes=path.stat().st_size,
            mime_type=Image.MIME[image.format or ""],
            width=image.width,
            height=image.height,
            mode=image.mode,
            exif={ExifTags.TAGS.get(tag, str(tag)): str(x) for tag, x in image.getexif().items()},
            sha256=hashlib.file_digest(file, "sha256").hexdigest(),
        )


def _inside_media_dir(name: str) -> Path:
    root = settings.MEDIA_DIR.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, ValueError) as error:
        raise MediaError(f"{name!r}: {error}") from None
    if path == root or not path.is_relative_to(root):
        raise MediaError(f"{name}: the path leads out of MEDIA_DIR")
    return path


def _load_image(name: str) -> Image.Image:
    """Read an image whole. The caller closes it, since EXIF data may still be in the file."""
    path = _inside_media_dir(name)
    if not path.is_file():
        raise MediaError(f"{name}: there is no such file in MEDIA_DIR")
    with ExitStack() as stack:
        try:
            # This reads the header alone, so that the size is known before the pixels take memory.
            image = stack.enter_context(Image.open(path, formats=FORMATS))
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise MediaError(f"{name}: {pixels:,} pixels are more than {MAX_PIXELS:,}")
            image.load()
        except UnidentifiedImageError:
            raise MediaError(f"{name}: not an image of {', '.join(FORMATS)}") from None
        except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            # Pillow's decoders raise each of these for damaged files.
            raise MediaError(f"{name}: {error}") from error
        stack.pop_all()
    return image


def _with_plain_mode(image: Image.Image) -> Image.Image:
    """Return the image in a mode that every format can write, which is not true of a palette."""
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _write_image(image: Image.Image, path: Path, image_format: str) -> int:
    """Write beside the target and move the file there, so that no reader sees half an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            image.save(file, format=image_format)
            size_bytes = file.tell()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return size_bytes
