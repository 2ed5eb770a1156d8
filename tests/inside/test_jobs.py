"""Jobs over HTTP: what the API says of one is what has happened to it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from arq import Retry, func
from arq.connections import ArqRedis
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
)
from fastapi import HTTPException
from httpx2 import Response
from pydantic import SecretStr

from app.components.backend.problems import problem_of
from app.core.config import WORKER_QUEUES, settings
from app.core.serializer import serialize
from app.services.jobs import MAX_SHOWN_BYTES
from tests.conftest import Api
from tests.inside.running import running
from tests.support import QUEUE, queue_of, run_burst


async def work(ctx: dict[str, Any], outcome: str, when: datetime | None = None) -> object:
    """Do as one is told, in the first try."""
    if outcome == "raise":
        raise KeyError("gone")
    if outcome == "retry" and ctx["job_try"] == 1:
        raise Retry
    if outcome == "wait" and ctx["job_try"] == 1:
        await asyncio.sleep(60)
    return b"\xff" * MAX_SHOWN_BYTES if outcome == "large" else {"outcome": outcome, "when": when}


async def sleep(ctx: dict[str, Any]) -> None:
    await asyncio.sleep(60)


async def try_for_ever(ctx: dict[str, Any]) -> None:
    raise Retry


async def log_in(ctx: dict[str, Any], password: SecretStr, **more: Any) -> str:
    return password.get_secret_value()[::-1]


WorkerSettings = queue_of(work, log_in, func(sleep, timeout=0.01), try_for_ever, max_tries=2)
# Before `work` was written.
OlderRelease = queue_of(sleep)


pytestmark = pytest.mark.usefixtures("own_queue", "redis")


async def send(api: Api, task: str = "work", **options: Any) -> Any:
    answer = await api("POST", "/jobs", json={"queue": "test", "task": task, **options})
    return answer.json() | {"answer": answer.status_code}


async def read(api: Api, job_id: str) -> Any:
    return (await api("GET", f"/jobs/{job_id}")).json()


async def wait_for(api: Api, job_id: str, state: str, tries: int = 0) -> Any:
    async with asyncio.timeout(20):
        while (job := await read(api, job_id))["state"] != state or job["tries"] < tries:
            await asyncio.sleep(0.02)
    return job


@asynccontextmanager
async def worker_process() -> AsyncIterator[asyncio.subprocess.Process]:
    """The arq command in its own process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "arq", "tests.inside.test_jobs.WorkerSettings"),
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "REDIS_URL": settings.REDIS_URL},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_success(api: Api) -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC).isoformat()
    sent = await send(api, args=["return"], kwargs={"when": when})
    assert (sent["answer"], sent["state"]) == (202, "queued")
    assert (await read(api, sent["id"]))["state"] == "queued"
    await run_burst(WorkerSettings)
    job = await read(api, sent["id"])
    assert (job["state"], job["tries"], job["error"]) == ("succeeded", 1, None)
    assert (job["queue"], job["task"], job["args"]) == ("test", "work", ["return"])
    assert job["result"] == {"outcome": "return", "when": "2026-01-02T00:00:00Z"}
    assert job["enqueued"] <= job["started"] <= job["finished"]


@pytest.mark.parametrize(
    ("task", "args", "tries", "error"),
    [
        ("work", ["raise"], 1, "KeyError: 'gone'"),
        ("sleep", [], 1, "TimeoutError"),
        ("try_for_ever", [], 3, "JobExecutionFailed: max 2 retries exceeded"),
    ],
)
async def test_failure(api: Api, task: str, args: list[str], tries: int, error: str) -> None:
    sent = await send(api, task, args=args)
    await run_burst(WorkerSettings)
    job = await read(api, sent["id"])
    assert (job["state"], job["tries"], job["error"]) == ("failed", tries, error)


async def test_retry_then_success(api: Api) -> None:
    sent = await send(api, args=["retry"])
    await run_burst(WorkerSettings)
    job = await read(api, sent["id"])
    assert (job["state"], job["tries"]) == ("succeeded", 2)


