"""The Swarm stack on two real engines, each in a network namespace of its own: no job is lost.

It needs root, `dockerd`, `ip` and `nsenter`, and an engine that builds the images, as the container tests do.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.test_containers import NO_ENGINE

MISSING = [name for name in ("dockerd", "nsenter", "ip", "iptables") if shutil.which(name) is None]
REASON = (
    NO_ENGINE
    or (f"there is no {', '.join(MISSING)}" if MISSING else "")
    or ("only root makes network namespaces" if os.geteuid() else "")
)
pytestmark = [
    pytest.mark.skipif(bool(REASON), reason=REASON),
    pytest.mark.xdist_group("docker"),
]

STACK = "full-stack"
STACK_FILE = "deploy/swarm/docker-stack.yml"
JOBS = 5000
SERVER_IMAGE = "valkey/valkey:9-alpine"
# Which machine's worker has run each job of a run, at which try, and with which outcome.
OUTCOMES = """
import asyncio, json, sys
from arq.constants import result_key_prefix
from app.core.config import settings
from app.core.redis import create_client

async def main(run_id, jobs):
    found = []
    async with create_client(settings.redis_settings) as redis:
        names = [f"{result_key_prefix}bulk:{run_id}:{number}" for number in range(jobs)]
        for raw in await redis.mget(names):
            result = raw and redis.job_deserializer(raw)
            found.append(result and [result["s"], result["t"], result["s"] and result["r"]["worker"]])
    print(json.dumps(found))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a command, and return what it prints."""
    return harness.run(*command, cwd=harness.ROOT, stdin=stdin, check=check, timeout=600).stdout


class Node:
    """A machine of the swarm: an engine with a network of its own."""

    def __init__(self, directory: Path, name: str, address: str) -> None:
        """Name it, and give it a place for all that its engine writes."""
        self.directory = directory / name[-1]
        self.directory.mkdir()
        self.name = name
        self.address = address
        self.socket = f"unix://{self.directory}/docker.sock"

    def docker(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Ask its engine."""
        return run("docker", "--host", self.socket, *arguments, stdin=stdin, check=check).strip()

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers that run here."""
        label = f"label=com.docker.swarm.service.name={STACK}_{service}"
        return self.docker("ps", "--quiet", "--filter", label).split()

    @contextmanager
    def engine(self) -> Iterator[None]:
        """Run its engine, and end it with all of its containers."""
        command = (
            *("nsenter", f"--net=/run/netns/{self.name}", "dockerd", "--host", self.socket),
            *("--data-root", str(self.directory / "data"), "--exec-root", str(self.directory / "exec")),
            *("--pidfile", str(self.directory / "pid"), "--log-level", "warn", "--bridge", "none"),
            *("--containerd-namespace", self.name, "--containerd-plugins-namespace", f"{self.name}-plugins"),
        )
        try:
            with harness.running(*command, cwd=self.directory, log=self.directory / "log"):
                harness.wait_until(
                    lambda: self.docker("info", "--format", "{{.ServerVersion}}", check=False),
                    f"dockerd does not answer: {(self.directory / 'log').read_text()[-500:]}",
                )
                try:
                    yield
                finally:
                    self.docker("swarm", "leave", "--force", check=False)
                    harness.wait_until(
                        lambda: not self.docker("ps", "--quiet", check=False),
                        "containers are left",
                        seconds=90,
                    )
        finally:
            # The engine leaves the network namespaces of its load balancers mounted.
            for line in Path("/proc/mounts").read_text().splitlines():
                if (place := line.split()[1]).startswith(f"{self.directory}/"):
                    run("umount", place, check=False)


@contextmanager
def network(names: dict[str, str]) -> Iterator[None]:
    """Make one network namespace for each name, with its address, and a bridge that joins them."""
    bridge = f"aegis-{os.getpid()}-bridge"
    with ExitStack() as stack:
        for name in (bridge, *names):
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name)
        run("ip", "-n", bridge, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", bridge, "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(names.items()):
            pair = ("link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", bridge, *pair)
            run("ip", "-n", bridge, "link", "set", f"port{number}", "master", "bridge", "up")
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield


def can_encrypt() -> bool:
    """Say whether this kernel has what Swarm encrypts a network with: IPsec's ESP."""
    name = f"aegis-{os.getpid()}-esp"
    key = f"0x{'0' * 40}"
    state = ("src", "10.0.0.1", "dst", "10.0.0.2", "proto", "esp", "spi", "1", "mode", "transport")
    run("ip", "netns", "add", name)
    try:
        command = ("ip", "-n", name, "xfrm", "state", "add", *state, "aead", "rfc4106(gcm(aes))", key, "64")
        return harness.run(*command, cwd=harness.ROOT, check=False).returncode == 0
    finally:
        run("ip", "netns", "delete", name)


