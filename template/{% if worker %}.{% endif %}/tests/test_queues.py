"""The queues as a whole: arq's pitfalls, and the places that have to agree with each other."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from arq import func

from app.components.worker import queues
from app.components.worker.retries import MAX_TRIES
from app.core import keys
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
def test_each_setting_is_in_the_class_itself(name: str) -> None:
    missing = REQUIRED - vars(WORKER_SETTINGS[name]).keys()
    assert not missing, (
        f"app/components/worker/queues/{name}.py: write {', '.join(sorted(missing))} into the "
        "class itself, since arq ignores inherited settings and would use its defaults"
    )


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
    assert WORKER_SETTINGS[name].max_tries == MAX_TRIES, (
        f"app/components/worker/queues/{name}.py: write max_tries = MAX_TRIES, which `try_again` "
        "counts"
    )


@every_queue
def test_a_poll_reads_enough_for_two_replicas(name: str) -> None:
    # Running jobs stay in the queue, so a poll must look past those of every replica.
    queue = WORKER_SETTINGS[name]
    least = 2 * 2 * queue.max_jobs
    assert queue.queue_read_limit >= least, (
        f"app/components/worker/queues/{name}.py: write queue_read_limit = {least}"
    )


@every_queue
def test_no_queue_takes_the_jobs_of_another(name: str) -> None:
    own, wanted = WORKER_SETTINGS[name].queue_name, f"arq:queue:{name}"
    assert own == wanted, (
        f'app/components/worker/queues/{name}.py: write queue_name = "{wanted}", since jobs of '
        f"{own} would run here too"
    )
    assert WORKER_SETTINGS[name].health_check_key == keys.sentinel(own), (
        f"app/components/worker/queues/{name}.py: write "
        "health_check_key = keys.sentinel(queue_name), which the container's check reads"
    )


# A queue that is commented out has its entry and its service in comments.
@every_queue
@pytest.mark.parametrize(
    ("path", "line"),
    [("app/core/config.py", '"{name}": {{'), ("docker-compose.yml", "{service}:")],
)
def test_each_place_names_each_queue(name: str, path: str, line: str) -> None:
    wanted = line.format(name=name, service=_service(name))
    assert wanted in (ROOT / path).read_text(), f"{path}: add `{wanted}` for queue {name}"


@every_running_queue
def test_worker_queues_agree_with_the_classes(name: str) -> None:
    queue, listed = WORKER_SETTINGS[name], WORKER_QUEUES[name]
    for setting, value in {
        "queue_name": queue.queue_name,
        "max_jobs": queue.max_jobs,
        "timeout_seconds": queue.job_timeout,
    }.items():
        assert listed.get(setting) == value, (
            f'app/core/config.py: write "{setting}": {value!r} for {name} in WORKER_QUEUES'
        )


@every_running_queue
def test_compose_runs_the_worker_and_lets_it_finish(name: str) -> None:
    place = f"docker-compose.yml, {_service(name)}"
    service = _compose_services().get(_service(name))
    assert service, f"{place}: uncomment it, or comment out its entry in WORKER_QUEUES"
    command = ["python", "-m", "arq", f"app.components.worker.queues.{name}.WorkerSettings"]
    assert service.get("command", [])[:4] == command, f"{place}: begin with command: {command}"
    check = ["CMD", "python", "-m", "app.check", name]
    healthcheck = service.get("healthcheck", {})
    assert healthcheck.get("test") == check, f"{place}: write healthcheck: test: {check}"
    wait = WORKER_SETTINGS[name].job_completion_wait
    # Docker's default is 10 s.
    grace = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", service.get("stop_grace_period", "10s"))
    seconds = 60 * int(grace[1] or 0) + int(grace[2] or 0) if grace else 0
    assert seconds > wait, f"{place}: write stop_grace_period: {wait + 10}s"


@every_queue
def test_the_procfile_runs_each_queue(name: str) -> None:
    wanted = f"app.components.worker.queues.{name}.WorkerSettings"
    lines = (ROOT / "Procfile").read_text().splitlines()
    assert any(wanted in line for line in lines if line.startswith(f"{_service(name)}: ")), (
        f"Procfile: begin a line with `{_service(name)}: ` that runs {wanted}, as that of another "
        "queue does"
    )


def test_compose_runs_no_queue_that_health_does_not_know() -> None:
    services = {name for name in _compose_services() if name.startswith("worker-")}
    unknown = services - {_service(name) for name in WORKER_QUEUES}
    assert not unknown, f"app/core/config.py: add the queues of {unknown} to WORKER_QUEUES"


def _service(name: str) -> str:
    return f"worker-{name.replace('_', '-')}"


def _compose_services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services
