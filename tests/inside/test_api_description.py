"""The API is as its description says."""

import os
from copy import deepcopy
from typing import Any

import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    positive_data_acceptance,
)

from app.components.backend.main import app
from tests.conftest import API_KEY

# Health is 503 without workers.
PATHS = r"^/(livez|readyz|jobs|tasks|queues|dead-letters)\b"
# How many made-up requests each route gets; a release has 200, and another `--hypothesis-seed`.
REQUESTS = int(os.environ.get("MADE_UP_REQUESTS", "10"))

# Each request gets the key. Were it described, requests that were made up without it would be taken
# for requests that have to be refused.
description = {**app.openapi(), "paths": deepcopy(app.openapi()["paths"])}
for path in description["paths"].values():
    for operation in path.values():
        operation.pop("security", None)
schema = schemathesis.openapi.from_dict(description)
# A body that is too large is refused before its fields are looked at.
schema.config.checks.negative_data_rejection.expected_statuses = ["4xx"]
schema.app = app


@schema.include(path_regex=PATHS).parametrize()
@hypothesis_settings(
    max_examples=REQUESTS, deadline=None, database=None, suppress_health_check=list(HealthCheck)
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
