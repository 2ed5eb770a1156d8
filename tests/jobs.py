"""Run a job of every task of some queues and print the outcomes, a line of JSON each.

    python jobs.py [--burst] QUEUE...

It is run by a rendered project's interpreter in that project, and sends each job through the project's own
`enqueue`. `--burst` also runs the stock worker of each queue until the queue is empty.
"""

import asyncio
import json
import subprocess
import sys
import time
from importlib import import_module
from typing import Any

# What a task is given where its defaults will not do.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "failure_testing_task": {"failure_rate": 0},
    "convert_image": {"source": "picture.png"},
    "describe_media": {"source": "picture.png"},
    "send_alert": {"change": {"name": "test", "status": "resolved", "since": 0, "summary": "a test"}},
    "make_thumbnail": {"source": "picture.png", "target": "thumbnail.jpg", "max_side": 64},
}
PATIENCE = 60


async def run_jobs(queues: list[str], burst: bool) -> None:
    settings = import_module("app.core.config").settings
    redis = import_module("app.core.redis").create_client(settings.redis_settings)
    enqueue = import_module("app.components.worker.enqueue").enqueue
    if "media" in queues:
        draw_picture(settings.MEDIA_DIR)

    arguments = ARGUMENTS
    if "load_test" in queues:
        run = await start_load_test(redis)
        arguments = ARGUMENTS | {"load_test_orchestrator": {"run_id": run.id}}

    jobs = []
    for queue in queues:
        worker = import_module(f"app.components.worker.queues.{queue}").WorkerSettings
        for task in worker.functions:
            job = await enqueue(redis, worker, task, **arguments.get(task.__name__, {}))
            jobs.append((queue, task.__name__, job))
    if burst:
        for queue in queues:
            await asyncio.to_thread(drain, queue)
    async with asyncio.timeout(PATIENCE):
        for queue, task, job in jobs:
            while (info := await job.result_info()) is None:  # noqa: ASYNC110 - another process sets it
                await asyncio.sleep(0.02)
            outcome = {
                "queue": queue,
                "task": task,
                "success": info.success,
                "milliseconds": round((info.finish_time - info.start_time).total_seconds() * 1000, 1),
                "result": info.result if info.success else str(info.result),
            }
            print(json.dumps(outcome))
    await redis.aclose()


async def start_load_test(redis: Any) -> Any:
    """Store a run that ends after a second, whether or not a worker is there yet."""
    load_test = import_module("app.services.load_test")
    models = import_module("app.services.load_test_report")
    run = models.LoadTestRun(
        id="0123456789ab",
        test=models.LoadTest(type="io_simulation", tasks=5, timeout_seconds=1),
        queue_name="arq:queue:load_test",
        max_jobs=50,
        poll_delay=0.1,
        read_limit=500,
        started=time.time(),
        server_cpu_seconds=0,
    )
    await load_test.start(redis, run)
    return run


def draw_picture(directory: Any) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    picture = import_module("PIL.Image").linear_gradient("L").resize((320, 200))
    picture.save(directory / "picture.png")


def drain(queue: str) -> None:
    worker = f"app.components.worker.queues.{queue}.WorkerSettings"
    subprocess.run([sys.executable, "-m", "arq", worker, "--burst"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    names = [argument for argument in sys.argv[1:] if argument != "--burst"]
    asyncio.run(run_jobs(names, burst="--burst" in sys.argv))
