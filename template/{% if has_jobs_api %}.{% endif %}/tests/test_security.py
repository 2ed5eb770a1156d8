"""Who may call what, and what becomes of requests that mean harm."""

import logging
from typing import Any

import pytest
import schemathesis
import structlog
from arq.connections import ArqRedis
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.components.backend.main import app, create_app
from app.components.backend.middleware import HEADERS, MAX_BODY_BYTES
from app.core.config import WORKER_QUEUES, load_settings, settings
from app.core.log import configure_logging
from tests.conftest import API_KEY, Api
from tests.support import run_command

QUEUE = next(iter(WORKER_QUEUES))
# Every route and who may call it: everybody, or whoever has the key. Pages are for development.
RULES = {
    "GET /livez": "open",
    "GET /readyz": "open",
    "GET /health": "open",
    "POST /jobs": "key",
    "GET /jobs/{job_id}": "key",
    "DELETE /jobs/{job_id}": "key",
    "GET /queues": "key",
    "GET /dead-letters": "key",
    "GET /dead-letters/{letter_id}": "key",
    "POST /dead-letters/requeue": "key",
    "POST /dead-letters/purge": "key",
    "GET /docs": "development",
    "GET /docs/oauth2-redirect": "development",
    "GET /openapi.json": "development",
    "GET /": "development",
    "GET /redoc": "development",
    # Your own routes:
}
CHECKS = [
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
]
BODIES = {"POST /jobs": {"queue": QUEUE, "task": "none"}}

every_route = pytest.mark.parametrize("route", RULES)


def routes() -> set[str]:
    found = iter_route_contexts(app.routes)
    return {f"{m} {route.path}" for route in found for m in (route.methods or ["*"]) if m != "HEAD"}


async def call(api: Api, route: str, **options: Any) -> int:
    method, path = route.split()
    if method == "POST":
        options["json"] = BODIES.get(route, {})
    return (await api(method, path.format(job_id="x", letter_id="x"), **options)).status_code


def test_every_route_has_a_rule() -> None:
    assert routes() == RULES.keys()


@every_route
async def test_a_key_opens_what_its_rule_says(redis: ArqRedis, api: Api, route: str) -> None:
    closed = {401} if RULES[route] == "key" else {200, 503}
    for key in ("", "wrong", API_KEY[:-1], API_KEY + "é"):
        assert await call(api, route, headers={"X-API-Key": key.encode()}) in closed
    assert await call(api, route) in {200, 404, 422, 503}


@every_route
async def test_without_a_key_nothing_is_shown(
    redis: ArqRedis, api: Api, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "API_KEY", None)
    status = await call(api, route)
    assert (status == 403) == (RULES[route] == "key")


async def test_a_refusal_says_what_to_set(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "API_KEY", None)
    assert "set API_KEY in" in (await api("GET", "/queues")).json()["detail"]
    assert (await api("GET", "/health")).json().keys() == {"status"}


def test_production_has_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ENVIRONMENT", "production")
    with TestClient(create_app()) as client:
        for route in (route for route, rule in RULES.items() if rule == "development"):
            assert client.get(route.split()[1]).status_code == 404


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"API_KEY": None}, "API_KEY"),
        ({"API_KEY": "change-me"}, "API_KEY"),
        ({"DEBUG": "true"}, "DEBUG"),
        ({"REDIS_URL": "redis://example.com"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://127.0.0.1.example.com"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:secret@example.com"}, None),
        ({"REDIS_URL": "redis://localhost"}, None),
        ({}, None),
    ],
)
def test_production_refuses_what_is_unsafe(
    wrong: dict[str, str | None], named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {"ENVIRONMENT": "production", "API_KEY": "0123456789abcdef", "DEBUG": "false"}
    for name, value in {**right, **wrong}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if named is None:
        load_settings()
        return
    with pytest.raises(SystemExit, match=rf"^{named} [^\n]+: [^\n]+$"):
        load_settings()


async def test_the_rate_holds_over_two_processes(
    redis: ArqRedis, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "JOBS_PER_MINUTE", 4)
    monkeypatch.setattr("app.components.backend.security.time.time", lambda: 30.0)
    with TestClient(create_app(), headers={"X-API-Key": API_KEY}) as other:
        answers = [await call(api, "POST /jobs") for _ in range(3)]
        answers += [other.post("/jobs", json=BODIES["POST /jobs"]).status_code for _ in range(3)]
        assert answers == [422] * 4 + [429] * 2
        assert other.post("/dead-letters/requeue", json={}).headers["Retry-After"] == "30"
    assert not any(API_KEY.encode() in key for key in await redis.keys())


async def test_each_answer_has_the_headers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.components.backend.api.jobs.list_queues", None)
    for path, status in (("/livez", 200), ("/none", 404), ("/queues", 500), ("/docs", 200)):
        answer = await api("GET", path)
        assert answer.status_code == status
        assert HEADERS.keys() <= {name.title() for name in answer.headers} | HEADERS.keys()
        for name in HEADERS:
            assert answer.headers[name]


async def test_the_log_has_no_key(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await api("GET", "/queues")
    await api("GET", "/queues", headers={"X-API-Key": API_KEY + "wrong"})
    assert API_KEY not in caplog.text


async def test_no_line_has_the_password_of_redis() -> None:
    url = "redis://somebody:a-password@127.0.0.1:1"
    for arguments in (["health", "status"], ["dead-letters", "list"]):
        code, *texts = await run_command(*arguments, url=url)
        assert code == 1
        assert "127.0.0.1:1" in "".join(texts)
        assert "a-password" not in "".join(texts)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_body_is_refused(api: Api, chunked: bool) -> None:
    chunk = b" " * (MAX_BODY_BYTES // 10)
    content = (chunk for _ in range(100)) if chunked else chunk * 100
    headers = {"Content-Type": "application/json"}
    answer = await api("POST", "/jobs", content=content, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (413, 413)


@pytest.mark.parametrize("path", ["x%0d%0aSet-Cookie:%20a=b", "..%2f..%2fetc%2fpasswd", "%00", "é"])
async def test_odd_paths_are_not_found(redis: ArqRedis, api: Api, path: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await api(method, f"/jobs/{path}")
        assert answer.status_code == 404
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_line_break_forges_no_line_of_the_log(
    log_format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings, "LOG_FORMAT", log_format)
    structlog.reset_defaults()
    configure_logging()
    forged = "x\n2026-01-01 [info] forged\x1b[2J"
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("arq.worker").exception("%s failed", forged)
    structlog.stdlib.get_logger("own").info(forged, name=forged)
    logging.getLogger().handlers.clear()
    lines = capsys.readouterr().err.splitlines()
    assert any("forged" in line for line in lines)
    assert not any(line.startswith("2026-01-01 [info]") for line in lines)
    assert "\x1b[2J" not in "".join(line for line in lines if not line.startswith("    "))


schema = schemathesis.openapi.from_dict(app.openapi())
schema.app = app


@pytest.fixture
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "JOBS_PER_MINUTE", 1_000_000)


# 250 examples for each of 8 routes. Without workers the health is 503, as it should.
@schema.exclude(path="/health").parametrize()
@hypothesis_settings(
    max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
def test_the_api_is_as_its_description_says(no_limit: None, case: Case[Any]) -> None:
    case.headers["X-API-Key"] = API_KEY
    case.call_and_validate(checks=CHECKS)
