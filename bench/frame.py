"""How the bench starts workers and counts what they do."""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests import harness

BUILD = harness.ROOT / "build"
PROJECT = BUILD / "bench"
# The same without the feature, on the interpreter of the first.
UNMONITORED = BUILD / "bench-unmonitored"
LOGS = BUILD / "bench-logs"
BIN = PROJECT / ".venv/bin"
# SAQ and taskiq each need a client of Redis newer than arq takes.
PEERS = {name: BUILD / f"bench-{name}" for name in ("saq", "taskiq")}
# Where a worker writes its figures, and `load-test run` its report.
FIGURES, REPORT = LOGS / "figures", LOGS / "report.json"
# The time in which a worker with a quota gets its share.
PERIOD_SECONDS = 0.05
CGROUP = Path("/sys/fs/cgroup")

# Figures by contender and unit, one for each round.
Table = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Bench:
    """What all parts share: the server, how many jobs a run has, and how often it is repeated."""

    redis_url: str
    tasks: int
    rounds: int

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return harness.run(
            *command, cwd=PROJECT, timeout=600, REDIS_URL=self.redis_url, PYTHONPATH=str(harness.ROOT)
        )

    def start(
        self, stack: ExitStack, log: Path, *command: str | Path, project: Path = PROJECT, **variables: str
    ) -> psutil.Process:
        """Keep a process running until the stack is left. Its log is written as in production."""
        running = harness.running(
            *command,
            cwd=project,
            log=log,
            # Nothing is left to do then, and taskiq would take its time over it.
            stop=signal.SIGKILL,
            REDIS_URL=self.redis_url,
            LOG_FORMAT="json",
            PYTHONPATH=str(harness.ROOT),
            **variables,
        )
        return psutil.Process(stack.enter_context(running).pid)

    def worker(self, stack: ExitStack, settings: str, number: int = 0, queue: str = "") -> psutil.Process:
        """Start a worker by arq's command, and wait until it says so."""
        log = LOGS / f"{settings}-{number}.log"
        log.unlink(missing_ok=True)
        process = self.start(
            stack,
            log,
            BIN / "python",
            "-m",
            "arq",
            settings,
            BENCH_SETTINGS=self.settings(),
            BENCH_QUEUE=queue,
        )
        harness.wait_until(lambda: b"Starting worker" in log.read_bytes(), f"{log} tells of no start")
        return process

    def project(self, *arguments: str | int) -> Any:
        """Run a command of `bench.project` and return what it printed."""
        return json.loads(self.run(BIN / "python", "-m", "bench.project", *map(str, arguments)).stdout)

    def settings(self) -> str:
        """Return what stock arq is to have of the settings of the project's queue, as JSON."""
        file = LOGS / "settings.json"
        if not file.exists():
            file.write_text(json.dumps(self.project("settings")))
        return file.read_text()


def run_jobs(
    bench: Bench, *command: str | Path, project: Path = PROJECT, tasks: int | None = None
) -> Mapping[str, float]:
    """Run a worker until it has written its figures, and add those of the server."""
    tasks = tasks or bench.tasks
    FIGURES.unlink(missing_ok=True)
    before = bench.project("served")
    settings = bench.settings()
    with ExitStack() as stack:
        bench.start(
            stack,
            LOGS / f"{command[-1]}.log",
            *command,
            project=project,
            BENCH_SETTINGS=settings,
            BENCH_TASKS=str(tasks),
            BENCH_FILE=str(FIGURES),
        )
        harness.wait_until(FIGURES.exists, f"{command[-1]} has not run every job", seconds=300)
    after = bench.project("served")
    figures: dict[str, float] = json.loads(FIGURES.read_text())
    served = {unit: (after[unit] - before[unit]) / tasks for unit in after}
    return figures | served | {"server": served["server"] * 1000}


def take_turns(contenders: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int) -> Table:
    """Run each contender in each round, so that all meet the same machine; the order alternates."""
    table: Table = {name: {} for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            for unit, value in contenders[name]().items():
                table[name].setdefault(unit, []).append(value)
            progress(f"  round {number + 1}: {name:<26}{table[name]['rate'][-1]:10,.0f} jobs/s")
    return table


@contextmanager
def quota(processes: list[psutil.Process], share: float) -> Iterator[str]:
    """Give each process a share of a core, and say how: by the kernel's cgroups, or else by SIGSTOP."""
    with ExitStack() as stack:
        try:
            for process in processes:
                stack.enter_context(_cgroup(process.pid, share))
        except OSError:
            # There are no cgroups to write to: not on Linux, or not as root.
            stack.close()
            stack.enter_context(_turns(processes, share))
            yield "SIGSTOP"
        else:
            yield "cgroups"


@contextmanager
def _cgroup(pid: int, share: float) -> Iterator[None]:
    period, microseconds = int(PERIOD_SECONDS * 1e6), int(PERIOD_SECONDS * share * 1e6)
    if (CGROUP / "cpu").is_dir():
        root = CGROUP / "cpu"
        limits = {"cpu.cfs_period_us": f"{period}", "cpu.cfs_quota_us": f"{microseconds}"}
    else:
        root, limits = CGROUP, {"cpu.max": f"{microseconds} {period}"}
    group = root / f"aegis-bench-{pid}"
    group.mkdir()
    try:
        for name, limit in limits.items():
            (group / name).write_text(limit)
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with suppress(OSError):
            (root / "cgroup.procs").write_text(str(pid))
        group.rmdir()


@contextmanager
def _turns(processes: list[psutil.Process], share: float) -> Iterator[None]:
    done = threading.Event()

    def hold() -> None:
        while not done.wait(PERIOD_SECONDS * share):
            for process in processes:
                process.suspend()
            done.wait(PERIOD_SECONDS * (1 - share))
            for process in processes:
                process.resume()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def idle_shares(groups: Mapping[str, list[psutil.Process]], rounds: int) -> dict[str, list[float]]:
    """Return what share of a core a process of each group uses on average, in percent, in each round of 20 s.

    The groups are measured at the same time. The kernel counts in hundredths of a second.
    """
    shares: dict[str, list[float]] = {name: [] for name in groups}
    for _ in range(rounds):
        start = time.monotonic()
        before = {name: sum(map(cpu_seconds, group)) for name, group in groups.items()}
        time.sleep(20)
        for name, group in groups.items():
            used = sum(map(cpu_seconds, group)) - before[name]
            shares[name].append(used / len(group) / (time.monotonic() - start) * 100)
    return shares


def cpu_seconds(process: psutil.Process) -> float:
    """Return what a process has used of a core so far, in steps of a hundredth."""
    times = process.cpu_times()
    return float(times.user + times.system)


def quantile(values: list[float], percent: int) -> float:
    """Return a percentile."""
    return statistics.quantiles(values, n=100)[percent - 1]


def progress(line: str) -> None:
    """Say how far it is without disturbing the tables."""
    print(line, file=sys.stderr, flush=True)


def machine() -> str:
    """Return where and how the figures came about, for the documentation."""
    version = harness.run(BIN / "python", "--version", cwd=PROJECT).stdout.strip()
    commit = harness.git("describe", "--always", "--dirty", cwd=harness.ROOT).strip()
    return f"{os.cpu_count()} cores, {version}, commit {commit}"
