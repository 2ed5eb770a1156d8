"""Health, as the API reports it."""

from arq.connections import ArqRedis

from app.core.config import WORKER_QUEUES
from tests.conftest import Api


async def test_each_queue_without_a_worker_is_named(redis: ArqRedis, api: Api) -> None:
    response = await api("GET", "/health")
    assert response.status_code == 503
    assert response.json()["checks"].keys() >= {f"queue:{name}" for name in WORKER_QUEUES}
    assert (await api("GET", "/readyz")).status_code == 200
