"""`make bench`: the default project rendered, installed and measured beside bare arq, SAQ and taskiq.

What is compared takes turns, so that all meet the same machine, and each figure is the median of its runs.
The table goes to standard output, every run to build/bench.json.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests import harness

PROJECT = harness.ROOT / "build/bench"
# SAQ and taskiq each want a client of Redis of their own, newer than arq takes.
PEERS = {name: harness.ROOT / f"build/bench-{name}" for name in ("saq", "taskiq")}
LOGS = harness.ROOT / "build/bench-logs"
RESULTS = harness.ROOT / "build/bench.json"
# Where a worker writes its rate, and `load-test run` its report.
RATE = LOGS / "rate"
REPORT = LOGS / "report.json"
ROOT = str(harness.ROOT)
BIN = PROJECT / ".venv/bin"
ROUNDS = 5
STOCK = ("bench.arq_workers.Bare", "bench.arq_workers.Defaults")
SIZES = (1_000, 10_000, 100_000)
LOAD_TEST = "app.components.worker.queues.load_test.WorkerSettings"


# What a run of jobs gives, and its units.
Run = dict[str, float]
UNITS = {"rate": "jobs/s", "worker": "s/1,000 worker", "server": "s/1,000 server"}


@dataclass
class Figure:
    """What one contender of a measurement reached in each of its runs."""

    name: str
    unit: str
    runs: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.runs)


@dataclass(frozen=True)
class Bench:
    """What all measurements share: the server, the number of jobs, and how to run a command."""

    redis_url: str
    tasks: int

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return harness.run(*command, cwd=PROJECT, timeout=600, REDIS_URL=self.redis_url, PYTHONPATH=ROOT)

    def start(self, stack: ExitStack, log: Path, *command: str | Path, level: str = "INFO") -> psutil.Process:
        """Keep a process running until the stack is left. Its log is written as in production."""
        running = harness.running(
            *command,
            cwd=PROJECT,
            log=log,
            # Nothing is left to do then, and taskiq would take its time over it.
            stop=signal.SIGKILL,
            REDIS_URL=self.redis_url,
            LOG_FORMAT="json",
            LOG_LEVEL=level,
            PYTHONPATH=ROOT,
            BENCH_STOCK="1" if command[-1] in STOCK else "",
            BENCH_TASKS=str(self.tasks),
            BENCH_FILE=str(RATE),
        )
        return psutil.Process(stack.enter_context(running).pid)

    def worker(self, stack: ExitStack, settings: str) -> psutil.Process:
        """Keep a worker running with the stock arq command."""
        return self.start(stack, LOGS / f"{settings}.log", BIN / "python", "-m", "arq", settings)

    def project(self, *arguments: str | int) -> Any:
        """Run a command of `bench.project` and return what it printed."""
        return json.loads(self.run(BIN / "python", "-m", "bench.project", *map(str, arguments)).stdout)


def measure_io(bench: Bench) -> list[Figure]:
    """`io_simulation`: the project's worker, arq with its settings, and arq with its defaults."""
    return take_turns(
        {
            "the load_test worker": lambda: run_arq(bench, "Project", "msgpack", "INFO", "io"),
            "bare arq, same settings": lambda: run_arq(bench, "Bare", "pickle", "INFO", "io"),
            "bare arq, max_jobs=50": lambda: run_arq(bench, "Defaults", "pickle", "INFO", "io"),
        },
    )


def measure_noop(bench: Bench) -> list[Figure]:
    """A no-op, logged at INFO: two lines a job from arq, and one from SAQ and taskiq."""
    return take_turns(
        {
            "the load_test worker": lambda: run_arq(bench, "Project", "msgpack", "INFO"),
            "bare arq, same settings": lambda: run_arq(bench, "Bare", "pickle", "INFO"),
            "SAQ": lambda: run_saq(bench, "-v"),
            "taskiq": lambda: run_taskiq(bench, "INFO"),
        },
    )


