"""Health, as the API and the command line tell it."""

from arq.connections import ArqRedis

from app.core.config import WORKER_QUEUES
from tests.conftest import Api
from tests.support import run_command


async def test_each_queue_without_a_worker_is_named(redis: ArqRedis, api: Api) -> None:
    code, output, _ = await run_command("health", "status")
    assert code == 1
    assert output.count("no worker has reported") == len(WORKER_QUEUES)
    response = await api("GET", "/health")
    assert response.status_code == 503
    assert response.json()["checks"].keys() >= {f"queue:{name}" for name in WORKER_QUEUES}
    assert (await api("GET", "/readyz")).status_code == 200
