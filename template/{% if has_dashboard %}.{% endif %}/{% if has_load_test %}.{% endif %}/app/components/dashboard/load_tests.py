"""Load tests: start one, follow it, read its report, and compare two."""

from typing import get_args

from arq.connections import ArqRedis
from arq.utils import timestamp_ms
from fastapi import HTTPException, Request, Response
from markupsafe import Markup

from app.components.dashboard.pages import read_form, redirect, render
from app.components.dashboard.session import audit
from app.components.worker import queues
from app.services import load_test, load_test_report
from app.services.load_test_report import LoadTest, LoadTestReport, LoadTestRun, LoadTestType

MAX_LISTED = 50
# The command makes the report of a run with more jobs, which takes half a minute for a million.
MAX_READ_JOBS = 20_000


async def show_list(request: Request) -> Response:
    """List the runs of the last week, with a form that starts one."""
    runs = await load_test.list_runs(request.state.redis, MAX_LISTED)
    return render(request, "load_tests", runs=runs, types=get_args(LoadTestType))


async def start(request: Request) -> Response:
    """Start a run."""
    redis = request.state.redis
    test = LoadTest.model_validate(await read_form(request, *LoadTest.model_fields))
    run = await load_test.prepare(redis, test, queues.settings)
    await load_test.start(redis, run)
    audit(request, "start load test", run_id=run.id, **test.model_dump())
    return redirect(request, "load_test", "The load test has started.", id=run.id)


async def show(request: Request) -> Response:
    """Show how far each chosen run is, or its report; of two, how they compare."""
    ids = request.query_params.getlist("id")
    if len(ids) not in (1, 2):
        raise HTTPException(422, "Choose a run, or two to compare.")
    runs = [await _read(request, run_id) for run_id in ids]
    ended = [(run, report) for run, report, _ in runs if report]
    rows = load_test_report.compare(*ended) if len(ended) == 2 else []
    # It holds only our numbers and ids.
    chart = Markup(load_test_report.draw_rates(ended)) if ended else ""  # noqa: S704
    return render(request, "load_test", runs=runs, rows=rows, chart=chart)


async def _read(
    request: Request, run_id: str
) -> tuple[LoadTestRun, LoadTestReport | None, int | None]:
    """Return a run, its report, and how many of its jobs are queued, or None if it has ended."""
    redis: ArqRedis = request.state.redis
    run = await load_test.load_run(redis, run_id)
    # Without the run's last step, which is deferred to its deadline.
    queued = await redis.zcount(run.queue_name, "-inf", timestamp_ms())
    # Reading every result costs more than a look at the queue.
    has_ended = run.is_over or (run.sent == run.test.tasks and not queued)
    can_read = has_ended and run.sent <= MAX_READ_JOBS
    report = run.report or (await load_test.read_report(redis, run) if can_read else None)
    return run, report, None if has_ended else queued
