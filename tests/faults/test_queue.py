"""A worker that is paused, is of another release or has a wrong clock; a queue that is poisoned."""

import signal
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
from arq.constants import abort_jobs_ss

from app.services.workers import MAX_SILENCE_SECONDS, REPORT_SECONDS
from tests.faults.frame import BOTH, QUEUE, Trial, trial, wait_until


@pytest.mark.parametrize("name", BOTH)
def test_a_pause(name: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        # Longer than the pause: it is not what ends the jobs.
        paused = run.worker(name, JOB_TIMEOUT="60")
        wait_until(lambda: run.listed() == {paused.pid}, "the worker is not listed")
        run.send(500, milliseconds=50)
        run.wait_for(50, 30)
        paused.send_signal(signal.SIGSTOP)
        wait_until(lambda: not run.listed(), "a silent worker is listed", 30)
        # One that starts meanwhile must not forget the other.
        other = run.worker(name, JOB_TIMEOUT="60")
        wait_until(lambda: run.listed() == {other.pid}, "the other worker is not listed")
        run.send(500)
        paused.send_signal(signal.SIGCONT)
        start = time.monotonic()
        wait_until(lambda: run.listed() == {paused.pid, other.pid}, "it is not listed again", 30)
        listed_after = time.monotonic() - start
        run.drain()
        assert paused.poll() is other.poll() is None
        lost, twice = run.report(
            f"A pause of over {MAX_SILENCE_SECONDS} s, listed {listed_after:.1f} s after it, {name}"
        )
    assert not lost
    assert not twice


@pytest.mark.parametrize("name", BOTH)
def test_a_server_that_becomes_a_replica(name: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        web, worker = run.web(), run.worker(name)
        assert web.ask("/readyz")[0] == 200
        run.send(500, milliseconds=50)
        run.wait_for(50, 30)
        # Its primary does not answer, so it keeps its data.
        run.server.client.replicaof("127.0.0.1", 1)
        status, text = web.ask("/jobs", {"queue": "system", "task": "system_health_check"})
        assert (status, "is read-only" in text) == (503, True), text
        assert web.ask("/readyz")[0] == 503
        time.sleep(2 * REPORT_SECONDS)
        assert worker.poll() is None
        run.server.client.replicaof("NO", "ONE")
        run.drain()
        assert worker.poll() is None
        assert web.ask("/readyz")[0] == 200
        lost, twice = run.report(f"A server that is a replica for 10 s, {name}")
    assert not lost
    assert not twice


JOB: dict[str, Any] = {"t": None, "f": "count", "a": [1], "k": {}, "et": 1}
CHANGES: list[dict[str, Any]] = [
    {"f": []},
    {"f": "nothing"},
    {"a": 7},
    {"k": [1]},
    {"et": "yesterday"},
    {"et": float("nan")},
    {"a": [msgpack.ExtType(5, b"\xff")]},
]
MALFORMED = [
    b"",
    b"hello",
    b"\x80\x04}.",
    b"\x91" * 1015 + b"\xc0",
    *(msgpack.packb(JOB | change) for change in CHANGES),
]
NOT_TEXT = [b"\xff", b"a\x80b", b"\xed\xa0\x80"]


def poison(run: Trial) -> set[bytes]:
    """Put malformed jobs between the others, and return their ids."""
    client = run.server.client
    ids = {b"malformed-%d" % number: value for number, value in enumerate(MALFORMED)}
    for job_id, value in ids.items():
        client.set(b"arq:job:" + job_id, value)
    client.hset("arq:job:hash", "field", "value")
    poisoned = [*ids, b"hash", *NOT_TEXT]
    client.zadd(QUEUE, dict.fromkeys(poisoned, int(time.time() * 1000)))
    return set(poisoned)


def test_a_poisoned_queue(tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        worker = run.worker("Client")
        run.send(500)
        poisoned = poison(run)
        run.send(500)
        run.drain()
        wait_until(
            lambda: len(run.letters()) == len(poisoned), "a malformed job leaves no dead letter"
        )
        assert worker.poll() is None
        lost, twice = run.report(f"{len(poisoned)} malformed jobs, all dead letters")
    assert not lost
    assert not twice


@pytest.mark.parametrize("key", [QUEUE, abort_jobs_ss])
def test_a_key_of_another_type(key: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        worker = run.worker("Client")
        for _ in range(5):
            run.send(100)
            if key == QUEUE:
                # Its ids are gone with it.
                run.drain()
            run.server.client.set(key, "text")
            wait_until(lambda: run.server.client.type(key) != b"string", f"{key} stays a text")
        run.drain()
        assert worker.poll() is None
        lost, twice = run.report(f"Five times {key} is a text")
    assert not lost
    assert not twice


def test_releases_that_roll(tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        workers = [run.released_worker() for _ in range(3)]
        for number in range(3):
            # Today's runs before the old one ends, which has jobs to end.
            old = workers.pop(0)
            workers.append(run.worker(BOTH[number % 2]))
            run.send(1000, milliseconds=200)
            run.wait_for(run.ended() + 50, 60)
            old.terminate()
            assert old.wait(60) == 0
        workers.append(run.released_worker())
        run.send(1000, milliseconds=200)
        run.wait_for(run.ended() + 50, 60)
        workers[0].terminate()
        assert workers.pop(0).wait(60) == 0
        run.send(1000)
        run.drain()
        assert all(worker.poll() is None for worker in workers)
        lost, twice = run.report("Three workers roll from release 0.3.0, and one of them back")
    assert not lost
    assert not twice


@pytest.mark.parametrize("name", BOTH)
def test_clocks_that_differ(name: str, tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        ahead = run.worker(name, AHEAD_SECONDS="600")
        right = run.worker(name)
        for milliseconds in (-60_000, 0, 3000):
            run.send(300, ahead_ms=milliseconds)
        wait_until(
            lambda: f":{ahead.pid}: the clock is 600 s ahead of" in (run.queue().output or ""),
            "health does not warn of the clock",
        )
        run.drain()
        assert ahead.poll() is right.poll() is None
        lost, twice = run.report(f"A worker whose clock is 600 s ahead, {name}")
    assert not lost
    assert not twice
