"""What the bench does inside a rendered project, on the project's own interpreter.

    python -m bench.project settings
    python -m bench.project fill FORMAT TASK COUNT
    python -m bench.project served
    python -m bench.project drive FORMAT COUNT ROUNDS QUEUE…
    python -m bench.project send ROUNDS
    python -m bench.project wait COUNT QUEUE…

FORMAT is `msgpack`, which the project writes and reads, or `pickle`, arq's own. What a command returns is
printed as JSON.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

from app.core.bulk import enqueue_bulk, read_results
from app.core.config import settings
from app.core.redis import create_client
from app.core.serializer import deserialize, serialize
from arq.connections import ArqRedis
from arq.constants import job_key_prefix, result_key_prefix
from arq.jobs import deserialize_result, serialize_job
from arq.utils import timestamp_ms

from bench import workers

QUEUE: str = workers.QUEUE["queue_name"]
# How fast arq may go. The project's hooks and its format of jobs are left out.
SPEED = ("queue_name", "max_jobs", "job_timeout", "keep_result", "poll_delay", "queue_read_limit")
PATIENCE = 300
# Jobs of `drive` are due when all of them are there.
DELAY_MS = 1000


async def read_settings(_: ArqRedis) -> dict[str, Any]:
    """Return the settings of the load_test queue that stock arq is to have too."""
    return {name: workers.QUEUE[name] for name in (*SPEED, "allow_abort_jobs")}


async def fill(redis: ArqRedis, job_format: str, task: str, count: str) -> None:
    """Put jobs into the load_test queue of an empty database."""
    await redis.flushall()
    await put(redis, job_format, task, int(count), [QUEUE], timestamp_ms())


async def put(
    redis: ArqRedis, job_format: str, task: str, count: int, queues: list[str], due_ms: int
) -> None:
    """Deal jobs to queues."""
    serializer = serialize if job_format == "msgpack" else None
    for numbers in batches(count, 500):
        async with redis.pipeline(transaction=False) as pipe:
            for number in numbers:
                job = serialize_job(task, (), {}, None, due_ms, serializer=serializer)
                pipe.psetex(f"{job_key_prefix}{number}", 86_400_000, job)
                pipe.zadd(queues[number % len(queues)], {str(number): due_ms})
            await pipe.execute()


async def served(redis: ArqRedis) -> dict[str, float]:
    """Return how many CPU seconds, commands and requests the server has spent so far."""
    stats, cpu = await redis.info("stats"), await redis.info("cpu")
    return {
        "server": cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        "commands": stats["total_commands_processed"],
        "requests": stats["total_reads_processed"],
    }


async def drive(
    redis: ArqRedis, job_format: str, count: str, rounds: str, *queues: str
) -> list[dict[str, float]]:
    """Give no-ops to running workers; return jobs/s and the server's CPU seconds of each round.

    One more round goes before them, in which the workers become warm.
    """
    figures = []
    for _ in range(int(rounds) + 1):
        await redis.flushall()
        await put(redis, job_format, "noop", int(count), list(queues), timestamp_ms() + DELAY_MS)
        before = (await served(redis))["server"]
        async with asyncio.timeout(PATIENCE):
            while any([await redis.zcard(queue) for queue in queues]):  # noqa: ASYNC110 - others empty it
                await asyncio.sleep(0.1)
        spent = (await served(redis))["server"] - before
        rate = await read_rate(redis, job_format, int(count))
        figures.append({"rate": rate, "server": spent / int(count) * 1000})
    return figures[1:]


async def read_rate(redis: ArqRedis, job_format: str, count: int) -> float:
    """Return the jobs a second by arq's own times.

    Raises:
        SystemExit: A job is missing or has failed.
    """
    deserializer = deserialize if job_format == "msgpack" else None
    started: list[float] = []
    finished: list[float] = []
    for numbers in batches(count, 500):
        for value in await redis.mget([f"{result_key_prefix}{number}" for number in numbers]):
            result = deserialize_result(value, deserializer=deserializer)
            if not result.success:
                raise SystemExit(f"a job failed: {result.result!r}")
            started.append(result.start_time.timestamp())
            finished.append(result.finish_time.timestamp())
    return count / (max(finished) - min(started))


async def send(redis: ArqRedis, rounds: str) -> dict[str, list[float]]:
    """Return the jobs a second of each way to send, which take turns."""

    async def one_at_a_time(count: int) -> None:
        for _ in range(count):
            await redis.enqueue_job("noop", _queue_name=QUEUE)

    async def gather(count: int) -> None:
        for numbers in batches(count, 100):
            await asyncio.gather(*(redis.enqueue_job("noop", _queue_name=QUEUE) for _ in numbers))

    async def batches_of_500(count: int) -> None:
        for numbers in batches(count, 500):
            await enqueue_bulk(redis, QUEUE, "noop", named(numbers))

    async def batches_of_1000(count: int) -> None:
        for numbers in batches(count, 1000):
            await enqueue_bulk(redis, QUEUE, "noop", named(numbers))

    def named(numbers: range) -> list[tuple[str, dict[str, Any]]]:
        return [(f"run:{number}", {}) for number in numbers]

    # Each with as many jobs as it sends in about half a second.
    ways: dict[str, tuple[Callable[[int], Awaitable[None]], int]] = {
        "batches of 500": (batches_of_500, 20_000),
        "batches of 1000": (batches_of_1000, 20_000),
        "gather of 100": (gather, 2_000),
        "one at a time": (one_at_a_time, 1_000),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(int(rounds)):
        for name, (way, count) in ways.items():
            await redis.flushall()
            start = time.perf_counter()
            await way(count)
            rates[name].append(count / (time.perf_counter() - start))
            if await redis.zcard(QUEUE) != count:
                raise SystemExit(f"{name}: the queue does not hold every job")
    # What arq promises of one job holds for a batch: an id is enqueued once.
    await redis.flushall()
    if [await enqueue_bulk(redis, QUEUE, "noop", named(range(500))) for _ in range(2)] != [500, 0]:
        raise SystemExit("an id was enqueued twice")
    return rates


async def wait(redis: ArqRedis, count: str, *names: str) -> dict[str, list[int]]:
    """Return the milliseconds that single jobs waited for the idle worker of each queue."""

    async def one_queue(queue_name: str) -> list[int]:
        async def enqueue(number: int) -> Any:
            return await redis.enqueue_job("noop", _job_id=f"{run}:{number}", _queue_name=queue_name)

        run = uuid4().hex
        # The first one waits for the worker to be there, and is not counted.
        await (await enqueue(0)).result(timeout=PATIENCE, poll_delay=0.1)
        numbers = range(1, int(count) + 1)
        for number in numbers:
            # At no fixed distance, which could keep step with the worker's poll.
            await asyncio.sleep(random.uniform(0.05, 0.2))
            job = await enqueue(number)
        await job.result(timeout=PATIENCE, poll_delay=0.1)
        results = await read_results(redis, [f"{run}:{number}" for number in numbers])
        return [result.started - result.enqueued for result in results if result]

    queues = [vars(workers.QUEUES[name])["queue_name"] for name in names]
    return dict(zip(names, await asyncio.gather(*map(one_queue, queues)), strict=True))


def batches(count: int, size: int) -> Iterator[range]:
    """Yield the numbers up to `count`, `size` at a time."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


async def main(name: str, *arguments: str) -> None:
    """Run a command and print what it returns."""
    commands: dict[str, Callable[..., Awaitable[Any]]] = {
        "settings": read_settings,
        "fill": fill,
        "served": served,
        "drive": drive,
        "send": send,
        "wait": wait,
    }
    redis = create_client(settings.redis_settings)
    try:
        print(json.dumps(await commands[name](redis, *arguments)))
    finally:
        await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
