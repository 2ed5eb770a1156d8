"""The recipes of docs/recipes.md at work: `test_recipes` copies this into a project that has their files."""

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import anyio
from arq import func
from arq.connections import ArqRedis
from arq.jobs import JobStatus

from app.cli.reports import send
from app.components.backend.api.reports import request_report
from app.components.worker.queues.reports import WorkerSettings
from app.components.worker.tasks.reports import add_up
from app.core.config import settings
from app.services.progress import load_progress
from app.components.worker.reminders import add_up_later
from tests.support import queue_of, run_burst


async def test_jobs_for_later(redis: ArqRedis) -> None:
    soon, yearly = await add_up_later(redis, WorkerSettings)
    assert soon
    assert yearly
    assert [await job.status() for job in (soon, yearly)] == [JobStatus.deferred] * 2
    assert (await add_up_later(redis, WorkerSettings))[1] is None


def test_the_cron_job_is_due_when_the_page_says() -> None:
    (job,) = [job for job in WorkerSettings.cron_jobs if job.coroutine is add_up]
    assert (job.weekday, job.hour, job.minute) == ({0, 1, 2, 3, 4}, 6, 30)


async def test_other_senders(redis: ArqRedis) -> None:
    ids = [
        await send("/from-a-command"),
        await anyio.to_thread.run_sync(request_report, redis, "/from-a-thread"),
    ]
    script = await asyncio.create_subprocess_exec(
        sys.executable, "send_report.py", settings.REDIS_URL, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await script.communicate()
    ids.append(output.decode().strip())
    paths = []

    async def add_up(ctx: dict[str, Any], path: str) -> None:
        paths.append(path)

    await run_burst(queue_of(func(add_up, name="add_up"), queue_name=WorkerSettings.queue_name))
    assert sorted(paths) == ["/figures", "/from-a-command", "/from-a-thread"]
    assert await load_progress(redis, ids[0]) is None


async def test_databases_are_apart(redis: ArqRedis) -> None:
    await send("/figures")
    url = settings.REDIS_URL.replace("db=0", "db=1")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "arq", "app.components.worker.queues.reports.WorkerSettings", "--burst"),
        env={**os.environ, "REDIS_URL": url},
    )
    assert await process.wait() == 0
    assert await redis.zcard(WorkerSettings.queue_name) == 1


API = """
from fastapi.testclient import TestClient

from app.components.backend.main import app
from app.core.config import settings

key = {"X-API-Key": settings.API_KEY.get_secret_value()}
with TestClient(app, headers=key) as client:
    for path in ("/queues", "/dead-letters", "/readyz", "/jobs/none"):
        print(path, client.get(path).status_code)
    job = {"queue": "system", "task": "system_health_check", "id": "from-the-api"}
    print("/jobs", client.post("/jobs", json=job).status_code)
    print("/jobs/from-the-api", client.delete("/jobs/from-the-api").status_code)
    print("requeue", client.post("/dead-letters/requeue", json={"all": True}).status_code)
"""
STATUSES = {"/queues": "200", "/dead-letters": "200", "/readyz": "200", "/jobs/none": "404"}
STATUSES |= {"/jobs": "202", "/jobs/from-the-api": "202", "requeue": "200"}


async def test_the_rights_are_enough(redis: ArqRedis) -> None:
    page = Path("docs/operations.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"(?m)^user (.*)$", page)
    user, *rights = rule.replace(">PASSWORD", ">secret").split()
    admin: Any = redis
    await admin.execute_command("ACL", "SETUSER", user, "reset", *rights)
    url = settings.REDIS_URL.replace("unix://", f"unix://{user}:secret@")
    environment = {**os.environ, "REDIS_URL": url}
    await admin.execute_command("ACL", "LOG", "RESET")

    async def run(*command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return output.decode()

    arq = (sys.executable, "-m", "arq")
    load_test, system = (f"app.components.worker.queues.{name}.WorkerSettings" for name in ("load_test", "system"))
    worker = await asyncio.create_subprocess_exec(*arq, load_test, env=environment)
    while "j_complete" not in await run(sys.executable, "-m", "app.check", "load_test"):
        assert worker.returncode is None
    command = str(Path(sys.executable).with_name("full-stack"))
    printed = [
        await run(command, "load-test", "run", "--type", "failure_testing", "--tasks", "20"),
        await run(sys.executable, "-c", API),
        await run(*arq, system, "--burst"),
        await run(command, "health", "status", "--detailed"),
        await run(command, "load-test", "list"),
        await run(command, "dead-letters", "purge", "--all", "--yes"),
        await run(*arq, load_test, "--check"),
    ]
    worker.terminate()
    await worker.wait()
    refused = await admin.execute_command("ACL", "LOG")
    assert refused == [], "\n".join(printed)
    statuses = dict(line.split() for line in printed[1].splitlines() if line.startswith(("/", "req")))
    assert statuses == STATUSES, printed[1]
    assert "20 sent" in printed[0], printed[0]
    for words in (("flushall",), ("config", "get", "*"), ("keys", "*"), ("get", "other")):
        allowed = await admin.execute_command("ACL", "DRYRUN", user, *words)
        assert b"no permissions" in allowed, words
