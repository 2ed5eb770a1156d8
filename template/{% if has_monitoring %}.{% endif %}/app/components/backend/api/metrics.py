"""Metrics over HTTP, in the text format of Prometheus."""

from ipaddress import ip_address

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from app.components.backend.security import HasKey
from app.components.backend.state import Redis
from app.components.worker.lookup import list_tasks
from app.core import keys
from app.core.config import WORKER_QUEUES, settings
from app.core.memory import memory_share
from app.services import metrics
from app.services.crons import find_missed, list_runs
from app.services.job_checks import count_new_letters
from app.services.jobs import or_empty
from app.services.queues import list_queues

router = APIRouter(tags=["health"])

for queue in WORKER_QUEUES:
    metrics.begin_enqueueing(queue, list_tasks(queue))


@router.get("/metrics", response_class=Response)
async def get_metrics(request: Request, redis: Redis, has_key: HasKey) -> Response:
    """Show the queues' state and what this process has enqueued, to `METRICS_NETWORKS`."""
    if not (has_key or _is_near(request)):
        detail = "Send the key as X-API-Key, or add this client's network to METRICS_NETWORKS."
        raise HTTPException(403, detail)
    try:
        state = await _read_state(redis)
    except (RedisError, OSError):
        state = metrics.RedisCollector()
    text = generate_latest(state) + generate_latest(metrics.WEB)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _read_state(redis: Redis) -> metrics.RedisCollector:
    missed = {run.name for run in await find_missed(redis)}
    return metrics.RedisCollector(
        queues=await list_queues(redis),
        # A key of another type, which another program has written, holds none.
        letters=await or_empty(redis.zcard(keys.LETTERS_BY_TIME), 0),
        new_letters=await count_new_letters(redis),
        memory_ratio=await memory_share(redis),
        missed_crons={run.name: run.name in missed for run in await list_runs(redis)},
    )


def _is_near(request: Request) -> bool:
    # Its address may be that of the proxy.
    if "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    try:
        address = ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    return any(address in network for network in settings.METRICS_NETWORKS)
