"""The queues as a whole: arq's traps, and the places that have to agree with each other."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from arq import func

from app.components.worker import queues
from app.components.worker.retries import MAX_TRIES
from app.core.config import WORKER_QUEUES

ROOT = Path(__file__).parent.parent
WORKER_SETTINGS: dict[str, Any] = {
    module.name: importlib.import_module(f"{queues.__name__}.{module.name}").WorkerSettings
    for module in pkgutil.iter_modules(queues.__path__)
}
REQUIRED = {
    "functions",
    "queue_name",
    "redis_settings",
    "cron_jobs",
    "max_jobs",
    "max_tries",
    "allow_abort_jobs",
    "job_timeout",
    "job_completion_wait",
    "keep_result",
    "poll_delay",
    "queue_read_limit",
    "job_serializer",
    "job_deserializer",
    "health_check_interval",
    "health_check_key",
    "on_startup",
    "on_shutdown",
    "on_job_start",
}

every_queue = pytest.mark.parametrize("name", WORKER_SETTINGS)
every_running_queue = pytest.mark.parametrize("name", WORKER_QUEUES)


@every_queue
def test_each_function_takes_ctx_first(name: str) -> None:
    for function in map(func, WORKER_SETTINGS[name].functions):
        parameters = list(inspect.signature(function.coroutine).parameters)
        assert parameters[:1] == ["ctx"], (
            f"{function.name} of queue {name} takes {parameters}: arq calls each task with its "
            "context, so make `ctx` the first parameter"
        )


@every_queue
def test_each_setting_stands_in_the_class_itself(name: str) -> None:
    missing = REQUIRED - vars(WORKER_SETTINGS[name]).keys()
    assert not missing, f"{name}: arq would use its defaults, since it ignores inherited settings"


@every_queue
def test_each_failure_leaves_a_result(name: str) -> None:
    queue = WORKER_SETTINGS[name]
    for function in [queue, *map(func, queue.functions), *queue.cron_jobs]:
        keep = getattr(function, "keep_result_s", queue.keep_result)
        assert keep is None or keep > 0, (
            f"{name}: {function} keeps no result, so a failure leaves no dead letter: "
            "set keep_result to a second or more"
        )


@every_queue
def test_each_queue_gives_the_tries_that_retries_count(name: str) -> None:
    assert WORKER_SETTINGS[name].max_tries == MAX_TRIES


@every_queue
def test_a_poll_reads_enough_for_two_replicas(name: str) -> None:
    # Running jobs stay in the queue, so a poll must look past those of every replica.
    queue = WORKER_SETTINGS[name]
    assert queue.queue_read_limit >= 2 * 2 * queue.max_jobs


@every_running_queue
def test_worker_queues_agree_with_the_classes(name: str) -> None:
    queue = WORKER_SETTINGS[name]
    assert WORKER_QUEUES[name]["queue_name"] == queue.queue_name == f"arq:queue:{name}"
    assert WORKER_QUEUES[name]["max_jobs"] == queue.max_jobs
    assert WORKER_QUEUES[name]["timeout_seconds"] == queue.job_timeout


@every_running_queue
def test_compose_runs_the_worker_and_lets_it_finish(name: str) -> None:
    service = _compose_services()[_service(name)]
    command = ["python", "-m", "arq", f"app.components.worker.queues.{name}.WorkerSettings"]
    assert service["command"] == command
    assert service["healthcheck"]["test"] == ["CMD", "python", "-m", "app.check", name]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > WORKER_SETTINGS[name].job_completion_wait


def test_compose_and_worker_queues_name_the_same_queues() -> None:
    services = {name for name in _compose_services() if name.startswith("worker-")}
    assert services == {_service(name) for name in WORKER_QUEUES}


@every_queue
def test_the_procfile_can_run_each_queue(name: str) -> None:
    procfile = (ROOT / "Procfile").read_text()
    assert f"{_service(name)}: " in procfile
    assert f"app.components.worker.queues.{name}.WorkerSettings" in procfile


def _service(name: str) -> str:
    return f"worker-{name.replace('_', '-')}"


def _compose_services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services
