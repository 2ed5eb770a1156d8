"""`make demo`: the default project rendered, installed, started and used.

It stays until Ctrl-C; with `DEMO_ONCE=1` it stops after the first round. All that it starts ends with it.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from types import FrameType

from tests import harness

PROJECT = harness.ROOT / "build/demo"
LOGS = harness.ROOT / "build/demo-logs"
BIN = PROJECT / ".venv/bin"


def demo(stack: ExitStack) -> None:
    """Build the project, start it, run a job of every task, and print what became of each.

    Raises:
        AssertionError: A command failed.
        TimeoutError: A process did not become ready.
        SystemExit: A process ended, or a job failed.
    """
    answers = harness.variant("default")
    queues = harness.queues(answers, "run")
    say(f"Rendering the default project into {PROJECT.relative_to(harness.ROOT)}")
    for directory in (PROJECT, LOGS):
        shutil.rmtree(directory, ignore_errors=True)
    LOGS.mkdir(parents=True)
    template = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aegis-"))) / "template"
    harness.render(harness.publish_template(template), PROJECT, answers)
    say("Installing it with `uv sync`")
    harness.install(PROJECT)

    say(f"Starting Valkey, the web server and a worker for {' and '.join(queues)}")
    port, redis_port = harness.free_port(), stack.enter_context(harness.valkey(BIN, LOGS))
    url, redis_url = f"http://127.0.0.1:{port}", f"redis://127.0.0.1:{redis_port}/0"
    processes: dict[str, Popen[bytes]] = {}

    def start(name: str, *command: str | Path) -> None:
        log = LOGS / f"{name}.log"
        processes[name] = stack.enter_context(
            harness.running(*command, cwd=PROJECT, log=log, PORT=str(port), REDIS_URL=redis_url)
        )

    def ready(condition: bool) -> bool:
        for name, process in processes.items():
            if process.poll() is not None:
                lines = (LOGS / f"{name}.log").read_text().splitlines()
                raise SystemExit(f"{name} ended with {process.returncode}: {lines[-1] if lines else ''}")
        return condition

    start("web", BIN / "my-app", "serve")
    workers = {queue: f"app.components.worker.queues.{queue}.WorkerSettings" for queue in queues}
    for queue, worker in workers.items():
        start(harness.CATALOGUE[queue]["service"], BIN / "python", "-m", "arq", worker)
    harness.wait_until(lambda: ready(passes(f"{url}/health")), f"{url}/health does not pass")
    say(f"{url}/health passes")
    for queue, worker in workers.items():
        harness.run(BIN / "python", "-m", "arq", worker, "--check", cwd=PROJECT, REDIS_URL=redis_url)
        say(f"{queue:<10} check     ok")

    script = harness.ROOT / "tests/jobs.py"
    jobs = harness.run(BIN / "python", script, *queues, cwd=PROJECT, REDIS_URL=redis_url)
    outcomes = [json.loads(line) for line in jobs.stdout.splitlines()]
    say(f"\n{'queue':<10} {'task':<24} {'status':<10} {'time':>9}  result")
    for outcome in outcomes:
        status = "succeeded" if outcome["success"] else "failed"
        took, result = f"{outcome['milliseconds']} ms", json.dumps(outcome["result"])
        say(f"{outcome['queue']:<10} {outcome['task']:<24} {status:<10} {took:>9}  {result:.70}")
    if not all(outcome["success"] for outcome in outcomes):
        raise SystemExit("A job failed.")

    say(f"\nhealth {url}/health\nAPI    {url}/docs\nValkey {redis_url}")
    say(f"logs   {LOGS.relative_to(harness.ROOT)}/")
    if not os.environ.get("DEMO_ONCE"):
        say("\nPress Ctrl-C to stop.")
        while ready(True):
            time.sleep(0.5)


def passes(url: str) -> bool:
    """Say whether a health address answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - it is our own http URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Stop once: uv and make pass on a signal that the process group gets as well."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Run the demo.

    Raises:
        SystemExit: With 1 and a line where it failed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        with ExitStack() as stack:
            demo(stack)
    except KeyboardInterrupt:
        pass
    except (AssertionError, TimeoutError) as error:
        sys.exit(str(error))
    say("Stopped.")


if __name__ == "__main__":
    main()
