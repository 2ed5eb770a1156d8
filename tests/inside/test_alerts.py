"""Alerts: what counts as a problem, that each change is told once, and that recovery is told."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.cron import cron
from pydantic import SecretStr

from app.components.worker.tasks.alerts import send_alert, watch_health
from app.core import keys
from app.core.config import load_settings, settings
from app.services import alerts, crons, job_checks
from app.services.alerts import find_changes, mark_sent, read_since
from app.services.checks import Check
from app.services.crons import find_missed, list_runs, report_crons
from app.services.health import HealthReport, RedisCheck
from tests.support import queue_of, run_burst


def report(**problems: str) -> HealthReport:
    """Return a report with these problems by the names of their checks."""
    checks: Any = {"redis": [RedisCheck()]}
    for name, problem in problems.items():
        checks[name] = [Check(status="warn" if problem else "pass", output=problem or None)]
    return HealthReport(status="warn" if any(problems.values()) else "pass", checks=checks)


async def look(redis: ArqRedis, **problems: str) -> list[tuple[str, str]]:
    """Look, tell what is found, and let as much time pass as lies between two looks."""
    changes = await find_changes(redis, report(**problems))
    for change in changes:
        await mark_sent(redis, change)
    await travel(redis, 10)
    return [(change.name, change.status) for change in changes]


async def travel(redis: ArqRedis, seconds: float) -> None:
    """Let time pass for the known alerts."""
    for name, text in (await redis.hgetall(keys.ALERTS)).items():  # type: ignore[misc]
        alert = json.loads(text)
        for field in ("since", "changed", "ended"):
            if field in alert:
                alert[field] -= seconds
        await redis.hset(keys.ALERTS, name, json.dumps(alert))  # type: ignore[misc]


async def test_a_problem_is_told_once_and_so_is_its_end(redis: ArqRedis) -> None:
    assert await look(redis, a="broken", b="") == []
    assert await look(redis, a="broken", b="") == [("a", "firing")]
    assert await look(redis, a="broken still", b="") == []
    assert set(await read_since(redis)) == {"a"}
    assert await look(redis, a="", b="") == []
    assert await look(redis, a="", b="") == [("a", "resolved")]
    assert await look(redis, a="", b="") == []
    assert await read_since(redis) == {}


async def test_what_does_not_last_is_not_told(redis: ArqRedis) -> None:
    for problem in ("broken", "", "broken", "", ""):
        assert await look(redis, a=problem) == []


async def test_flapping_is_told_once_while_it_is_quiet(redis: ArqRedis) -> None:
    told = []
    for _ in range(2):
        for problem in ("broken", "broken", "", ""):
            told += await look(redis, a=problem)
    assert told == [("a", "firing"), ("a", "resolved")]
    await travel(redis, alerts.QUIET_SECONDS)
    assert await look(redis, a="broken") == []
    assert await look(redis, a="broken") == [("a", "firing")]


async def test_a_queue_that_was_removed_is_resolved(redis: ArqRedis) -> None:
    await look(redis, a="broken")
    await look(redis, a="broken")
    assert await look(redis) == []
    assert await look(redis) == [("a", "resolved")]


async def test_of_many_looks_at_once_one_job_tells(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, ctx: dict[str, Any]
) -> None:
    async def broken(_: ArqRedis) -> HealthReport:
        return report(a="broken")

    monkeypatch.setattr("app.components.worker.tasks.alerts.check_health", broken)
    await watch_health(ctx)
    await travel(redis, 10)
    await asyncio.gather(*(watch_health(ctx) for _ in range(20)))
    assert await redis.zcard("arq:queue") == 1


async def test_an_alert_that_was_not_queued_is_sent_by_the_next_check(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, ctx: dict[str, Any]
) -> None:
    async def broken(_: ArqRedis) -> HealthReport:
        return report(a="broken")

    async def lost(*_: Any, **__: Any) -> None:
        """Return what arq's method does when the connection is lost."""

    monkeypatch.setattr("app.components.worker.tasks.alerts.check_health", broken)
    await watch_health(ctx)
    await travel(redis, 10)
    with monkeypatch.context() as patch:
        patch.setattr(ctx["redis"], "enqueue_job", lost)
        await watch_health(ctx)
    assert await redis.zcard("arq:queue") == 0
    await watch_health(ctx)
    assert await redis.zcard("arq:queue") == 1


