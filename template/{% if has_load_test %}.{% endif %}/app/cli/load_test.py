"""Load tests on the command line."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from arq.connections import ArqRedis
from pydantic import ValidationError
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from app import NAME
from app.components.worker import queues
from app.core.config import WORKER_QUEUES, settings
from app.core.errors import explain
from app.core.log import CONTROL_CHARACTERS
from app.core.redis import create_client
from app.services.load_test import (
    Collector,
    RefusedError,
    RunNotFoundError,
    list_runs,
    load_run,
    prepare,
    read_report,
    start,
    watch,
)
from app.services.load_test_report import LoadTest, LoadTestReport, LoadTestRun, LoadTestType

COMMAND = f"{NAME} load-test"
BAR_WIDTH = 40
PLOT_WIDTH, PLOT_HEIGHT = 800, 400
# These counts of a report are always shown, the others where they are not 0.
MAIN_COUNTS = ("sent", "succeeded", "failed")
RARE_COUNTS = ("aborted", "lost", "not_finished", "retried")
# Strings from Redis may hold markup and control characters: neither reaches the terminal.
CONSOLE = Console(markup=False, highlight=False, emoji=False)

T = TypeVar("T")
Tasks = Annotated[int, typer.Option(help="How many jobs, 1 to 1,000,000.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the run times to FILE.svg.")]

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
    _check_plot(plot)
    _run(test, wait=wait, as_json=as_json, plot=plot)


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
    _check_plot(plot)
    found, report = _read(run_id)
    if not as_json:
        _print_title(found)
    _show(found, report, as_json=as_json, plot=plot)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the runs of the last week, the newest first."""
    runs = _with_client(list_runs)
    if as_json:
        _print_json([_to_json(run) if run else {"id": name} for name, run in runs.items()])
        return
    if not runs:
        typer.echo(f"No run is stored. Start one with `{COMMAND} run --type io_simulation`.")
        return
    table = _table("Run", "Age", "Type", "Queue", "Tasks", "Jobs/s", "State")
    for name, found in runs.items():
        if found is None:
            table.add_row(_clean(name), *[""] * 5, Text("unreadable", "red"))
        else:
            rate = f"{found.report.jobs_per_second:,.0f}" if found.report else ""
            table.add_row(name, *_describe(found).values(), rate, _state(found))
    CONSOLE.print(table)


@app.command()
def compare(first_id: str, second_id: str, as_json: AsJson = False) -> None:
    """Print two runs beside each other, with the second as a multiple of the first."""
    (first, report), (second, other_report) = _read(first_id), _read(second_id)
    if as_json:
        _print_json([_to_json(first, report), _to_json(second, other_report)])
        return
    table = _table("", first.id, second.id, "Ratio")
    others = _describe(second) | {"max_jobs": f"{second.max_jobs}"}
    for name, value in (_describe(first) | {"max_jobs": f"{first.max_jobs}"}).items():
        is_same = name == "Age" or value == others[name]
        table.add_row(name, value, others[name], "" if is_same else "differs")
    other_figures = _figures(other_report)
    for name, figure in _figures(report).items():
        other = other_figures[name]
        ratio = f"{other / figure:.2f}" if figure else "-"
        table.add_row(name, f"{figure:,.0f}", f"{other:,.0f}", ratio)
    CONSOLE.print(table)


def _run(test: LoadTest, *, wait: bool, as_json: bool, plot: Path | None) -> None:
    if test.queue not in WORKER_QUEUES:
        raise SystemExit(f"--queue: {test.queue!r} is not one of {', '.join(WORKER_QUEUES)}.")
    worker_settings = queues.settings(test.queue)
    try:
        started = _with_client(lambda redis: prepare(redis, test, worker_settings))
    except RefusedError as error:
        raise SystemExit(str(error)) from None
    see_later = f"See it with `{COMMAND} results {started.id}`."
    try:
        _with_client(lambda redis: start(redis, started))
        if not wait:
            typer.echo(f"Run {started.id} has started. {see_later}")
            return
        if not as_json:
            _print_title(started)
        report = _with_client(lambda redis: _wait(redis, started))
    except KeyboardInterrupt:
        raise SystemExit(f"\nRun {started.id} goes on. {see_later}") from None
    except RunNotFoundError as error:
        raise SystemExit(f"{error}: Redis was emptied or has lost its data.") from None
    except RedisError as error:
        raise SystemExit(f"Run {started.id}: {explain(error)} {see_later}") from None
    _show(started, report, as_json=as_json, plot=plot)
    if not report.complete:
        raise SystemExit(f"Run {started.id}: not every job has finished. {see_later}")


async def _wait(redis: ArqRedis, started: LoadTestRun) -> LoadTestReport:
    collector = Collector(redis, started)
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns, console=console, transient=True, expand=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=started.test.tasks)
        async for progress in watch(collector):
            rate = progress.done / max(time.time() - started.started, 0.001)
            text = f"{progress.failed:,} failed, {rate:,.0f} jobs/s, {progress.queued:,} queued"
            if progress.outage:
                text = "Redis does not answer, waiting for it"
            bar.update(task, completed=progress.done, description=text)
    return await collector.report()


def _read(run_id: str | None) -> tuple[LoadTestRun, LoadTestReport]:
    async def read(redis: ArqRedis) -> tuple[LoadTestRun, LoadTestReport]:
        newest = run_id or next(iter(await list_runs(redis, limit=1)), None)
        if newest is None:
            raise RunNotFoundError("No run is stored")
        found = await load_run(redis, newest)
        return found, await read_report(redis, found)

    try:
        return _with_client(read)
    except RunNotFoundError as error:
        raise SystemExit(f"{error}. `{COMMAND} list` shows the runs of the last week.") from None


