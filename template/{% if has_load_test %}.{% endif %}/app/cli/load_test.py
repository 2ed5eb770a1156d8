"""Load tests on the command line."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from arq.connections import ArqRedis
from pydantic import ValidationError
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app import NAME
from app.cli.client import with_client
from app.cli.output import AsJson, print_json, print_table
from app.components.worker import queues
from app.core.ages import show_age
from app.core.errors import explain
from app.core.log import escape
from app.services import load_test, load_test_report
from app.services.jobs import JobNotFoundError
from app.services.load_test import Collector
from app.services.load_test_report import LoadTest, LoadTestReport, LoadTestRun, LoadTestType

COMMAND = f"{NAME} load-test"
EMPTY = f"No run is stored. Start one with `{COMMAND} io`."
LINE_CHARS = 80
BAR_CHARS = 40


def check_plot(path: Path | None) -> Path | None:
    """Refuse a file that could not be written when the run has ended."""
    if path and path.suffix != ".svg":
        raise SystemExit(f"--plot {escape(path)}: the name must end in .svg.")
    # That of pathlib raises where a name is too long.
    if path and not os.path.isdir(path.parent):  # noqa: PTH112
        raise SystemExit(f"--plot {escape(path)}: there is no directory {escape(path.parent)}.")
    return path


Tasks = Annotated[int, typer.Option(help="How many jobs, 1 to 1,000,000.")]
Plot = Annotated[
    Path | None, typer.Option(callback=check_plot, help="Draw the run times to FILE.svg.")
]

app = typer.Typer(help="Measure what the workers can do.", no_args_is_help=True)


@app.command()
def run(
    load_type: Annotated[LoadTestType, typer.Option("--type", help="What the jobs do.")],
    tasks: Tasks = 10,
    batch_size: Annotated[int, typer.Option(help="Jobs sent at a time, 1 to 1000.")] = 500,
    delay: Annotated[float, typer.Option(help="Seconds between batches.")] = 0,
    queue: Annotated[str, typer.Option(help="The queue whose worker is measured.")] = "load_test",
    timeout: Annotated[float, typer.Option(help="Seconds for the whole run.")] = 300,
    seed: Annotated[int | None, typer.Option(help="Decides which jobs fail.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the report.")] = True,
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Run a load test, and report on every job of it."""
    try:
        test = LoadTest(
            type=load_type,
            tasks=tasks,
            batch_size=batch_size,
            delay_seconds=delay,
            queue=queue,
            timeout_seconds=timeout,
            seed=seed,
        )
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0]).removesuffix("_seconds").replace("_", "-")
        raise SystemExit(f"--{option}: {error.errors()[0]['msg']}.") from None
    run: LoadTestRun = with_client(lambda redis: load_test.prepare(redis, test, queues.settings))
    show = f"`{COMMAND} results {run.id}`"
    try:
        with_client(lambda redis: load_test.start(redis, run))
        if not wait:
            typer.echo(f"Run {run.id} has started: see {show}.")
            return
        if not as_json:
            _print_title(run)
        report: LoadTestReport = with_client(lambda redis: _wait(redis, run))
    except KeyboardInterrupt:
        raise SystemExit(f"\nRun {run.id} goes on: see {show}.") from None
    except RedisError as error:
        raise SystemExit(f"Run {run.id}: {explain(error)} See {show}.") from None
    _show(run, report, as_json=as_json, plot=plot)
    if not report.complete:
        raise SystemExit(f"Run {run.id}: not every job has finished: see {show}.")


@app.command()
def cpu(tasks: Tasks = 100) -> None:
    """Run a quick load test of computing."""
    run("cpu_intensive", tasks=tasks)


@app.command()
def io(tasks: Tasks = 100) -> None:
    """Run a quick load test of waiting for a server."""
    run("io_simulation", tasks=tasks)


@app.command()
def memory(tasks: Tasks = 100) -> None:
    """Run a quick load test of moving memory."""
    run("memory_operations", tasks=tasks)