async def test_what_no_worker_can_run_has_failed(api: Api, redis: ArqRedis) -> None:
    newer = await send(api, args=["return"])
    await redis.enqueue_job("missing", _job_id="unknown", _queue_name=QUEUE)
    expired = await send(api, args=["return"])
    await redis.delete(job_key_prefix + expired["id"])
    assert (await read(api, expired["id"]))["state"] == "failed"
    await run_burst(OlderRelease)
    for job_id, error in (
        (newer["id"], "function 'work' not found"),
        ("unknown", "function 'missing' not found"),
        (expired["id"], "job expired"),
    ):
        job = await read(api, job_id)
        assert (job["state"], job["error"]) == ("failed", f"JobExecutionFailed: {error}")


async def test_a_deferred_job_is_aborted_before_it_runs(api: Api, redis: ArqRedis) -> None:
    sent = await send(api, args=["return"], delay=3600, id="later")
    assert sent["state"] == (await read(api, "later"))["state"] == "deferred"
    assert (await api("DELETE", "/jobs/later")).status_code == 202
    await run_burst(WorkerSettings)
    job = await read(api, "later")
    assert (job["state"], job["result"]) == ("aborted", None)
    assert await redis.zcard(abort_jobs_ss) == 0


async def test_a_running_job_is_aborted(api: Api, redis: ArqRedis) -> None:
    async with running(WorkerSettings):
        sent = await send(api, args=["wait"])
        await wait_for(api, sent["id"], "running")
        await api("DELETE", f"/jobs/{sent['id']}")
        assert (await wait_for(api, sent["id"], "aborted"))["tries"] == 1
    assert await redis.zcard(abort_jobs_ss) == 0


async def test_aborting_what_is_not_there_harms_no_later_job(api: Api, redis: ArqRedis) -> None:
    assert (await api("DELETE", "/jobs/later")).status_code == 404
    await send(api, args=["return"], id="later")
    await run_burst(WorkerSettings)
    assert (await api("DELETE", "/jobs/later")).status_code == 409
    await redis.delete(result_key_prefix + "later")
    await send(api, args=["return"], id="later")
    await run_burst(WorkerSettings)
    assert (await read(api, "later"))["state"] == "succeeded"


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
async def test_a_stopped_worker_leaves_a_job_that_runs_again(
    api: Api, redis: ArqRedis, kind: signal.Signals
) -> None:
    sent = await send(api, args=["wait"])
    async with worker_process() as process:
        # arq locks a job before it counts the try.
        await wait_for(api, sent["id"], "running", tries=1)
        process.send_signal(kind)
        await process.wait()
    if kind is signal.SIGKILL:
        # Until its lock ends nothing can tell that its worker is gone.
        assert (await read(api, sent["id"]))["state"] == "running"
        await redis.pexpire(in_progress_key_prefix + sent["id"], 1)
    job = await wait_for(api, sent["id"], "retrying")
    assert job["tries"] == 1
    await run_burst(WorkerSettings)
    job = await read(api, sent["id"])
    assert (job["state"], job["tries"]) == ("succeeded", 2)


