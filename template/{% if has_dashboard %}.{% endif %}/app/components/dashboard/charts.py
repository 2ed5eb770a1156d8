"""Numbers as people read them, and as lines in a picture."""

from collections.abc import Sequence
from datetime import UTC, datetime


def age(value: datetime | float | None) -> str:
    """Return how long ago a time was, or how long a number of seconds is, as in `3 min`."""
    if value is None:
        return "-"
    seconds = (datetime.now(UTC) - value).total_seconds() if isinstance(value, datetime) else value
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s" if seconds >= 10 else f"{max(seconds, 0):.1f} s"


def size(count: float | None) -> str:
    """Return a number of bytes, as in `3.4 MB`."""
    if count is None:
        return "-"
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def points(values: Sequence[float], width: int = 240, height: int = 40) -> str:
    """Return the points of an SVG polyline: the first value at the left, the largest at the top."""
    largest, last = max(values, default=0) or 1, max(len(values) - 1, 1)
    return " ".join(
        f"{at * width / last:.1f},{height - 1 - value * (height - 2) / largest:.1f}"
        for at, value in enumerate(values)
    )
