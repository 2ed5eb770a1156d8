"""Work on image files below `MEDIA_DIR`: thumbnails, other formats, descriptions.

`enqueue` and the API refuse arguments that are out of range.
"""

import hashlib
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypedDict, cast

from pydantic import Field

from app import NAME
from app.core.config import settings
from app.services.image_process import in_image_process
from app.services.media_files import MediaError, delete_part, media_error

__all__ = ["MediaError", "convert_image", "describe_media", "make_thumbnail"]


class ImageFile(TypedDict):
    """An image that a task has written; the path is relative to `MEDIA_DIR`."""

    path: str
    width: int
    height: int
    size_bytes: int


class MediaDescription(TypedDict):
    """What an image file holds. The EXIF values are texts of at most 200 characters.

    Animated files and files with several pages have more than one frame; the rest is that of the
    first.
    """

    path: str
    size_bytes: int
    mime_type: str
    width: int
    height: int
    mode: str
    frames: int
    exif: dict[str, str]
    sha256: str


async def make_thumbnail(
    ctx: dict[str, Any],
    source: str,
    target: str,
    max_side: Annotated[int, Field(ge=1, le=4096)] = 256,
) -> ImageFile:
    """Write a copy of an image that fits into a square: upright, in sRGB, without EXIF data.

    Args:
        ctx: arq's context.
        source: The image's path, relative to `MEDIA_DIR`.
        target: The copy's path, relative to `MEDIA_DIR`. The suffix names the format; an existing
            file is replaced when the new one is complete.
        max_side: The longest side of the copy, in pixels, from 1 to 4096.

    Raises:
        MediaError: The source is not a valid image or needs more than the limits in the settings,
            or a path leads out of `MEDIA_DIR`.
    """
    return await _copy_image(ctx, source, target, max_side=max_side, mark=None)


async def convert_image(
    ctx: dict[str, Any],
    source: str,
    image_format: Literal["jpeg", "png", "webp"] = "webp",
) -> ImageFile:
    """Write an image in another format beside the source, such as `photo.webp` for `photo.png`.

    Args:
        ctx: arq's context.
        source: The image's path, relative to `MEDIA_DIR`.
        image_format: The format, which is also the new suffix. JPEG has no transparency: it gets
            a white background. Its EXIF data names this task, so that a later run may replace it.

    Raises:
        MediaError: As `make_thumbnail`; or the source has that format; or there is a file of the
            target's name that this task did not make from this source.
    """
    path = PurePosixPath(source)
    if not path.name:
        raise media_error(source, "the path leads out of MEDIA_DIR")
    target = str(path.with_suffix(f".{image_format}"))
    if target == str(path):
        raise media_error(source, "the file has that format already")
    mark = f"{NAME} convert_image {str(path)!a}"
    return await _copy_image(ctx, source, target, max_side=None, mark=mark)


async def describe_media(ctx: dict[str, Any], source: str) -> MediaDescription:
    """Read an image whole, and return its size, type, EXIF data and checksum.

    Raises:
        MediaError: As `make_thumbnail`.
    """
    return cast(MediaDescription, await in_image_process("describe", source=source))


async def _copy_image(
    ctx: dict[str, Any], source: str, target: str, *, max_side: int | None, mark: str | None
) -> ImageFile:
    name = hashlib.sha256(ctx["job_id"].encode()).hexdigest()[:32]
    *earlier, part = (f".{name}.{job_try}.part" for job_try in range(1, ctx["job_try"] + 1))
    for left in earlier:
        # The worker of that try may have been killed.
        delete_part(settings.MEDIA_DIR, target, left)
    try:
        result = await in_image_process(
            "copy", source=source, target=target, part=part, max_side=max_side, mark=mark
        )
    except BaseException:
        # A process that was killed could not delete it.
        delete_part(settings.MEDIA_DIR, target, part)
        raise
    return cast(ImageFile, result)
