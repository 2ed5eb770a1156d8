"""The log of `make dev`: one short line per event, from the JSON lines of all processes."""

import json
import os
import re
import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from app.core.log import escape

console = Console(highlight=False, markup=False, emoji=False)

COLORS = {"debug": "dim", "info": "green", "warning": "yellow", "error": "red", "critical": "red"}
SERVICE_CHARS = 9
# arq makes job ids of 32 hexadecimal digits.
LONG_ID = re.compile(r"\b([0-9a-f]{6})[0-9a-f]{26}\b")
# The time in the lines of watchfiles and in the two that arq writes before the worker's first hook.
TIME = re.compile(r"^\[?\d\d:\d\d:\d\d[]:] ")
# The client's address in the lines of uvicorn.
CLIENT = re.compile(r"^\S+:\d+ - ")
NOISY_LOGGERS = ("uvicorn.error", "watchfiles.main")
NOISE = ("recording health: ", "→ cron:watch_health", "← cron:watch_health")
# The line has these elsewhere, or the job's first line has them.
SHOWN = {"event", "level", "logger", "timestamp", "exception", "job_id", "job_try", "queue", "task"}


def print_line(service: str, data: bytes, *, problems_only: bool = False) -> None:
    """Print what a process wrote: an event on one line of the terminal, a problem in full."""
    text = Text.from_ansi(data.decode(errors="replace")).plain.rstrip()
    try:
        event: dict[str, Any] = json.loads(text)
        level, logger, message = (str(event[name]) for name in ("level", "logger", "event"))
        when = local_time(event.get("timestamp"))
    except Exception:
        # It is not JSON, or that of another program.
        level, logger, message = "info" if TIME.match(text) else "", "", TIME.sub("", text)
        event, when = {"event": message}, local_time(None)
    is_short = level in ("debug", "info")
    # uvicorn tells of its own start and end in six lines, where the banner says that it runs,
    # watchfiles of compiled modules, and arq of its counts every 15 seconds and of the look at the
    # application's health every 10.
    is_noise = logger in NOISY_LOGGERS or any(words in message for words in NOISE)
    if not text or (is_short and (problems_only or is_noise)):
        return
    line = Text.assemble(
        (when, "dim"),
        (f" {service[:SERVICE_CHARS]:<{SERVICE_CHARS}}", "cyan"),
        (f" {'warn' if level == 'warning' else level:.5} ".ljust(7), COLORS.get(level, "")),
    )
    message = describe(event)
    if is_short:
        console.print(line + Text(message), no_wrap=True, overflow="ellipsis")
    else:
        indent = "\n" + " " * len(line)
        rows = textwrap.wrap(message, max(console.width - len(line), 20))
        console.print(line + Text(indent.join(rows if level else [message])), soft_wrap=True)
    if traceback := event.get("exception"):
        rows = [escape(row) for row in shorten_traceback(str(traceback)).split("\n")]
        text = textwrap.indent("\n".join(rows), "    ")
        console.print(Text(text, style="dim"), overflow="fold")


def shorten_traceback(traceback: str) -> str:
    """Leave out the frames of libraries, if it has others, and write paths as from here."""
    here = f"{Path.cwd()}{os.sep}"
    start, *frames = re.split(r"(?m)^(?=  File )", traceback)
    own = [here in frame and "site-packages" not in frame for frame in frames]
    if not any(own):
        return traceback
    # What is not indented are the errors, and the words between two of them.
    kept = (
        frame.replace(here, "") if is_own else re.sub(r"(?m)^ .*\n?", "", frame)
        for frame, is_own in zip(frames, own, strict=True)
    )
    # As editors take a place, and with the error's short name, so that lines fit.
    text = re.sub(r'(?m)^  File "(.+)", line (\d+), in', r"  \1:\2 in", "".join(kept))
    return start + re.sub(r"(?m)^app[.](\w+[.])+(?=\w+(:|$))", "", text)


def local_time(timestamp: str | None) -> str:
    """Return the time of day here, of an event or of now."""
    when = datetime.fromisoformat(timestamp) if timestamp else datetime.now().astimezone()
    return when.astimezone().strftime("%H:%M:%S")


def describe(event: dict[str, Any]) -> str:
    """Return an event's text with the job's short id before it and the other values behind it."""
    text = LONG_ID.sub(r"\1", CLIENT.sub("", str(event["event"])))
    if event.get("logger") == "arq.worker":
        text = text.lstrip()
    job_id = LONG_ID.sub(r"\1", str(event.get("job_id", "")))
    if job_id and job_id not in text:
        text = f"{job_id} {text}"
    others = (f"{name}={value}" for name, value in event.items() if name not in SHOWN and value)
    return escape(" ".join([text, *others]))
