"""The work on one image, in the child process that `image_process` starts for it.

Only Pillow and the standard library are imported here, so that the process starts fast.
"""

import ctypes
import hashlib
import json
import math
import os
import resource
import signal
import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

# Image.open imports all of Pillow's plugins unless those that it needs are there.
from PIL import (  # noqa: F401
    ExifTags,
    Image,
    ImageCms,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from app.services.media_files import MediaError, media_error, new_file, open_source

# Only these decoders see a file; Pillow has others that few images need.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF",
    ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
# A pixel takes 4 bytes, some steps need a second copy, and MEDIA_MEMORY_MB has to hold both.
MAX_PIXELS = 70_000_000
OPTIONS: dict[str, dict[str, int]] = {
    # Pillow's default of 75 shows in areas of one colour.
    "JPEG": {"quality": 90},
    # Of 50 megapixels, Pillow's default method of 4 takes 23 s and 810 MB, and 2 takes 4 s and
    # 510 MB. The files are as small.
    "WEBP": {"quality": 90, "method": 2},
}
# Of noise in the transparency of more pixels, libwebp needs 40 bytes a pixel, where others take 25.
MAX_NOISE_PIXELS = 16_000_000
MAX_EXIF_TAGS = 100
MAX_EXIF_CHARS = 200
PR_SET_PDEATHSIG = 1

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def copy_image(
    root: Path, source: str, target: str, part: str, max_side: int | None, mark: str | None
) -> dict[str, Any]:
    """Write an image upright, in sRGB and in the format that the target's suffix names.

    Args:
        root: The directory that both paths are below.
        source: The image's path.
        target: The copy's path. An existing file is replaced unless it is the source itself, or
            there is a mark that it does not have.
        part: The name of the copy, in its directory, until it is complete.
        max_side: The longest side of the copy, in pixels; None keeps the size.
        mark: Written into the copy's EXIF data as the software that made it.
    """
    with open_source(root, source) as file:

        def why_keep(existing: BufferedReader) -> str | None:
            if os.path.samestat(os.fstat(existing.fileno()), os.fstat(file.fileno())):
                return "the copy would replace its source"
            if mark is not None and _mark_of(existing) != mark:
                return f"the file exists and was not made from {source}: move it away first"
            return None

        image_format = SUFFIXES.get(PurePosixPath(target).suffix.lower())
        if image_format is None:
            raise media_error(target, f"the suffix names none of {', '.join(SUFFIXES)}")
        image = _decode(file, source, max_side)
        if image_format in ("JPEG", "BMP") and image.mode == "RGBA":
            # Neither has transparency that other programs read.
            image = _on_white(image)
        noise = _noise_of(image) if image_format == "WEBP" else None
        if noise:
            image = image.convert("RGB")
        exif = Image.Exif()
        if mark is not None:
            exif[ExifTags.Base.Software] = mark
        with new_file(root, target, part, why_keep) as written:
            try:
                if noise:
                    _write_webp(image, noise, exif, written)
                else:
                    image.save(written, image_format, exif=exif, **OPTIONS.get(image_format, {}))
            except (OSError, ValueError) as error:
                if str(error) == "encoding error 1":
                    # What libwebp says when it gets no memory.
                    raise MemoryError from None
                reason = f"it cannot be written as {image_format} ({error})"
                raise media_error(source, reason) from None
            size_bytes = written.seek(0, os.SEEK_END)
    return {
        "path": target, "width": image.width, "height": image.height, "size_bytes": size_bytes
    }  # fmt: skip


def describe_image(root: Path, source: str) -> dict[str, Any]:
    """Read an image whole; return its size, type, EXIF data and checksum."""
    with open_source(root, source) as file:
        image = Image.open(file, formats=FORMATS)
        description = {
            "path": source,
            "size_bytes": os.fstat(file.fileno()).st_size,
            "mime_type": "image/jpeg" if image.format == "MPO" else image.get_format_mimetype(),
            "width": image.width,
            "height": image.height,
            "mode": image.mode,
            "frames": getattr(image, "n_frames", 1),
        }
        _load(image, source, max_side=1)
        description["exif"] = _exif_texts(image)
        file.seek(0)
        description["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return description


def _load(image: Image.Image, source: str, max_side: int | None) -> None:
    if max_side:
        # A JPEG is decoded at a half, a quarter or an eighth of its size if that is still twice
        # as large as needed: so a picture of any telephone takes little memory.
        image.draft(None, (2 * max_side, 2 * max_side))
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise media_error(source, f"{pixels:,} pixels are more than {MAX_PIXELS:,}")
    image.load()


def _decode(file: BufferedReader, source: str, max_side: int | None) -> Image.Image:
    """Read an image; return it upright and in sRGB, as mode L, RGB or RGBA.

    Each step lets the image before it go, so that no more than two are in memory.
    """
    image: Image.Image = Image.open(file, formats=FORMATS)
    _load(image, source, max_side)
    profile = image.info.get("icc_profile")
    turn = _UPRIGHT.get(_orientation(image))
    image = _with_plain_mode(image, source)
    if max_side:
        image.thumbnail((max_side, max_side))
    if turn is not None:
        image = image.transpose(turn)
    image = _to_srgb(image, profile)
    # What came with the source, such as its profile, is not true of the copy.
    image.info = {}
    return image


def _orientation(image: Image.Image) -> int:
    """Return the orientation of EXIF or XMP, from 1 to 8, whatever else is damaged there."""
    with suppress(KeyError, struct.error):
        # Pillow stops reading at a damaged entry, even if this one comes after it.
        block = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
        order = {b"II": "<", b"MM": ">"}[block[:2]]
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        for position in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, position)
            if tag == ExifTags.Base.Orientation and kind in (3, 4):
                number = struct.unpack_from(
                    f"{order}{'H' if kind == 3 else 'I'}", block, position + 8
                )
                return int(number[0])
    with suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _with_plain_mode(image: Image.Image, source: str) -> Image.Image:
    """Convert to 8 bits a channel and one of the modes L, RGB, RGBA and CMYK."""
    if image.mode in ("I", "I;16", "I;16B", "F"):
        image = _to_8_bits(image, source)
    if image.mode == "La":
        # Pillow converts premultiplied grey to nothing else.
        image = image.convert("LA")
    if image.has_transparency_data:
        return image.convert("RGBA")
    mode = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    return image.convert(mode)


def _to_8_bits(image: Image.Image, source: str) -> Image.Image:
    """Scale integers or floating-point numbers to mode L, or LA if one value is transparent.

    Only files of 12 and 16 bits say how large their values can be. Of the usual ranges the smallest
    that holds all values is taken, and if none does, the range from the lowest value to the
    highest.
    """
    transparent, tags = image.info.get("transparency"), getattr(image, "tag_v2", {})
    low, high = 0.0, 65535.0
    if image.mode in ("I;16", "I;16B"):
        # In a TIFF file they can have 12 bits only.
        high = 2.0 ** tags.get(ExifTags.Base.BitsPerSample, (16,))[0] - 1
        image = image.convert("I")
    else:
        low, high = cast(tuple[float, float], image.getextrema())
        # NaN is neither less nor more than any value: the extrema overlook it, unlike the mean.
        mean = cast(float, image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)))
        if not all(map(math.isfinite, (low, high, mean))):
            raise media_error(source, "some of its values are not numbers")
        if low >= -1 and high <= 65535:
            # Floating-point pictures reach 1.0, and a few times that in highlights.
            unit = image.mode == "F" and high <= 16
            low, high = 0.0, 1.0 if unit else 255.0 if high <= 255 else 65535.0
    # Integers are rounded down, as 65535 // 257 is 255, and floating-point numbers to the nearest.
    scale = 255 / (high - low or 1)
    offset = 0.5 if image.mode == "F" else 0.5 * scale
    # Pillow calls this once, with an object that records the two figures.
    grey = image.point(lambda value: value * scale + (offset - low * scale)).convert("L")
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        # White is zero, which Pillow heeds in 8 bits only.
        grey = grey.point(lambda value: 255 - value)
    if isinstance(transparent, int) and 0 <= transparent <= 65535 and image.mode == "I":
        opaque = [255] * 65536
        opaque[transparent] = 0
        grey.putalpha(image.point(opaque, "L"))
    grey.info.pop("transparency", None)
    return grey


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        # Browsers take a picture with a damaged profile for sRGB, too.
        with suppress(ImageCms.PyCMSError, OSError, TypeError, ValueError):
            image = _from_profile(image, ImageCms.ImageCmsProfile(BytesIO(profile)))
    return image.convert("RGB") if image.mode == "CMYK" else image


