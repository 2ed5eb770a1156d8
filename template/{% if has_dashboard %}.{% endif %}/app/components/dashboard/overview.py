"""The overview: what is wrong, and how each queue, worker and cron job is doing."""

from datetime import UTC, datetime
from typing import Any

from arq.cron import CronJob
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.components.dashboard.pages import redirect, render
from app.components.dashboard.session import audit
from app.components.worker import queues
from app.core.config import WORKER_QUEUES
from app.services.health import check_health
from app.services.history import read_crons, read_rows
from app.services.queues import QueueStatus


async def show(request: Request) -> Response:
    """Show the overview."""
    redis = request.state.redis
    report = await check_health(redis)
    checks = [(name, check) for name, found in report.checks.items() for check in found]
    if report.checks["redis"][0].status == "fail":
        return render(request, "overview", report=report, checks=checks, queues=[], crons=[])
    rows = await read_rows(redis, list(WORKER_QUEUES))
    statuses = [check for _, check in checks if isinstance(check, QueueStatus)]
    return render(
        request,
        "overview",
        report=report,
        checks=checks,
        queues=[(status, rows[status.name]) for status in statuses],
        crons=await _list_crons(redis),
    )


async def run_cron(request: Request) -> Response:
    """Run a cron job now: arq knows it as a function of its name."""
    form = await request.form()
    name = str(form.get("name"))
    for queue in WORKER_QUEUES:
        if name in {cron.name for cron in queues.settings(queue).cron_jobs}:
            await request.state.redis.enqueue_job(
                name, _queue_name=WORKER_QUEUES[queue]["queue_name"]
            )
            audit(request, "run cron job", cron=name, queue=queue)
            return redirect(request, "overview", f"{name} is queued.")
    raise HTTPException(404, f"There is no cron job {name!r}.")


async def _list_crons(redis: Any) -> list[dict[str, Any]]:
    ended = await read_crons(redis)
    # A cron job that several queues have runs once per tick, in one of them.
    crons: dict[str, CronJob] = {}
    for queue in WORKER_QUEUES:
        crons |= {cron.name: cron for cron in queues.settings(queue).cron_jobs}
    found = []
    for name, cron in sorted(crons.items()):
        cron.calculate_next(datetime.now(UTC))
        state, finished = ended.get(name, (None, None))
        due = cron.next_run and (cron.next_run - datetime.now(UTC)).total_seconds()
        found.append({"name": name, "state": state, "finished": finished, "due": due})
    return found
