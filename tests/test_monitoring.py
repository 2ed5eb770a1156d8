"""Monitoring with real servers: the rules, the dashboard, and alerts that fire and are resolved."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

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
for part in (metrics.RedisCollector([]), metrics.WEB, metrics.WORKER):
    print(generate_latest(part).decode())
"""

pytestmark = pytest.mark.xdist_group("installed-full-to-watch")


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """Install Debian's packages where this is possible; skip the tests where it is not."""
    missing = [package for package, program in PACKAGES.items() if not shutil.which(program)]
    # The runners of GitHub may use sudo.
    sudo = () if os.geteuid() == 0 else ("sudo", "-n")
    if missing and shutil.which("apt-get") and (not sudo or shutil.which("sudo")):
        install = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
        for command in (("apt-get", "update"), install):
            subprocess.run([*sudo, *command], check=False, capture_output=True, env={**os.environ, **QUIET})
    if not all(map(shutil.which, PACKAGES.values())):
        pytest.skip("Prometheus and Alertmanager are not installed")


KEY = "a-key-for-the-tests"
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}


@pytest.fixture(scope="module")
def project(installed: Callable[..., Path]) -> Path:
    return installed("full", "-to-watch")


def test_rules_are_right(project: Path) -> None:
    directory = project / "deploy/prometheus"
    harness.run("promtool", "check", "config", "prometheus.yml", cwd=directory)
    harness.run("promtool", "test", "rules", "rules_test.yml", cwd=directory)


def test_rules_that_never_fire_are_noticed(project: Path, tmp_path: Path) -> None:
    """The tests of the rules can fail, for each rule."""
    directory = project / "deploy/prometheus"
    shutil.copy(directory / "rules_test.yml", tmp_path)
    rules = yaml.safe_load((directory / "rules.yml").read_text())
    each = [rule for group in rules["groups"] for rule in group["rules"]]
    for rule in each:
        rule["expr"] = f"({rule['expr']}) > 1e12"
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    done = harness.run("promtool", "test", "rules", "rules_test.yml", cwd=tmp_path, check=False)
    assert done.returncode
    missed = done.stdout + done.stderr
    assert [rule["alert"] for rule in each if f'alertname="{rule["alert"]}"' not in missed] == []


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


