"""Load tests against real workers: a killed worker, 10,000 jobs with a seed, an interrupt."""

import json
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests import harness

pytestmark = pytest.mark.xdist_group("installed-full")
WORKER = ("-m", "arq", "app.components.worker.queues.load_test.WorkerSettings")


@pytest.fixture
def project(installed: Callable[[str], Path]) -> Iterator[Path]:
    """Return the installed project; a killed worker's jobs are unlocked after 12 s instead of 70."""
    path = installed("full")
    queue = path / "app/components/worker/queues/load_test.py"
    text = queue.read_text()
    queue.write_text(text.replace("job_timeout = 60", "job_timeout = 2"))
    yield path
    queue.write_text(text)


def command(project: Path, options: dict[str, str]) -> list[str]:
    """Return a load-test command whose report is JSON."""
    program = str(project / ".venv/bin/full-stack")
    return [program, "load-test", "run", "--json", *chain.from_iterable(options.items())]


def test_a_run_survives_its_worker(project: Path, redis_url: str, tmp_path: Path) -> None:
    python, log = project / ".venv/bin/python", tmp_path / "log"
    options = {"--type": "io_simulation", "--tasks": "200", "--batch-size": "20", "--delay": "0.3"}
    run = command(project, options)
    variables = harness.ENVIRONMENT | {"REDIS_URL": redis_url}
    with harness.running(python, *WORKER, cwd=project, log=log, REDIS_URL=redis_url) as worker:
        harness.wait_until(lambda: "Starting worker" in log.read_text(), "the worker does not start")
        harness.wait_until(lambda: _is_live(project, redis_url), "the worker does not report")
        client = subprocess.Popen(run, cwd=project, env=variables, stdout=subprocess.PIPE, text=True)
        harness.wait_until(lambda: log.read_text().count("io_simulation_task ●") >= 30, "no job has run")
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    with harness.running(python, *WORKER, cwd=project, log=log, REDIS_URL=redis_url):
        output, _ = client.communicate(timeout=120)
    report: dict[str, Any] = json.loads(output)["report"]
    assert client.returncode == 0
    assert (report["complete"], report["succeeded"], report["lost"]) == (True, 200, 0)


def test_every_one_of_many_jobs_is_counted(project: Path, redis_url: str, tmp_path: Path) -> None:
    python, log = project / ".venv/bin/python", tmp_path / "log"
    with harness.running(python, *WORKER, cwd=project, log=log, REDIS_URL=redis_url):
        harness.wait_until(lambda: _is_live(project, redis_url), "the worker does not report")
        run = command(project, {"--type": "failure_testing", "--tasks": "10000", "--seed": "42"})
        done = harness.run(*run, cwd=project, REDIS_URL=redis_url)
    report = json.loads(done.stdout)["report"]
    truth = sum(random.Random(42 + number).random() < 0.5 for number in range(10_000))  # noqa: S311
    assert (report["complete"], report["failed"], report["succeeded"]) == (True, truth, 10_000 - truth)


def test_an_interrupt_leaves_the_run_alone(project: Path, redis_url: str, tmp_path: Path) -> None:
    python, log = project / ".venv/bin/python", tmp_path / "log"
    variables = harness.ENVIRONMENT | {"REDIS_URL": redis_url}
    with harness.running(python, *WORKER, cwd=project, log=log, REDIS_URL=redis_url):
        harness.wait_until(lambda: _is_live(project, redis_url), "the worker does not report")
        # A job every 50 ms: the run cannot end before the interrupt, however slow this machine is.
        options = {"--type": "io_simulation", "--tasks": "1000", "--batch-size": "1", "--delay": "0.05"}
        client = subprocess.Popen(
            command(project, options), cwd=project, env=variables, stderr=subprocess.PIPE, text=True
        )
        harness.wait_until(lambda: "io_simulation_task ●" in log.read_text(), "no job has run")
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=30)
        assert client.returncode == 1
        assert "Traceback" not in errors
        (run_id,) = re.findall(r"Run (\w+) goes on: see `full-stack load-test results \1`\.", errors)

        def succeeded() -> int:
            results = [project / ".venv/bin/full-stack", "load-test", "results", run_id, "--json"]
            done = harness.run(*results, cwd=project, REDIS_URL=redis_url)
            return int(json.loads(done.stdout)["report"]["succeeded"])

        before = succeeded()
        harness.wait_until(lambda: succeeded() > before, "the run did not go on")


def _is_live(project: Path, redis_url: str) -> bool:
    return harness.has_reported(project, "load_test", redis_url)
