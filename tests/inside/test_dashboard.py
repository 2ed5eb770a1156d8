"""The operations pages over plain HTTP: every view and action works without JavaScript."""

import asyncio
import html
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from arq import cron
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import SecretStr
from starlette.requests import Request

from app.components.backend.cross_origin import is_cross_origin
from app.components.backend.main import create_app
from app.components.dashboard import jobs, load_tests, session
from app.components.dashboard.pages import templates
from app.components.dashboard.session import role_of
from app.components.worker.crons import list_crons
from app.components.worker.enqueue_by_name import TaskDescription
from app.components.worker.queues import load_test, system
from app.core import keys
from app.core.config import settings
from app.services.dead_letters import Filter, count_letters
from app.services.job_lookup import load_call
from tests.conftest import API_KEY
from tests.inside.running import running
from tests.inside.test_load_test import new_run, wait_for_report
from tests.support import queue_of, run_burst

VIEWER_KEY = "a-read-only-key"
SYSTEM = system.WorkerSettings
PAGES = ["", "jobs", "jobs/new", "dead-letters", "load-tests"]


async def system_health_check(ctx: dict[str, Any]) -> None:
    raise ValueError("it <b>went</b> wrong")


FAILING = queue_of(system_health_check, queue_name=SYSTEM.queue_name)


