"""Load tests: start one, follow it, read its report, and compare two."""

import leather
from arq.connections import ArqRedis
from arq.utils import timestamp_ms
from markupsafe import Markup
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.components.dashboard.pages import redirect, render
from app.components.dashboard.session import audit
from app.components.worker import queues
from app.services import load_test
from app.services.load_test import RefusedError, RunNotFoundError
from app.services.load_test_report import LoadTest, LoadTestReport, LoadTestRun

TYPES = ("io_simulation", "cpu_intensive", "memory_operations", "failure_testing")
MAX_LISTED = 50
WIDTH, HEIGHT = 800, 240


async def show_list(request: Request) -> Response:
    """List the runs of the last week, with a form that starts one."""
    runs = await load_test.list_runs(request.state.redis, MAX_LISTED)
    return render(request, "load_tests", runs=runs, types=TYPES)


async def start(request: Request) -> Response:
    """Start a run."""
    redis = request.state.redis
    try:
        test = LoadTest.model_validate(dict(await request.form()))
        run = await load_test.prepare(redis, test, queues.settings)
        await load_test.start(redis, run)
    except ValidationError as error:
        mistake = error.errors()[0]
        raise HTTPException(422, f"{mistake['loc'][0]}: {mistake['msg']}") from None
    except RefusedError as error:
        raise HTTPException(409, str(error)) from None
    audit(request, "start load test", run_id=run.id, **test.model_dump())
    return redirect(request, "load_test", "The load test has started.", run_id=run.id)


async def show(request: Request) -> Response:
    """Show how far a run is, or its report."""
    run, report, queued = await _read(request, request.path_params["run_id"])
    chart = _draw([(run.id, report)]) if report else None
    return render(request, "load_test", run=run, report=report, queued=queued, chart=chart)


async def compare(request: Request) -> Response:
    """Show two runs beside each other."""
    ids = request.query_params.getlist("id")
    if len(ids) != 2:
        raise HTTPException(422, "Choose two runs to compare.")
    found = [await _read(request, run_id) for run_id in ids]
    runs = [(run, report) for run, report, _ in found if report]
    if len(runs) != 2:
        raise HTTPException(409, "One of the runs has not ended yet.")
    chart = _draw([(run.id, report) for run, report in runs])
    return render(request, "compare", runs=runs, chart=chart)


async def _read(request: Request, run_id: str) -> tuple[LoadTestRun, LoadTestReport | None, int]:
    redis: ArqRedis = request.state.redis
    try:
        run = await load_test.load_run(redis, run_id)
    except RunNotFoundError as error:
        raise HTTPException(404, f"{error}.") from None
    # Without the run's last step, which is deferred to its deadline.
    queued = await redis.zcount(run.queue_name, "-inf", timestamp_ms())
    # Reading every result costs more than a look at the queue.
    has_ended = run.is_over or (run.sent == run.test.tasks and not queued)
    report = run.report or (await load_test.read_report(redis, run) if has_ended else None)
    return run, report, queued


def _draw(reports: list[tuple[str, LoadTestReport]]) -> Markup:
    """Return a line of the jobs that ended over time for each report."""
    chart = leather.Chart()
    for name, report in reports:
        part = report.wall_seconds / max(len(report.timeline), 1)
        line = [(at * part, count / part) for at, count in enumerate(report.timeline) if part]
        chart.add_line(line or [(0, 0)], name=name)
    chart.add_x_axis(name="Seconds")
    chart.add_y_axis(name="Jobs/s")
    svg = chart.to_svg(width=WIDTH, height=HEIGHT)
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    label = 'role="img" aria-label="Jobs per second over time"'
    # It is made of numbers and ids of ours, and scales with the page.
    return Markup(svg.replace(size, f'viewBox="0 0 {WIDTH} {HEIGHT}" {label}', 1))  # noqa: S704
