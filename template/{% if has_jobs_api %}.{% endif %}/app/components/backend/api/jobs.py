"""Jobs over HTTP: create, look up, list and abort them, and the tasks and queues that there are."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.components.backend.key_route import KeyRoute
from app.components.backend.problems import problems
from app.components.backend.rate_limit import limit_rate
from app.components.backend.security import require_key
from app.components.backend.state import Redis
from app.components.worker.enqueue_by_name import (
    TaskDescription,
    describe_tasks,
    enqueue_by_name,
    list_examples,
)
from app.services.job_list import list_jobs
from app.services.job_lookup import abort, find
from app.services.jobs import Job, JobState, JobSummary
from app.services.queues import QueueStatus, list_queues

MAX_DELAY_SECONDS = 30 * 24 * 3600

router = APIRouter(
    tags=["jobs"],
    route_class=KeyRoute,
    dependencies=[Depends(require_key)],
    responses=problems(401, 403, 422, 503),
)


class NewJob(BaseModel):
    """A job to create, by the names of its queue and its task."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        # The queues are imported when the description of the API is read.
        json_schema_extra=lambda schema: schema.update(examples=list_examples()),
    )

    queue: str
    task: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.:/-]{1,128}$",
        description="An id of your own, which is taken until the job's result expires.",
    )
    delay: float = Field(
        default=0,
        ge=0,
        le=MAX_DELAY_SECONDS,
        description="How long the job waits at least, in seconds.",
    )


class JobFilter(BaseModel):
    """Which jobs to list, and how many."""

    model_config = ConfigDict(extra="forbid")

    queue: str | None = None
    task: str | None = None
    state: JobState | None = None
    limit: int = Field(default=100, ge=1, le=1000)


@router.post(
    "/jobs",
    status_code=202,
    dependencies=[Depends(limit_rate)],
    responses=problems(400, 408, 409, 413, 429),
)
async def create_job(redis: Redis, job: NewJob, response: Response) -> Job:
    """Queue a job. Its arguments are checked, and converted to the types of the task."""
    created = await enqueue_by_name(
        redis, job.queue, job.task, job.args, job.kwargs, job_id=job.id, delay=job.delay
    )
    response.headers["Location"] = f"/jobs/{created.id}"
    return created


@router.get("/jobs")
async def get_jobs(redis: Redis, page: Annotated[JobFilter, Query()]) -> list[JobSummary]:
    """List the newest jobs: those that wait or run, then those that ended lately."""
    return await list_jobs(redis, **page.model_dump())


@router.get("/jobs/{job_id:path}", responses=problems(404, 413))
async def get_job(redis: Redis, job_id: str) -> Job:
    """Return what has become of a job."""
    return await find(redis, job_id)


@router.delete("/jobs/{job_id:path}", status_code=202, responses=problems(404, 409, 413))
async def abort_job(redis: Redis, job_id: str) -> Job:
    """Have the worker drop or cancel a job, which it does at its next poll."""
    return await abort(redis, job_id)


@router.get("/tasks")
async def get_tasks() -> list[TaskDescription]:
    """Return the tasks that can be sent by name, with a JSON Schema of their parameters."""
    return describe_tasks()


@router.get("/queues")
async def get_queues(redis: Redis) -> list[QueueStatus]:
    """Return the queues that have a worker service, with the last reports of their workers."""
    return await list_queues(redis)
