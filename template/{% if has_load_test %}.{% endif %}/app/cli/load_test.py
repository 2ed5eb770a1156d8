"""Load tests on the command line."""

import asyncio
import importlib.util
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar

from app import NAME
from app.components.worker import queues
from app.core.config import WORKER_QUEUES, settings
from app.core.redis import create_client
from app.services.load_test import (
    Collector,
    LoadTest,
    LoadTestType,
    RefusedError,
    Run,
    RunNotFoundError,
    list_runs,
    load_run,
    read_report,
    start,
    watch,
)
from app.services.load_test_report import Percentiles, Report

COMMAND = f"{NAME} load-test"
BAR_WIDTH = 40
NOTHING = Percentiles(p50=0, p90=0, p95=0, p99=0, max=0)

Tasks = Annotated[int, typer.Option(help="How many jobs, 1 to 1,000,000.")]

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
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it to FILE.png or FILE.svg.")] = None,
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
        mistakes = [f"{mistake['loc'][0]}: {mistake['msg']}" for mistake in error.errors()]
        raise SystemExit("\n".join(mistakes)) from None
    if plot:
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
    run_id: str,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Print the report of a run, or how far it is."""
    stored, report = _read(run_id)
    _print_report(stored, report, as_json=as_json)


@app.command("list")
def list_() -> None:
    """List the runs that are kept, the newest first."""
    for stored in asyncio.run(_list()):
        started = datetime.fromtimestamp(stored.started, UTC)
        rate = f"{stored.report.jobs_per_second:>8} jobs/s" if stored.report else "no report yet"
        typer.echo(
            f"{stored.id}  {started:%Y-%m-%d %H:%M:%S} UTC  {stored.test.type:<18}"
            f"{stored.test.tasks:>8} tasks  {rate}"
        )


@app.command()
def compare(first_id: str, second_id: str) -> None:
    """Print two runs beside each other, with the second as a multiple of the first."""
    (_, first), (_, second) = _read(first_id), _read(second_id)
    typer.echo(f"{'':<16}{first_id:>14}{second_id:>14}{'ratio':>8}")
    for name, one, other in zip(
        ("jobs/s", "wait p50 ms", "wait p99 ms", "run p50 ms", "run p99 ms", "failed"),
        _figures(first),
        _figures(second),
        strict=True,
    ):
        ratio = f"{other / one:.2f}" if one else "-"
        typer.echo(f"{name:<16}{one:>14g}{other:>14g}{ratio:>8}")


def _run(test: LoadTest, *, wait: bool, as_json: bool, plot: Path | None) -> None:
    try:
        started = asyncio.run(_start(test))
    except RefusedError as error:
        raise SystemExit(str(error)) from None
    see_later = f"see it with `{COMMAND} results {started.id}`"
    if not wait:
        typer.echo(f"Run {started.id} is started: {see_later}")
        return
    try:
        report = asyncio.run(_wait(started))
    except KeyboardInterrupt:
        raise SystemExit(f"\nRun {started.id} goes on: {see_later}") from None
    _print_report(started, report, as_json=as_json)
    if plot:
        _draw(report, plot)
    if not report.complete:
        raise SystemExit(f"Not every job has finished: {see_later}")


def _read(run_id: str) -> tuple[Run, Report]:
    async def read() -> tuple[Run, Report]:
        async with create_client(settings.redis_settings) as redis:
            stored = await load_run(redis, run_id)
            return stored, await read_report(redis, stored)

    try:
        return asyncio.run(read())
    except RunNotFoundError as error:
        raise SystemExit(f"{error}: `{COMMAND} list` shows those that are kept.") from None


async def _start(test: LoadTest) -> Run:
    async with create_client(settings.redis_settings) as redis:
        if test.queue not in WORKER_QUEUES:
            raise RefusedError(f"queue {test.queue!r} is none of {', '.join(WORKER_QUEUES)}")
        return await start(redis, test, queues.settings(test.queue))


async def _list() -> list[Run]:
    async with create_client(settings.redis_settings) as redis:
        return await list_runs(redis)


async def _wait(started: Run) -> Report:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    console = Console(stderr=True)
    async with create_client(settings.redis_settings) as redis:
        collector = Collector(redis, started)
        with ProgressBar(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task("", total=started.test.tasks, text="")
            async for progress in watch(collector):
                text = (
                    f"{progress.failed} failed, {progress.done / progress.seconds:.0f} jobs/s, "
                    f"{progress.queued} in the queue"
                )
                bar.update(task, completed=progress.done, text=text)
        return await collector.report()


def _print_report(stored: Run, report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(stored.model_copy(update={"report": report}).model_dump_json(indent=2))
        return
    test = stored.test
    typer.echo(f"Run {stored.id}: {test.tasks} x {test.type} on queue {test.queue}")
    typer.echo(
        f"  {report.sent} sent, {report.succeeded} succeeded, {report.failed} failed, "
        f"{report.aborted} aborted, {report.lost} lost, {report.not_finished} not finished, "
        f"{report.retried} tried again"
    )
    typer.echo(f"  {report.wall_seconds:.2f} s, {report.jobs_per_second:.1f} jobs/s")
    typer.echo(f"  {'ms':<12}{'p50':>8}{'p90':>8}{'p95':>8}{'p99':>8}{'max':>8}")
    for name, figures in (("queue wait", report.wait_ms), ("run time", report.run_ms)):
        if figures:
            columns = "".join(f"{value:>8g}" for value in figures.model_dump().values())
            typer.echo(f"  {name:<12}{columns}")
    most = max((count for _, count in report.histogram), default=1)
    for upper, count in report.histogram:
        bar = "#" * round(BAR_WIDTH * count / most)
        typer.echo(f"  run <= {upper:<6g} {bar:<{BAR_WIDTH}} {count}")
    for error, count in report.failures.items():
        typer.echo(f"  {count} x {error}")
    typer.echo(f"  {report.limit}")


def _figures(report: Report) -> list[float]:
    wait, work = (report.wait_ms or NOTHING), (report.run_ms or NOTHING)
    return [report.jobs_per_second, wait.p50, wait.p99, work.p50, work.p99, report.failed]


def _check_plot(path: Path) -> None:
    if path.suffix not in (".png", ".svg"):
        raise SystemExit(f"--plot {path}: the name must end in .png or .svg")
    if not path.parent.is_dir():
        raise SystemExit(f"--plot {path}: there is no directory {path.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib: install it with `uv sync --extra plot`")


def _draw(report: Report, path: Path) -> None:
    # Loading it takes longer than most commands.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.bar([f"{upper:g}" for upper, _ in report.histogram], [n for _, n in report.histogram])
    axes.set(
        xlabel="run time up to, in ms",
        ylabel="jobs",
        title=f"{report.succeeded + report.failed} jobs, {report.jobs_per_second:.1f} jobs/s",
    )
    figure.savefig(path)
