"""What the suites of shipped internals share."""

import sys
from typing import Any

import pytest


@pytest.fixture
def own_queue(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the module's `WorkerSettings` the queue `test` of the project."""
    # Not before the server of the tests is in the environment.
    from app.core.config import WORKER_QUEUES
    from tests.inside.command import queues_with

    queue = request.module.WorkerSettings
    entries, modules = queues_with(queue)
    for name, entry in entries.items():
        monkeypatch.setitem(WORKER_QUEUES, name, entry)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return queue
