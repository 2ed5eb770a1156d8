"""Images: right colours, upright, never outside of the directory, errors that name the file."""

import io
import math
import os
import random
import shutil
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageStat

from app.components.worker.tasks.media import convert_image, describe_media, make_thumbnail
from app.core.config import settings
from app.services import images
from app.services.media_files import MediaError, delete_part, new_file, open_source
from tests.inside.pictures import (
    DAMAGE,
    DISPLAY_P3,
    SRGB_CURVE,
    exif,
    gamma_curve,
    grey_profile,
    png,
    rgb_profile,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PROFILES = (None, SRGB, SRGB[:200], b"not a profile", b"")
BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture
def media_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "media"
    directory.mkdir()
    monkeypatch.setattr(settings, "MEDIA_DIR", directory)
    return directory


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def picture(mode: str) -> tuple[Image.Image, Image.Image]:
    """Return a picture in a mode, and what it shows as RGBA."""
    size = (48, 32)
    ramp = Image.linear_gradient("L")
    bands = (ramp, ramp.rotate(90), Image.radial_gradient("L"))
    colours = Image.merge("RGB", [band.resize(size) for band in bands])
    clear = Image.new("L", size, 255)
    clear.paste(0, (0, 0, 24, 32))
    grey = colours.convert("L")
    match mode:
        case "I" | "I;16" | "I;16B":
            image = grey.convert("I").point(lambda value: value * 257 + 0).convert(mode)
            return image, grey.convert("RGBA")
        case "I of 8 bits" | "F of 8 bits":
            return grey.convert(mode[0]), grey.convert("RGBA")
        case "F":
            image = grey.convert("F").point(lambda value: value * (1 / 255) + 0)
            return image, grey.convert("RGBA")
        case "LA" | "La" | "RGBA" | "RGBa" | "PA":
            image = grey if mode[0] == "L" else colours
            image = image.copy()
            image.putalpha(clear)
            image = image.convert(mode)
        case "P with a clear colour":
            image = colours.quantize(64)
            image.info["transparency"] = 3
        case "P":
            image = colours.quantize(64)
        case _:
            image = colours.convert(mode)
    plain = {"LAB": "RGB", "La": "LA"}.get(mode, "RGBA")
    return image, image.convert(plain).convert("RGBA")


MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "I",
    "I;16",
    "I;16B",
    "F",
]
MODES += ["I of 8 bits", "F of 8 bits", "P with a clear colour"]
SAVE: dict[str, dict[str, Any]] = {
    "PNG": {}, "TIFF": {}, "JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True},
}  # fmt: skip


def on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


@pytest.mark.filterwarnings("ignore:Tag data larger:UserWarning")
def test_every_mode_profile_and_orientation_gives_the_right_picture(tmp_path: Path) -> None:
    chance, tried = random.Random(12), 0  # noqa: S311
    for mode in MODES:
        for image_format, options in SAVE.items():
            for number in range(24):
                image, expected = picture(mode)
                turn, damage = chance.randrange(1, 9), chance.choice(DAMAGE)
                profile = None if mode == "LAB" else PROFILES[number % len(PROFILES)]
                stored = image.transpose(BACK[turn]) if turn in BACK else image
                stored.info = image.info
                data: Any = exif(turn, damage)
                if image_format == "TIFF":
                    data = Image.Exif()
                    data[ExifTags.Base.Orientation] = turn
                try:
                    extra = {} if profile is None else {"icc_profile": profile}
                    stored.save(tmp_path / "source", image_format, **options, **extra, exif=data)
                except (OSError, ValueError, KeyError):
                    # The format cannot hold that mode.
                    break
                if image_format == "WEBP" and mode[0] in "IF":
                    # Pillow writes it clipped to 8 bits.
                    break
                images.copy_image(tmp_path, "source", "copy.png", ".part", None, None)
                with Image.open(tmp_path / "copy.png") as copy:
                    assert copy.mode in ("L", "RGB", "RGBA")
                    assert "icc_profile" not in copy.info
                    case = f"{mode} {image_format} turn {turn} {damage} {number}"
                    assert copy.size == expected.size, case
                    difference = ImageChops.difference(on_white(copy), on_white(expected))
                    assert sum(ImageStat.Stat(difference).mean) / 3 < 2, case
                tried += 1
    assert tried > 1000


