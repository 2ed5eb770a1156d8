"""Requests and texts that mean harm: what becomes of them."""

import logging
from pathlib import Path

import pytest
import structlog
from arq.connections import ArqRedis
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.components.backend.main import create_app
from app.components.backend.middleware import HEADERS, MAX_BODY_BYTES
from app.core import keys
from app.core.config import WORKER_QUEUES, load_settings, settings
from app.core.log import configure_logging
from tests.conftest import API_KEY, Api
from tests.inside.running import run_command

BODY = {"queue": next(iter(WORKER_QUEUES)), "task": "none"}


async def test_a_refusal_says_what_to_set(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "API_KEY", None)
    assert "set API_KEY in" in (await api("GET", "/queues")).json()["detail"]
    assert (await api("GET", "/health")).json().keys() == {"status"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"API_KEY": "schlüssel-mit-umlaut"}, "API_KEY"),
        ({"API_KEY": "a-key-with-a-break\nX-Other: 1"}, "API_KEY"),
        ({"READ_ONLY_API_KEY": " a-key-with-a-space-before"}, "READ_ONLY_API_KEY"),
        ({"ALERT_WEBHOOK_URL": "ftp://example.com/secret"}, "ALERT_WEBHOOK_URL"),
        ({"DEBUG": "true"}, "DEBUG"),
        ({"HOST": ""}, "HOST"),
        ({"MEDIA_CPU_SECONDS": "9" * 20}, "MEDIA_CPU_SECONDS"),
        ({"REDIS_URL": "redis://example.com"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://127.0.0.1.example.com"}, "REDIS_URL"),
        ({"REDIS_URL": "rediss://:secret@example.com?ssl_cert_reqs=none"}, "REDIS_URL"),
        ({"REDIS_URL": "rediss://:secret@example.com?ssl_ca_certs=/none.pem"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:secret@example.com"}, None),
        ({"REDIS_URL": "redis://localhost"}, None),
        ({"API_KEY": " ", "READ_ONLY_API_KEY": "", "HEARTBEAT_URL": ""}, None),
        ({}, None),
    ],
)
def test_production_refuses_what_is_unsafe(
    wrong: dict[str, str | None], named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {"ENVIRONMENT": "production", "API_KEY": None, "DEBUG": "false"}
    for name, value in {**right, **wrong}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if named is None:
        load_settings()
        return
    with pytest.raises(SystemExit, match=rf"^{named} [^\n]+: [^\n]+$") as refusal:
        load_settings()
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("name", ["API_KEY", "READ_ONLY_API_KEY"])
@pytest.mark.parametrize("key", [None, "change-me", "fifteen-letters", "ChangeMe-change-me"])
def test_only_the_web_application_needs_safe_keys(
    name: str, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ENVIRONMENT", "production")
    create_app()
    monkeypatch.setattr(settings, name, key and SecretStr(key))
    if name == "READ_ONLY_API_KEY" and key is None:
        create_app()
        return
    with pytest.raises(SystemExit, match=rf"^{name} is missing, an example, or below 16 [^\n]+$"):
        create_app()


def test_a_key_has_one_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "READ_ONLY_API_KEY", settings.API_KEY)
    with pytest.raises(SystemExit, match=r"^READ_ONLY_API_KEY is API_KEY, [^\n]+$"):
        create_app()


def test_a_password_is_given_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Some editors begin a file with a byte order mark.
    (tmp_path / "password").write_text("\ufeffhidden-1")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    assert load_settings().redis_settings.password == "hidden-1"  # noqa: S105
    monkeypatch.setenv("REDIS_URL", "redis://:hidden-2@localhost")
    with pytest.raises(SystemExit, match=r"^REDIS_URL .*: leave one out$") as refusal:
        load_settings()
    assert "hidden" not in str(refusal.value)


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://user:hidden-1@localhost")
    for name in ("API_KEY", "READ_ONLY_API_KEY"):
        monkeypatch.setenv(name, "hidden-2-hidden-2-hidden-2")
    for name in ("ALERT_WEBHOOK_URL", "HEARTBEAT_URL"):
        monkeypatch.setenv(name, "https://example.com/hidden-3")
    loaded = load_settings()
    assert "PORT=8000" in repr(loaded)
    assert "hidden" not in f"{loaded!r} {loaded} {loaded.model_dump()} {loaded.model_dump_json()}"


async def test_the_rate_holds_over_two_processes(
    redis: ArqRedis, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "JOBS_PER_MINUTE", 4)
    with TestClient(create_app(), headers={"X-API-Key": API_KEY}) as other:
        answers = [(await api("POST", "/jobs", json=BODY)).status_code for _ in range(3)]
        answers += [other.post("/jobs", json=BODY).status_code for _ in range(3)]
        assert answers == [422] * 4 + [429] * 2
        answer = other.post("/dead-letters/requeue", json={"all": True})
        assert 1 <= int(answer.headers["Retry-After"]) <= 120
    assert not any(API_KEY.encode() in key for key in await redis.keys())


@pytest.mark.parametrize("value", [["x"], "text", "1e999", str(2**63 - 1)])
@pytest.mark.parametrize("expiry", [None, 10**6])
async def test_a_counter_of_another_program_refuses_no_request(
    redis: ArqRedis, api: Api, value: str | list[str], expiry: int | None
) -> None:
    await api("POST", "/jobs", json=BODY)
    (counter,) = await redis.keys(f"{keys.RATE}*")
    for name in (counter, counter + b"/-1"):
        await redis.delete(name)
        if isinstance(value, list):
            await redis.lpush(name, *value)  # type: ignore[misc]
        else:
            await redis.set(name, value)
        if expiry:
            await redis.expire(name, expiry)
    assert (await api("POST", "/jobs", json=BODY)).status_code == 422


async def test_each_response_has_the_headers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.components.backend.api.jobs.list_queues", None)
    for path, status in (("/livez", 200), ("/none", 404), ("/queues", 500), ("/docs", 200)):
        answer = await api("GET", path)
        assert answer.status_code == status
        assert {name.lower() for name in HEADERS} <= answer.headers.keys()


async def test_the_log_has_no_key(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await api("GET", "/queues")
    await api("GET", "/queues", headers={"X-API-Key": API_KEY + "wrong"})
    assert API_KEY not in caplog.text


async def test_no_line_has_the_password_of_redis() -> None:
    url = "redis://user:a-password@127.0.0.1:1"
    for arguments in (["health", "status"], ["dead-letters", "list"]):
        code, *texts = await run_command(*arguments, url=url)
        assert code == 1
        assert "127.0.0.1:1" in "".join(texts)
        assert "a-password" not in "".join(texts)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_body_is_refused(api: Api, chunked: bool) -> None:
    chunk = b" " * (MAX_BODY_BYTES // 10)
    content = (chunk for _ in range(100)) if chunked else chunk * 100
    headers = {"Content-Type": "application/json"}
    answer = await api("POST", "/jobs", content=content, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (413, 413)


@pytest.mark.parametrize(
    "path", ["", "%0A", "x%0d%0aSet-Cookie:%20a=b", "..%2f..%2fetc%2fpasswd", "%00", "é"]
)
async def test_odd_paths_are_not_found(redis: ArqRedis, api: Api, path: str) -> None:
    for method, route in (("GET", "jobs"), ("DELETE", "jobs"), ("GET", "dead-letters")):
        answer = await api(method, f"/{route}/{path}")
        assert answer.status_code == 404
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("job_id", ["", "cron:x", "bulk:1", ".", "..", "a/../b", "a/.", "./a"])
async def test_an_id_that_means_something_else_is_refused(
    redis: ArqRedis, api: Api, job_id: str
) -> None:
    job_id = job_id.replace("bulk:", keys.BULK_PREFIX)
    body = {"queue": "system", "task": "system_health_check", "id": job_id}
    answer = await api("POST", "/jobs", json=body)
    assert (answer.status_code, [*answer.json()["errors"]]) == (422, ["id"])
    assert not await redis.zcard("arq:queue:system")


async def test_a_field_that_is_there_twice_is_refused(redis: ArqRedis, api: Api) -> None:
    answer = await api("GET", "/dead-letters?queue=media&queue=system")
    assert (answer.status_code, [*answer.json()["errors"]]) == (422, ["queue"])


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_line_break_forges_no_line_of_the_log(
    log_format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings, "LOG_FORMAT", log_format)
    structlog.reset_defaults()
    configure_logging()
    forged = "x\n2026-01-01 [info] forged\x1b[2J"
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("arq.worker").exception("%s failed", forged)
    structlog.stdlib.get_logger("own").info(forged, name=forged)
    logging.getLogger().handlers.clear()
    lines = capsys.readouterr().err.splitlines()
    assert any("forged" in line for line in lines)
    assert not any(line.startswith("2026-01-01 [info]") for line in lines)
    assert "\x1b[2J" not in "".join(line for line in lines if not line.startswith("    "))
