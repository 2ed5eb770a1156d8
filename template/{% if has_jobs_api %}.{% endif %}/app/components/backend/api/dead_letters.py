"""Dead letters over HTTP: look at jobs that have failed for good, send them again, delete them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from app.components.backend.key_route import KeyRoute
from app.components.backend.problems import problems
from app.components.backend.rate_limit import limit_rate
from app.components.backend.security import require_key
from app.components.backend.state import Redis
from app.components.worker.lookup import check_job
from app.services import dead_letters
from app.services.dead_letters import Filter, Requeued, Selection
from app.services.jobs import Job

router = APIRouter(
    prefix="/dead-letters",
    tags=["dead letters"],
    route_class=KeyRoute,
    dependencies=[Depends(require_key)],
    responses=problems(401, 403, 422, 503),
)


class Page(Filter):
    """How many letters to list of those that match."""

    limit: int = Field(default=100, ge=1, le=1000)


class Purged(BaseModel):
    """How many letters are gone."""

    purged: int


@router.get("", response_model_exclude={"__all__": {"args", "kwargs", "traceback"}})
async def list_letters(redis: Redis, page: Annotated[Page, Query()]) -> list[Job]:
    """List the newest letters, without their arguments and tracebacks."""
    return await dead_letters.list_letters(redis, page, page.limit)


@router.get("/{letter_id:path}", responses=problems(404, 413))
async def get_letter(redis: Redis, letter_id: str) -> Job:
    """Return all that is known of a letter."""
    return await dead_letters.load_letter(redis, letter_id)


@router.post("/requeue", dependencies=[Depends(limit_rate)], responses=problems(400, 408, 413, 429))
async def requeue_letters(redis: Redis, selection: Selection) -> Requeued:
    """Send jobs again, each under its id with its arguments, once. Refused letters stay."""
    return await dead_letters.requeue(redis, selection, check_job)


@router.post("/purge", responses=problems(400, 408, 413))
async def purge_letters(redis: Redis, selection: Selection) -> Purged:
    """Delete letters for good."""
    return Purged(purged=await dead_letters.purge(redis, selection))