def measure_quiet(bench: Bench) -> list[Figure]:
    """A no-op, logged at WARNING: no line a job, which is SAQ's default."""
    return take_turns(
        {
            "the load_test worker": lambda: run_arq(bench, "Project", "msgpack", "WARNING"),
            "SAQ": lambda: run_saq(bench),
            "taskiq": lambda: run_taskiq(bench, "WARNING"),
        },
    )


def measure_requests(bench: Bench) -> list[Figure]:
    """What a no-op makes each library ask of the server: most of what remains between them."""
    contenders: dict[str, Callable[[], object]] = {
        "the load_test worker": lambda: run_arq(bench, "Project", "msgpack", "WARNING"),
        "arq": lambda: run_arq(bench, "Bare", "pickle", "WARNING"),
        "SAQ": lambda: run_saq(bench),
        "taskiq": lambda: run_taskiq(bench, "WARNING"),
    }
    figures = []
    for name, run in contenders.items():
        run()
        served = bench.project("served")
        for unit in ("commands", "requests"):
            count = served[unit]
            figures.append(Figure(name, f"{unit} a job", [count / bench.tasks]))
    return figures


def run_arq(bench: Bench, settings: str, job_format: str, level: str, task: str = "noop") -> Run:
    """Run jobs with a class of `bench.arq_workers`."""
    bench.project("fill", job_format, task, bench.tasks)
    return run_jobs(bench, BIN / "python", "-m", "arq", f"bench.arq_workers.{settings}", level=level)


def run_saq(bench: Bench, *options: str) -> Run:
    """Run no-ops with SAQ."""
    fill_peer(bench, "saq")
    return run_jobs(bench, PEERS["saq"] / "bin/saq", *options, "bench.saq_noop.settings")


def run_taskiq(bench: Bench, level: str) -> Run:
    """Run no-ops with taskiq."""
    fill_peer(bench, "taskiq")
    options = f"--workers 1 --max-async-tasks 50 --log-level {level}".split()
    return run_jobs(bench, PEERS["taskiq"] / "bin/taskiq", "worker", *options, "bench.taskiq_noop:broker")


def fill_peer(bench: Bench, name: str) -> None:
    """Put the jobs of SAQ or taskiq into an empty database."""
    bench.project("fill", "pickle", "noop", 0)
    bench.run(PEERS[name] / "bin/python", "-m", f"bench.{name}_noop", str(bench.tasks))


def run_jobs(bench: Bench, *command: str | Path, level: str = "INFO") -> Run:
    """Run a worker until it has written its figures."""
    RATE.unlink(missing_ok=True)
    bench.project("forget")
    server = bench.project("served")["cpu"]
    with ExitStack() as stack:
        bench.start(stack, LOGS / f"{command[-1]}.log", *command, level=level)
        harness.wait_until(RATE.exists, f"{command[-1]} has not run every job", seconds=300)
    served = bench.project("served")["cpu"] - server
    run: Run = json.loads(RATE.read_text())
    return run | {"server": served / bench.tasks * 1000}


def measure_send(bench: Bench) -> list[Figure]:
    """Sending: `send_jobs` beside arq's own `enqueue_job`."""
    rates: dict[str, list[float]] = bench.project("send", ROUNDS)
    return [Figure(name, "jobs/s", runs) for name, runs in rates.items()]


def measure_idle(bench: Bench) -> list[Figure]:
    """An idle worker of each queue: how long a job waits for it, and what it uses."""
    figures = []
    with ExitStack() as stack:
        # The queues themselves, with a no-op beside their own tasks.
        workers = {
            queue: bench.worker(stack, f"bench.arq_workers.{name}")
            for queue, name in (("system", "System"), ("load_test", "LoadTest"), ("media", "Media"))
        }
        for queue, waits in bench.project("wait", 200, *workers).items():
            p50, p99 = (statistics.quantiles(waits, n=100)[percent - 1] for percent in (50, 99))
            figures += [Figure(f"{queue}, wait p50", "ms", [p50]), Figure(f"{queue}, wait p99", "ms", [p99])]
        uses = {queue: Figure(f"{queue}, idle CPU", "%", []) for queue in workers}
        for _ in range(ROUNDS):
            before = {queue: cpu_seconds(process) for queue, process in workers.items()}
            time.sleep(8)
            for queue, process in workers.items():
                uses[queue].runs.append((cpu_seconds(process) - before[queue]) / 8 * 100)
    return figures + list(uses.values())


