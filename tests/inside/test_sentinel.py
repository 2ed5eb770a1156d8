"""Sentinel on real processes: the master is killed, or hangs, while jobs are sent and run."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from arq.connections import ArqRedis, create_pool
from arq.constants import result_key_prefix
from redis import Redis
from redis.exceptions import RedisError

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.load_test import WorkerSettings
from app.components.worker.tasks.load_test import io_simulation_task
from app.core.redis import Patience, create_client, redis_settings
from app.core.serializer import deserialize
from tests.inside import servers

PASSWORD = "p@ss"  # noqa: S105 - of servers that live as long as a test
MASTER = "main"
# How long the sentinels wait before they replace a master; what else it takes is the workers' part.
DOWN_AFTER_MS = 2000
LOAD_SECONDS = 12
KILL_AFTER_SECONDS = 3


class Servers:
    """A master, a replica and three sentinels."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        """Start them, and wait until the sentinels know the replica and each other."""
        auth = (f"requirepass {PASSWORD}", f"masterauth {PASSWORD}")
        self.master, master_port = stack.enter_context(servers.process(directory, "master", *auth))
        self.replica, self.replica_port = stack.enter_context(
            servers.process(directory, "replica", f"replicaof 127.0.0.1 {master_port}", *auth)
        )
        self.ports = []
        for name in ("one", "two", "three"):
            lines = (
                f"sentinel monitor {MASTER} 127.0.0.1 {master_port} 2",
                f"sentinel auth-pass {MASTER} {PASSWORD}",
                f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {MASTER} 5000",
            )
            started = servers.process(directory, name, *lines, is_sentinel=True)
            self.ports.append(stack.enter_context(started)[1])
        addresses = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"redis+sentinel://:p%40ss@{addresses}/{MASTER}/0"
        with Redis(port=self.ports[0], decode_responses=True) as sentinel:
            deadline = time.monotonic() + 30
            while True:
                state = sentinel.sentinel_master(MASTER)
                if state["num-slaves"] == 1 and state["num-other-sentinels"] == 2:
                    break
                assert time.monotonic() < deadline, state
                time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path, stack)


@contextmanager
def worker(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the stock command of a queue."""
    with log.open("ab") as output:
        command = ("-m", "arq", "app.components.worker.queues.load_test.WorkerSettings")
        process = subprocess.Popen(  # noqa: S603 - the test's own words
            [sys.executable, *command],
            env=os.environ | {"REDIS_URL": url},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def check(url: str) -> int:
    """Return the exit status of the cheap check."""
    command = [sys.executable, "-m", "app.check", "load_test"]
    done = subprocess.run(  # noqa: S603 - the test's own words
        command, env=os.environ | {"REDIS_URL": url}, check=False, capture_output=True
    )
    return done.returncode


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[ArqRedis]:
    async with create_client(redis_settings(url)) as client:
        yield client


async def send(redis: ArqRedis, until: float, sent: dict[str, float]) -> None:
    """Send a job every 5 ms; `sent` gets the time at which each was acknowledged."""
    while time.time() < until:
        try:
            job = await enqueue(redis, WorkerSettings, io_simulation_task, wait_ms=20)
        except (RedisError, OSError):
            await asyncio.sleep(0.1)
        else:
            sent[job.job_id] = time.time()
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
async def test_workers_go_on_at_the_new_master(
    cluster: Servers, tmp_path: Path, fault: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "worker.log"
    sent: dict[str, float] = {}
    with worker(cluster.url, log) as first, worker(cluster.url, log) as second:
        # As arq makes one for a worker without `redis_pool`.
        stock = await create_pool(redis_settings(cluster.url))
        async with connect(cluster.url) as redis, stock:
            async with asyncio.timeout(60):
                while await asyncio.to_thread(check, cluster.url):
                    await asyncio.sleep(0.2)
            begin = time.time()
            sending = asyncio.create_task(send(redis, begin + LOAD_SECONDS, sent))
            await asyncio.sleep(KILL_AFTER_SECONDS)
            failed = time.time()
            cluster.master.send_signal(fault)
            await sending
            assert len(sent) > 100

            # Where a job's lock was copied but its start was not, it waits until the lock expires.
            left, finished = dict(sent), {}
            deadline = time.monotonic() + WorkerSettings.job_timeout + 30
            queue = WorkerSettings.queue_name
            while left and time.monotonic() < deadline:
                for job_id in list(left):
                    if raw := await redis.get(result_key_prefix + job_id):
                        result = deserialize(raw)
                        assert result["s"], result
                        finished[job_id] = result["ft"] / 1000
                        del left[job_id]
                waiting = await redis.zcard(queue)
                if not waiting and not [one for one in left if time.time() - sent[one] < 2]:
                    break
                await asyncio.sleep(0.2)
            stock.set_retry(Patience(10))
            assert await stock.set("key", "value")
        assert (first.poll(), second.poll()) == (None, None)
        assert await asyncio.to_thread(check, cluster.url) == 0
        # What replies with an error, here since it is no Sentinel, is passed over.
        with_error = cluster.url.replace("@", f"@127.0.0.1:{cluster.replica_port},")
        assert await asyncio.to_thread(check, with_error) == 0
    with Redis(port=cluster.replica_port, password=PASSWORD) as replica:
        assert replica.info("replication")["role"] == "master"

    resumed = min(at for at in finished.values() if at > failed + DOWN_AFTER_MS / 1000) - failed
    after = len([at for at in finished.values() if at > failed + resumed])
    # What the old master had acknowledged and not yet copied is lost with it.
    unsafe = [job_id for job_id in left if failed - 1 < sent[job_id] < failed + 1]
    with capsys.disabled():
        print(  # noqa: T201 - figures, not checks
            f"\nSentinel, master {'killed' if fault is signal.SIGKILL else 'hung'}: "
            f"{len(sent)} jobs acknowledged, {len(finished)} ran, {len(left)} lost; "
            f"jobs ran again after {resumed:.1f} s, {after} of them"
        )
    assert left.keys() == set(unsafe)
    assert after > 10
    assert resumed < 10


async def test_a_server_that_hangs_at_unwatch_ends_no_worker(tmp_path: Path) -> None:
    with servers.process(tmp_path, "server") as (server, port):
        async with (
            connect(f"redis://127.0.0.1:{port}") as redis,
            redis.pipeline(transaction=True) as pipe,
        ):
            await pipe.watch("key")
            server.send_signal(signal.SIGSTOP)
            # arq leaves a job that another worker has taken at this point.
            await pipe.reset()
            server.send_signal(signal.SIGCONT)
            pipe.set("key", "value")
            assert await pipe.execute() == [True]
