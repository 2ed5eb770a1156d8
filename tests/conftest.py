"""What is built once for all test workers: the published template, its renders, and their installations."""

import os
import re
import shutil
import signal
import socket
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import harness, owner
from tests.quick_copier import make_quick


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Let Ctrl-C reach what tests start: in the background of a shell all of it would ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def quick_copier() -> None:
    """Save three quarters of the time of each render and update, which are the same byte for byte."""
    make_quick()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that all test workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)
    return shared


def build_once(path: Path, build: Callable[[], object]) -> Path:
    """Return `path`, built by the first test worker that asks for it; the others wait."""
    done = path.with_name(f"{path.name}.done")
    with harness.locked(path.with_name(f"{path.name}.lock")):
        if not done.exists():
            build()
            done.touch()
    return path


def share_compiled(project: Path, shared: Path) -> None:
    """Give an installation what Python has compiled of the first one: uv links to the same files."""
    own = project / ".venv"

    def compile_all() -> None:
        # Half of all is what few tests import. Some libraries have files that do not compile.
        command = (own / "bin/python", "-m", "compileall", "-q", "-x", "mypy|pygments", own / "lib")
        harness.run(*command, cwd=project, check=False)
        first.symlink_to(own)

    first = shared / "first-venv"
    if (source := build_once(first, compile_all).resolve()) == own:
        return
    for compiled in source.rglob("__pycache__"):
        target = own / compiled.relative_to(source)
        if target.parent.is_dir():
            shutil.copytree(compiled, target, copy_function=os.link)


@pytest.fixture(scope="session")
def install(shared: Path) -> Callable[[Path], None]:
    """Return a function that installs a project as its user does, but compiles nothing anew."""

    def install(project: Path) -> None:
        harness.install(project)
        share_compiled(project, shared)

    return install


@pytest.fixture(scope="session")
def template(shared: Path) -> Path:
    """Return the template as a repository with one tag."""
    path = shared / "template"
    return build_once(path, lambda: harness.publish_template(path))


@pytest.fixture(scope="session")
def rendered(shared: Path, template: Path) -> Callable[[str], Path]:
    """Return a function that gives the render of a named variant. It is not to be changed."""

    def get(name: str) -> Path:
        path = shared / "rendered" / name
        path.parent.mkdir(exist_ok=True)
        return build_once(path, lambda: harness.render(template, path, harness.variant(name)))

    return get


@pytest.fixture(scope="session")
def installed(shared: Path, template: Path, install: Callable[[Path], None]) -> Callable[..., Path]:
    """Return a function that gives a named variant as its user has it: committed and installed.

    Tests with a purpose of their own have an installation for it, beside which others edit theirs.
    It is skipped where no Python on this machine is new enough for the variant.
    """

    def build(path: Path, name: str) -> None:
        harness.commit_all(harness.render(template, path, harness.variant(name)), "Render")
        install(path)

    def get(name: str, purpose: str = "") -> Path:
        path = shared / "installed" / f"{name}{purpose}"
        path.parent.mkdir(exist_ok=True)
        try:
            return build_once(path, lambda: build(path, name))
        except LookupError as error:
            pytest.skip(str(error))

    return get


@pytest.fixture(scope="session")
def tools(shared: Path, rendered: Callable[[str], Path]) -> Path:
    """Return the commands of an environment that has all that any render needs, but no render itself."""
    path = shared / "tools"

    def build() -> None:
        # A copy, since uv writes its lock file beside pyproject.toml.
        project = shared / "tools-project"
        project.mkdir()
        (project / "pyproject.toml").write_bytes((rendered("full") / "pyproject.toml").read_bytes())
        python = harness.python_for(rendered("full"))
        command = ("uv", "sync", "--no-install-project")
        harness.run(*command, cwd=project, UV_PROJECT_ENVIRONMENT=str(path), UV_PYTHON=python)

    return build_once(path, build) / "bin"


@pytest.fixture(scope="session")
def check(shared: Path) -> Callable[..., None]:
    """Return a function that runs a project's `make check`, or mypy as another command runs it.

    What mypy has read of the libraries serves every project that has the same settings for it: those of
    `config`, where the command does not read the project's own.
    """

    def check(project: Path, *command: str | Path, config: Path | None = None) -> None:
        file = config or project / "pyproject.toml"
        settings = tomllib.loads(file.read_text())["tool"]["mypy"]
        # With others it would read all of them anew, and with another Python it has a folder of its own.
        cache = shared / "-".join(["mypy", *settings.get("untyped_calls_exclude", [])])
        with harness.locked(cache.with_suffix(".lock")):
            harness.run(*(command or ("make", "check")), cwd=project, MYPY_CACHE_DIR=str(cache))

    return check


@pytest.fixture(scope="session")
def redis_port(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of a real Valkey server, one for each test worker."""
    with harness.valkey(tools, tmp_path_factory.mktemp("valkey")) as port:
        yield port


@pytest.fixture
def redis_url(redis_port: int) -> str:
    """Return the URL of a server that holds nothing."""
    with socket.create_connection(("127.0.0.1", redis_port)) as client:
        client.sendall(b"FLUSHALL\r\n")
        assert client.recv(64) == b"+OK\r\n"
    return f"redis://127.0.0.1:{redis_port}/0"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured, and what the update suite has covered."""
    for report in (
        one for kind in ("passed", "failed", "xfailed") for one in terminalreporter.getreports(kind)
    ):
        for name, value in report.user_properties:
            if name == "figure" and report.when == "call":
                terminalreporter.write_line(str(value))
    names = [re.sub(r".*::|\[.*", "", report.nodeid) for report in terminalreporter.getreports("passed")]
    passed = Counter(names)
    if old := passed["test_every_release_updates_to_a_fresh_render"]:
        edits = len(owner.EDITS) * passed["test_a_release_reaches_an_owned_project"]
        terminalreporter.write_line(
            f"copier update: {edits} edits of an owner, {old} projects of older releases"
        )
