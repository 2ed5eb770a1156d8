"""Health in each state, as the service, the API and the command line tell it."""

import json

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.cli.main import app as command
from app.components.backend.main import app
from app.services.health import check_disk


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.health.MIN_FREE_BYTES", 2**62)


def test_health_passes() -> None:
    with TestClient(app) as client:
        response = client.get("/health")
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    assert (response.status_code, response.json()["status"]) == (200, "pass")
    assert response.headers["content-type"] == "application/health+json"


def test_a_full_disk_fails(full_disk: None) -> None:
    assert check_disk().status == "fail"
    with TestClient(app) as client:
        assert client.get("/health").status_code == 503


def test_the_command_passes() -> None:
    result = CliRunner().invoke(command, ["health", "status", "--detailed"])
    assert result.exit_code == 0
    assert "GB free" in result.output
    result = CliRunner().invoke(command, ["health", "status", "--json"])
    assert json.loads(result.output)["status"] == "pass"


def test_the_command_fails_with_the_reason(full_disk: None) -> None:
    result = CliRunner().invoke(command, ["health", "probe"])
    assert result.exit_code == 1
    assert "make room" in result.output
