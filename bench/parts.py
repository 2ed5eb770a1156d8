"""What the bench measures, part by part."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil

from bench.frame import (
    BIN,
    PEERS,
    PROJECT,
    REPORT,
    UNMONITORED,
    Bench,
    Table,
    idle_shares,
    progress,
    quantile,
    quota,
    run_jobs,
    take_turns,
)
from tests import harness

OURS, UNWATCHED = "the project", "without `monitoring`"
SAME, DEFAULTS = "stock arq, same settings", "stock arq, `max_jobs=50`"
SAQ, TASKIQ = "SAQ", "taskiq"
KINDS = ("cpu_intensive", "failure_testing", "io_simulation", "memory_operations")
# Processes, and the share of a core of each.
PROCESSES = (1, 2, 4, 6, 8)
SHARE = 0.15
ONE, EACH = "one queue", "a queue each"
LOAD_TEST = "app.components.worker.queues.load_test.WorkerSettings"
SIZES = (1_000, 10_000, 100_000)

Run = Callable[[], Mapping[str, float]]


def measure_noop(bench: Bench) -> Table:
    """A job that does nothing."""
    contenders: dict[str, Run] = {
        OURS: partial(run_ours, bench, "noop"),
        **others(bench, "noop"),
    }
    return take_turns(contenders, bench.rounds)


def measure_io(bench: Bench) -> Table:
    """`io_simulation`: a job that waits 5 ms and sends 1 KiB to Redis and back."""
    contenders: dict[str, Run] = {
        OURS: partial(run_ours, bench, "io_simulation_task"),
        UNWATCHED: partial(run_ours, bench, "io_simulation_task", UNMONITORED),
        **others(bench, "io"),
    }
    return take_turns(contenders, bench.rounds)


def others(bench: Bench, job: str) -> dict[str, Run]:
    """Return what the project is measured beside, each with the same job."""
    return {
        SAME: partial(run_stock, bench, job, "Same"),
        DEFAULTS: partial(run_stock, bench, job, "Defaults"),
        SAQ: partial(run_saq, bench, job),
        TASKIQ: partial(run_taskiq, bench, job),
    }


def measure_kinds(bench: Bench) -> Table:
    """The four kinds of load test, in one process."""
    tasks = bench.tasks // 4
    runs: dict[str, Run] = {kind: partial(run_ours, bench, f"{kind}_task", tasks=tasks) for kind in KINDS}
    return take_turns(runs, bench.rounds)


def run_ours(
    bench: Bench, task: str, project: Path = PROJECT, tasks: int | None = None
) -> Mapping[str, float]:
    """Run jobs with the project's load_test worker."""
    bench.project("fill", "msgpack", task, tasks or bench.tasks)
    worker = (BIN / "python", "-m", "arq", "bench.workers.Project")
    return run_jobs(bench, *worker, project=project, tasks=tasks)


def run_stock(bench: Bench, task: str, settings: str) -> Mapping[str, float]:
    """Run jobs with a class of `bench.stock_arq`."""
    bench.project("fill", "pickle", task, bench.tasks)
    return run_jobs(bench, BIN / "python", "-m", "arq", f"bench.stock_arq.{settings}")


def run_saq(bench: Bench, task: str) -> Mapping[str, float]:
    """Run jobs with SAQ, which logs a line per job with -v."""
    fill_peer(bench, "saq", task)
    return run_jobs(bench, PEERS["saq"] / "bin/saq", "-v", "bench.saq_jobs.settings")


def run_taskiq(bench: Bench, task: str) -> Mapping[str, float]:
    """Run jobs with taskiq, which logs a line per job."""
    fill_peer(bench, "taskiq", task)
    options = ("--workers", "1", "--max-async-tasks", "50", "--log-level", "INFO")
    return run_jobs(bench, PEERS["taskiq"] / "bin/taskiq", "worker", *options, "bench.taskiq_jobs:broker")


