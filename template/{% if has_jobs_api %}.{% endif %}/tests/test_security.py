"""Who may call which route, and that the API is as its description says."""

from typing import Any

import pytest
import schemathesis
from arq.connections import ArqRedis
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    positive_data_acceptance,
)

from app.components.backend.main import app, create_app
from app.core.config import settings
from tests.conftest import API_KEY, Api

# Who may call a route: everybody ("open"), clients with the key, or clients during development.
RULES = {
    "GET /livez": "open",
    "GET /readyz": "open",
    "GET /health": "open",
    "GET /jobs": "key",
    "POST /jobs": "key",
    "GET /jobs/{job_id:path}": "key",
    "DELETE /jobs/{job_id:path}": "key",
    "GET /tasks": "key",
    "GET /queues": "key",
    "GET /dead-letters": "key",
    "GET /dead-letters/{letter_id:path}": "key",
    "POST /dead-letters/requeue": "key",
    "POST /dead-letters/purge": "key",
    "GET /docs": "development",
    "GET /docs/oauth2-redirect": "development",
    "GET /openapi.json": "development",
    "GET /": "development",
    "GET /redoc": "development",
    # Your own routes; without a rule, this module does not try them:
}
# The routes that get made-up requests, as a pattern of their paths.
MADE_UP = r"^/(livez|readyz|jobs|tasks|queues|dead-letters)\b"

every_route = pytest.mark.parametrize("route", RULES)


async def call(api: Api, route: str, **options: Any) -> int:
    method, path = route.split()
    path = path.replace("{job_id:path}", "x").replace("{letter_id:path}", "x")
    return (await api(method, path, **options)).status_code


def test_every_rule_has_a_route() -> None:
    found = iter_route_contexts(app.routes)
    routes = {f"{method} {route.path}" for route in found for method in route.methods or ()}
    assert RULES.keys() <= routes


@every_route
async def test_a_key_opens_what_its_rule_says(redis: ArqRedis, api: Api, route: str) -> None:
    for key in ("", "wrong", API_KEY[:-1], API_KEY + "é"):
        status = await call(api, route, headers={"X-API-Key": key.encode()})
        assert (status == 401) == (RULES[route] == "key")
    assert await call(api, route) not in (401, 403)


@every_route
async def test_without_a_key_nothing_is_shown(
    redis: ArqRedis, api: Api, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "API_KEY", None)
    assert (await call(api, route) == 403) == (RULES[route] == "key")


def test_production_has_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ENVIRONMENT", "production")
    with TestClient(create_app()) as client:
        for route in (route for route, rule in RULES.items() if rule == "development"):
            assert client.get(route.split()[1]).status_code == 404


schema = schemathesis.openapi.from_dict(app.openapi())
schema.app = app


@schema.include(path_regex=MADE_UP).parametrize()
@hypothesis_settings(
    max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
def test_the_api_is_as_its_description_says(case: Case[Any]) -> None:
    case.headers["X-API-Key"] = API_KEY
    case.call_and_validate(
        excluded_checks=[
            # The description does not have the names of queues, tasks and jobs.
            positive_data_acceptance,
            # Starlette lists the methods of the first route of a path only.
            allow_header_conformance,
        ]
    )
