"""Jobs: a list with filters, one job with its timeline, and a form that sends one."""

from collections.abc import Mapping
from typing import Any, get_args

from fastapi import HTTPException, Request, Response

from app.components.dashboard.pages import read_form, redirect, render
from app.components.dashboard.session import audit
from app.components.worker.enqueue_by_name import (
    TaskDescription,
    describe_tasks,
    enqueue_by_name,
    read_texts,
)
from app.components.worker.lookup import find_task
from app.services import job_lookup
from app.services.job_list import list_jobs
from app.services.jobs import InvalidJobError, Job, JobState

STATES = get_args(JobState)
FILTERS = ("queue", "task", "state")
MAX_LISTED = 100


async def show_list(request: Request) -> Response:
    """List the newest jobs that match the filters in the address."""
    if request.query_params.get("id"):
        return await show(request)
    filters = {name: request.query_params.get(name) or None for name in FILTERS}
    found = await list_jobs(request.state.redis, **filters, limit=MAX_LISTED)
    return render(request, "jobs", jobs=found, filters=filters, states=STATES, limit=MAX_LISTED)


async def show(request: Request) -> Response:
    """Show all that is known of a job."""
    job = await job_lookup.find(request.state.redis, request.query_params.get("id", ""))
    return render(request, "job", job=job)


async def abort(request: Request) -> Response:
    """Abort a job that waits or runs."""
    job_id = (await read_form(request, "id")).get("id", "")
    await job_lookup.abort(request.state.redis, job_id)
    audit(request, "abort", job_id=job_id)
    return redirect(request, "job", "A worker aborts the job at its next poll.", id=job_id)


async def show_form(request: Request) -> Response:
    """Show the tasks, or the form of one that is made from its parameters."""
    task = _find(request.query_params)
    return render(request, "new_job", tasks=describe_tasks(), task=task, values={}, errors={})


async def send(request: Request) -> Response:
    """Send a job with what the form of its task says."""
    task = _find(await request.form())
    if task is None:
        raise HTTPException(422, "Choose a task.")
    names = [f"kwargs.{name}" for name in task.parameters["properties"]]
    form = await read_form(request, "queue", "task", *names)
    kwargs: dict[str, Any] = {
        name.removeprefix("kwargs."): form[name] for name in names if form.get(name)
    }
    try:
        read_texts(find_task(task.queue, task.task), [], kwargs)
        job = await enqueue_by_name(request.state.redis, task.queue, task.task, [], kwargs)
    except InvalidJobError as error:
        errors = {error.parameter.removeprefix("kwargs."): str(error)}
        tasks = describe_tasks()
        return render(request, "new_job", 422, tasks=tasks, task=task, values=form, errors=errors)
    return _show_sent(request, job)


async def send_again(request: Request) -> Response:
    """Send a job again with its arguments."""
    redis, job_id = request.state.redis, (await read_form(request, "id")).get("id", "")
    call = await job_lookup.load_call(redis, job_id)
    return _show_sent(request, await enqueue_by_name(redis, *call))


def _show_sent(request: Request, job: Job) -> Response:
    audit(request, "send", job_id=job.id, queue=job.queue, task=job.task)
    return redirect(request, "job", "The job is queued.", id=job.id)


def _find(names: Mapping[str, Any]) -> TaskDescription | None:
    """Return the task that `queue` and `task` name."""
    wanted = names.get("queue"), names.get("task")
    return next((task for task in describe_tasks() if (task.queue, task.task) == wanted), None)
