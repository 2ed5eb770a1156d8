"""Rendered projects on a real Docker engine: what the image holds, what compose starts, and what survives."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import copier
import pytest
import yaml

ROOT = Path(__file__).parents[1]
ENGINE = (
    subprocess.run(["docker", "info"], capture_output=True, text=True) if shutil.which("docker") else None
)

pytestmark = [
    pytest.mark.skipif(ENGINE is None, reason="there is no docker command"),
    pytest.mark.skipif(
        ENGINE is not None and ENGINE.returncode != 0,
        reason=f"no Docker engine answers: {ENGINE.stderr.strip().splitlines()[-1:] if ENGINE else ''}",
    ),
    pytest.mark.xdist_group("docker"),
    pytest.mark.filterwarnings("ignore::copier.errors.DirtyLocalWarning"),
]

# What a shell may have that would win over a project's .env.
_LEFT_OUT = re.compile(r"COMPOSE_|(HOST|PORT|LOG_LEVEL|LOG_FORMAT|REDIS_URL|REDIS_PASSWORD)$")
# So short that a test can wait until a killed worker's job runs again.
JOB_TIMEOUT = 8

SLOW_TASK = """\
import asyncio
from typing import Any


async def slow_task(ctx: dict[str, Any], seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"slept in try {ctx['job_try']}"
"""

# Reads lines of "queue task {arguments}", sends the jobs, and prints the id and, unless told not to wait, the
# outcome of each.
SEND = """\
import asyncio, json, sys
from importlib import import_module
from app.components.worker.enqueue import enqueue
from app.core.config import settings
from app.core.redis import create_client

async def main():
    redis = create_client(settings.redis_settings)
    jobs = []
    for queue, task, arguments in JOBS:
        worker = import_module(f"app.components.worker.queues.{queue}").WorkerSettings
        function = next(f for f in worker.functions if f.__name__ == task)
        jobs.append(await enqueue(redis, worker, function, **arguments))
    for job in jobs:
        print(json.dumps([job.job_id, await job.result(timeout=60) if WAIT else None]))
    await redis.aclose()

asyncio.run(main())
"""

OUTCOME = """\
import asyncio, json
from arq.jobs import Job
from app.core.config import settings
from app.core.redis import create_client

async def main():
    redis = create_client(settings.redis_settings)
    job = Job(JOB_ID, redis, QUEUE, _deserializer=redis.job_deserializer)
    info = await job.result_info()
    outcome = info and [info.success, info.job_try, str(info.result)]
    print(json.dumps({"status": str((await job.status()).value), "outcome": outcome}))
    await redis.aclose()

asyncio.run(main())
"""


class Stack:
    """A rendered project that is run under a name and a port of its own."""

    def __init__(self, project: Path) -> None:
        """Take the one manual step that a user takes."""
        self.project = project
        self.answers: dict[str, Any] = yaml.safe_load((project / ".copier-answers.yml").read_text())
        self.slug: str = self.answers["project_slug"]
        self.name = f"aegis-{uuid4().hex[:8]}"
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port: int = server.getsockname()[1]
        self.environment = {k: v for k, v in os.environ.items() if not _LEFT_OUT.match(k)} | {
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_ANSI": "never",
            "PORT": str(self.port),
        }
        shutil.copy(project / ".env.example", project / ".env")

    def run(
        self, *command: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project; a failure shows what it printed."""
        done = subprocess.run(
            command,
            cwd=self.project,
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run docker compose on the project."""
        return self.run("docker", "compose", *arguments, check=check)

    def up(self, *arguments: str) -> None:
        """Start the project, until every service is healthy."""
        self.compose("up", "--detach", "--build", "--wait", *arguments)

    def config(self) -> dict[str, Any]:
        """Return what compose makes of the project's files."""
        config: dict[str, Any] = json.loads(self.compose("config", "--format", "json").stdout)
        return config

    def python(self, script: str, service: str = "webserver") -> str:
        """Run a script in a service's container and return what it prints."""
        return self.run("docker", "compose", "exec", "-T", service, "python", "-", stdin=script).stdout

    def send(self, *jobs: tuple[str, str, dict[str, Any]], wait: bool = True) -> list[tuple[str, Any]]:
        """Send jobs of (queue, task, arguments) and return the id and the result of each."""
        printed = self.python(f"JOBS = {list(jobs)!r}\nWAIT = {wait}\n{SEND}")
        return [tuple(json.loads(line)) for line in printed.splitlines()]

    def outcome(self, job_id: str, queue: str) -> dict[str, Any]:
        """Return a job's status, and how it ended."""
        printed = self.python(f"JOB_ID, QUEUE = {job_id!r}, 'arq:queue:{queue}'\n{OUTCOME}")
        outcome: dict[str, Any] = json.loads(printed)
        return outcome

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Return what the engine knows of a service's containers, running or not."""
        ids = self.compose("ps", "--all", "--quiet", service).stdout.split()
        found: list[dict[str, Any]] = json.loads(self.run("docker", "inspect", *ids).stdout)
        return sorted(found, key=lambda container: container["Name"])

    def get(self, path: str) -> str:
        """Return the body of the web server's answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:  # noqa: S310
            body: bytes = response.read()
        return body.decode()

    def health(self) -> str:
        """Return the detailed report, which says that all is well."""
        return self.compose("exec", "webserver", self.slug, "health", "status", "--detailed").stdout

    def edit(self, path: str, pattern: str, replacement: str) -> None:
        """Change a file where `pattern` matches, once."""
        file = self.project / path
        text, count = re.subn(pattern, replacement, file.read_text(), count=1)
        assert count, f"{path} has no {pattern}"
        file.write_text(text)

    def down(self) -> None:
        """Remove all that was started."""
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "2")


def until(what: Callable[[], Any], seconds: float = 30) -> Any:
    """Return what `what` gives when that is true; an error of the connection is not yet an answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := what():
                return found
        except OSError as error:
            found = error
        assert time.monotonic() < deadline, f"not within {seconds} s: {found!r}"
        time.sleep(0.3)


def render(target: Path, variant: str, **answers: str) -> Path:
    data = yaml.safe_load((ROOT / "tests/answers" / f"{variant}.yml").read_text()) | answers
    copier.run_copy(str(ROOT), target, data=data, defaults=True, vcs_ref="HEAD", quiet=True)
    return target


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run every queue, with a slow task for the system queue and a short timeout for the load-test queue."""
    stack = Stack(render(tmp_path_factory.mktemp("full"), "full"))
    (stack.project / "app/components/worker/tasks/slow.py").write_text(SLOW_TASK)
    system = "app/components/worker/queues/system.py"
    stack.edit(
        system, r"(?m)^from app\.core", "from app.components.worker.tasks.slow import slow_task\n\\g<0>"
    )
    stack.edit(system, r"(?m)^    functions.* = \[$", "\\g<0>\n        slow_task,")
    stack.edit(
        "app/components/worker/queues/load_test.py", r"job_timeout = \d+", f"job_timeout = {JOB_TIMEOUT}"
    )
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run the default project as it is rendered."""
    stack = Stack(render(tmp_path_factory.mktemp("default"), "default"))
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def services(stack: Stack) -> set[str]:
    return set(stack.compose("config", "--services").stdout.split())


def addresses_beyond_loopback() -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # It sends nothing: the kernel only chooses the address that it would send from.
        probe.connect(("192.0.2.1", 9))
        found: str = probe.getsockname()[0]
    return [] if found.startswith("127.") else [found]


# --- The default project ----------------------------------------------------------------------------------


def test_default_runs_jobs(default: Stack) -> None:
    assert services(default) == {"webserver", "worker-system", "worker-load-test", "redis"}
    results = default.send(("system", "system_health_check", {}), ("load_test", "io_simulation_task", {}))
    assert results[0][1]["redis_ping_ms"] > 0
    assert results[1][1]["payload_bytes"] == 1024


def test_optional_queue_is_uncommented_by_hand(default: Stack, tmp_path: Path) -> None:
    wanted = render(tmp_path / "run", "default", queue_media="run")
    for name, first in (
        ("docker-compose.yml", "  # worker-media:"),
        ("app/core/config.py", '    # "media": {'),
    ):
        lines = (default.project / name).read_text().split("\n")
        start, indent = lines.index(first), len(first) - len(first.lstrip())
        for at in range(start, len(lines)):
            if not lines[at].startswith(" " * indent + "# "):
                break
            lines[at] = lines[at][:indent] + lines[at][indent + 2 :]
        (default.project / name).write_text("\n".join(lines))
        assert (default.project / name).read_bytes() == (wanted / name).read_bytes()

    assert "worker-media" in services(default)
    default.up()
    assert re.search(r"queue:media +pass", default.health())


def test_env_file_is_asked_for(tmp_path: Path) -> None:
    for variant, message in (("default", "copy .env.example to .env"), ("no-worker", ".env not found")):
        stack = Stack(render(tmp_path / variant, variant))
        (stack.project / ".env").unlink()
        refusal = stack.compose("config", check=False)
        assert refusal.returncode != 0
        assert message in refusal.stderr


# --- The image --------------------------------------------------------------------------------------------


def test_every_service_runs_the_same_image(full: Stack) -> None:
    contents = set()
    for service in services(full) - {"redis"}:
        [container] = full.containers(service)
        [image] = json.loads(full.run("docker", "image", "inspect", container["Image"]).stdout)
        contents.add(tuple(image["RootFS"]["Layers"]))
        assert image["Config"]["User"] == "10001"
    assert len(contents) == 1


def test_image_holds_only_what_runs(full: Stack) -> None:
    image = full.containers("webserver")[0]["Image"]
    history = full.run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "uv sync" not in history
    assert "change-me" not in history + full.run("docker", "image", "inspect", image).stdout
    found = full.compose(
        *("exec", "webserver", "sh", "-c"),
        "find / -xdev '(' -name .env -o -name 'uv' -o -name 'gcc*' -o -name '.cache' -o -name .git ')'"
        " -not -path '/proc/*' -not -path '/usr/share/*' -not -path '/usr/lib/*' -print 2>/dev/null;"
        " ls /app /root/.cache 2>/dev/null; ls /app/.venv/bin",
        check=False,
    ).stdout.split()
    assert {".env", "uv", ".cache", "pytest", "mypy", "ruff", "watchfiles"}.isdisjoint(found)
    assert not [path for path in found if path.startswith("/")]


def test_container_can_change_nothing_but_its_data(full: Stack) -> None:
    for service in services(full):
        [container] = full.containers(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["Memory"]
        assert host["NanoCpus"]
    shown = full.compose(
        *("exec", "worker-system", "sh", "-c"),
        "id --user; grep CapEff /proc/1/status; tr '\\0' ' ' < /proc/1/cmdline; echo;"
        " touch /tmp/x data/x && echo writes; touch app/x",
        check=False,
    )
    assert shown.stdout.splitlines() == [
        "10001",
        "CapEff:\t0000000000000000",
        "python -m arq app.components.worker.queues.system.WorkerSettings ",
        "writes",
    ]
    assert "Read-only file system" in shown.stderr


@pytest.mark.parametrize("variant", ["default", "full", "no-worker"])
def test_dockerfile_is_clean(variant: str, tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint") or pytest.skip("there is no hadolint command")
    project = render(tmp_path / variant, variant)
    checked = subprocess.run([hadolint, "Dockerfile"], cwd=project, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


# --- Compose ----------------------------------------------------------------------------------------------


def test_every_variable_is_read(full: Stack) -> None:
    config = full.config()
    fields = set(
        json.loads(
            full.python(
                "import json; from app.core.config import Settings; print(json.dumps([*Settings.model_fields]))"
            )
        )
    )
    compose_file = (full.project / "docker-compose.yml").read_text()
    example = (full.project / ".env.example").read_text()
    interpolated = set(re.findall(r"\$\{(\w+)", compose_file))
    assert interpolated == {"PORT", "REDIS_PASSWORD"}
    # The .env file goes into the containers as it is: its one name that is no setting is compose's own.
    assert set(re.findall(r"(?m)^#? ?(\w+)=", example)) <= fields | interpolated
    for service in services(full) - {"redis"}:
        assert set(config["services"][service]["environment"]) <= fields | {"REDIS_PASSWORD"}

    # valkey-cli reads it, as the refusal without it shows.
    assert set(config["services"]["redis"]["environment"]) == {"REDISCLI_AUTH"}
    # And what compose sets wins over .env.
    values = full.python("from app.core.config import settings as s; print(s.HOST, s.PORT, s.LOG_FORMAT)")
    assert values.split() == ["0.0.0.0", "8000", "json"]  # noqa: S104


def test_stopping_takes_longer_than_jobs_are_waited_for(full: Stack) -> None:
    for queue in ("system", "load_test", "media"):
        service = f"worker-{queue.replace('_', '-')}"
        module = f"app.components.worker.queues.{queue}"
        wait = float(full.python(f"import {module} as q; print(q.WorkerSettings.job_completion_wait)"))
        assert full.containers(service)[0]["Config"]["StopTimeout"] > wait
        command = ["python", "-m", "arq", f"{module}.WorkerSettings"]
        described = full.config()["services"][service]
        assert described["command"] == command
        assert described["healthcheck"]["test"] == ["CMD", *command, "--check"]


def test_server_is_private_and_durable(full: Stack) -> None:
    [server] = full.containers("redis")
    assert not any(server["NetworkSettings"]["Ports"].values())
    ports = [
        binding
        for found in full.containers("webserver")[0]["NetworkSettings"]["Ports"].values()
        for binding in found
    ]
    assert {binding["HostIp"] for binding in ports} == {"127.0.0.1"}
    for address in addresses_beyond_loopback():
        for port in (6379, full.port):
            with pytest.raises(OSError, match="refused|timed out"):
                socket.create_connection((address, port), timeout=2)

    cli = ("exec", "redis", "valkey-cli", "-e")
    assert full.compose(*cli, "ping").stdout.strip() == "PONG"
    for login in (("-u", "REDISCLI_AUTH"), ("REDISCLI_AUTH=wrong",)):
        refused = full.compose("exec", "redis", "env", *login, "valkey-cli", "-e", "ping", check=False)
        assert refused.returncode != 0
        assert re.search("NOAUTH|WRONGPASS", refused.stdout + refused.stderr)
    for name, value in (
        ("maxmemory-policy", "noeviction"),
        ("appendonly", "yes"),
        ("maxmemory", "536870912"),
    ):
        assert full.compose(*cli, "config", "get", name).stdout.split() == [name, value]


def test_every_queue_runs_jobs(full: Stack) -> None:
    full.python(
        "from PIL import Image; from app.core.config import settings as s\n"
        "s.MEDIA_DIR.mkdir(parents=True, exist_ok=True)\n"
        "Image.new('RGB', (640, 480)).save(s.MEDIA_DIR / 'picture.png')"
    )
    results = full.send(
        ("system", "system_health_check", {}),
        ("system", "cleanup_temp_files", {}),
        ("load_test", "io_simulation_task", {}),
        ("load_test", "cpu_intensive_task", {}),
        ("load_test", "memory_operations_task", {"megabytes": 256}),
        ("media", "make_thumbnail", {"source": "picture.png", "target": "small.jpg", "max_side": 64}),
        ("media", "describe_media", {"source": "picture.png"}),
    )
    assert results[5][1]["width"] == 64
    assert json.loads(full.get("/health"))["status"] == "pass"


def test_queue_outlives_a_restart_of_the_server(full: Stack) -> None:
    full.compose("stop", "worker-media")
    [(job_id, _)] = full.send(("media", "describe_media", {"source": "picture.png"}), wait=False)
    full.compose("restart", "redis")
    full.compose("start", "worker-media")
    outcome = until(lambda: (now := full.outcome(job_id, "media"))["status"] == "complete" and now)
    assert outcome["outcome"][:2] == [True, 1]
    # The workers waited for the server instead of ending.
    assert full.containers("worker-system")[0]["RestartCount"] == 0


# --- Replicas, and workers that end -----------------------------------------------------------------------


def test_replicas_report_each_for_itself(full: Stack) -> None:
    full.compose("up", "--detach", "--wait", "--scale", "worker-load-test=3")
    replicas = full.containers("worker-load-test")
    keys = {f"arq:queue:load_test:health-check:{container['Config']['Hostname']}" for container in replicas}
    assert set(re.findall(r"arq:queue:load_test:health-check:\w+", full.health())) == keys
    assert len(keys) == 3

    full.run("docker", "stop", replicas[2]["Id"])
    stopped = f"arq:queue:load_test:health-check:{replicas[2]['Config']['Hostname']}"
    assert set(re.findall(r"arq:queue:load_test:health-check:\w+", full.health())) == keys - {stopped}
    for index in ("1", "2"):
        check = ("python", "-m", "arq", "app.components.worker.queues.load_test.WorkerSettings", "--check")
        full.compose("exec", "--index", index, "worker-load-test", *check)
    full.compose("up", "--detach", "--wait", "--scale", "worker-load-test=1")


def test_stop_lets_a_job_finish(full: Stack) -> None:
    [(job_id, _)] = full.send(("system", "slow_task", {"seconds": 5}), wait=False)
    until(lambda: full.outcome(job_id, "system")["status"] == "in_progress")
    start = time.monotonic()
    full.compose("stop", "worker-system")
    assert 1 < time.monotonic() - start < 10
    assert full.containers("worker-system")[0]["State"]["ExitCode"] == 0
    assert full.outcome(job_id, "system")["outcome"] == [True, 1, "slept in try 1"]
    full.up()


def test_killed_worker_comes_back_and_its_job_runs_again(
    full: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    [worker] = full.containers("worker-load-test")
    [(job_id, _)] = full.send(("load_test", "io_simulation_task", {"wait_ms": 3000}), wait=False)
    until(lambda: full.outcome(job_id, "load_test")["status"] == "in_progress")
    start = time.monotonic()
    # `docker kill` would count as a wish to stop it, and within its container process 1 is immune.
    kill = f"import os; os.kill({worker['State']['Pid']}, 9)"
    image = full.containers("webserver")[0]["Image"]
    full.run("docker", "run", "--rm", "--pid", "host", "--user", "0", image, "python", "-c", kill)

    until(lambda: full.containers("worker-load-test")[0]["RestartCount"] == 1)
    until(lambda: full.containers("worker-load-test")[0]["State"]["Health"]["Status"] == "healthy")
    back = time.monotonic() - start
    outcome = until(lambda: (now := full.outcome(job_id, "load_test"))["status"] == "complete" and now, 60)
    again = time.monotonic() - start
    assert outcome["outcome"][:2] == [True, 2]
    assert again > JOB_TIMEOUT + 3
    with capsys.disabled():
        print(f"\nkilled worker: healthy after {back:.1f} s, its job done again after {again:.1f} s")  # noqa: T201


def test_docker_kill_counts_as_a_stop(full: Stack) -> None:
    full.compose("kill", "worker-media")
    time.sleep(2)
    assert full.containers("worker-media")[0]["State"]["Status"] == "exited"
    full.up()


def test_code_change_is_rebuilt_in_seconds(full: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    def layers(image: str) -> list[str]:
        found = json.loads(full.run("docker", "image", "inspect", image).stdout)[0]["RootFS"]["Layers"]
        return list(found)

    before = full.containers("webserver")[0]["Image"]
    old = layers(before)
    full.edit(
        "app/components/backend/api/health.py",
        r'Probe\(status="pass"\)',
        'Probe(status="pass", output="new")',
    )
    start = time.monotonic()
    full.up("webserver")
    until(lambda: "new" in full.get("/livez"))
    seconds = time.monotonic() - start
    after = full.containers("webserver")[0]["Image"]
    # The code and its bytecode alone: a registry keeps the rest.
    assert layers(after)[:-2] == old[:-2]
    size = int(full.run("docker", "image", "inspect", "--format", "{{.Size}}", after).stdout)
    base = re.findall(r"(?m)^FROM (\S+) AS base", (full.project / "Dockerfile").read_text())[0]
    own = size - int(full.run("docker", "image", "inspect", "--format", "{{.Size}}", base).stdout)
    with capsys.disabled():
        print(  # noqa: T201
            f"\nimage: {size / 1e6:.0f} MB, {own / 1e6:.0f} MB of them above {base};"
            f" code change to running web container: {seconds:.1f} s"
        )
    assert seconds < 60


# --- The documentation ------------------------------------------------------------------------------------


def documentation(project: Path) -> str:
    return (project / "docs/worker.md").read_text()


def console_blocks(text: str) -> list[tuple[str, list[str]]]:
    """Return the commands of the blocks that use Docker, each with the lines that its output has."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"(?ms)^ *```console\n(.*?)^ *```$", text):
        if "$ docker" not in block:
            continue
        for line in textwrap.dedent(block).splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def test_documented_commands_print_what_is_documented(full: Stack) -> None:
    text = documentation(full.project)
    for name, script in re.findall(r"(?s)```python\n(# (\w+\.py)\n.*?)```", text):
        (full.project / script).write_text(name)
    commands = console_blocks(text)
    assert len(commands) > 25
    # The developers' file has a name for its project, which must not be that of the test's.
    full.down()
    for command, lines in commands:
        follow(full, command, lines)


def follow(stack: Stack, command: str, lines: list[str]) -> None:
    """Run a command until it has printed all the lines, in which `…` stands for anything."""
    patterns = [re.escape(line).replace("…", ".*") for line in lines]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=stack.project,
            env=stack.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        try:
            while True:
                ended = process.poll()
                output.seek(0)
                printed = output.read()
                missing = [pattern for pattern in patterns if not re.search(pattern, printed)]
                if (
                    ended is not None
                    or (not missing and "--follow" in command)
                    or time.monotonic() > deadline
                ):
                    break
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert not missing, f"$ {command}\n{printed[-4000:]}\nmisses {missing}"
    assert ended == 0 or "--follow" in command, f"$ {command}\n{printed[-4000:]}\nended with {ended}"


# --- Development ------------------------------------------------------------------------------------------


def test_development_runs_edits(tmp_path: Path) -> None:
    stack = Stack(render(tmp_path / "default", "default"))
    stack.environment["COMPOSE_FILE"] = "docker-compose.dev.yml"
    try:
        stack.up()
        stack.edit(
            "app/components/backend/api/health.py",
            r'Probe\(status="pass"\)',
            'Probe(status="pass", output="new")',
        )
        stack.edit(
            "app/components/worker/tasks/load_test.py", r"payload_bytes=len\(payload\)", "payload_bytes=-1"
        )
        until(lambda: "new" in stack.get("/livez"))

        def result() -> Any:
            job = ("load_test", "io_simulation_task", {})
            printed = stack.run(
                *("docker", "compose", "exec", "-T", "dev", "python", "-"),
                stdin=f"JOBS = [{job!r}]\nWAIT = True\n{SEND}",
            ).stdout
            return json.loads(printed)[1]["payload_bytes"] == -1

        until(result)
    finally:
        stack.down()


# --- Without background jobs ------------------------------------------------------------------------------


def test_project_without_workers_is_one_service(tmp_path: Path) -> None:
    stack = Stack(render(tmp_path / "no-worker", "no-worker"))
    try:
        stack.up()
        assert services(stack) == {"webserver"}
        assert json.loads(stack.get("/health"))["status"] == "pass"
        assert stack.compose("exec", "webserver", stack.slug, "health", "status").stdout.split() == [
            "disk",
            "pass",
        ]
        for name in ("Dockerfile", "docker-compose.yml", ".env.example", ".dockerignore"):
            assert not re.search(
                "(?i)redis|valkey|arq|worker|queue",
                (stack.project / name).read_text().replace("no-worker", ""),
            )
        assert not (stack.project / "docker-compose.dev.yml").exists()
    finally:
        stack.down()
