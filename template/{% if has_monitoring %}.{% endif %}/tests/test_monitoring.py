"""Metrics and alerts of this project's own queues."""

from fastapi.testclient import TestClient

from app.components.backend.main import app
from app.core.config import WORKER_QUEUES


def test_each_queue_is_shown_to_loopback_only() -> None:
    with TestClient(app, client=("127.0.0.1", 1)) as client:
        text = client.get("/metrics").text
    for queue in WORKER_QUEUES:
        assert f'arq_queue_jobs{{queue="{queue}",state="ready"}}' in text
    with TestClient(app, client=("192.0.2.1", 1)) as client:
        assert client.get("/metrics").status_code == 403