class Site:
    """A project that runs with Prometheus and Alertmanager, and receivers of both kinds of alerts."""

    def __init__(self, project: Path, directory: Path, redis_url: str, stack: ExitStack) -> None:
        """Start all of it, and wait until everything is scraped."""
        self.project, self.directory, self.stack = project, directory, stack
        self.by_prometheus, self.by_webhook = Receiver(stack), Receiver(stack)
        self.variables: dict[str, Any] = {"REDIS_URL": redis_url, "ALERT_WEBHOOK_URL": self.by_webhook.url}
        self.web, self.prometheus, alertmanager, *ports = (harness.free_port() for _ in range(6))
        self.ports = dict(zip(("system", "load_test", "media"), ports, strict=True))
        self.run(project / ".venv/bin/full-stack", "serve", PORT=str(self.web), API_KEY=KEY)
        self.workers = {queue: self.start_worker(queue) for queue in self.ports}
        configure(project, directory, self.web, ports, alertmanager, self.by_prometheus.url)
        self.run(
            *("prometheus", f"--config.file={directory}/prometheus.yml"),
            *(f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{self.prometheus}"),
        )
        self.run(
            *("prometheus-alertmanager", f"--config.file={directory}/alertmanager.yml"),
            *(f"--storage.path={directory}/alertmanager", "--cluster.listen-address="),
            f"--web.listen-address=127.0.0.1:{alertmanager}",
        )
        everything = "count(up == 1) == 4 and min(arq_workers) == 1"
        harness.wait_until(lambda: self.is_true(everything), "not every process is scraped")

    def run(self, *command: str | Path, **more: Any) -> subprocess.Popen[bytes]:
        """Start a command, until the end."""
        log = self.directory / f"{Path(command[0]).name}.log"
        running = harness.running(*command, cwd=self.project, log=log, **self.variables, **more)
        return self.stack.enter_context(running)

    def start_worker(self, queue: str) -> subprocess.Popen[bytes]:
        """Start a worker of a queue."""
        settings = f"app.components.worker.queues.{queue}.WorkerSettings"
        python = self.project / ".venv/bin/python"
        return self.run(python, "-m", "arq", settings, WORKER_METRICS_PORT=str(self.ports[queue]))

    def is_true(self, query: str) -> bool:
        """Say whether a query of Prometheus has a result."""
        url = f"http://127.0.0.1:{self.prometheus}/api/v1/query?query={quote(query)}"
        try:
            with urlopen(url, timeout=10) as response:
                return bool(json.load(response)["data"]["result"])
        except OSError:
            # It has not started yet.
            return False

    def wait_for(self, status: str, *, prometheus: set[str], webhook: set[str]) -> None:
        """Wait until both have told that these alerts have a status."""
        for receiver, names in ((self.by_prometheus, prometheus), (self.by_webhook, webhook)):
            wanted = {(name, status) for name in names}
            harness.wait_until(
                lambda receiver=receiver, wanted=wanted: wanted <= set(receiver.told),  # type: ignore[misc]
                f"not told: {sorted(wanted - set(receiver.told))}",
            )


@pytest.fixture
def site(project: Path, redis_url: str, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(project, tmp_path, redis_url, stack)


def test_a_killed_worker_is_told_and_so_is_the_next(site: Site) -> None:
    site.workers["media"].send_signal(signal.SIGKILL)
    alerts = {"WorkerGone", "QueueWithoutWorkers"}
    site.wait_for("firing", prometheus=alerts, webhook={"queue:media"})
    site.start_worker("media")
    site.wait_for("resolved", prometheus=alerts, webhook={"queue:media"})
    assert site.by_webhook.told == [("queue:media", "firing"), ("queue:media", "resolved")]


def test_other_problems_are_told_once_each(
    site: Site, redis_port: int, record_property: Callable[[str, object], None]
) -> None:
    """A frozen worker, a nearly full Redis and failing jobs at once, told within 45 s."""
    start = time.monotonic()
    site.workers["system"].send_signal(signal.SIGSTOP)
    url, headers = f"http://127.0.0.1:{site.web}/jobs", {"X-API-Key": KEY, "Content-Type": "application/json"}
    job = {"queue": "load_test", "task": "failure_testing_task", "kwargs": {"failure_rate": 1}}
    for _ in range(25):
        urlopen(Request(url, json.dumps(job).encode(), headers), timeout=10).close()
    with socket.create_connection(("127.0.0.1", redis_port)) as client:
        # 64 MB, beside which what the project writes meanwhile is little.
        client.sendall(b"SETRANGE ballast 67108863 x\r\n")
        assert client.recv(64) == b":67108864\r\n"
        client.sendall(b"INFO memory\r\n")
        used = int(client.recv(65536).partition(b"used_memory:")[2].split()[0])
        # Between the warning and the limit from which on new jobs are refused.
        client.sendall(b"CONFIG SET maxmemory %d\r\n" % (used * 1.17))
        assert client.recv(64) == b"+OK\r\n"
        by_prometheus = {
            "WorkerGone",
            "QueueWithoutWorkers",
            "RedisNearlyFull",
            "JobsFail",
            "DeadLettersGrow",
        }
        by_webhook = {"queue:system", "redis", "failures:load_test", "dead-letters"}
        try:
            site.wait_for("firing", prometheus=by_prometheus, webhook=by_webhook)
            seconds = time.monotonic() - start
        finally:
            site.workers["system"].send_signal(signal.SIGCONT)
            client.sendall(b"CONFIG SET maxmemory 0\r\n")
            assert client.recv(64) == b"+OK\r\n"
    recovered = {"WorkerGone", "QueueWithoutWorkers", "RedisNearlyFull"}
    site.wait_for("resolved", prometheus=recovered, webhook={"queue:system", "redis"})
    for name in by_webhook:
        assert site.by_webhook.told.count((name, "firing")) == 1
    record_property("figure", f"five problems at once were told after {seconds:.0f} s")


def test_rolling_restarts_are_not_told(site: Site) -> None:
    for _ in range(2):
        for queue in site.ports:
            site.workers[queue].send_signal(signal.SIGTERM)
            site.workers[queue].wait(60)
            site.workers[queue] = site.start_worker(queue)
            up = f'arq_workers{{queue="{queue}"}} == 1 and time() - timestamp(arq_workers) < 2'
            harness.wait_until(lambda up=up: site.is_true(up), "the worker does not report")  # type: ignore[misc]
    # Two looks of the watch, and the longest time for which a rule waits.
    time.sleep(25)
    assert site.by_webhook.told == []
    assert site.by_prometheus.told == []