async def test_a_taken_id_is_refused_and_changes_nothing(api: Api) -> None:
    assert (await send(api, args=["return"], id="mine"))["answer"] == 202
    problem = await send(api, args=["raise"], id="mine")
    assert (problem["answer"], problem["title"]) == (409, "Conflict")
    await run_burst(WorkerSettings)
    assert (await read(api, "mine"))["state"] == "succeeded"
    assert (await send(api, args=["raise"], id="mine"))["answer"] == 409


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"queue": "other"}, "queue"),
        ({"queue": "elsewhere"}, "task"),
        ({"task": "missing"}, "task"),
        ({"kwargs": {}}, "kwargs.outcome"),
        ({"kwargs": {"outcome": "", "wrong": 1}}, "kwargs.wrong"),
        ({"kwargs": {"outcome": 1}}, "kwargs.outcome"),
        ({"kwargs": {"outcome": "", "when": "soon"}}, "kwargs.when"),
        ({"args": ["", None, 1]}, "args"),
        ({"args": ["", "soon"]}, "args.1"),
        ({"task": "log_in", "kwargs": {"password": "", "_expires": 1}}, "kwargs._expires"),
        ({"task": "log_in", "kwargs": {"password": "", "big": 2**64}}, "kwargs.big"),
        ({"id": "a b"}, "id"),
        ({"args": ["return"], "id": ".."}, "id"),
        ({"args": ["return"], "id": "cron:system_health_check:1"}, "id"),
        ({"args": ["return"], "id": "bulk:x"}, "id"),
        ({"args": ["return"], "id": "alert:redis:1:firing"}, "id"),
        ({"args": ["return"], "id": "a//b"}, "id"),
        ({"args": ["return"], "id": "a/"}, "id"),
        ({"args": ["return"], "delay": True}, "delay"),
        ({"args": ["return"], "dealy": 1}, "dealy"),
        ({"delay": -1}, "delay"),
        ({"delays": 1}, "delays"),
    ],
)
async def test_a_mistake_is_named(
    api: Api, redis: ArqRedis, body: dict[str, Any], parameter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WORKER_QUEUES, "elsewhere", WORKER_QUEUES["test"])
    module = type("module", (), {"WorkerSettings": OlderRelease})
    monkeypatch.setitem(sys.modules, "app.components.worker.queues.elsewhere", module)
    answer = await api("POST", "/jobs", json={"queue": "test", "task": "work", **body})
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (422, 422)
    assert list(problem["errors"]) == [parameter]
    assert not await redis.exists(QUEUE)


@pytest.mark.parametrize(
    ("status", "detail"), [(400, {"code": 7}), (422, ["a", "b"]), (499, "gone"), (404, None)]
)
async def test_any_error_of_a_route_is_a_problem(status: int, detail: Any) -> None:
    problem = problem_of(HTTPException(status, detail))
    assert problem.status == status
    assert problem.detail


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/jobs", '{"queue": "test", "task": "work", "args": [""], "args": ["return"]}', "args"),
        ("/jobs", '{"queue": "test", "task": "log_in", "kwargs": {"a": [{"b": 1, "b": 2}]}}', "b"),
        ("/dead-letters/purge", '{"all": false, "all": true}', "all"),
        ("/dead-letters/requeue", '{"queue": "none", "queue": "test"}', "queue"),
    ],
)
async def test_a_repeated_field_changes_nothing(
    api: Api, redis: ArqRedis, path: str, body: str, field: str
) -> None:
    answer = await api("POST", path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["errors"]) == (422, {field: "given more than once"})
    assert not await redis.exists(QUEUE)


async def test_an_unknown_id_is_not_found(api: Api, redis: ArqRedis) -> None:
    for path in ("/jobs/unknown", "/dead-letters/unknown"):
        answer = await api("GET", path)
        assert (answer.status_code, answer.json()["title"]) == (404, "Not Found")


