"""`make demo`, in a copy of the repository: it works, and it leaves no process behind."""

import shutil
import signal
from pathlib import Path

import pytest

from tests import harness


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a copy of what the demo needs of this repository."""
    repository = tmp_path / "repository"
    for name in ("copier.yml", "extensions", "template", "tests"):
        source, target = harness.ROOT / name, repository / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return repository


def test_demo_once(repository: Path) -> None:
    done = harness.run("python", "-m", "tests.demo", cwd=repository, DEMO_ONCE="1")

    for queue in ("system", "load_test"):
        assert f"{queue:<10} check     ok" in done.stdout
    for task in ("system_health_check", "cleanup_temp_files", "io_simulation_task", "failure_testing_task"):
        assert any(task in line and "succeeded" in line for line in done.stdout.splitlines()), done.stdout
    assert harness.processes_in(repository) == []


@pytest.mark.parametrize(
    ("stop", "after"),
    [(signal.SIGINT, "Press Ctrl-C"), (signal.SIGTERM, "Installing")],
    ids=["ctrl-c", "sigterm"],
)
def test_demo_goes_on_until_it_is_stopped(
    repository: Path, tmp_path: Path, stop: signal.Signals, after: str
) -> None:
    log = tmp_path / "log"
    with harness.running("python", "-m", "tests.demo", cwd=repository, log=log, stop=stop) as demo:
        harness.wait_until(
            lambda: after in log.read_text() or demo.poll() is not None, "the demo is not ready", 120
        )
        assert demo.poll() is None, log.read_text()
    assert demo.returncode == 0, log.read_text()
    assert "Stopped." in log.read_text()
    assert harness.processes_in(repository) == []