@pytest.fixture
def browser(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client that follows redirects and keeps cookies, and is not signed in."""
    monkeypatch.setattr(settings, "READ_ONLY_API_KEY", SecretStr(VIEWER_KEY))
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


async def sign_in(browser: TestClient, key: str = API_KEY) -> Response:
    return await post(browser, "sign-in", key=key)


async def get(browser: TestClient, path: str) -> str:
    response = await asyncio.to_thread(browser.get, f"/ops/{path}")
    assert response.status_code == 200, response.text
    assert "script" not in re.sub(r'<script type="module" src="[^"]+"></script>', "", response.text)
    assert " style=" not in response.text
    return html.unescape(response.text)


async def post(browser: TestClient, path: str, **form: Any) -> Response:
    return await asyncio.to_thread(browser.post, f"/ops/{path}", data=form)


async def fail_jobs(redis: ArqRedis, *ids: str) -> None:
    for job_id in ids:
        await redis.enqueue_job(
            "system_health_check", _job_id=job_id, _queue_name=SYSTEM.queue_name
        )
    await run_burst(FAILING)


@pytest.mark.parametrize("page", PAGES)
async def test_every_page_asks_for_the_key(browser: TestClient, page: str) -> None:
    response = await asyncio.to_thread(browser.get, f"/ops/{page}")
    assert response.url.path == "/ops/sign-in"
    await sign_in(browser)
    text = await get(browser, page)
    assert "Sign out" in text


async def test_a_session_ends(browser: TestClient) -> None:
    response = await sign_in(browser)
    cookie = response.history[0].headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/ops" in cookie
    await post(browser, "sign-out")
    assert (await asyncio.to_thread(browser.get, "/ops/")).url.path == "/ops/sign-in"


@pytest.mark.parametrize("name", ["API_KEY", "READ_ONLY_API_KEY"])
async def test_a_new_key_ends_every_session(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await sign_in(browser, VIEWER_KEY)
    monkeypatch.setattr(settings, name, SecretStr("another-key-for-the-tests"))
    with TestClient(create_app(), cookies=browser.cookies) as other:
        assert (await asyncio.to_thread(other.get, "/ops/")).url.path == "/ops/sign-in"


async def test_no_new_cookie_makes_a_session_longer(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_SESSION_SECONDS", -1)
    await sign_in(browser)
    assert (await asyncio.to_thread(browser.get, "/ops/")).url.path == "/ops/sign-in"


def test_a_key_of_any_characters_is_wrong() -> None:
    assert role_of("\ud800") is None


async def test_sign_in_is_limited(browser: TestClient) -> None:
    statuses = [(await sign_in(browser, "wrong")).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    assert (await sign_in(browser)).status_code == 429


async def test_a_read_only_key_changes_nothing(browser: TestClient, redis: ArqRedis) -> None:
    await sign_in(browser, VIEWER_KEY)
    assert "read-only" in await get(browser, "")
    for path in (
        "crons/run",
        "jobs/send",
        "jobs/send-again",
        "jobs/abort",
        "dead-letters/change",
        "load-tests/start",
    ):
        assert (await post(browser, path)).status_code == 403
    assert (await post(browser, "sign-out")).url.path == "/ops/sign-in"


@pytest.mark.parametrize(
    ("method", "site", "origin", "is_refused"),
    [
        ("GET", "cross-site", None, False),
        ("POST", "same-origin", None, False),
        ("POST", "none", None, False),
        ("POST", "same-site", None, True),
        ("POST", "cross-site", "http://host", True),
        ("POST", None, "http://host", False),
        ("POST", None, "http://[host", True),
        ("POST", None, "http://host:8000", True),
        ("POST", None, "https://evil.example", True),
        ("POST", None, "null", True),
        ("POST", None, None, False),
    ],
)
def test_requests_from_other_sites_are_refused(
    method: str, site: str | None, origin: str | None, is_refused: bool
) -> None:
    headers = {"host": "host", "sec-fetch-site": site, "origin": origin}
    raw = [(name.encode(), value.encode()) for name, value in headers.items() if value]
    request = Request({"type": "http", "method": method, "headers": raw})
    assert is_cross_origin(request) == is_refused


async def test_pages_load_nothing_from_elsewhere(browser: TestClient) -> None:
    response = await sign_in(browser)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert set(re.findall(r'(?:src|href)="https?://([^/"]+)', response.text)) == {"testserver"}


async def test_the_overview_says_what_is_wrong_and_how_to_fix_it(browser: TestClient) -> None:
    await sign_in(browser)
    text = await get(browser, "")
    assert "python -m arq app.components.worker.queues.system.WorkerSettings" in text


async def test_the_overview_says_how_long_jobs_wait_and_run(
    browser: TestClient, redis: ArqRedis
) -> None:
    await sign_in(browser)
    assert "≤" not in await get(browser, "")
    minute = keys.history_row(60, int(time.time()) // 60 * 60)
    counts = {"system:waits:4": 19, "system:waits:13": 1, "system:runs:7": 1}
    await redis.hset(minute, mapping=counts)  # type: ignore[misc]
    text = await get(browser, "")
    assert "<dt>wait p95, 1 h</dt><dd>≤ 100 ms</dd>" in text
    assert "<dt>run p95, 1 h</dt><dd>≤ 1 s</dd>" in text
    await redis.hset(minute, "system:waits:13", "2")  # type: ignore[misc]
    assert "<dt>wait p95, 1 h</dt><dd>over 60 s</dd>" in await get(browser, "")


async def test_a_group_of_an_unknown_task_is_only_that(
    browser: TestClient, redis: ArqRedis
) -> None:
    await sign_in(browser)
    for task, job_id in (("expired", "1"), ("missing", "2")):
        await redis.enqueue_job(task, _job_id=job_id, _queue_name=SYSTEM.queue_name)
    await redis.delete(f"{job_key_prefix}1")
    await run_burst(FAILING)
    assert 'value="<unknown>"' in await get(browser, "dead-letters")
    form = {"action": "purge", "queue": "system", "task": "<unknown>"}
    await post(browser, "dead-letters/change", **form, error="JobExecutionFailed", confirmed="yes")
    text = await get(browser, "dead-letters")
    assert ("job expired" in text, "'missing' not found" in text) == (False, True)


async def test_a_cron_job_runs_now(browser: TestClient, redis: ArqRedis) -> None:
    await sign_in(browser)
    name = SYSTEM.cron_jobs[0].name
    assert name in await get(browser, "")
    response = await post(browser, "crons/run", name=name)
    assert f"{name} is queued" in response.text
    assert (await post(browser, "crons/run", name="none")).status_code == 404


async def test_a_cron_job_is_due_by_the_clock_of_its_queue(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    soon = datetime.now(zone) + timedelta(hours=1)
    daily = cron(system_health_check, name="daily", hour=soon.hour, minute=soon.minute)
    monkeypatch.setattr(SYSTEM, "cron_jobs", (daily,))
    monkeypatch.setattr(SYSTEM, "timezone", zone, raising=False)
    (due,) = [found.due_seconds for found in await list_crons(redis) if found.name == "daily"]
    assert due is not None
    assert 3000 < due <= 3600


@pytest.mark.parametrize(
    ("now", "hours"),
    # The clocks go forward in the first night, and back in the second one.
    [("2026-03-28T20:00+01:00", 11), ("2026-10-24T20:00+02:00", 13)],
)
async def test_the_first_of_two_schedules_is_shown_across_a_clock_change(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, now: str, hours: int
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, zone: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromisoformat(now).astimezone(zone)

    monkeypatch.setattr("app.components.worker.crons.datetime", Clock)
    daily = tuple(cron(system_health_check, name="daily", hour=hour, minute=0) for hour in (8, 12))
    monkeypatch.setattr(SYSTEM, "cron_jobs", daily)
    monkeypatch.setattr(SYSTEM, "timezone", ZoneInfo("Europe/Berlin"), raising=False)
    (due,) = [found.due_seconds for found in await list_crons(redis) if found.name == "daily"]
    assert due == pytest.approx(hours * 3600, abs=1)


async def test_a_job_is_sent_shown_and_aborted(browser: TestClient, redis: ArqRedis) -> None:
    await sign_in(browser)
    form = await get(browser, "jobs/new?queue=media&task=make_thumbnail")
    assert 'name="kwargs.max_side"' in form
    values = {"queue": "media", "task": "make_thumbnail"}
    response = await post(browser, "jobs/send", **values)
    assert response.status_code == 422
    values |= {"kwargs.source": "a.png", "kwargs.target": "b.png"}
    response = await post(browser, "jobs/send", **values, **{"kwargs.max_side": "wide"})
    assert response.status_code == 422
    assert 'value="a.png"' in response.text
    response = await post(browser, "jobs/send", **values)
    assert "queued" in response.text
    job_id = response.url.params["id"]
    assert job_id[:10] in await get(browser, "jobs?state=queued&queue=media")
    assert job_id[:10] not in await get(browser, "jobs?state=failed")
    assert "make_thumbnail" in await get(browser, f"jobs?id={job_id}")
    assert "aborts the job" in (await post(browser, "jobs/abort", id=job_id)).text


async def test_a_secret_is_neither_shown_nor_filled_in(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {"type": "string", "format": "password"}
    properties = {"one": secret, "two": {"anyOf": [secret, {"type": "null"}]}, "three": {}}
    task = TaskDescription(
        queue="media", task="log_in", description="", parameters={"properties": properties}
    )
    monkeypatch.setattr(jobs, "describe_tasks", lambda: [task])
    await sign_in(browser)
    text = await get(browser, "jobs/new?queue=media&task=log_in")
    assert re.findall(r'name="kwargs\.(\w+)" type="password"', text) == ["one", "two"]
    field: Any = templates.get_template("macros.html").module
    assert "hush" not in field.field("one", "one", "hush", is_secret=True)


async def test_a_job_is_sent_again(browser: TestClient, redis: ArqRedis) -> None:
    await fail_jobs(redis, "one")
    await sign_in(browser)
    text = await get(browser, "jobs/show?id=one")
    assert "ValueError: it <b>went</b> wrong" in text
    response = await post(browser, "jobs/send-again", id="one")
    assert response.url.params["id"] != "one"
    assert "queued" in response.text


async def test_what_is_sent_again_is_what_was_sent(browser: TestClient, redis: ArqRedis) -> None:
    arguments: Any = {"source": "a.png", "max_side": 3, "target": SecretStr("hush")}
    await redis.enqueue_job(
        "make_thumbnail", _job_id="one", _queue_name="arq:queue:media", **arguments
    )
    await sign_in(browser)
    call = await load_call(redis, "one")
    assert call == ("media", "make_thumbnail", [], arguments)
    assert "**********" in await get(browser, "jobs/show?id=one")
    response = await post(browser, "jobs/send-again", id="one")
    assert (response.status_code, "kwargs.target" in response.text) == (422, True)
    await redis.set(job_key_prefix + "one", b"none")
    assert (await post(browser, "jobs/send-again", id="one")).status_code == 422


async def test_what_is_wrong_is_said_in_words(browser: TestClient) -> None:
    await sign_in(browser)
    response = await asyncio.to_thread(browser.get, "/ops/jobs/show?id=none")
    assert (response.status_code, "no job" in response.text) == (404, True)
    assert (await asyncio.to_thread(browser.get, "/ops/none")).status_code == 404


async def test_letters_are_grouped_and_changed_after_a_question(
    browser: TestClient, redis: ArqRedis
) -> None:
    await fail_jobs(redis, "one", "two", "three")
    await sign_in(browser)
    text = await get(browser, "dead-letters?task=system_health_check")
    assert "it &lt;b&gt;went" in text or "it <b>went</b> wrong" in text
    for form, left in (
        ({"action": "purge", "id": "one"}, 2),
        ({"action": "requeue", "task": "system_health_check", "error": "ValueError"}, 0),
    ):
        question = await post(browser, "dead-letters/change", **form)
        assert "dead letter" in question.text
        assert (await count_letters(redis, Filter()))[0] != left
        await post(browser, "dead-letters/change", **form, confirmed="yes")
        assert (await count_letters(redis, Filter()))[0] == left
    assert (await post(browser, "dead-letters/change", action="eat")).status_code == 422


SLIPS: list[tuple[str, dict[str, Any], str]] = [
    ("dead-letters/change", {"queu": "load_test"}, "queu"),
    ("dead-letters/change", {"ids": "one"}, "ids"),
    ("dead-letters/change", {"queue": ["load_test", "system"]}, "queue"),
    ("dead-letters/change", {"id": ""}, "ids.0"),
    ("dead-letters/change", {"queue": ""}, "queue"),
    ("dead-letters/change", {"task": "", "all": "true"}, "task"),
    ("dead-letters/change", {"all": "yes"}, "all"),
    ("dead-letters/change", {"all": "yes", "queue": "system"}, "all"),
    ("dead-letters/change", {"all": "true", "confirmed": "no"}, "confirmed"),
    ("dead-letters/change", {"all": "true", "confirmed": ""}, "confirmed"),
    ("dead-letters/change", {"all": "true", "id": "one"}, "select letters"),
    ("jobs/abort", {"job": "one"}, "job"),
    ("jobs/send", {"queue": "media", "task": "describe_media", "kwargs.to": "a"}, "kwargs.to"),
    ("load-tests/start", {"type": "io_simulation", "task": "5"}, "task"),
    ("crons/run", {"cron": "cron:cleanup_temp_files"}, "cron"),
]


@pytest.mark.parametrize(("path", "form", "named"), SLIPS)
async def test_a_misspelt_field_changes_nothing(
    browser: TestClient, redis: ArqRedis, path: str, form: dict[str, Any], named: str
) -> None:
    await fail_jobs(redis, "one", "two")
    await sign_in(browser)
    change = {"action": "purge", "confirmed": "yes"} if "change" in path else {}
    response = await post(browser, path, **(change | form))
    assert (response.status_code, named in response.text) == (422, True)
    assert (await count_letters(redis, Filter()))[0] == 2
    for queue in ("system", "load_test", "media"):
        assert not await redis.zcard(f"arq:queue:{queue}")


async def test_all_letters_are_purged_where_that_is_said(
    browser: TestClient, redis: ArqRedis
) -> None:
    await fail_jobs(redis, "one", "two")
    await sign_in(browser)
    assert 'name="all" value="true"' in await get(browser, "dead-letters")
    assert 'name="all"' not in await get(browser, "dead-letters?task=x")
    question = await post(browser, "dead-letters/change", action="purge", all="true")
    assert "Purge 2 dead letters?" in question.text
    await fail_jobs(redis, "three")
    asked = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', question.text)
    await post(browser, "dead-letters/change", **dict(asked), confirmed="yes")
    assert (await count_letters(redis, Filter()))[0] == 1


async def test_a_load_test_needs_a_worker(browser: TestClient) -> None:
    await sign_in(browser)
    response = await post(
        browser, "load-tests/start", type="io_simulation", queue="load_test", tasks="5"
    )
    assert (response.status_code, "no worker" in response.text) == (409, True)
    response = await post(browser, "load-tests/start", type="x", queue="load_test", tasks="5")
    assert response.status_code == 422


async def test_two_load_tests_are_compared(
    browser: TestClient, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(load_test.WorkerSettings):
        runs = [await new_run(redis, tasks=tasks) for tasks in (1, 2)]
        for run in runs:
            assert (await wait_for_report(redis, run)).complete
    await sign_in(browser)
    first, second = (run.id for run in runs)
    text = await get(browser, f"load-tests/show?id={first}")
    assert "io_simulation on queue load_test" in text
    assert "<dt>lost</dt><dd>0</dd>" in text
    assert "not finished" not in text
    text = await get(browser, f"load-tests/show?id={first}&id={second}")
    assert re.search(r'Tasks</td><td class="number">1</td><td class="number">2</td>.*2.00', text)
    monkeypatch.setattr(load_tests, "MAX_READ_JOBS", 0)
    run = await new_run(redis, tasks=1)
    await redis.hset(keys.load_test(run.id), "sent", "1")  # type: ignore[misc]
    await redis.delete(run.queue_name)
    text = await get(browser, f"load-tests/show?id={run.id}")
    assert f"1 of 1 jobs were sent. The command <code>load-test results {run.id}</code>" in text
    for ids, status in (("", 422), (f"?id={first}&id=none", 404)):
        response = await asyncio.to_thread(browser.get, f"/ops/load-tests/show{ids}")
        assert response.status_code == status