@pytest.fixture(scope="module")
def image(project: Path, nodes: list[Node], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the project's image and copy it to the nodes with the server's, since there is no registry."""
    image = f"aegis-{os.getpid()}-swarm:1.0.0"
    archive = tmp_path_factory.mktemp("images") / "images.tar"
    harness.run("docker", "build", "--tag", image, ".", cwd=project, timeout=600)
    run("docker", "save", "--output", str(archive), image, SERVER_IMAGE)
    run("docker", "image", "rm", image)
    for node in nodes:
        node.docker("load", "--quiet", "--input", str(archive))
    archive.unlink()
    return image


def build_next(project: Path, nodes: list[Node], image: str) -> str:
    """Build the image of the project's code as it is now on each node, upon the first one."""
    newer = image.replace("1.0.0", "1.0.1")
    recipe = f"FROM {image}\nCOPY app app\n"
    for node in nodes:
        command = ("docker", "--host", node.socket, "build", "--tag", newer, "--file", "-", ".")
        harness.run(*command, cwd=project, stdin=recipe, timeout=120)
    return newer


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the full project, with a load test that is slow enough to outlast what is done to it."""
    answers = harness.variant("full") | {"deployment": ["swarm"]}
    project = harness.render(template, tmp_path_factory.mktemp("swarm") / "project", answers)
    for name, old, new in (
        ("app/components/worker/tasks/load_test.py", "le=60_000)] = 5", "le=60_000)] = 3000"),
        # With the shipped timeout of 60 s the jobs of a killed worker would stay locked for 70 s.
        ("app/components/worker/queues/load_test.py", "job_timeout = 60", "job_timeout = 10"),
    ):
        text = (project / name).read_text()
        assert old in text
        (project / name).write_text(text.replace(old, new))
    if not can_encrypt():
        text = (project / STACK_FILE).read_text()
        (project / STACK_FILE).write_text(re.sub(r"(?m)^ +driver_opts: .encrypted.*\n", "", text))
    return project


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    """Two engines that are one swarm."""
    with ExitStack() as stack:
        # Short, since the path of a socket may have 108 bytes.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aegis-swarm-")))
        names = {f"aegis-{os.getpid()}-{n}": f"10.213.0.{n}" for n in (1, 2)}
        stack.enter_context(network(names))
        nodes = [Node(directory, *one) for one in names.items()]
        for node in nodes:
            stack.enter_context(node.engine())
        first, second = nodes
        first.docker("swarm", "init", "--advertise-addr", first.address)
        token = first.docker("swarm", "join-token", "--quiet", "worker")
        second.docker("swarm", "join", "--token", token, f"{first.address}:2377")
        yield nodes


def wait_until(condition: Callable[[], object], what: str, node: Node, seconds: float) -> None:
    """Ask every two seconds, since each question starts a process or two.

    Raises:
        AssertionError: In time the condition did not hold. The message has the state of the stack.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            columns = "{{.Name}} {{.Image}} {{.CurrentState}} {{.Error}}"
            tasks = node.docker("stack", "ps", "--no-trunc", "--format", columns, STACK)
            pytest.fail(f"after {seconds:.0f} s: {what}\n{tasks}\n{update_states(node)}")
        time.sleep(2)


def services(node: Node) -> dict[str, str]:
    """Return how many replicas of each service run, as in `2/2`."""
    lines = node.docker("stack", "services", STACK, "--format", "{{json .}}").splitlines()
    found = [json.loads(line) for line in lines]
    return {one["Name"].removeprefix(f"{STACK}_"): one["Replicas"].split()[0] for one in found}


def all_run(node: Node) -> bool:
    """Say whether every replica of every service runs, and is healthy."""
    return all(running == wanted for running, wanted in (r.split("/") for r in services(node).values()))


def update_states(node: Node) -> dict[str, str]:
    """Return how far the last update of each service is."""
    names = [f"{STACK}_{name}" for name in services(node)]
    template = "{{.Spec.Name}} {{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}"
    lines = node.docker("service", "inspect", "--format", template, *names).splitlines()
    return dict(line.partition(" ")[::2] for line in lines)


def test_two_machines_lose_no_job(
    project: Path, nodes: list[Node], image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = nodes
    node_id = first.docker("info", "--format", "{{.Swarm.NodeID}}")
    first.docker("node", "update", "--label-add", "redis=true", node_id)
    for name, text in {
        "redis_password": "a-password-of-the-test",
        "redis_conf": "requirepass a-password-of-the-test\n",
        "api_key": "a-key-for-the-tests",
    }.items():
        first.docker("secret", "create", name, "-", stdin=text)

    def deploy(image: str) -> None:
        harness.run(
            *("docker", "--host", first.socket, "stack", "deploy", "--resolve-image", "never"),
            *("--compose-file", STACK_FILE, STACK),
            cwd=project,
            timeout=60,
            IMAGE=image,
        )

    deploy(image)
    wait_until(lambda: all_run(first), "the stack is not healthy", first, seconds=240)
    places = {name: [len(node.containers(name)) for node in nodes] for name in services(first)}
    assert places.pop("redis") == [1, 0]
    assert set(map(tuple, places.values())) == {(1, 1)}

    def ask(*command: str, stdin: str | None = None) -> str:
        """Run a command in a web server, whichever runs while they are replaced."""
        for node in nodes:
            for container in node.containers("webserver"):
                if output := node.docker("exec", "-i", container, *command, stdin=stdin, check=False):
                    return output
        return ""

    def outcomes() -> list[Any]:
        found: list[Any] = json.loads(ask("python", "-", run_id, str(JOBS), stdin=OUTCOMES) or "[]")
        return [one for one in found if one]

    began = time.monotonic()
    command = ("load-test", "run", "--type", "io_simulation", "--tasks", str(JOBS), "--no-wait")
    run_id = re.findall(r"\b[0-9a-f]{12}\b", ask(STACK, *command))[0]
    homes = {
        container[:12]: number
        for number, node in enumerate(nodes, start=1)
        for container in node.containers("worker-load-test")
    }

    # Both machines work.
    wait_until(lambda: len(outcomes()) >= 500, "the run does not start", first, seconds=120)
    before = Counter(homes[worker.split(":")[0]] for _, _, worker in outcomes())
    assert set(before) == {1, 2}

    # One machine's workers are killed.
    killed = [container for name in places if name != "webserver" for container in second.containers(name)]
    second.docker("kill", "--signal", "KILL", *killed)
    wait_until(
        lambda: all_run(first) and not set(killed) & set(second.docker("ps", "--quiet").split()),
        "the killed workers do not come back",
        first,
        seconds=180,
    )
    done_when_back = len(outcomes())

    # A new version replaces the old one.
    text = (project / "app/components/worker/tasks/load_test.py").read_text()
    (project / "app/components/worker/tasks/load_test.py").write_text(f"{text}\nEDITED = True\n")
    new = build_next(project, nodes, image)
    done_before_update = len(outcomes())
    deploy(new)
    wait_until(
        lambda: all(
            state == "completed" for name, state in update_states(first).items() if name != f"{STACK}_redis"
        ),
        "the update does not end",
        first,
        seconds=400,
    )
    done_after_update = len(outcomes())
    for node in nodes:
        images = node.docker("ps", "--format", "{{.Image}}").splitlines()
        assert set(images) - {SERVER_IMAGE} == {new}

    wait_until(lambda: len(outcomes()) == JOBS, "jobs are lost", first, seconds=180)
    took = time.monotonic() - began
    found = outcomes()
    tries = Counter(job_try for _, job_try, _ in found)
    with capsys.disabled():
        print(  # noqa: T201 - a figure, not a check
            f"\nSwarm: {JOBS} jobs sent, {len(found)} have a result, {JOBS - len(found)} lost, "
            f"{sum(not success for success, _, _ in found)} failed, in {took:.0f} s. "
            f"By machine at first: {dict(sorted(before.items()))}. "
            f"Done when the {len(killed)} killed workers were back: {done_when_back}; "
            f"when the update began: {done_before_update}, and ended: {done_after_update}. "
            f"Jobs by their number of tries: {dict(sorted(tries.items()))}"
        )
    assert all(success for success, _, _ in found)
    # The test means nothing unless jobs were under way each time.
    assert before.total() < done_before_update < JOBS
    assert tries[2] > 0
    for node in nodes:
        for name in places.keys() - {"webserver"}:
            for container in node.containers(name):
                queue = name.removeprefix("worker-").replace("-", "_")
                assert node.docker("exec", container, "python", "-m", "app.check", queue)