def _from_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """Convert colours to sRGB. A profile for another kind of image than this one is ignored."""
    srgb = ImageCms.createProfile("sRGB")
    space = profile.profile.xcolor_space.strip()
    if space == "RGB" and image.mode in ("RGB", "RGBA"):
        # In place, since a copy would take as much memory again. Transparency stays as it is.
        ImageCms.profileToProfile(image, profile, srgb, inPlace=True)
        return image
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    if space == "GRAY" and image.mode != "CMYK":
        image = image.convert("L")
    elif space != "CMYK" or image.mode != "CMYK":
        return image
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    image = cast(Image.Image, converted)
    if alpha:
        image.putalpha(alpha)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    background = Image.new("RGB", image.size, "white")
    background.paste(image, mask=image.getchannel("A"))
    return background


def _noise_of(image: Image.Image) -> bytes | None:
    """Return the transparency of a large image if it can hardly be compressed."""
    if image.mode != "RGBA" or image.width * image.height <= MAX_NOISE_PIXELS:
        return None
    alpha = image.getchannel("A").tobytes()
    return alpha if 4 * len(zlib.compress(alpha, 1)) > len(alpha) else None


def _write_webp(image: Image.Image, alpha: bytes, exif: Image.Exif, file: BinaryIO) -> None:
    """Write an image with its transparency as it is: https://www.rfc-editor.org/rfc/rfc9649."""
    colours = BytesIO()
    image.save(colours, "WEBP", **OPTIONS["WEBP"])

    def chunk(name: bytes, *parts: bytes) -> list[bytes]:
        size = sum(map(len, parts))
        return [name, struct.pack("<I", size), *parts, bytes(size % 2)]

    sides = [struct.pack("<I", side - 1)[:3] for side in image.size]
    # It has transparency and EXIF data; the byte of zero says that the first is not compressed.
    parts = chunk(b"VP8X", bytes([0x10 | 0x08, 0, 0, 0]), *sides)
    parts += chunk(b"ALPH", bytes(1), alpha)
    # Without the header of the file, of 12 bytes, the rest is the chunk of the colours.
    parts += [colours.getvalue()[12:]]
    parts += chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0"))
    file.write(b"RIFF" + struct.pack("<I", 4 + sum(map(len, parts))) + b"WEBP")
    file.writelines(parts)


