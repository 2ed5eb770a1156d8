"""The image and the compose file on a real engine, with every Docker command of the documentation."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import harness


def _engine() -> str:
    """Return why there is no engine to test on, or nothing."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    info = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return "" if info.returncode == 0 else f"no docker engine answers: {info.stderr.strip()[-200:]}"


NO_ENGINE = _engine()
pytestmark = [
    pytest.mark.skipif(bool(NO_ENGINE), reason=NO_ENGINE),
    pytest.mark.xdist_group("docker"),
]


class Stack:
    """A rendered project whose services run."""

    def __init__(self, project: Path) -> None:
        """Give it a port of its own, and its services a name of their own."""
        self.project = project
        self.port = harness.free_port()
        example = (project / ".env.example").read_text()
        (project / ".env").write_text(re.sub(r"(?m)^PORT=.*$", f"PORT={self.port}", example))
        self.name = f"aegis-{os.getpid()}-{project.name}"

    def run(
        self, *command: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project."""
        return harness.run(
            *command, cwd=self.project, check=check, timeout=600, stdin=stdin, COMPOSE_PROJECT_NAME=self.name
        )

    def compose(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        """Run docker compose, and return what it prints."""
        done = self.run("docker", "compose", *arguments, check=check, stdin=stdin)
        return done.stdout + done.stderr

    def python(self, code: str, service: str = "webserver") -> str:
        """Run Python in a service."""
        return self.compose("exec", "-T", service, "python", "-", stdin=code)

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self.compose("ps", "--quiet", "--all", service).split()[0]

    def inspect(self, service: str, template: str) -> str:
        """Return what docker says of a service's container."""
        return self.run("docker", "inspect", "--format", template, self.container(service)).stdout.strip()

    def layers(self, service: str) -> list[str]:
        """Return the layers of the image that a service runs."""
        image = self.inspect(service, "{{.Image}}")
        done = self.run("docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", image)
        layers: list[str] = json.loads(done.stdout)
        return layers


@pytest.fixture(scope="module")
def start(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Stack]]:
    """Return a function that starts a named variant by the commands of its compose file."""
    stacks: dict[str, Stack] = {}

    def get(name: str) -> Stack:
        if name not in stacks:
            project = harness.render(template, tmp_path_factory.mktemp("stack") / name, harness.variant(name))
            stacks[name] = Stack(project)
            stacks[name].compose("up", "--detach", "--build", "--wait")
        return stacks[name]

    yield get
    for stack in stacks.values():
        stack.compose(
            *("--profile", "dev", "down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "2")
        )


@pytest.fixture
def full(start: Callable[[str], Stack]) -> Stack:
    return start("full")


def test_every_variant_becomes_healthy(start: Callable[[str], Stack]) -> None:
    for name, services in {
        "no-worker": {"webserver"},
        "default": {"webserver", "redis", "worker-system", "worker-load-test"},
        "full": {"webserver", "redis", "worker-system", "worker-load-test", "worker-media"},
    }.items():
        stack = start(name)
        states = [json.loads(line) for line in stack.compose("ps", "--format", "json").splitlines()]
        assert {state["Service"]: state["Health"] for state in states} == dict.fromkeys(services, "healthy")
        if name != "full":
            stack.compose("down", "--volumes", "--timeout", "2")


def test_jobs_of_every_queue_succeed(full: Stack) -> None:
    code = (harness.ROOT / "tests/jobs.py").read_text()
    output = full.compose("exec", "-T", "worker-media", "python", "-", *harness.CATALOGUE, stdin=code)
    outcomes = [json.loads(line) for line in output.splitlines()]
    assert {outcome["queue"] for outcome in outcomes} == set(harness.CATALOGUE)
    assert all(outcome["success"] for outcome in outcomes), outcomes


def test_one_small_image_runs_all(full: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    services = ["webserver", *(queue["service"] for queue in harness.CATALOGUE.values())]
    assert len({tuple(full.layers(service)) for service in services}) == 1
    image = full.inspect("webserver", "{{.Image}}")
    size = int(full.run("docker", "image", "inspect", "--format", "{{.Size}}", image).stdout)
    with capsys.disabled():
        print(f"\nimage: {size / 1e6:.0f} MB")  # noqa: T201 - a figure, not a check


def test_a_container_can_do_little(full: Stack) -> None:
    assert full.python("import os; print(os.getuid())").strip() == "10001"
    refused = full.compose("exec", "-T", "worker-system", "touch", "/app/app/x", check=False)
    assert "Read-only file system" in refused
    full.compose("exec", "-T", "worker-system", "touch", "/app/data/x")
    found = full.compose("exec", "-T", "worker-system", "sh", "-c", "command -v uv gcc pytest mypy; true")
    assert found == ""
    listing = full.compose("exec", "-T", "worker-system", "ls", "-A", "/app", "/root", check=False)
    assert ".env" not in listing
    assert "pyproject.toml" not in listing
    for service in ("webserver", "worker-system", "redis"):
        assert full.inspect(service, "{{.HostConfig.CapDrop}}") == "[ALL]"
        assert "no-new-privileges:true" in full.inspect(service, "{{.HostConfig.SecurityOpt}}")
        assert int(full.inspect(service, "{{.HostConfig.Memory}}")) > 0
    for queue in harness.CATALOGUE.values():
        processes = full.compose("exec", "-T", queue["service"], "ps", "aux").splitlines()
        assert " 1 " in processes[1]
        assert "python -m arq app.components.worker.queues." in processes[1]


def test_every_variable_is_read_by_something(full: Stack) -> None:
    config = json.loads(full.compose("config", "--format", "json"))
    fields = json.loads(
        full.python(
            "import json; from app.core.config import Settings; print(json.dumps([*Settings.model_fields]))"
        )
    )
    # Compose itself reads the server's password for REDIS_URL and the command; uvicorn reads the second.
    read = {*fields, "REDIS_PASSWORD", "FORWARDED_ALLOW_IPS"}
    for name, service in config["services"].items():
        extra = {"REDISCLI_AUTH"} if name == "redis" else read
        assert set(service["environment"]) <= extra, name


def test_the_server_is_kept_from_others(full: Stack) -> None:
    assert full.inspect("redis", "{{.HostConfig.PortBindings}}") == "map[]"
    ping = "s = socket.create_connection(('redis', 6379)); s.send(b'PING\\r\\n'); print(s.recv(99))"
    assert "NOAUTH" in full.python(f"import socket; {ping}")
    config = full.compose("exec", "-T", "redis", "valkey-cli", "config", "get", "maxmemory-policy")
    assert "noeviction" in config
    assert "yes" in full.compose("exec", "-T", "redis", "valkey-cli", "config", "get", "appendonly")
    ports = full.run("docker", "port", full.container("webserver")).stdout
    assert ports.strip() == f"8000/tcp -> 127.0.0.1:{full.port}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Sends nothing: the kernel only picks the address of this machine that others see.
        probe.connect(("192.0.2.1", 9))
        address = probe.getsockname()[0]
    for port in (6379, full.port):
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((address, port), timeout=2)


@pytest.mark.parametrize(
    ("variant", "message"), [("full", "copy .env.example to .env"), ("no-worker", ".env not found")]
)
def test_a_missing_env_file_is_named(
    full: Stack, rendered: Callable[[str], Path], tmp_path: Path, variant: str, message: str
) -> None:
    (tmp_path / "docker-compose.yml").write_text((rendered(variant) / "docker-compose.yml").read_text())
    done = harness.run(
        "docker", "compose", "config", cwd=tmp_path, check=False, COMPOSE_PROJECT_NAME=full.name
    )
    assert done.returncode != 0
    assert message in done.stderr


def test_the_commented_worker_runs_once_it_is_uncommented(start: Callable[[str], Stack]) -> None:
    stack = start("default")
    assert "worker-media" not in stack.compose("config", "--services")
    harness.uncomment(stack.project, "media")
    assert "worker-media" in stack.compose("config", "--services")
    stack.compose("up", "--detach", "--build", "--wait")
    assert stack.inspect("worker-media", "{{.State.Health.Status}}") == "healthy"
    stack.compose("down", "--volumes", "--timeout", "2")


SEND = """
import asyncio
from app.components.worker.enqueue import enqueue
from app.components.worker.queues.load_test import WorkerSettings
from app.components.worker.tasks.load_test import io_simulation_task
from app.core.config import settings
from app.core.redis import create_client

async def main():
    redis = create_client(settings.redis_settings)
    job = await enqueue(redis, WorkerSettings, io_simulation_task, wait_ms=5000)
    while await job.status() != "in_progress":
        await asyncio.sleep(0.05)
    print(job.job_id)

asyncio.run(main())
"""
RESULT = """
import asyncio, sys
from arq.jobs import Job
from app.core.config import settings
from app.core.redis import create_client

async def main():
    redis = create_client(settings.redis_settings)
    job = Job({job_id!r}, redis, "arq:queue:load_test", redis.job_deserializer)
    info = await job.result_info()
    print(info and (info.success, info.job_try))

asyncio.run(main())
"""


def test_a_stop_lets_a_running_job_finish(full: Stack) -> None:
    job_id = full.python(SEND).strip()
    full.compose("stop", "worker-load-test")
    assert full.python(RESULT.format(job_id=job_id)).strip() == "(True, 1)"
    assert full.inspect("worker-load-test", "{{.State.ExitCode}}") == "0"
    full.compose("up", "--detach", "--wait")


def test_a_killed_worker_comes_back_and_runs_its_job_again(start: Callable[[str], Stack]) -> None:
    stack = start("full")
    # With the shipped timeout of 60 s the job would stay locked for 70 s.
    path = stack.project / "app/components/worker/queues/load_test.py"
    text = path.read_text()
    path.write_text(text.replace("job_timeout = 60", "job_timeout = 6"))
    try:
        stack.compose("up", "--detach", "--build", "--wait")
        job_id = stack.python(SEND).strip()
        # Docker restarts what has died, but not what it has killed itself on a person's behalf.
        # Only a privileged container can kill the process on an engine of another user or machine.
        kill = f"import os; os.kill({stack.inspect('worker-load-test', '{{.State.Pid}}')}, 9)"
        image = stack.inspect("webserver", "{{.Image}}")
        stack.run(*("docker", "run", "--rm", "--pid", "host", "--user", "0", image, "python", "-c", kill))
        harness.wait_until(
            lambda: stack.inspect("worker-load-test", "{{.RestartCount}}") == "1",
            "the worker did not come back",
        )
        harness.wait_until(
            lambda: stack.python(RESULT.format(job_id=job_id)).strip() == "(True, 2)",
            "the job did not run again",
            seconds=40,
        )
    finally:
        path.write_text(text)
        stack.compose("up", "--detach", "--build", "--wait")


def test_a_change_of_code_is_running_soon(full: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    before = full.layers("webserver")
    path = full.project / "app/components/backend/api/health.py"
    path.write_text(path.read_text().replace('status="pass")', 'status="pass", output="newer")', 1))
    began = time.monotonic()
    full.compose("up", "--detach", "--build", "--wait", "webserver")
    answer = full.run("curl", "--silent", "--fail", f"http://127.0.0.1:{full.port}/livez").stdout
    took = time.monotonic() - began
    assert "newer" in answer
    # Only the code and its bytecode are new.
    assert full.layers("webserver")[:-2] == before[:-2]
    assert full.layers("webserver") != before
    with capsys.disabled():
        print(f"\ncode change to running web container: {took:.1f} s")  # noqa: T201 - a figure, not a check


def test_a_worker_that_is_built_alone_runs_the_new_code(full: Stack) -> None:
    path = full.project / "app/components/worker/tasks/load_test.py"
    path.write_text(path.read_text() + "\nEDITED = True\n")
    full.compose("up", "--detach", "--build", "--wait", "worker-load-test")
    code = "from app.components.worker.tasks.load_test import EDITED; print(EDITED)"
    assert full.python(code, "worker-load-test").strip() == "True"


def test_the_queue_outlives_a_restart_of_the_server(full: Stack) -> None:
    full.compose("stop", "worker-load-test")
    job_id = full.python(SEND.replace('"in_progress"', '"queued"')).strip()
    full.compose("restart", "redis")
    full.compose("up", "--detach", "--wait")
    harness.wait_until(
        lambda: full.python(RESULT.format(job_id=job_id)).strip() == "(True, 1)", "the job is lost"
    )
    # The other workers waited for the server instead of ending.
    assert full.inspect("worker-system", "{{.RestartCount}}") == "0"


def test_docker_takes_its_own_kill_for_a_wish(full: Stack) -> None:
    full.compose("kill", "worker-media")
    time.sleep(2)
    assert full.inspect("worker-media", "{{.State.Status}}") == "exited"
    full.compose("up", "--detach", "--wait")


def test_the_dev_service_runs_what_is_edited(full: Stack) -> None:
    full.compose("stop", "--timeout", "2", "webserver", *(q["service"] for q in harness.CATALOGUE.values()))
    full.compose("up", "--detach", "--build", "dev")
    url = f"http://127.0.0.1:{full.port}"

    def answer(path: str) -> str:
        return full.run("curl", "--silent", f"{url}{path}", check=False).stdout

    harness.wait_until(lambda: '"status":"pass"' in answer("/health"), "dev is not healthy", seconds=60)
    path = full.project / "app/components/backend/api/health.py"
    path.write_text(
        path.read_text()
        .replace('"newer"', '"edited"')
        .replace('status="pass")', 'status="pass", output="edited")', 1)
    )
    harness.wait_until(lambda: "edited" in answer("/livez"), "the edit does not run", seconds=60)

    # The worker too, whose own --watch would run the old code.
    path = full.project / "app/components/worker/tasks/load_test.py"
    path.write_text(path.read_text().replace("payload_bytes=len(payload)", "payload_bytes=-1"))
    code = SEND.replace("wait_ms=5000", "").replace("print(job.job_id)", "print(await job.result())")
    code = re.sub(r"(?m)^    while .*\n.*\n", "", code)
    harness.wait_until(lambda: "-1" in full.python(code, "dev"), "the worker runs old code", seconds=30)
    full.compose("rm", "--stop", "--force", "dev")
    full.compose("up", "--detach", "--build", "--wait")


def test_every_command_of_the_documentation_prints_what_it_says(full: Stack) -> None:
    text = (full.project / "docs/docker.md").read_text()
    (script,) = re.findall(r"```python\n# send\.py\n(.*?)```", text, re.S)
    (full.project / "send.py").write_text(script)
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    commands = [part.splitlines() for block in blocks for part in re.split(r"(?m)^\$ ", block) if part]
    assert len(commands) > 20
    # Other tests have stopped workers: what they missed meanwhile is reported until its next run.
    full.compose("exec", "-T", "redis", "valkey-cli", "FLUSHALL")
    probe = ("exec", "-T", "webserver", "full-stack", "health", "probe")
    harness.wait_until(
        lambda: full.compose(*probe, check=False).startswith("pass"), "the application is not healthy"
    )
    for command, *expected in commands:
        if command.startswith("cp "):
            continue
        _expect(full, command, expected)


def _expect(stack: Stack, command: str, expected: list[str]) -> None:
    """Run a command until it ends or, if it follows something, until it has printed what is expected."""
    follows = "--follow" in command
    log = stack.project / "output.txt"
    log.unlink(missing_ok=True)
    shell = ("bash", "-c", command)
    variables = {"COMPOSE_PROJECT_NAME": stack.name, "COLUMNS": "250"}
    with harness.running(*shell, cwd=stack.project, log=log, stop=signal.SIGTERM, **variables) as process:
        if not follows:
            assert process.wait(timeout=300) == 0, f"{command}\n{log.read_text()}"
        try:
            harness.wait_until(
                lambda: not _missing(log.read_text(), expected), "", seconds=180 if follows else 0
            )
        except TimeoutError:
            pytest.fail(f"{command} lacks {_missing(log.read_text(), expected)} in\n{log.read_text()}")


def _missing(output: str, expected: list[str]) -> list[str]:
    """Return the expected lines that no line matches, each line matching one; `…` stands for anything."""
    lines, missing = output.splitlines(), []
    for line in expected:
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        found = next((one for one in lines if re.search(pattern, one)), None)
        if found is None:
            missing.append(line)
        else:
            lines.remove(found)
    return missing