def fill_peer(bench: Bench, name: str, task: str) -> None:
    """Put the jobs of SAQ or taskiq into an empty database."""
    bench.project("fill", "pickle", "noop", 0)
    bench.run(PEERS[name] / "bin/python", "-m", f"bench.{name}_jobs", task, str(bench.tasks))


def measure_idle(bench: Bench) -> Table:
    """An idle worker of each queue, and twenty of one queue."""
    with ExitStack() as stack:
        # The queues themselves, with a no-op beside their own tasks.
        names = {"system": "System", "load_test": "LoadTest", "media": "Media"}
        workers = {queue: [bench.worker(stack, f"bench.workers.{name}")] for queue, name in names.items()}
        table = describe_idle(bench, workers)
    with ExitStack() as stack:
        herd = [bench.worker(stack, "bench.workers.LoadTest", number) for number in range(20)]
        (figures,) = describe_idle(bench, {"load_test": herd}).values()
        return table | {"load_test, 20 workers": figures}


def describe_idle(bench: Bench, workers: Mapping[str, list[psutil.Process]]) -> Table:
    """Return how long jobs wait in each queue, in ms, and what share of a core a worker uses, in percent."""
    rounds = [bench.project("wait", 200, *workers) for _ in range(bench.rounds)]
    shares = idle_shares(workers, bench.rounds)
    return {
        queue: {f"p{share}": [quantile(waits[queue], share) for waits in rounds] for share in (50, 99)}
        | {"cpu": shares[queue]}
        for queue in workers
    }


def measure_scale(bench: Bench) -> Table:
    """Workers with a fixed share of a core each, on one queue and on a queue each."""
    table: Table = {}
    for name, settings, job_format, jobs in (
        (OURS, "bench.workers.Project", "msgpack", 900),
        (SAME, "bench.stock_arq.Same", "pickle", 400),
    ):
        for spread in (ONE, EACH):
            for count in PROCESSES:
                queues = [f"arq:queue:{number if spread == EACH else 0}" for number in range(count)]
                with ExitStack() as stack:
                    workers = [bench.worker(stack, settings, *each) for each in enumerate(queues)]
                    way = stack.enter_context(quota(workers, SHARE))
                    driven = bench.project(
                        "drive", job_format, jobs * count, bench.rounds, *sorted(set(queues))
                    )
                key = f"{name}, {spread}, {count}"
                table[key] = {unit: [run[unit] for run in driven] for unit in ("rate", "server")}
                progress(f"  {key} by {way}: {max(table[key]['rate']):,.0f} jobs/s")
    return table


def measure_send(bench: Bench) -> Table:
    """Sending in batches, beside arq's own `enqueue_job`."""
    rates: dict[str, list[float]] = bench.project("send", bench.rounds)
    return {name: {"rate": runs} for name, runs in rates.items()}


def measure_size(bench: Bench) -> Table:
    """Load tests by the command: time per task, and the peak memory of worker and command."""
    return {f"{tasks:,} tasks": run_load_test(bench, tasks) for tasks in SIZES}


def run_load_test(bench: Bench, tasks: int) -> dict[str, list[float]]:
    """Run one load test. The worker sends the jobs and runs them; the command collects the results.

    Raises:
        AssertionError: The report is not exact.
    """
    bench.project("fill", "msgpack", "noop", 0)
    REPORT.unlink(missing_ok=True)
    with ExitStack() as stack:
        worker = bench.worker(stack, LOAD_TEST)
        harness.wait_until(
            lambda: harness.has_reported(PROJECT, "load_test", bench.redis_url),
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
    megabytes = {f"{name} MB": [rss / 1e6] for name, rss in memory.items()}
    return {"ms per task": [report["wall_seconds"] / tasks * 1000]} | megabytes


PARTS: dict[str, Callable[[Bench], Table]] = {
    "noop": measure_noop,
    "io": measure_io,
    "kinds": measure_kinds,
    "idle": measure_idle,
    "scale": measure_scale,
    "send": measure_send,
    "size": measure_size,
}
# The others have a command of their own, or are seldom of interest.
DEFAULT = ("noop", "io", "kinds", "idle")