async def test_a_worker_that_dies_before_it_tells_hides_nothing(redis: ArqRedis) -> None:
    await look(redis, a="broken")
    first = await find_changes(redis, report(a="broken"))
    again = await find_changes(redis, report(a="broken"))
    assert first == again
    assert first[0].job_id == again[0].job_id


TIMES = ("NaN", "1e999", '"inf"', "1e300", "2e12", "-62135596801", "true", "[]")


@pytest.mark.parametrize(
    "text",
    [b"hello", b"[]", b"\xff", b'{"firing": true}', b'{"since": "x"}', b'{"sent": NaN}']
    + [
        f'{{"firing": true, "{name}": {text}}}'.encode()
        for name in ("since", "changed", "ended")
        for text in TIMES
    ],
)
async def test_a_bad_record_harms_nothing(redis: ArqRedis, text: bytes) -> None:
    await redis.hset(keys.ALERTS, "a", text)  # type: ignore[misc, arg-type]
    await read_since(redis)
    found = await look(redis, a="broken") + await look(redis, a="broken")
    assert ("a", "firing") in found
    assert set(await read_since(redis)) == {"a"}
    await redis.delete(keys.ALERTS)
    await redis.set(keys.ALERTS, "another program's")
    assert await look(redis, a="broken") == []


async def test_failures_letters_and_crons_are_problems(redis: ArqRedis) -> None:
    checks = await job_checks.check_jobs(redis)
    assert {check.status for check in checks.values()} == {"pass"}
    minute = int(time.time()) // 60 * 60
    fields = {"system:failed": 10, "system:succeeded": 10}
    fields |= {"load_test:failed": 19, "load_test:bulk": 2}
    await redis.hset(keys.history_row(60, minute), mapping=fields)  # type: ignore[misc]
    now = time.time() * 1000
    old = dict.fromkeys(("old", "older"), now - 3_600_000)
    await redis.zadd(keys.LETTERS_BY_TIME, {**{str(n): now for n in range(10)}, **old})
    checks = await job_checks.check_jobs(redis)
    assert checks["failures:system"].status == "fail"
    assert str(checks["failures:system"].output).startswith("10 of 20 jobs of system failed")
    assert checks["failures:load_test"].status == "pass"
    assert str(checks["dead-letters"].output).startswith("10 new dead letters in 10 minutes")


async def nothing(ctx: dict[str, Any]) -> None:
    """Do nothing."""


async def test_a_cron_job_that_does_not_run_is_missed(redis: ArqRedis) -> None:
    job, silent = cron(nothing, name="cron:one", keep_result=60), cron(nothing, name="cron:two")
    job.next_run = silent.next_run = datetime.now(UTC) - timedelta(seconds=20)
    await report_crons(redis, [job, silent])
    # Its worker has the next run in mind already.
    job.next_run = datetime.now(UTC) + timedelta(seconds=40)
    await report_crons(redis, [job, silent])
    (run,) = await find_missed(redis)
    assert run.name == "cron:one"
    assert "cron:one of " in str((await job_checks.check_jobs(redis))["crons"].output)

    await redis.set(f"arq:in-progress:{run.job_id}", 1)
    assert await find_missed(redis) == []
    await redis.delete(f"arq:in-progress:{run.job_id}")
    await redis.hset(keys.CRONS, "cron:one", f"succeeded {int(time.time() * 1000)}")  # type: ignore[misc]
    assert await find_missed(redis) == []
    await report_crons(redis, [job, silent])
    (run,) = await list_runs(redis)
    assert run.due_ms > time.time() * 1000


async def test_a_run_before_its_time_is_not_missed(redis: ArqRedis) -> None:
    """Beside other jobs, the sweep and the watch start when arq enqueues them."""
    job = cron(nothing, name="cron:one", keep_result=60)
    job.next_run = datetime.now(UTC) - timedelta(seconds=20)
    await report_crons(redis, [job])
    ended = int(job.next_run.timestamp() * 1000) - 900
    await redis.hset(keys.CRONS, "cron:one", f"succeeded {ended}")  # type: ignore[misc]
    assert await find_missed(redis) == []


