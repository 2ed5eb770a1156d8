"""`make dev`: the Procfile, and a log of one line per event that no terminal obeys."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.cli.dev import read_procfile
from app.cli.dev_log import console, print_line
from app.core.config import Settings

STAMP = "2026-11-25T12:00:00+00:00"


def lines_of(capsys: pytest.CaptureFixture[str], data: bytes | dict[str, Any]) -> list[str]:
    """Return what is printed of a line, without the time of day."""
    if isinstance(data, dict):
        data = json.dumps({"level": "info", "logger": "app", "timestamp": STAMP} | data).encode()
    print_line("load_test", data)
    return [line[9:] for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 80)


def test_an_event_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    job = {"job_id": "0123456789abcdef" * 2, "job_try": 1, "queue": "load_test", "task": "a_task"}
    (line,) = lines_of(capsys, job | {"event": "half done", "rows": 7})
    assert line == "load_test info  012345 half done rows=7"
    (line,) = lines_of(capsys, {"event": "a" * 200})
    assert len(line) == 80 - 9
    assert line.endswith("…")


def test_what_is_wrong_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, {"level": "error", "event": "q " * 60, "exception": "Traceback\n  x"})
    assert "".join(lines).count("q") == 60
    assert lines[0].startswith("load_test error q q")
    assert max(map(len, lines)) <= 80 - 9


def test_a_traceback_moves_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, {"level": "error", "event": "x", "exception": "T\nE: \x1b[2J\u202e"})
    assert lines[-1] == "1b[2J\\u202e"


@pytest.mark.parametrize("other", [{"timestamp": 5}, {"timestamp": "now"}, {"logger": "a"}])
def test_the_lines_of_another_program_are_shown(
    capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    data = json.dumps({"level": "info", **other}).encode()
    (line,) = lines_of(capsys, data)
    assert line.endswith(data.decode())


def test_known_lines_are_short(capsys: pytest.CaptureFixture[str]) -> None:
    first = b"12:00:00: Starting worker for 2 functions: a, cron:watch_health\n"
    (line,) = lines_of(capsys, first)
    assert line == "load_test info  Starting worker for 2 functions: a, cron:watch_health"
    for text in ("  0.99s → cron:watch_health()", "  0.02s ← cron:watch_health ● None"):
        assert lines_of(capsys, {"logger": "arq.worker", "event": text}) == []
    access = {"logger": "uvicorn.access", "event": '127.0.0.1:1 - "GET / HTTP/1.1" 200'}
    assert lines_of(capsys, access) == ['load_test info  "GET / HTTP/1.1" 200']
    assert lines_of(capsys, {"logger": "uvicorn.error", "event": "Started server"}) == []
    assert lines_of(capsys, {"logger": "watchfiles.main", "event": "3 changes detected"}) == []


def test_a_traceback_names_places_as_editors_take_them(capsys: pytest.CaptureFixture[str]) -> None:
    path = "app/components/worker/tasks/load_test.py"
    library = f"{Path.cwd()}/.venv/lib/python3.11/site-packages/arq/worker.py"
    traceback = (
        "Traceback (most recent call last):\n"
        f'  File "{library}", line 599, in run_job\n    result = await task\n             ^^^^\n'
        f'  File "{Path.cwd()}/{path}", line 102, in a_task\n    raise AnError("it failed")\n'
        "app.components.worker.tasks.load_test.AnError: it failed"
    )
    _, *lines = lines_of(capsys, {"level": "error", "event": "failed", "exception": traceback})
    assert lines == [
        line[9:]
        for line in (
            "    Traceback (most recent call last):",
            f"      {path}:102 in a_task",
            '        raise AnError("it failed")',
            "    AnError: it failed",
        )
    ]


@pytest.mark.parametrize("data", [b"\x1b[2J\x07gone\n", {"event": "\x1b[2J\x07gone"}])
def test_controls_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], data: bytes | dict[str, Any]
) -> None:
    (line,) = lines_of(capsys, data)
    assert line.isprintable()
    assert "gone" in line


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("LOG_LEVEL", "info", "INFO"),
        ("LOG_FORMAT", "JSON", "json"),
        ("ENVIRONMENT", "Development", "development"),
    ],
)
def test_case_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, meant: str
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(Settings(), name) == meant


@pytest.mark.parametrize("line", ["own sleep 1", "my.own: sleep 1", "own:", "web: sleep 1"])
def test_a_wrong_line_of_the_procfile_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Procfile").write_text(f"# A comment\n\nweb: sleep 1\n{line}\n")
    with pytest.raises(SystemExit, match=f"^Procfile: write .* not '{line}'"):
        read_procfile()
    Path("Procfile").write_text("web: sleep 1\n  own-2: echo a: b # Z  \n")
    assert read_procfile() == {"web": "sleep 1", "own-2": "echo a: b # Z"}
