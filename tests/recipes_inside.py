"""The recipes of docs/recipes.md at work: `test_recipes` copies this into a project that has their files."""

import asyncio
import os
import sys
from typing import Any

import anyio
from arq.connections import ArqRedis
from arq.jobs import JobStatus

from app.cli.reports import send
from app.components.worker.queues.reports import WorkerSettings
from app.components.worker.tasks.reports import add_up
from app.core.config import settings
from app.services.from_threads import send_from_thread
from app.services.progress import load_progress
from app.services.reminders import add_up_later
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
        await anyio.to_thread.run_sync(send_from_thread, redis, WorkerSettings, "/from-a-thread"),
    ]
    script = await asyncio.create_subprocess_exec(
        sys.executable, "send_report.py", settings.REDIS_URL, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await script.communicate()
    ids.append(output.decode().strip())
    paths = []

    async def add_up(ctx: dict[str, Any], path: str) -> None:
        paths.append(path)

    await run_burst(queue_of(add_up, queue_name=WorkerSettings.queue_name))
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