def measure_herd(bench: Bench) -> list[Figure]:
    """Twenty idle workers of one queue: how long a job waits for one, and what each uses."""
    with ExitStack() as stack:
        workers = [bench.worker(stack, "bench.arq_workers.LoadTest") for _ in range(20)]
        (waits,) = bench.project("wait", 100, "load_test").values()
        before = [cpu_seconds(process) for process in workers]
        time.sleep(20)
        uses = [
            (cpu_seconds(process) - start) / 20 * 100 for process, start in zip(workers, before, strict=True)
        ]
    p50, p99 = (statistics.quantiles(waits, n=100)[percent - 1] for percent in (50, 99))
    return [Figure("wait p50", "ms", [p50]), Figure("wait p99", "ms", [p99]), Figure("idle CPU", "%", uses)]


def measure_scale(bench: Bench) -> list[Figure]:
    """Workers of one queue, each with a fifth of a core: SIGSTOP holds it for the rest of 50 ms."""
    figures = []
    for settings, job_format in (("Project", "msgpack"), ("Bare", "pickle")):
        for count in (1, 2, 4, 6):
            figure = Figure(f"{settings} x {count}", "jobs/s")
            for _ in range(3):
                bench.project("fill", job_format, "noop", bench.tasks)
                with ExitStack() as stack:
                    name = f"bench.arq_workers.{settings}"
                    workers = [bench.worker(stack, name) for _ in range(count)]
                    stack.enter_context(quota(workers, 0.2))
                    figure.runs.append(float(bench.project("rate", job_format, bench.tasks)))
            figures.append(figure)
            progress(f"  {figure.name}: {figure.median:.0f} jobs/s")
    return figures


@contextmanager
def quota(processes: list[psutil.Process], share: float, period: float = 0.05) -> Iterator[None]:
    """Let each process run for a share of the time; this needs no right to a cgroup's cpu.max."""
    done = threading.Event()

    def hold() -> None:
        while not done.wait(period * share):
            for process in processes:
                process.suspend()
            done.wait(period * (1 - share))
            for process in processes:
                process.resume()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def measure_size(bench: Bench) -> list[Figure]:
    """Runs of each size by `load-test run`: time per task, and the peak memory of worker and command."""
    return [figure for tasks in SIZES for figure in run_load_test(bench, tasks)]


def run_load_test(bench: Bench, tasks: int) -> list[Figure]:
    """Run one load test. The worker sends the jobs and runs them; the command collects the results.

    Raises:
        AssertionError: The report is not exact.
    """
    bench.project("fill", "msgpack", "noop", 0)
    REPORT.unlink(missing_ok=True)
    with ExitStack() as stack:
        worker = bench.worker(stack, LOAD_TEST)
        check = (BIN / "python", "-m", "arq", LOAD_TEST)
        harness.wait_until(
            lambda: harness.has_reported(*check, project=PROJECT, redis_url=bench.redis_url),
            "the load_test worker is not ready",
        )
        options = f"--type io_simulation --tasks {tasks} --timeout 900 --json".split()
        command = bench.start(stack, REPORT, BIN / "my-app", "load-test", "run", *options)
        memory = {"worker": 0, "command": 0}
        while command.status() != psutil.STATUS_ZOMBIE:
            for name, process in (("worker", worker), ("command", command)):
                memory[name] = max(memory[name], process.memory_info().rss)
            time.sleep(0.05)
    report = json.loads(REPORT.read_text())["report"]
    if report["succeeded"] != tasks:
        raise AssertionError(f"{tasks} tasks: {report}")
    return [
        Figure(f"{tasks:,} tasks, time per task", "ms", [report["wall_seconds"] / tasks * 1000]),
        *(Figure(f"{tasks:,} tasks, {name}", "MB", [rss / 1e6]) for name, rss in memory.items()),
    ]


MEASUREMENTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "io": measure_io,
    "noop": measure_noop,
    "quiet": measure_quiet,
    "requests": measure_requests,
    "send": measure_send,
    "idle": measure_idle,
    "herd": measure_herd,
    "scale": measure_scale,
    "size": measure_size,
}
# The others take longer, or are seldom of interest.
DEFAULT = ("noop", "io", "requests", "idle", "herd")
# In these, the first figure is the project's, and the others are what it is compared with.
COMPARED = ("io", "noop", "quiet", "send")


def take_turns(contenders: dict[str, Callable[[], Run]]) -> list[Figure]:
    """Run each contender in each round; the figures of a kind follow each other."""
    figures = {kind: [Figure(name, unit) for name in contenders] for kind, unit in UNITS.items()}
    for number in range(ROUNDS):
        for place, (name, run) in enumerate(contenders.items()):
            for kind, value in run().items():
                figures[kind][place].runs.append(value)
            progress(f"  round {number + 1}: {name:<26}{figures['rate'][place].runs[-1]:10.0f} jobs/s")
    return [figure for kind in UNITS for figure in figures[kind]]


def cpu_seconds(process: psutil.Process) -> float:
    """Return what a process has used of a core so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def prepare() -> None:
    """Render the default project and install it; install the peers."""
    for leftover in (PROJECT, LOGS):
        shutil.rmtree(leftover, ignore_errors=True)
    LOGS.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="aegis-") as directory:
        template = harness.publish_template(Path(directory) / "template")
        harness.render(template, PROJECT, harness.variant("default"))
    harness.install(PROJECT)
    for name, environment in PEERS.items():
        group = ("uv", "sync", "--only-group", f"bench-{name}")
        harness.run(*group, cwd=harness.ROOT, UV_PROJECT_ENVIRONMENT=str(environment))


def print_table(title: str, figures: list[Figure], *, compared: bool) -> None:
    """Print the figures of a measurement, and how many times each the first of its unit is."""
    print(f"\n{title}")
    for figure in figures:
        digits = 0 if figure.unit == "jobs/s" else 3
        line = f"  {figure.name:<32}{figure.median:>10,.{digits}f} {figure.unit:<15}"
        if len(figure.runs) > 1:
            line += f"{min(figure.runs):>12,.3f} to {max(figure.runs):<12,.3f}"
        first = next(other for other in figures if other.unit == figure.unit)
        if compared and figure is not first:
            # Of paired runs: what slows the machine down slows both.
            pairs = zip(first.runs, figure.runs, strict=True)
            line += f"x {statistics.median(own / other for own, other in pairs):.2f}"
        print(line.rstrip(), flush=True)


def progress(line: str) -> None:
    """Say how far it is without disturbing the table."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure what is asked for.

    Raises:
        SystemExit: With 1 and a line where it failed.
    """
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="measure this alone")
    parser.add_argument("--tasks", type=int, default=4000, help="jobs in a run of io, noop and quiet")
    options = parser.parse_args()

    progress("Rendering and installing the default project, SAQ and taskiq")
    prepare()
    results: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "tasks": options.tasks}
    }
    try:
        with harness.valkey(BIN, LOGS) as port:
            bench = Bench(f"redis://127.0.0.1:{port}/0", options.tasks)
            for name in options.only or DEFAULT:
                measure = MEASUREMENTS[name]
                title = (measure.__doc__ or name).splitlines()[0]
                progress(title)
                figures = measure(bench)
                print_table(title, figures, compared=name in COMPARED)
                results[name] = [asdict(figure) | {"median": figure.median} for figure in figures]
                RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    except (AssertionError, TimeoutError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