@app.command()
def results(
    run_id: Annotated[str | None, typer.Argument(help="The newest run by default.")] = None,
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Print the report of a run, or its figures so far."""
    run, report = _read(run_id)
    if not as_json:
        _print_title(run)
    _show(run, report, as_json=as_json, plot=plot)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the runs of the last week, the newest first."""
    runs = with_client(load_test.list_runs)
    if as_json:
        print_json([_to_json(run) if run else {"id": run_id} for run_id, run in runs.items()])
        return
    columns = ("Run", "Age", "Type", "Queue", "Tasks", "Jobs/s", "State")
    rows: list[tuple[object, ...]] = []
    for run_id, run in runs.items():
        if run is None:
            rows.append((run_id, *[""] * 5, "unreadable"))
            continue
        age = show_age(run.age_seconds)
        rate = run.report and run.report.jobs_per_second
        test = run.test
        rows.append((run_id, age, test.type, test.queue, test.tasks, rate, run.state))
    print_table(columns, rows, EMPTY)


@app.command()
def compare(first_id: str, second_id: str, as_json: AsJson = False) -> None:
    """Print two runs beside each other, with the second as a multiple of the first."""
    (first, report), (second, other_report) = _read(first_id), _read(second_id)
    if as_json:
        print_json([_to_json(first, report), _to_json(second, other_report)])
        return
    _print_title(first)
    _print_title(second)
    rows = load_test_report.compare((first, report), (second, other_report))
    print_table(("", first.id, second.id, "Ratio"), rows, EMPTY)


async def _wait(redis: ArqRedis, run: LoadTestRun) -> LoadTestReport:
    collector = Collector(redis, run)
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns, console=console, transient=True, expand=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=run.test.tasks)
        async for outage in load_test.watch(collector):
            done, failed = collector.outcomes.finished, collector.outcomes.failed
            rate = done / max(time.time() - run.started, 0.001)
            text = f"{failed:,} failed, {rate:,.0f} jobs/s, {run.sent - done:,} queued"
            if outage:
                text = "Redis does not answer, waiting for it"
            bar.update(task, completed=done, description=text)
    return await collector.report()


def _read(run_id: str | None) -> tuple[LoadTestRun, LoadTestReport]:
    async def read(redis: ArqRedis) -> tuple[LoadTestRun, LoadTestReport]:
        newest = run_id or next(iter(await load_test.list_runs(redis, limit=1)), None)
        if newest is None:
            raise JobNotFoundError(EMPTY)
        run = await load_test.load_run(redis, newest)
        return run, await load_test.read_report(redis, run)

    found: tuple[LoadTestRun, LoadTestReport] = with_client(read)
    return found


def _show(run: LoadTestRun, report: LoadTestReport, *, as_json: bool, plot: Path | None) -> None:
    if as_json:
        print_json(_to_json(run, report))
    else:
        _print_report(report)
    try:
        if plot:
            plot.write_text(load_test_report.draw_run_times(report))
    except OSError as error:
        raise SystemExit(f"--plot {escape(plot)}: cannot write it ({error.strerror}).") from None


def _print_title(run: LoadTestRun) -> None:
    _print_line(f"Run {run.id}: {run.test.tasks:,} x {run.test.type} on queue {run.test.queue}")


def _print_report(report: LoadTestReport) -> None:
    counts = [f"{count:,} {name}" for name, count in report.counts.items()]
    # Those of the first line are always there.
    for shown in filter(None, (counts[:3], counts[3:])):
        _print_line("  " + ", ".join(shown))
    _print_line(f"  {report.wall_seconds:.2f} s, {report.jobs_per_second:,.1f} jobs/s")
    times = {"  queue wait": report.wait_ms, "  run time": report.run_ms}
    rows = [
        (name, *map(round, ranks.model_dump().values())) for name, ranks in times.items() if ranks
    ]
    print_table(("  ms", "p50", "p90", "p95", "p99", "max"), rows, "")
    most = max((count for _, count in report.histogram), default=0) or 1
    for upper, count in report.histogram:
        _print_bar(f"run {load_test_report.show_bar(upper)}", count / most, f"{count:,}")
    for part, share in report.busy.items():
        _print_bar(part, min(share, 1), f"{share:.0%} busy")
    for error, count in report.failures.items():
        _print_line(f"  {count:,} x {error}")
    _print_line(f"  {report.limit}")


def _print_line(text: str) -> None:
    typer.echo(escape(text)[:LINE_CHARS])


def _print_bar(label: str, share: float, value: str) -> None:
    _print_line(f"  {label:<16} {'#' * round(BAR_CHARS * share):<{BAR_CHARS}} {value}")


def _to_json(run: LoadTestRun, report: LoadTestReport | None = None) -> dict[str, Any]:
    return run.model_copy(update={"report": report or run.report}).model_dump(mode="json")