async def test_a_grey_ramp_of_16_bits_keeps_its_values(
    ctx: dict[str, Any], media_dir: Path
) -> None:
    values = b"".join(number.to_bytes(2, "little") for number in range(65536))
    ramp = Image.frombytes("I;16", (256, 256), values)
    ramp.save(media_dir / "ramp.png")
    ramp.save(media_dir / "clear.png", transparency=300)
    await convert_image(ctx, "ramp.png", "webp")
    await make_thumbnail(ctx, "ramp.png", "copy.png", max_side=256)
    with Image.open(media_dir / "copy.png") as image:
        assert image.tobytes() == bytes(number // 257 for number in range(65536))
    await make_thumbnail(ctx, "clear.png", "copy.png", max_side=256)
    with Image.open(media_dir / "copy.png") as image:
        alpha = image.getchannel("A").tobytes()
        assert [number for number in range(65536) if alpha[number] != 255] == [300]


@pytest.mark.parametrize(
    ("order", "tag", "value", "expected"),
    [
        ("big", 262, 1, lambda number: number // 257),
        ("little", 262, 1, lambda number: number // 257),
        # White is zero.
        ("little", 262, 0, lambda number: 255 - number // 257),
        # 12 bits of each two bytes of zeros or ones.
        ("ones", 258, 12, lambda _: 255),
    ],
)
async def test_grey_of_tiff_files_keeps_its_values(
    ctx: dict[str, Any],
    media_dir: Path,
    order: Any,
    tag: int,
    value: int,
    expected: Callable[[int], int],
) -> None:
    if order == "ones":
        values = b"\xff" * 131072
    else:
        values = b"".join(number.to_bytes(2, order) for number in range(65536))
    mode = "I;16B" if order == "big" else "I;16"
    Image.frombytes(mode, (256, 256), values).save(media_dir / "ramp.tif")
    entry = struct.pack("<HHI", tag, 3, 1)
    before, found, after = (media_dir / "ramp.tif").read_bytes().partition(entry)
    if found:
        (media_dir / "ramp.tif").write_bytes(before + found + bytes([value]) + after[1:])
    await make_thumbnail(ctx, "ramp.tif", "copy.png", max_side=256)
    with Image.open(media_dir / "copy.png") as image:
        assert image.tobytes() == bytes(map(expected, range(65536)))


@pytest.mark.parametrize("at", [0, 1, 300, 599])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_what_is_no_number_is_told(
    ctx: dict[str, Any], media_dir: Path, at: int, value: float
) -> None:
    image = Image.new("F", (30, 20), 0.5)
    image.putpixel((at % 30, at // 30), value)
    image.save(media_dir / "a.tif")
    with pytest.raises(MediaError, match="some of its values are not numbers"):
        await convert_image(ctx, "a.tif", "png")


@pytest.mark.parametrize("target", ["copy.jpg", "copy.webp", "copy.png", "copy.tiff", "copy.bmp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
async def test_colours_of_a_profile_become_srgb(
    ctx: dict[str, Any], media_dir: Path, target: str, mode: str
) -> None:
    profile = rgb_profile(DISPLAY_P3, gamma_curve(2.2))
    flat = Image.new("RGB", (64, 64), (200, 60, 40)).convert(mode)
    flat.save(media_dir / "flat.png", icc_profile=profile)
    await make_thumbnail(ctx, "flat.png", target)
    with Image.open(media_dir / target) as image:
        assert not image.info.get("icc_profile")
        pixel = image.convert("RGB").getpixel((32, 32))
    assert isinstance(pixel, tuple)
    assert all(abs(a - b) <= 2 for a, b in zip(pixel, (219, 37, 13), strict=True))


@pytest.mark.parametrize(("mode", "size"), [("L", 1), ("LA", 2)])
async def test_grey_profiles_and_those_of_other_modes(
    ctx: dict[str, Any], media_dir: Path, mode: str, size: int
) -> None:
    linear = grey_profile(gamma_curve(1.0))
    Image.new(mode, (8, 8), (128, 255)[:size]).save(media_dir / "a.png", icc_profile=linear)
    await make_thumbnail(ctx, "a.png", "copy.png")
    with Image.open(media_dir / "copy.png") as image:
        assert image.convert("RGB").getpixel((4, 4)) == (188, 188, 188)
    wrong = rgb_profile(DISPLAY_P3, SRGB_CURVE)
    Image.new("CMYK", (8, 8), (0, 255, 0, 0)).save(media_dir / "c.tiff", icc_profile=wrong)
    await make_thumbnail(ctx, "c.tiff", "copy.png")
    with Image.open(media_dir / "copy.png") as image:
        assert image.getpixel((4, 4)) == (255, 0, 255)


async def test_a_large_photo_of_a_telephone_has_a_thumbnail(
    ctx: dict[str, Any], media_dir: Path
) -> None:
    size = (12_000, 9_000)
    Image.new("RGB", size, "red").save(media_dir / "photo.jpg", exif=exif(6, "rational -1/0"))
    result = await make_thumbnail(ctx, "photo.jpg", "small.jpg")
    assert (result["width"], result["height"]) == (192, 256)
    description = await describe_media(ctx, "photo.jpg")
    assert (description["width"], description["height"]) == size
    with pytest.raises(MediaError, match=r"^photo\.jpg: 108,000,000 pixels are more than"):
        await convert_image(ctx, "photo.jpg", "png")


async def test_frames_are_counted_and_values_are_bounded(
    ctx: dict[str, Any], media_dir: Path
) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 100, 200)]
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        frames[0].save(media_dir / name, save_all=True, append_images=frames[1:])
        assert (await describe_media(ctx, name))["frames"] == 3
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "\x1b[2J" + "x" * 100_000
    tags[ExifTags.Base.MakerNote] = bytes(30_000)
    tags[ExifTags.Base.TransferFunction] = tuple(range(768))
    frames[0].save(media_dir / "tags.png", exif=tags)
    values = (await describe_media(ctx, "tags.png"))["exif"]
    assert values["MakerNote"] == "30000 bytes"
    assert values["TransferFunction"] == "768 values"
    assert len(values["Make"]) <= 200
    assert all(value.isprintable() for value in values.values())


async def test_a_fax_is_read(ctx: dict[str, Any], media_dir: Path) -> None:
    page = Image.new("1", (1728, 300), 1)
    page.paste(0, (0, 0, 1728, 150))
    page.save(media_dir / "fax.tiff", compression="group4")
    await convert_image(ctx, "fax.tiff", "png")
    with Image.open(media_dir / "fax.png") as image:
        assert (image.mode, image.getpixel((9, 9)), image.getpixel((9, 299))) == ("L", 0, 255)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bomb.png", png(60_000, 60_000, b"\0"), "3,600,000,000 pixels are more than"),
        ("text.jpg", b"just a text", "not an image of JPEG, PNG"),
        ("empty.jpg", b"", "not an image of JPEG, PNG"),
        ("short.png", png(100, 100, b"\0"), "image file is truncated"),
        ("tall.png", png(40, 17_000), "cannot be written as WEBP"),
    ],
)
async def test_a_file_that_cannot_be_converted_is_named(
    ctx: dict[str, Any], media_dir: Path, name: str, content: bytes, reason: str
) -> None:
    (media_dir / name).write_bytes(content)
    with pytest.raises(MediaError, match=reason) as error:
        await convert_image(ctx, name)
    assert str(error.value).startswith(f"{name}: ")
    assert names_in(media_dir) == [name]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
async def test_damaged_files_of_every_format_are_named(
    ctx: dict[str, Any], media_dir: Path
) -> None:
    chance = random.Random(5)  # noqa: S311
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = io.BytesIO()
        picture("RGB")[0].save(whole, image_format)
        for _ in range(60):
            data = bytearray(whole.getvalue())
            for _ in range(chance.randrange(1, 9)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            (media_dir / "damaged").write_bytes(data[: chance.choice([len(data), len(data) // 2])])
            arguments: dict[str, Any] = {"source": "damaged", "target": "copy.png", "part": ".part"}
            arguments |= {"max_side": None, "mark": None}
            request = {"work": "copy", "root": str(media_dir), "arguments": arguments}
            answer = images.work_on(request)
            assert "result" in answer or answer["error"].startswith("damaged: ")


async def test_transparency_of_noise_is_written_as_it_is(
    media_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_NOISE_PIXELS", 0)
    noise = Image.frombytes("L", (101, 33), random.Random(3).randbytes(101 * 33))  # noqa: S311
    grey = Image.linear_gradient("L").resize(noise.size)
    image = Image.merge("RGBA", (grey, grey, grey, noise))
    image.save(media_dir / "a.png")
    images.copy_image(media_dir, "a.png", "a.webp", ".part", None, "a mark")
    assert b"VP8X\n\0\0\0" in (media_dir / "a.webp").read_bytes()
    with Image.open(media_dir / "a.webp") as copy:
        assert copy.getchannel("A").tobytes() == noise.tobytes()
        assert copy.getexif()[ExifTags.Base.Software] == "a mark"
        difference = ImageChops.difference(copy.convert("RGB"), image.convert("RGB"))
        assert sum(ImageStat.Stat(difference).mean) / 3 < 2


PATHS = ["../outside.png", "/etc/passwd", ".", "", "link.png", "directory/outside.png", "a\0b"]


@pytest.mark.parametrize("path", [*PATHS, "photo.jpg/x.png", "n" * 300 + ".png", "pipe", "inside"])
async def test_a_path_stays_in_the_media_directory(
    ctx: dict[str, Any], media_dir: Path, tmp_path: Path, path: str
) -> None:
    picture("RGB")[0].save(tmp_path / "outside.png")
    picture("RGB")[0].save(media_dir / "photo.jpg")
    (media_dir / "link.png").symlink_to(tmp_path / "outside.png")
    (media_dir / "directory").symlink_to(tmp_path)
    (media_dir / "inside").mkdir()
    os.mkfifo(media_dir / "pipe")
    before = (tmp_path / "outside.png").read_bytes()
    shown = path if path.isprintable() else ascii(path)
    work: list[Callable[[], Awaitable[object]]] = [
        lambda: describe_media(ctx, path),
        lambda: make_thumbnail(ctx, path, "copy.png"),
        lambda: make_thumbnail(ctx, "photo.jpg", path),
        lambda: convert_image(ctx, path, "jpeg"),
    ]
    for call in work:
        with pytest.raises(MediaError) as error:
            await call()
        assert str(error.value).startswith(f"{shown}: ")
    assert (tmp_path / "outside.png").read_bytes() == before
    assert names_in(tmp_path) == ["media", "outside.png"]


def test_a_directory_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    inside, outside = tmp_path / "media" / "a", tmp_path / "outside"
    for directory in (inside, outside):
        directory.mkdir(parents=True)
        (directory / "name").write_text(directory.name)
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            inside.rename(tmp_path / "away")
            with suppress(FileExistsError):
                inside.symlink_to(outside)
                inside.unlink()
            while (tmp_path / "away").exists():
                # A directory that was made meanwhile is in the way.
                shutil.rmtree(inside, ignore_errors=True)
                with suppress(OSError):
                    (tmp_path / "away").rename(inside)

    thread = threading.Thread(target=swap)
    thread.start()
    refused = read = 0
    try:
        for _ in range(3000):
            try:
                with open_source(tmp_path / "media", "a/name") as file:
                    assert file.read() == b"a"
                read += 1
            except MediaError:
                refused += 1
            delete_part(tmp_path / "media", "a/name", "name.part")
            with (
                suppress(MediaError),
                new_file(tmp_path / "media", "a/new", "part", lambda _: None) as written,
            ):
                written.write(b"x")
    finally:
        ended.set()
        thread.join()
    assert names_in(outside) == ["name"]
    assert read
    assert refused


async def test_an_original_is_never_replaced(ctx: dict[str, Any], media_dir: Path) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(media_dir / "a.png")
    second.save(media_dir / "a.webp")
    original = (media_dir / "a.webp").read_bytes()
    with pytest.raises(MediaError, match=r"^a\.webp: the file exists and was not made from a\.png"):
        await convert_image(ctx, "a.png")
    with pytest.raises(MediaError, match=r"^\./a\.png: the copy would replace its source"):
        await make_thumbnail(ctx, "a.png", "./a.png")
    assert (media_dir / "a.webp").read_bytes() == original
    # What the task has made itself it makes again, of a source that has changed, too.
    await convert_image(ctx, "a.png", "jpeg")
    second.save(media_dir / "a.png")
    await convert_image(ctx, "./a.png", "jpeg")
    with Image.open(media_dir / "a.jpeg") as image:
        assert image.getpixel((4, 4)) == (0, 0, 254)
    # But not of another source.
    first.save(media_dir / "a.bmp")
    with pytest.raises(MediaError, match=r"^a\.jpeg: the file exists and was not made from a\.bmp"):
        await convert_image(ctx, "a.bmp", "jpeg")
    assert names_in(media_dir) == ["a.bmp", "a.jpeg", "a.png", "a.webp"]