async def test_a_secret_is_not_shown(
    api: Api, redis: ArqRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = await send(api, "log_in", kwargs={"password": "hush", "more": 1})
    await run_burst(WorkerSettings)
    job = await read(api, sent["id"])
    assert job["kwargs"] == sent["kwargs"] == {"password": "**********", "more": 1}
    assert job["result"] == "hsuh"
    log = capsys.readouterr().err
    assert "log_in" in log
    assert "hush" not in log


async def test_what_is_too_large_is_refused(api: Api, redis: ArqRedis) -> None:
    answer = await send(api, args=["x" * settings.MAX_ARGUMENTS_BYTES])
    assert (answer["answer"], "store the data elsewhere" in answer["detail"]) == (413, True)
    assert not await redis.exists(QUEUE)
    sent = await send(api, args=["large"])
    await run_burst(WorkerSettings)
    job = await read(api, sent["id"])
    assert (job["state"], job["error"]) == ("succeeded", None)
    assert job["result"].startswith("a result of 1,000,")


async def test_the_queues_say_how_they_are(api: Api, redis: ArqRedis) -> None:
    await send(api, args=["return"])
    await send(api, args=["return"], delay=60)
    queues = (await api("GET", "/queues")).json()
    assert [queue["name"] for queue in queues] == list(WORKER_QUEUES)
    queue = queues[-1]
    assert (queue["ready"], queue["running"], queue["deferred"]) == (1, 0, 1)
    assert (queue["status"], queue["workers"]) == ("fail", [])


async def test_dead_letters_are_seen_requeued_and_purged(api: Api) -> None:
    for outcome in ("raise", "return"):
        await send(api, args=[outcome], id=outcome)
    await run_burst(WorkerSettings)
    (listed,) = (await api("GET", "/dead-letters", params={"task": "work"})).json()
    assert (listed["id"], listed["error"], "args" in listed) == ("raise", "KeyError: 'gone'", False)
    letter = (await api("GET", "/dead-letters/raise")).json()
    assert letter["args"] == ["raise"]
    assert "in work" in letter["traceback"]
    answer = await api("POST", "/dead-letters/requeue", json={"ids": ["raise", "other"]})
    assert answer.json() == {"requeued": 1, "refused": {"other": "there is no such letter"}}
    await run_burst(WorkerSettings)
    assert (await api("POST", "/dead-letters/purge", json={"all": True})).json() == {"purged": 1}
    assert (await api("GET", "/dead-letters")).json() == []


@pytest.mark.parametrize("listens", [True, False])
async def test_no_redis_is_told_in_time(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, listens: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1] if listens else 1}"
        monkeypatch.setattr(settings, "REDIS_URL", url)
        api: Api = request.getfixturevalue("api")
        for path in ("/queues", "/jobs/one", "/dead-letters"):
            # Each call of Redis ends after 1.5 s; the rest is for a busy machine.
            async with asyncio.timeout(30):
                answer = await api("GET", path)
            assert (answer.status_code, answer.json()["title"]) == (503, "Service Unavailable")


async def test_an_unreadable_result_has_failed(api: Api, redis: ArqRedis) -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    result = {"f": "work", "a": [deep], "k": {}, "et": 0, "st": 1, "ft": 1, "t": 1, "q": QUEUE}
    values = {
        "pickle": b"\x80\x04}.",
        "list": serialize([]),  # type: ignore[arg-type]
        "odd": serialize({**result, "k": 1, "s": True, "r": None}),
        "deep": serialize({**result, "s": True, "r": [deep, float("nan")]}),
    }
    for name, value in values.items():
        await redis.set(result_key_prefix + name, value)
    jobs = {name: await read(api, name) for name in values}
    assert {job["state"] for name, job in jobs.items() if name != "deep"} == {"failed"}
    assert jobs["deep"]["state"] == "succeeded"
    assert str(jobs["deep"]["result"]).startswith("nested too deeply")


@pytest.mark.parametrize("levels", [100, 240, 250, 260, 500, 520, 1000, 100_000])
async def test_deep_nesting_is_no_error_of_ours(api: Api, levels: int) -> None:
    answer = await post(api, "kwargs", '{"password": "", "deep": %s}', "[" * levels + "]" * levels)
    assert answer.status_code == 202 if levels < 240 else answer.status_code in (202, 400, 422)
    if answer.status_code == 202:
        job = await read(api, answer.json()["id"])
        assert job["state"] == "queued"


@pytest.mark.parametrize("value", ["1" * 5000, "1e999", "NaN", '"\\u0000"', '"\\ud800"', "null"])
async def test_odd_values_are_no_error_of_ours(api: Api, value: str) -> None:
    for field in ("queue", "task", "args", "kwargs", "id", "delay", "\\ud800"):
        answer = await post(api, field, "%s", value)
        assert answer.status_code in (400, 422) or (field, value) == ("id", "null")
        answer = await post(api, "kwargs", '{"password": "", "odd": [%s]}', value)
        assert answer.status_code in (202, 400, 422)
        if answer.status_code == 202:
            await run_burst(WorkerSettings)
            assert (await read(api, answer.json()["id"]))["state"] == "succeeded"


async def post(api: Api, field: str, template: str, value: str) -> Response:
    fields = {"queue": '"test"', "task": '"log_in"', field: template % value}
    body = ", ".join(f'"{name}": {text}' for name, text in fields.items())
    headers = {"Content-Type": "application/json"}
    return await api("POST", "/jobs", content="{" + body + "}", headers=headers)
