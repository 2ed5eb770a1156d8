"""The named variants, installed for real and used: their own checks, their workers, and `make dev`."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import harness

JOBS = Path(__file__).with_name("jobs.py")


def grouped(name: str, *more: str) -> Any:
    """Return a parameter whose tests stay on one test worker, so that no other waits for the installation."""
    return pytest.param(
        name, *more, id="-".join((name, *more)), marks=pytest.mark.xdist_group(f"installed-{name}")
    )


# test_render checks the code of every pair of answers; these run, and have each part in two surroundings.
RUNNING = ("full", "media", "no-worker", "workers")
VARIANTS = [grouped(name) for name in RUNNING]
QUEUES = [
    grouped(name, queue)
    for name in RUNNING
    for queue in harness.queues(harness.variant(name), "run", "commented")
]


def python_of(project: Path) -> Path:
    """Return a project's interpreter."""
    return project / ".venv/bin/python"


def arq(project: Path, queue: str) -> tuple[str | Path, ...]:
    """Return the stock command that runs a queue's worker."""
    return python_of(project), "-m", "arq", f"app.components.worker.queues.{queue}.WorkerSettings"


def run_jobs(project: Path, *arguments: str, redis_url: str) -> list[dict[str, Any]]:
    """Run a job of every task and return what became of each."""
    done = harness.run(python_of(project), JOBS, *arguments, cwd=project, REDIS_URL=redis_url)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.xdist_group("kept")
def test_groups_are_kept(request: pytest.FixtureRequest) -> None:
    """Tests that edit an installed variant must not run beside those that use it."""
    assert request.node.nodeid.endswith("@kept") == ("PYTEST_XDIST_WORKER" in os.environ)


@pytest.mark.parametrize("name", [grouped("full"), grouped("no-worker")])
def test_own_checks_pass(installed: Callable[[str], Path], check: Callable[..., None], name: str) -> None:
    check(installed(name))


@pytest.mark.parametrize("name", VARIANTS)
def test_own_tests_pass(installed: Callable[[str], Path], name: str) -> None:
    harness.run("uv", "run", "pytest", "--quiet", cwd=installed(name))


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_but_ignored_files_is_left(installed: Callable[[str], Path], name: str) -> None:
    """Installing and using a project makes no file that its owner would have to sort out."""
    status = harness.git("status", "--porcelain", cwd=installed(name))
    assert status in ("", "?? uv.lock\n")


@pytest.mark.parametrize("name", [*VARIANTS, grouped("texts")])
def test_command_is_the_slug(installed: Callable[[str], Path], name: str) -> None:
    project = installed(name)
    (command,) = (project / ".venv/bin").glob(f"{slug_of(name)}")
    assert "health" in harness.run(command, "--help", cwd=project).stdout


def slug_of(name: str) -> str:
    """Return the slug of a variant, which is its own or follows from its name."""
    answers = harness.variant(name)
    return str(answers.get("project_slug") or answers["project_name"].lower().replace(" ", "-"))


@pytest.mark.parametrize(("name", "queue"), QUEUES)
def test_check_follows_the_worker(
    installed: Callable[[str], Path], redis_url: str, tmp_path: Path, name: str, queue: str
) -> None:
    project = installed(name)

    def check() -> list[int]:
        """Return what the stock check and the cheap one say, which must be the same."""
        commands = (*arq(project, queue), "--check"), (python_of(project), "-m", "app.check", queue)
        return [
            harness.run(*command, cwd=project, check=False, REDIS_URL=redis_url).returncode
            for command in commands
        ]

    assert check() == [1, 1]
    log = tmp_path / "log"
    with harness.running(*arq(project, queue), cwd=project, log=log, REDIS_URL=redis_url) as worker:
        harness.wait_until(
            lambda: harness.has_reported(project, queue, redis_url) or worker.poll() is not None,
            "the worker does not report",
        )
        assert worker.poll() is None, log.read_text()
        assert check() == [0, 0]
    assert check() == [1, 1]


@pytest.mark.parametrize(("name", "queue"), QUEUES)
def test_burst_drains_the_queue(
    installed: Callable[[str], Path], redis_url: str, name: str, queue: str
) -> None:
    outcomes = run_jobs(installed(name), "--burst", queue, redis_url=redis_url)
    assert len(outcomes) >= 2
    assert [outcome for outcome in outcomes if not outcome["success"]] == []


@pytest.mark.xdist_group("installed-full")
def test_make_dev_runs_the_new_code(installed: Callable[[str], Path], redis_url: str, tmp_path: Path) -> None:
    """Every worker runs an edited task at once, and nothing is left when it ends."""
    project, port, log = installed("full"), harness.free_port(), tmp_path / "log"
    task = project / "app/components/worker/tasks/load_test.py"
    old = task.read_text()
    new = old.replace("payload_bytes=len(payload)", "payload_bytes=len(payload) + 1")
    assert new != old

    def payload() -> int:
        outcomes = run_jobs(project, "load_test", redis_url=redis_url)
        (size,) = (x["result"]["payload_bytes"] for x in outcomes if x["task"] == "io_simulation_task")
        return int(size)

    settings = {"PORT": str(port), "REDIS_URL": redis_url}
    with harness.running("make", "dev", cwd=project, log=log, stop=signal.SIGINT, **settings):
        try:
            harness.wait_until(lambda: harness.answers_at(port), "the web server does not listen")
            assert payload() == 1024
            task.write_text(new)
            harness.wait_until(lambda: payload() == 1025, "the worker still runs the old code")
        finally:
            task.write_text(old)
    assert harness.processes_in(project) == []
    assert not harness.answers_at(port)
