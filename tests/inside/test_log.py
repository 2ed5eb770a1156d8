"""Log lines: each is one line of valid JSON, and none moves a terminal, whatever is logged."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from app.core.config import settings
from app.core.log import configure_logging

CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Hostile:
    def __repr__(self) -> str:
        return "\x1b[2J\u202e\x9b"


class Number(int):
    __str__ = __repr__ = Hostile.__repr__


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no")

    def isprintable(self) -> bool:
        return True


class Items(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no")


VALUES = [
    float("nan"),
    float("inf"),
    {(1, 2): 3, None: {b"x": float("-inf")}},
    CYCLE,
    DEEP,
    "half \ud800 pair, soft\xadhyphen, tag \U000e0041, note \ufff9",
    "\x1b[2J\x9b2J\u202eabc\u2066\x7f\r\n\u2028",
    b"\xff\x00",
    Broken(),
    Hostile(),
    {Broken(): [Hostile()]},
    10**400,
    10**5000,
    Number(1),
    Text("\x1b[2J\u202e"),
    Items(a=1),
    {1, 2},
    "x" * 1_000_000,
    ["x" * 9000] * 100,
]


def log(value: Any) -> None:
    ours = structlog.stdlib.get_logger("ours")
    theirs = logging.getLogger("theirs")
    ours.info("an event", value=value)
    ours.info("an event %s and %d", value, "no number")
    ours.info(value)
    theirs.info("an event %s", value)
    theirs.info("an event", extra={"value": value, "level_": 1, "\x1b[2J\ud800": 1})
    ours.info("an event", **{"\x1b[2J\ud800": 1})
    theirs.info("an event %s %s", value)
    theirs.info("%d", value)
    theirs.info(value)
    try:
        raise ValueError(value)
    except ValueError:
        ours.exception("an error")
        theirs.exception("an error")


LINES = 11


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def as_format(name: str) -> None:
        monkeypatch.setattr(settings, "LOG_FORMAT", name)
        structlog.reset_defaults()
        configure_logging()

    yield as_format
    logging.getLogger().handlers.clear()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("kind", ["json", "console"])
def test_any_value_is_logged(
    configure: Callable[[str], None], capsys: pytest.CaptureFixture[str], kind: str, value: Any
) -> None:
    configure(kind)
    log(value)
    text = capsys.readouterr().err
    lines = text.split("\n")[:-1]
    text.encode()
    assert all(line.isprintable() for line in lines)
    assert "Logging error" not in text
    if kind == "json":
        events = [json.loads(line, parse_constant=pytest.fail) for line in lines]
        assert len(events) == LINES
        assert {event["level"] for event in events} == {"info", "error"}
        assert max(map(len, lines)) < 200_000
    else:
        assert sum(not line.startswith("    ") for line in lines) == LINES


def test_positional_arguments_and_extra_are_there(
    configure: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    configure("json")
    structlog.stdlib.get_logger("ours").info("%s of %d", "one", 2)
    logging.getLogger("theirs").info("%(a)s", {"a": "b"}, extra={"order": 7})
    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert ours["event"] == "one of 2"
    assert (theirs["event"], theirs["order"]) == ("b", 7)
