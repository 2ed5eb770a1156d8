"""Monitoring with real servers: the rules, the dashboard, and alerts that fire and are resolved."""

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import promql_parser
import pytest
import yaml

from tests import harness

# Debian's packages, and the programs in them.
PACKAGES = {"prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager"}
# What the project's own processes export, in the text format of Prometheus.
PRINT_METRICS = """
from prometheus_client import generate_latest
from app.services import metrics
state = metrics.RedisCollector([], 0)
print(metrics.write_web_metrics(state).decode() + generate_latest(metrics.WORKER).decode())
"""

pytestmark = pytest.mark.xdist_group("installed-full")


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """Install Debian's packages where this is possible; skip the tests where it is not."""
    missing = [package for package, program in PACKAGES.items() if not shutil.which(program)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
        for command in (("apt-get", "update"), install):
            subprocess.run(command, check=False, capture_output=True, env={**os.environ, **QUIET})
    if not all(map(shutil.which, PACKAGES.values())):
        pytest.skip("Prometheus and Alertmanager are not installed")


QUIET = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}


@pytest.fixture(scope="module")
def project(installed: Callable[[str], Path]) -> Path:
    return installed("full")


def test_rules_are_right(project: Path) -> None:
    directory = project / "deploy/prometheus"
    harness.run("promtool", "check", "config", "prometheus.yml", cwd=directory)
    harness.run("promtool", "test", "rules", "rules_test.yml", cwd=directory)


def test_a_rule_that_never_fires_is_noticed(project: Path, tmp_path: Path) -> None:
    """The tests of the rules can fail, for each rule."""
    directory = project / "deploy/prometheus"
    shutil.copy(directory / "rules_test.yml", tmp_path)
    rules = yaml.safe_load((directory / "rules.yml").read_text())
    each = [rule for group in rules["groups"] for rule in group["rules"]]
    for rule in each:
        whole, rule["expr"] = rule["expr"], f"({rule['expr']}) > 1e12"
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
        done = harness.run("promtool", "test", "rules", "rules_test.yml", cwd=tmp_path, check=False)
        assert done.returncode, rule["alert"]
        rule["expr"] = whole


def test_every_alert_leads_to_a_section_of_the_guide(project: Path) -> None:
    rules = yaml.safe_load((project / "deploy/prometheus/rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            path, anchor = rule["annotations"]["runbook"].split("#")
            lines = (project / path).read_text().splitlines()
            headings = [line.lstrip("# ").lower() for line in lines if line.startswith("#")]
            assert anchor in [heading.replace(" ", "-") for heading in headings], rule["alert"]


def test_queries_name_metrics_that_exist(project: Path) -> None:
    text = harness.run(harness.ROOT / project / ".venv/bin/python", "-c", PRINT_METRICS, cwd=project).stdout
    known = {"up"}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            ends = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
            known |= {name + end for end in ends}
    dashboard = json.loads((project / "deploy/grafana/dashboards/jobs.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((project / "deploy/prometheus/rules.yml").read_text())
    queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(queries) > 20
    for query in queries:
        names = set(list_metrics(promql_parser.parse(query)))
        assert names
        assert names <= known, query


def list_metrics(node: Any) -> Iterator[str]:
    """Give the names of all metrics in a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        assert node.name
        yield node.name
    for attribute in ("expr", "lhs", "rhs", "vector_selector", "param"):
        part = getattr(node, attribute, None)
        if part is not None and not isinstance(part, str | int | float):
            yield from list_metrics(part)
    for part in getattr(node, "args", None) or ():
        yield from list_metrics(part)


class Receiver:
    """A receiver of webhooks, which keeps what it gets: names and statuses of alerts."""

    def __init__(self, stack: ExitStack) -> None:
        """Listen until `stack` ends."""
        self.told: list[tuple[str, str]] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                told.extend((alert["labels"]["alertname"], alert["status"]) for alert in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Keep quiet."""

        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        self.url = f"http://127.0.0.1:{server.server_port}/"


def configure(project: Path, directory: Path, web: int, workers: list[int], alerts: int, url: str) -> None:
    """Write the project's own configuration with these ports, and short intervals."""
    source = project / "deploy/prometheus"
    config = yaml.safe_load((source / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{alerts}"]}]}]
    targets = {"webserver": [web], "workers": workers}
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets[job["job_name"]]]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(source / "rules.yml", directory)
    config = yaml.safe_load((source / "alertmanager.yml").read_text())
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    config["receivers"][0]["webhook_configs"] = [{"url": url}]
    (directory / "alertmanager.yml").write_text(yaml.safe_dump(config))


def test_a_killed_worker_is_told_and_so_is_the_next(project: Path, redis_url: str, tmp_path: Path) -> None:
    queues = ["system", "load_test", "media"]
    web, prometheus, alertmanager, *ports = (harness.free_port() for _ in range(6))
    with ExitStack() as stack:
        by_prometheus, by_webhook = Receiver(stack), Receiver(stack)
        variables: dict[str, Any] = {"REDIS_URL": redis_url, "ALERT_WEBHOOK_URL": by_webhook.url}

        def run(*command: str | Path, **more: Any) -> subprocess.Popen[bytes]:
            log = tmp_path / f"{Path(command[0]).name}.log"
            running = harness.running(*command, cwd=project, log=log, **variables, **more)
            return stack.enter_context(running)

        def start_worker(queue: str) -> subprocess.Popen[bytes]:
            settings = f"app.components.worker.queues.{queue}.WorkerSettings"
            port = str(ports[queues.index(queue)])
            python = project / ".venv/bin/python"
            return run(python, "-m", "arq", settings, WORKER_METRICS_PORT=port)

        run(project / ".venv/bin/full-stack", "serve", PORT=str(web))
        workers = {queue: start_worker(queue) for queue in queues}
        configure(project, tmp_path, web, ports, alertmanager, by_prometheus.url)
        run(
            *("prometheus", f"--config.file={tmp_path}/prometheus.yml"),
            *(f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{prometheus}"),
        )
        run(
            *("prometheus-alertmanager", f"--config.file={tmp_path}/alertmanager.yml"),
            *(f"--storage.path={tmp_path}/alertmanager", "--cluster.listen-address="),
            f"--web.listen-address=127.0.0.1:{alertmanager}",
        )

        def is_true(query: str) -> bool:
            url = f"http://127.0.0.1:{prometheus}/api/v1/query?query={quote(query)}"
            try:
                with urlopen(url, timeout=10) as response:
                    return bool(json.load(response)["data"]["result"])
            except OSError:
                # It has not started yet.
                return False

        everything = "count(up == 1) == 4 and min(arq_workers) == 1"
        harness.wait_until(lambda: is_true(everything), "not every process is scraped")
        workers["media"].send_signal(signal.SIGKILL)
        firing = [("WorkerGone", "firing"), ("QueueWithoutWorkers", "firing")]
        harness.wait_until(lambda: set(firing) <= set(by_prometheus.told), "Alertmanager tells nothing")
        harness.wait_until(lambda: ("queue:media", "firing") in by_webhook.told, "the webhook tells nothing")
        start_worker("media")
        resolved = [(name, "resolved") for name, _ in firing]
        harness.wait_until(lambda: set(resolved) <= set(by_prometheus.told), "Prometheus tells no recovery")
        harness.wait_until(lambda: ("queue:media", "resolved") in by_webhook.told, "no recovery is told")
        assert by_webhook.told == [("queue:media", "firing"), ("queue:media", "resolved")]