def _mark_of(file: BufferedReader) -> str | None:
    try:
        return Image.open(file, formats=FORMATS).getexif().get(ExifTags.Base.Software)
    except Exception:
        # It has no mark that can be read, so `convert_image` did not make it.
        return None


def _exif_texts(image: Image.Image) -> dict[str, str]:
    texts: dict[str, str] = {}
    try:
        exif = image.getexif()
    except Exception:
        return texts
    for tag in sorted(exif)[:MAX_EXIF_TAGS]:
        # Pillow decodes a value when it is asked for, and damaged ones raise every kind of error.
        with suppress(Exception):
            texts[ExifTags.TAGS.get(tag, str(tag))] = _text(exif[tag])
    return texts


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, tuple) and len(value) > 16:
        return f"{len(value)} values"
    text = str(value)[:MAX_EXIF_CHARS]
    return "".join(character if character.isprintable() else " " for character in text).strip()


def work_on(request: dict[str, Any]) -> dict[str, Any]:
    """Call `copy_image` or `describe_image`; return its result, or the error as a text.

    With `needs_memory` the same work can succeed in a process that may take more.
    """
    arguments = request["arguments"]
    source = arguments["source"]
    work: Callable[..., dict[str, Any]]
    work = copy_image if request["work"] == "copy" else describe_image
    try:
        return {"result": work(Path(request["root"]), **arguments)}
    except MediaError as error:
        return {"error": str(error)}
    except MemoryError:
        reason = "it needs more memory than MEDIA_MEMORY_MB times MEDIA_PROCESSES"
        return {"error": str(media_error(source, reason)), "needs_memory": True}
    except UnidentifiedImageError:
        reason = f"not an image of {', '.join(FORMATS)}"
    except Exception as error:
        # On damaged files Pillow's decoders raise every kind of exception.
        reason = str(error) or type(error).__name__
    return {"error": str(media_error(source, reason))}


def limit_this_process(cpu_seconds: int, memory_bytes: int, parent: int) -> None:
    """Let the system end this process at a limit, or when its parent ends, whatever it is doing.

    Above the memory, Python raises MemoryError and libraries fail. On macOS neither that limit nor
    the parent's end has an effect: there, the limit of processor time ends the process.

    Args:
        cpu_seconds: Processor time; the signal is SIGXCPU.
        memory_bytes: Address space, in which Python itself takes about 35 MB.
        parent: The parent's process id.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, cpu_seconds)
    if sys.platform == "linux":
        _lower(resource.RLIMIT_AS, memory_bytes)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended before the line above.
        sys.exit(1)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, hard))


def main() -> None:
    """Do the work that standard input describes; write its result to standard output."""
    request = json.load(sys.stdin)
    limit_this_process(**request["limits"])
    # MAX_PIXELS replaces it, since that one counts after the draft mode of JPEG.
    Image.MAX_IMAGE_PIXELS = None
    json.dump(work_on(request), sys.stdout)


if __name__ == "__main__":
    main()
