"""`make dev` in an installed project: what it prints, what it starts, and that nothing of it is left."""

import os
import re
import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple

import pexpect
import psutil
import pytest

from tests import harness

pytestmark = pytest.mark.xdist_group("installed-full")
OWN_PROCESS = 'own: sh -c "echo started $OWN_SETTING; sleep 300"\n'


class Dev(NamedTuple):
    """A `make dev` that is running."""

    process: Popen[bytes]
    log: Path
    url: str
    valkey_port: int

    def text(self) -> str:
        """Return what it has printed."""
        return self.log.read_text()

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Send a request, follow where it leads, and return the status and the address of the response."""
        request = urllib.request.Request(f"{self.url}{path}", headers=headers)  # noqa: S310 - our own URL
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return response.status, response.url


@pytest.fixture
def project(installed: Callable[[str], Path]) -> Iterator[Path]:
    """The installed project with a process of its owner's, which is as it was committed again afterwards."""
    path = installed("full")
    with (path / "Procfile").open("a") as procfile:
        procfile.write(OWN_PROCESS)
    yield path
    harness.git("checkout", "--quiet", "--", ".", cwd=path)
    (path / ".env").unlink(missing_ok=True)


def slug_of(project: Path) -> str:
    """Return the name of the project's command."""
    found = re.search(r'(?m)^name = "(.*)"$', (project / "pyproject.toml").read_text())
    assert found
    return found[1]


@contextmanager
def dev(
    project: Path, tmp_path: Path, valkey_port: int, stop: signal.Signals, settings: str = ""
) -> Iterator[Dev]:
    """Run the command as far as its banner; at the end, nothing of it may be left."""
    port, log, tmp = harness.free_port(), tmp_path / f"{stop.name}.log", tmp_path / "tmp"
    tmp.mkdir(exist_ok=True)
    (project / ".env").write_text(f"PORT={port}\nVALKEY_PORT={valkey_port}\n{settings}")
    (command,) = (project / ".venv/bin").glob(slug_of(project))
    variables = {
        "COLUMNS": "80",
        "TMPDIR": str(tmp),
        "OWN_SETTING": "well",
    }
    with harness.running(command, "dev", cwd=project, log=log, stop=stop, **variables) as process:
        running = Dev(process, log, f"http://127.0.0.1:{port}", valkey_port)
        harness.wait_until(lambda: "\nstop " in running.text() or process.poll() is not None, "no banner", 60)
        assert process.poll() is None, running.text()
        yield running
        process.send_signal(stop)
        process.wait(20)
        harness.wait_until(lambda: not harness.processes_in(project), f"processes are left after {stop.name}")
    assert list(tmp.iterdir()) == []


def full_stack(project: Path, *arguments: str) -> str:
    """Run the project's command beside `make dev`, with the same settings."""
    return harness.run(project / ".venv/bin/full-stack", *arguments, cwd=project).stdout


def test_it_is_ready_to_use(project: Path, tmp_path: Path) -> None:
    settings = "LOG_LEVEL=info\nLOGLEVEL=debug\n"
    with dev(project, tmp_path, harness.free_port(), signal.SIGINT, settings) as running:
        full_stack(project, "load-test", "run", "--type", "io_simulation", "--tasks", "3")
        text = running.text()
        assert "full-stack is ready" in text
        assert f"redis://127.0.0.1:{running.valkey_port}/0, kept in data/valkey" in text
        assert "queues  system, load_test, media" in text
        assert "nothing reads LOGLEVEL of .env: do you mean LOG_LEVEL?" in text
        assert " own             started well" in text
        key = re.search(r"key +(\S+) in the header X-API-Key", text)
        assert key
        assert running.get("/queues", **{"X-API-Key": key[1]})[0] == 200
        for path in (f"{running.url}/docs", f"{running.url}/health"):
            assert path in text
            assert running.get(path.removeprefix(running.url))[0] == 200
        assert f"pages   {running.url}/ops/" in text
        assert running.get("/")[1].startswith(f"{running.url}/ops/")
        harness.wait_until(lambda: "GET /health" in running.text(), "the log lacks a request")
    text = running.text()
    assert "127.0.0.1:" not in "".join(re.findall(r"(?m)^.* web .*$", text)), (
        "a client's address is in the log"
    )
    assert [line for line in text.splitlines() if len(line) > 80] == []
    for line in text.partition("full-stack is ready")[0].splitlines():
        assert re.fullmatch(r"\d\d:\d\d:\d\d \w+ +(info|warn|) +\S.*|", line), line
    assert "Traceback" not in text


def list_runs(project: Path) -> list[str]:
    """Return the ids of the load tests that the server holds."""
    return re.findall(r"(?m)^[0-9a-f]{8,}", full_stack(project, "load-test", "list"))


def test_data_survives_and_nothing_else_does(project: Path, tmp_path: Path) -> None:
    """A closed terminal, a kill and a signal: each ends all that was started, and keeps the data."""
    port = harness.free_port()
    with dev(project, tmp_path, port, signal.SIGHUP):
        full_stack(project, "load-test", "run", "--type", "io_simulation", "--tasks", "1")
        runs = list_runs(project)
    with dev(project, tmp_path, port, signal.SIGKILL):
        assert list_runs(project) == runs != []
    with dev(project, tmp_path, port, signal.SIGTERM):
        assert list_runs(project) == runs != []


def test_a_closed_terminal_ends_all_below_make(project: Path) -> None:
    """The kernel sends SIGHUP to the first process of the terminal only, as `tmux new make dev` starts it."""
    (project / ".env").write_text(f"PORT={harness.free_port()}\nVALKEY_PORT={harness.free_port()}\n")
    terminal: Any = pexpect.spawn(
        "make", ["dev"], cwd=str(project), env=harness.ENVIRONMENT, encoding="utf-8"
    )
    terminal.expect("\r\nstop ", timeout=60)
    terminal.ptyproc.fd, master = -1, terminal.child_fd
    os.close(master)
    terminal.closed = True
    harness.wait_until(lambda: not harness.processes_in(project), "processes are left")


def test_the_data_may_be_below_a_path_with_a_space(project: Path, tmp_path: Path) -> None:
    (home := tmp_path / "my projects").mkdir()
    port = harness.free_port()
    command = (project / ".venv/bin/python", "-m", "app.cli.valkey")
    variables: Any = {"PYTHONPATH": str(project), "VALKEY_PORT": str(port)}
    with harness.running(*command, cwd=home, log=tmp_path / "log", **variables):
        harness.wait_until(lambda: harness.answers_at(port), "Valkey does not listen")
        assert (home / "data/valkey/appendonlydir").is_dir()


def test_the_end_of_one_process_ends_all(project: Path, tmp_path: Path) -> None:
    with dev(project, tmp_path, harness.free_port(), signal.SIGTERM) as running:
        (own,) = [
            child
            for child in psutil.Process(running.process.pid).children()
            if "sleep 300" in child.cmdline()[-1]
        ]
        own.terminate()
        assert running.process.wait(20) != 0
    assert "because own ended with exit code" in running.text()
