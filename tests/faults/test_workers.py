"""Workers and their server: nothing is lost, nothing runs twice, and the worker lives."""

import random
import time
from pathlib import Path

import pytest
from redis import Redis

from tests.faults.frame import BOTH, IS_FULL, trial

ROUNDS = 20 if IS_FULL else 3
RESTARTS = 12 if IS_FULL else 3
JOBS = 20_000 if IS_FULL else 5_000
HOLE_SECONDS = 60 if IS_FULL else 15
FULL_SECONDS = 40 if IS_FULL else 10


@pytest.mark.parametrize("name", BOTH)
def test_five_cuts_while_jobs_are_taken(name: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        worker = run.worker(name)
        for _ in range(ROUNDS):
            run.send(300)
            for _ in range(5):
                time.sleep(random.uniform(0.05, 0.7))  # noqa: S311 - when it is cut
                run.proxy.cut()
                run.send(100)
            run.drain()
            assert worker.poll() is None
        lost, twice = run.report(f"{ROUNDS} times five cuts, {name}")
    assert not lost
    assert not twice


@pytest.mark.parametrize("name", BOTH)
def test_restarts_under_load(name: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        worker = run.worker(name, through_proxy=False)
        for _ in range(RESTARTS):
            run.send(1000)
            time.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - when it is killed
            run.server.kill()
            time.sleep(random.uniform(0, 2))  # noqa: S311 - how long it is away
            run.server.start()
            assert worker.poll() is None
        run.drain()
        assert worker.poll() is None
        lost, _ = run.report(f"{RESTARTS} restarts of the server, {name}")
    assert not lost


def test_workers_are_killed(tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        workers = {number: run.worker("Client") for number in range(3)}
        for number in range(5):
            run.send(600, milliseconds=300)
            run.wait_for(run.ended() + 100, 60)
            workers[number % 3].kill()
            workers[number % 3] = run.worker("Client")
        run.drain()
        lost, twice = run.report("Five kills of one of three workers")
    assert not lost
    # Those that were running then run again, as their next try.
    assert 0 < twice <= 5 * 50


def test_workers_of_both_kinds_share_a_queue(tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        for number in range(6):
            run.worker(BOTH[number % 2])
        run.send(JOBS)
        run.drain()
        lost, twice = run.report("Six workers, three of them stock")
    assert (lost, twice) == (0, 0)


@pytest.mark.parametrize("name", BOTH)
def test_a_path_that_swallows_everything(name: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        worker = run.worker(name)
        run.send(50)
        run.drain()
        run.proxy.is_swallowing = True
        run.send(50)
        time.sleep(HOLE_SECONDS)
        ended = run.ended()
        run.proxy.is_swallowing = False
        start = time.monotonic()
        run.wait_for(ended + 1, 15)
        moved_after = time.monotonic() - start
        run.drain()
        assert worker.poll() is None
        lost, _ = run.report(
            f"A black hole of {HOLE_SECONDS} s, jobs after {moved_after:.1f} s, {name}"
        )
    assert not lost


@pytest.mark.parametrize("name", BOTH)
def test_a_full_server(name: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        # A finished job whose lock ends before its result is written may run again.
        worker = run.worker(name, JOB_TIMEOUT="60")
        run.send(500, milliseconds=50)
        run.wait_for(50, 30)
        run.server.client.config_set("maxmemory", 1)
        time.sleep(FULL_SECONDS)
        assert worker.poll() is None
        run.server.client.config_set("maxmemory", 0)
        run.drain()
        assert worker.poll() is None
        lost, twice = run.report(f"A server that is full for {FULL_SECONDS} s, {name}")
    assert not lost
    assert not twice


REFUSALS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "lacks its replicas": ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}),
    "lacks its primary": (
        {"replica-serve-stale-data": "no", "replicaof": "127.0.0.1 1"},
        {"replicaof": "no one"},
    ),
    "has another password": ({"requirepass": "other"}, {"requirepass": ""}),
    "has too many clients": ({"maxclients": "2"}, {"maxclients": "1000"}),
    "is paused": ({"pause": "6000"}, {}),
    "is behind a proxy and away": ({"target": "1"}, {"target": ""}),
}


@pytest.mark.parametrize("name", BOTH)
def test_a_server_that_refuses_for_a_while(name: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        worker, admin = run.worker(name, JOB_TIMEOUT="60"), Redis(port=run.server.port)

        def configure(values: dict[str, str]) -> None:
            for setting, value in values.items():
                if setting == "replicaof":
                    admin.replicaof(*value.split())
                elif setting == "pause":
                    admin.client_pause(int(value))
                elif setting == "target":
                    run.proxy.target = int(value or run.server.port)
                else:
                    admin.config_set(setting, value)

        for what, (before, after) in REFUSALS.items():
            run.send(200, milliseconds=50)
            run.wait_for(run.ended() + 20, 30)
            configure(before)
            # What is connected would not notice.
            run.proxy.cut()
            time.sleep(5)
            assert worker.poll() is None, what
            configure(after)
            run.drain()
            assert worker.poll() is None, what
        lost, twice = run.report(f"A server that {', '.join(REFUSALS)}, {name}")
    assert not lost
    assert not twice
