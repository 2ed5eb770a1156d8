"""Makes the pictures of the image tests: colour profiles, EXIF data and hostile files, by hand."""

import zlib
from struct import pack

# The primaries of Display P3 and of Adobe RGB (1998), adapted to the D50 white of ICC profiles.
DISPLAY_P3 = (
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
)
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
WHITE = (0.9642, 1.0, 0.8249)
# The curve of sRGB: ((x + 0.055) / 1.055) ** 2.4, and x / 12.92 near black.
SRGB_CURVE = b"para" + pack(">IHH5i", 0, 3, 0, 157286, 62119, 3417, 5073, 2651)


def gamma_curve(gamma: float) -> bytes:
    return b"curv" + pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"


def rgb_profile(primaries: tuple[tuple[float, ...], ...], curve: bytes) -> bytes:
    """Return an ICC profile of a display: three primaries, and a curve for all of them."""
    tags = {
        name: _xyz(value)
        for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def grey_profile(curve: bytes) -> bytes:
    return _profile(b"GRAY", {b"kTRC": curve})


def _xyz(value: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + pack(">3i", *(round(number * 65536) for number in value))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"test\0"
    tags[b"wtpt"] = _xyz(WHITE)
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    tags[b"desc"] = b"desc\0\0\0\0" + pack(">I", len(name)) + name + bytes(78)
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        table += tag + pack(">II", start + len(data), len(content))
        data += content
    header = pack(
        ">I4sI4s4s4s12s4s4sI4s4sQI12s",
        *(start + len(data), b"none", 0x02400000, b"mntr", space, b"XYZ ", bytes(12), b"acsp"),
        *(b"APPL", 0, b"none", b"none", 0, 0, _xyz(WHITE)[8:]),
    )
    return header.ljust(128, b"\0") + pack(">I", len(tags)) + table + data


def png(width: int, height: int, pixels: bytes | None = None) -> bytes:
    """Return a grey PNG whose header claims a size, whatever its pixels are; None: all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    header = pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 1) * height) if pixels is None else pixels)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_of_empty_scans(scans: int, side: int = 4000) -> bytes:
    """Return a progressive JPEG of many scans that change nothing, and take a pass each."""

    def segment(marker: int, data: bytes) -> bytes:
        return pack(">BBH", 0xFF, marker, len(data) + 2) + data

    blocks = (-(-side // 8)) ** 2
    one_code = bytes([1] + [0] * 15)
    image = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1]) * 64)
    image += segment(0xC2, pack(">BHHB", 8, side, side, 1) + b"\x01\x11\x00")
    # The only code of the first table says "no change", of the second "16,384 empty blocks".
    image += segment(0xC4, b"\x00" + one_code + b"\x00") + segment(
        0xC4, b"\x10" + one_code + b"\xe0"
    )
    image += segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + bytes(-(-blocks // 8))
    codes = -(-blocks // 16384)
    empty = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + bytes(-(-codes * 15 // 8))
    return image + empty * scans + b"\xff\xd9"


def exif(orientation: int, kind: str) -> bytes:
    """Return EXIF data with an orientation, and beside it an entry that is damaged in some way."""
    outside = 8 + 2 + 2 * 12 + 4
    entry = {
        "rational -1/0": pack("<HHII", 0x11A, 10, 1, outside),
        "type 0": pack("<HHII", 0x110, 0, 1, 0),
        "type 99": pack("<HHII", 0x110, 99, 5, 0),
        "far away": pack("<HHII", 0x110, 2, 1_000_000, 0x7FFFFFFF),
        "endless": pack("<HHII", 0x110, 2, 0xFFFFFFFF, 20),
        "loop": pack("<HHII", 0x8769, 4, 1, 8),
        "text for a number": pack("<HHI4s", 0x11A, 2, 4, b"abc\0"),
    }[kind]
    own = pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    entries = sorted((own, entry), key=lambda data: data[1::-1])
    block = b"II*\0" + pack("<IH", 8, 2) + b"".join(entries) + bytes(4) + pack("<ii", -1, 0)
    return b"Exif\0\0" + block


DAMAGE = ["rational -1/0", "type 0", "type 99", "far away", "endless", "loop", "text for a number"]