def _with_client(ask: Callable[[ArqRedis], Awaitable[T]]) -> T:
    async def run() -> T:
        async with create_client(settings.redis_settings) as redis:
            return await ask(redis)

    return asyncio.run(run())


def _show(found: LoadTestRun, report: LoadTestReport, *, as_json: bool, plot: Path | None) -> None:
    if plot:
        plot.write_text(_draw(report))
    if as_json:
        _print_json(_to_json(found, report))
    else:
        _print_report(report)


def _print_title(found: LoadTestRun) -> None:
    test = found.test
    _print(f"Run {found.id}: {test.tasks:,} x {test.type} on queue {test.queue}")


def _print_report(report: LoadTestReport) -> None:
    counts = report.model_dump(include={*MAIN_COUNTS, *RARE_COUNTS})
    _print("  " + ", ".join(f"{counts[name]:,} {name}" for name in MAIN_COUNTS))
    if rare := [f"{counts[name]:,} {name}" for name in RARE_COUNTS if counts[name]]:
        _print("  " + ", ".join(rare).replace("_", " "))
    _print(f"  {report.wall_seconds:.2f} s, {report.jobs_per_second:,.1f} jobs/s")
    table = _table("  ms", "p50", "p90", "p95", "p99", "max")
    for name, figures in (("queue wait", report.wait_ms), ("run time", report.run_ms)):
        if figures:
            values = figures.model_dump().values()
            table.add_row(f"  {name}", *(f"{value:,.0f}" for value in values))
    CONSOLE.print(table)
    most = max((count for _, count in report.histogram), default=0) or 1
    for label, (_, count) in zip(_bars(report), report.histogram, strict=True):
        _print_bar(f"run {label}", count / most, f"{count:,}")
    for part, share in report.busy.items():
        _print_bar(part, min(share, 1), f"{share:.0%} busy")
    for error, count in report.failures.items():
        _print(f"  {count:,} x {error}")
    _print(f"  {report.limit}")


def _print(text: str) -> None:
    CONSOLE.print(_clean(text), no_wrap=True, overflow="ellipsis")


def _print_bar(label: str, share: float, value: str) -> None:
    _print(f"  {label:<16} {'#' * round(BAR_WIDTH * share):<{BAR_WIDTH}} {value}")


def _bars(report: LoadTestReport) -> list[str]:
    return [f"<= {upper:,} ms" if upper else "longer" for upper, _ in report.histogram]


def _table(*names: str) -> Table:
    """Return a table without lines; columns of numbers are right-justified."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        is_text = name in ("", "  ms", "Run", "Type", "Queue", "State")
        table.add_column(
            name, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis"
        )
    return table


def _describe(found: LoadTestRun) -> dict[str, str]:
    """Return what was run, for a row or a column of a table."""
    age = max(time.time() - found.started, 0)
    unit, seconds = next(
        (unit for unit in (("d", 86_400), ("h", 3600), ("min", 60)) if age >= unit[1]), ("s", 1)
    )
    return {
        "Age": f"{age / seconds:.0f} {unit}",
        "Type": found.test.type,
        "Queue": _clean(found.test.queue),
        "Tasks": f"{found.test.tasks:,}",
    }


def _figures(report: LoadTestReport) -> dict[str, float]:
    figures = {"Jobs/s": report.jobs_per_second, "Failed": report.failed}
    for name, times in (("Wait", report.wait_ms), ("Run", report.run_ms)):
        figures[f"{name} p50, ms"] = times.p50 if times else 0
        figures[f"{name} p99, ms"] = times.p99 if times else 0
    return figures


def _state(found: LoadTestRun) -> Text:
    report = found.report
    if report is None:
        return Text("no report", "red") if found.is_over else Text("running", "cyan")
    if not report.complete:
        return Text("incomplete", "red")
    return Text(f"{report.failed:,} failed", "yellow") if report.failed else Text("done", "green")


def _clean(text: str) -> str:
    return text.translate(CONTROL_CHARACTERS)


def _to_json(found: LoadTestRun, report: LoadTestReport | None = None) -> dict[str, Any]:
    return found.model_copy(update={"report": report or found.report}).model_dump(mode="json")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def _check_plot(path: Path | None) -> None:
    if path and path.suffix != ".svg":
        raise SystemExit(f"--plot {path}: the name must end in .svg.")
    if path and not path.parent.is_dir():
        raise SystemExit(f"--plot {path}: there is no directory {path.parent}.")


def _draw(report: LoadTestReport) -> str:
    """Return the histogram of the run times as SVG that scales with its page."""
    # Loading it takes a tenth of a second.
    import leather

    jobs = report.succeeded + report.failed
    chart = leather.Chart(f"{jobs:,} jobs, {report.jobs_per_second:,.1f} jobs/s")
    counts = [count for _, count in report.histogram] or [0]
    chart.add_columns(list(zip(_bars(report) or ["-"], counts, strict=True)))
    chart.add_x_axis(name="Run time")
    chart.add_y_axis(name="Jobs")
    size = f'width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}"'
    svg: str = chart.to_svg(width=PLOT_WIDTH, height=PLOT_HEIGHT)
    return svg.replace(size, f'viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" role="img"', 1)
