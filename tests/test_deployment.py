"""What `deploy/` holds, and that it runs the same services as Docker Compose does."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import harness

ENGINES = ["kubernetes", "swarm"]
WORKERS = [queue["service"] for queue in harness.CATALOGUE.values()]
SECRETS = {"REDIS_PASSWORD_FILE": "/run/secrets/redis_password"}


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that renders a variant for some engines."""

    def render(name: str, *engines: str) -> Path:
        target = tmp_path_factory.mktemp("deployment") / "project"
        return harness.render(template, target, harness.variant(name) | {"deployment": list(engines)})

    return render


@pytest.mark.parametrize("engines", [(), ("swarm",), ("kubernetes",), ("swarm", "kubernetes")])
def test_only_what_was_asked_for_is_there(project: Callable[..., Path], engines: tuple[str, ...]) -> None:
    folder = project("default", *engines) / "deploy"
    found = [path.name for path in folder.iterdir()] if folder.exists() else []
    assert set(found) - {"grafana", "prometheus"} == set(engines)


def test_without_jobs_there_is_nothing_to_spread(project: Callable[..., Path]) -> None:
    assert not (project("no-worker", *ENGINES) / "deploy").exists()


def load(path: Path) -> dict[str, Any]:
    """Return the services of a file of Compose or Swarm."""
    services: dict[str, Any] = yaml.safe_load(path.read_text())["services"]
    return services


@pytest.mark.parametrize("name", ["default", "full"])
def test_the_stack_runs_what_compose_runs(project: Callable[..., Path], name: str) -> None:
    target = project(name, "swarm")
    compose = load(target / "docker-compose.yml")
    stack = load(target / "deploy/swarm/docker-stack.yml")
    assert stack.keys() == {name for name, one in compose.items() if "profiles" not in one}
    for service, one in stack.items():
        other = compose[service]
        assert one["read_only"], service
        assert one["cap_drop"] == ["ALL"], service
        assert one.get("cap_add") == other.get("cap_add"), service
        assert one["deploy"]["resources"] == other["deploy"]["resources"], service
        assert one.get("stop_grace_period") == other.get("stop_grace_period"), service
        if service != "redis":
            assert one.get("command") == other.get("command"), service
            check = other["healthcheck"]
            if service in WORKERS:
                # Swarm replaces what is unhealthy.
                *command, queue = check["test"]
                check |= {"test": [*command, "--live", queue]}
            else:
                check |= {"test": [word.replace("/readyz", "/livez") for word in check["test"]]}
            assert one["healthcheck"] == check, service
            secrets = SECRETS | ({"API_KEY_FILE": "/run/secrets/api_key"} if service == "webserver" else {})
            files = {name: path for name, path in one["environment"].items() if name.endswith("_FILE")}
            assert files == secrets, service
            assert set(one["secrets"]) == {Path(path).name for path in secrets.values()}, service
        if service.startswith("worker-"):
            assert one["deploy"]["replicas"] >= 2, service
            assert one["deploy"]["update_config"]["order"] == "start-first", service
        # Only the web server can be reached from outside.
        assert ("ports" in one) == (service == "webserver"), service


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("default", "docker-compose.yml"),
        ("no-worker", "docker-compose.yml"),
        ("default", "deploy/swarm/docker-stack.yml"),
    ],
)
def test_a_web_server_has_time_to_stop(project: Callable[..., Path], name: str, path: str) -> None:
    target = project(name, "swarm")
    (grace,) = re.findall(r"(?m)^GRACE_SECONDS = (\d+)$", (target / "app/cli/serve.py").read_text())
    assert int(load(target / path)["webserver"]["stop_grace_period"].removesuffix("s")) >= int(grace) + 5


def test_the_longest_slug_makes_names_that_swarm_takes(template: Path, tmp_path: Path) -> None:
    slug = f"{'a' * 39}-{'b' * 20}"
    answers = harness.variant("full") | {"project_slug": slug, "deployment": ["swarm"]}
    folder = harness.render(template, tmp_path / "project", answers) / "deploy/swarm"
    services = load(folder / "docker-stack.yml")
    for path in folder.iterdir():
        text = path.read_text()
        (stack,) = re.findall(r"(?m)docker-stack\.yml ([a-z-]+[a-z])$", text)
        assert max(len(f"{stack}_{service}") for service in services) <= 63
        assert f"{slug}_" not in text
        assert f"{slug} " not in text


def test_no_secret_reaches_a_service_that_has_no_use_for_it(project: Callable[..., Path]) -> None:
    target = project("full")
    config = (target / "app/core/config.py").read_text()
    secrets = set(re.findall(r"(?m)^    ([A-Z_]+): (?:ApiKey|WebUrl|.*SecretStr)", config))
    keys, alerts = {"API_KEY", "READ_ONLY_API_KEY"}, {"ALERT_WEBHOOK_URL", "HEARTBEAT_URL"}
    assert secrets == keys | alerts
    for service, one in load(target / "docker-compose.yml").items():
        has = {name for name in secrets if one["environment"].get(name) != ""} if "env_file" in one else set()
        wanted = {"webserver": keys, "dev": secrets} | dict.fromkeys(WORKERS, alerts)
        assert has == wanted.get(service, set()), service


def test_two_servers_never_write_to_one_volume(project: Callable[..., Path]) -> None:
    deploy = load(project("full", "swarm") / "deploy/swarm/docker-stack.yml")["redis"]["deploy"]
    assert deploy["replicas"] == 1
    assert deploy["placement"]["constraints"] == ["node.labels.redis == true"]
    assert {deploy[name]["order"] for name in ("update_config", "rollback_config")} == {"stop-first"}


def test_a_commented_service_is_that_of_the_queue_once_it_runs(project: Callable[..., Path]) -> None:
    commented, run = (
        (project(name, "swarm") / "deploy/swarm/docker-stack.yml").read_text() for name in ("default", "full")
    )
    service = harness.CATALOGUE["media"]["service"]
    (block,) = re.findall(rf"(?ms)^  # ({service}:$.*?)\n\n", commented)
    uncommented = re.sub(r"(?m)^  # ", "  ", block)
    assert f"\n  {uncommented}\n\n" in run