async def test_a_schedule_that_is_changed_is_not_missed(redis: ArqRedis) -> None:
    job = cron(nothing, name="cron:one", keep_result=60)
    for seconds in (5, 3600):
        job.next_run = datetime.now(UTC) + timedelta(seconds=seconds)
        await report_crons(redis, [job])
    (run,) = await list_runs(redis)
    assert run.due_ms > (time.time() + 3000) * 1000
    many = cron(nothing, name="cron:many", keep_result=60, unique=False)
    many.next_run = datetime.now(UTC)
    await report_crons(redis, [many])
    assert [run.name for run in await list_runs(redis)] == ["cron:one"]


async def test_the_first_of_two_schedules_is_missed(redis: ArqRedis) -> None:
    jobs = [cron(nothing, name="cron:one", keep_result=60) for _ in range(3)]
    for job, seconds in zip(jobs, (3600, -20, 7200), strict=True):
        job.next_run = datetime.now(UTC) + timedelta(seconds=seconds)
    await report_crons(redis, jobs)
    assert [run.name for run in await find_missed(redis)] == ["cron:one"]


async def test_a_cron_job_without_a_worker_is_forgotten(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cron(nothing, name="cron:one", keep_result=60)
    job.next_run = datetime.now(UTC) - timedelta(seconds=20)
    await report_crons(redis, [job])
    await redis.hset(keys.SCHEDULE, "bad", "hello")  # type: ignore[misc]
    assert len(await find_missed(redis)) == 1
    monkeypatch.setattr(crons, "MAX_AGE_MS", 0)
    assert await find_missed(redis) == []


class Receiver(BaseHTTPRequestHandler):
    """Takes alerts after it has refused two."""

    bodies: list[Any]
    refusals = 2

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Receiver.bodies.append(json.loads(body))
        self.send_response(503 if len(Receiver.bodies) <= Receiver.refusals else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Redirect(Receiver):
    """Has moved elsewhere."""

    location = "/elsewhere"

    def do_POST(self) -> None:
        self.send_response(301)
        self.send_header("Location", self.location)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


class WrongRedirect(Redirect):
    """Has moved to what is no address."""

    location = "http://[elsewhere"


@pytest.fixture(params=[Receiver])
def receiver(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Receiver]]:
    Receiver.bodies = []
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as server:
        threading.Thread(target=server.serve_forever).start()
        url = SecretStr(f"http://127.0.0.1:{server.server_port}/hook")
        monkeypatch.setattr(settings, "ALERT_WEBHOOK_URL", url)
        yield Receiver
        server.shutdown()


async def test_a_receiver_that_refuses_gets_it_again(
    redis: ArqRedis, receiver: type[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.components.worker.retries.random.uniform", lambda *_: 0)
    queue = queue_of(send_alert)
    change = {"name": "a", "status": "firing", "since": 1e9, "summary": "broken"}
    job = await redis.enqueue_job("send_alert", change, _queue_name=queue.queue_name)
    assert job is not None
    await run_burst(queue)
    assert (await job.result_info()).success  # type: ignore[union-attr]
    first, _, last = receiver.bodies
    assert first == last
    (alert,) = last["alerts"]
    assert (last["version"], last["status"], alert["status"]) == ("4", "firing", "firing")
    assert alert["labels"]["alertname"] == "a"
    assert alert["annotations"]["summary"] == "broken"
    assert (alert["startsAt"], alert["endsAt"]) == ("2001-09-09T01:46:40+00:00", alerts.NOT_ENDED)


@pytest.mark.parametrize("receiver", [Redirect, WrongRedirect], indirect=True)
async def test_a_redirect_does_not_count_as_received(
    receiver: type[Receiver], ctx: dict[str, Any]
) -> None:
    change = {"name": "a", "status": "firing", "since": 1e9, "summary": "broken"}
    with pytest.raises(Retry):
        await send_alert({**ctx, "job_try": 1}, change)


@pytest.mark.parametrize("url", ["https://example..com", f"https://{'a' * 64}.com"])
def test_a_host_that_no_name_server_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HEARTBEAT_URL", url)
    with pytest.raises(SystemExit, match="HEARTBEAT_URL in the environment"):
        load_settings()


@pytest.mark.parametrize(
    "url", ["ftp://example.com", "file:///etc/passwd", "example.com", "http://user:pass@host/"]
)
def test_a_url_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", url)
    with pytest.raises(SystemExit) as caught:
        load_settings()
    assert "pass@" not in str(caught.value)
