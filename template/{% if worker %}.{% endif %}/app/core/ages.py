"""Ages as people read them."""

from datetime import UTC, datetime

UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def show_age(value: datetime | float | None) -> str:
    """Return how long ago a time was, or a number of seconds, in the largest unit."""
    if value is None:
        return "-"
    seconds = (datetime.now(UTC) - value).total_seconds() if isinstance(value, datetime) else value
    name, size = next((unit for unit in UNITS if seconds >= unit[1]), UNITS[-1])
    return f"{max(seconds, 0) / size:.0f}{name}"
