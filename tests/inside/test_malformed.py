"""Bad records: each harms only itself, in workers, in the API and in the commands."""

import asyncio
import json
import math
from typing import Any

import msgpack
import pytest
from arq.connections import ArqRedis
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from arq.utils import timestamp_ms

from app.components.worker.lookup import check_job
from app.core import keys
from app.core.serializer import serialize
from app.services.dead_letters import Filter, Selection, list_letters, purge, requeue, sweep
from app.services.job_lookup import find
from app.services.load_test import list_runs
from tests.conftest import Api
from tests.inside import command
from tests.inside.running import running
from tests.support import QUEUE, queue_of, run_burst

pytestmark = pytest.mark.usefixtures("own_queue")


async def work(ctx: dict[str, Any]) -> str:
    return "done"


WorkerSettings = queue_of(work)

JOB: dict[str, Any] = {"t": None, "f": "work", "a": [], "k": {}, "et": 1}
RESULT = JOB | {
    "t": 1,
    "s": False,
    "r": "no",
    "st": 1,
    "ft": 9_000_000_000_000,
    "q": QUEUE,
    "id": "bad",
}
DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
VERY_DEEP = b"\x91" * 1015 + b"\xc0"
ODD = [None, "text", b"\xff", -1, 2**63, 1.5, math.nan, math.inf, True, [], {}, [[1]], {1: 2}, DEEP]


def pack(value: object) -> bytes:
    return msgpack.packb(value)


def variants(record: dict[str, Any]) -> list[bytes]:
    """Return a record with each field missing or odd, and bytes that are no record."""
    changed = [record | {name: odd} for name in record for odd in ODD]
    missing = [{n: v for n, v in record.items() if n != name} for name in record]
    raw = [b"", b"\xc1", b"\x80\x04}.", b"hello", b"\xff" * 100, VERY_DEEP, pack([]), pack(7)]
    ext = [pack(record | {"a": [msgpack.ExtType(code, b"\xff")]}) for code in range(1, 9)]
    return [*map(pack, changed), *map(pack, missing), *raw, *ext, pack({b"\xff": 1} | record)]


async def keep_going(api: Api, redis: ArqRedis, *job_ids: str) -> None:
    """Read everything that there is, over HTTP."""
    await sweep(redis)
    of_jobs = [f"/{kind}/{job_id}" for job_id in job_ids for kind in ("jobs", "dead-letters")]
    for path in (
        "/queues",
        "/jobs",
        "/tasks",
        "/dead-letters",
        "/dead-letters?queue=test",
        "/metrics",
        *of_jobs,
    ):
        answer = await api("GET", path)
        assert answer.status_code in (200, 404), (path, answer.text)
    assert (await api("GET", "/health")).status_code in (200, 503)


async def test_any_bytes_of_a_job_end_as_a_letter_or_run(api: Api, redis: ArqRedis) -> None:
    bad = {f"bad{at}": raw for at, raw in enumerate(variants(JOB))}
    assert len(bad) > 80
    for job_id, raw in bad.items():
        await redis.set(job_key_prefix + job_id, raw)
    await redis.zadd(QUEUE, dict.fromkeys([*bad, "good"], 1))
    await redis.set(job_key_prefix + "good", serialize(JOB))
    await keep_going(api, redis, *bad)
    for job_id in list(bad)[:5]:
        assert (await api("DELETE", f"/jobs/{job_id}")).status_code == 202
    await run_burst(WorkerSettings)
    assert (await find(redis, "good")).state == "succeeded"
    states = {(await find(redis, job_id)).state for job_id in bad}
    assert states <= {"succeeded", "failed", "aborted"}
    assert await redis.zcard(QUEUE) == 0


@pytest.mark.parametrize("place", ["result", "letter"])
async def test_any_bytes_of_a_result_harm_no_other(api: Api, redis: ArqRedis, place: str) -> None:
    results = {f"bad{at}": raw for at, raw in enumerate(variants(RESULT))}
    results["good"] = serialize(RESULT | {"id": "good"})
    for job_id, raw in results.items():
        if place == "result":
            await redis.set(result_key_prefix + job_id, raw)
        else:
            value: Any = raw
            await redis.hset(keys.LETTERS, job_id, value)  # type: ignore[misc]
            await redis.zadd(keys.LETTERS_BY_TIME, {job_id: timestamp_ms()})
    await keep_going(api, redis, *results)
    for arguments in (("list",), ("show", "bad1"), ("list", "--json")):
        _, _, errors = await command.run("dead-letters", *arguments)
        assert "Traceback" not in errors
    assert "good" in {letter.id for letter in await list_letters(redis, Filter(), 1000)}
    answer = await requeue(redis, Selection(all=True), check_job)
    assert answer.requeued >= 1
    assert "good" not in answer.refused
    await purge(redis, Selection(all=True))
    assert await redis.hlen(keys.LETTERS) == 0  # type: ignore[misc]


async def set_type(redis: ArqRedis, key: str, kind: str) -> None:
    """Write a value of a Redis type."""
    await redis.delete(key)
    commands: dict[str, list[Any]] = {
        "string": ["SET", key, "text"],
        "hash": ["HSET", key, "field", "value"],
        "list": ["RPUSH", key, "value"],
        "set": ["SADD", key, "value"],
        "zset": ["ZADD", key, 5, "value"],
        "stream": ["XADD", key, "*", "jobs", "value"],
    }
    await redis.execute_command(*commands[kind])  # type: ignore[no-untyped-call]


KEYS = [
    job_key_prefix + "bad",
    result_key_prefix + "bad",
    retry_key_prefix + "bad",
    in_progress_key_prefix + "bad",
    abort_jobs_ss,
    QUEUE,
    keys.workers(QUEUE),
    keys.load_test("bad"),
    *keys.TYPES,
]


@pytest.mark.parametrize("kind", ["string", "hash", "list", "set", "zset", "stream"])
@pytest.mark.parametrize("key", KEYS)
async def test_a_key_of_any_type_harms_no_other(
    api: Api, redis: ArqRedis, key: str, kind: str
) -> None:
    await redis.zadd(QUEUE, {"bad": 1})
    await redis.zadd(keys.LOAD_TESTS, {"bad": 1})
    await set_type(redis, key, kind)
    await keep_going(api, redis, "bad")
    await list_runs(redis)
    answer = await api("POST", "/dead-letters/purge", json={"all": True})
    assert answer.status_code == 200
    await run_burst(WorkerSettings)
    await redis.enqueue_job("work", _job_id="good", _queue_name=QUEUE)
    await run_burst(WorkerSettings)
    assert (await find(redis, "good")).state == "succeeded"
    assert await redis.type(keys.workers(QUEUE)) == b"none"
    await redis.zadd(QUEUE, {"unknown": 1})
    await run_burst(WorkerSettings)
    assert "unknown" in {letter.id for letter in await list_letters(redis, Filter(), 10)}


@pytest.mark.parametrize("number", [b"9" * 5000, "²".encode(), b"-1", b"1e9", b"\xff", b""])
async def test_a_number_out_of_range_harms_no_other(
    api: Api, redis: ArqRedis, number: bytes
) -> None:
    now = timestamp_ms()
    await redis.zadd(QUEUE, {"bad": 1})
    await redis.set(retry_key_prefix + "bad", number)
    fields: Any = {
        keys.history_row(60, now // 60_000 * 60): ("test:failed", number),
        keys.CRONS: ("cron:work", b"failed " + number),
    }
    for key, field in fields.items():
        await redis.hset(key, *field)  # type: ignore[misc]
    for due_ms in (0, -1, -(10**17), 10**17, 10**30, now - 60_000, "text", None):
        run = {"name": "cron:work", "job_id": "x", "due_ms": due_ms, "seen_ms": now}
        await redis.hset(keys.SCHEDULE, str(due_ms), json.dumps(run))  # type: ignore[misc]
    await keep_going(api, redis, "bad")
    assert "cron:work of" in (await api("GET", "/health")).text
    await run_burst(WorkerSettings)


@pytest.mark.parametrize("job_id", [b"\xff", b"a\x80b", b"", b"\xed\xa0\x80", b"\x1b[2J/../\xfe"])
async def test_an_id_that_is_not_text_becomes_a_letter(
    api: Api, redis: ArqRedis, job_id: bytes
) -> None:
    await redis.zadd(QUEUE, {job_id: 1})
    await redis.zadd(abort_jobs_ss, {job_id: 1})
    await redis.enqueue_job("work", _job_id="good", _queue_name=QUEUE)
    assert (await api("GET", "/queues")).status_code == 200
    await run_burst(WorkerSettings)
    assert (await find(redis, "good")).state == "succeeded"
    (letter,) = (await api("GET", "/dead-letters")).json()
    answer = (
        await requeue(redis, Selection(ids=[letter["id"]]), check_job) if letter["id"] else None
    )
    assert answer is None or answer.requeued == 0
    code, output, _ = await command.run("dead-letters", "list")
    assert (code, "\x1b" in output) == (0, False)
    body = {"ids": [letter["id"]]} if letter["id"] else {"all": True}
    assert (await api("POST", "/dead-letters/purge", json=body)).json() == {"purged": 1}


@pytest.mark.parametrize("score", [-math.inf, -1e300, -1])
async def test_a_time_that_is_none_is_no_end_of_the_worker(redis: ArqRedis, score: float) -> None:
    await redis.zadd(QUEUE, {"bad": score})
    await redis.enqueue_job("work", _job_id="good", _queue_name=QUEUE)
    async with asyncio.timeout(20):
        await run_burst(WorkerSettings)
    assert (await find(redis, "good")).state == "succeeded"


@pytest.mark.parametrize("pool", [WorkerSettings.redis_pool, None])
async def test_a_job_that_is_due_at_zero_runs(redis: ArqRedis, pool: Any) -> None:
    async def add(job_id: str) -> None:
        await redis.set(job_key_prefix + job_id, serialize(JOB))
        await redis.zadd(QUEUE, {job_id: 0})

    await add("first")
    async with asyncio.timeout(60), running(queue_of(work, redis_pool=pool)):
        while (await find(redis, "first")).state != "succeeded":
            await asyncio.sleep(0.01)
        # With arq's own client it would wait for the next sweep.
        await add("second")
        while pool and (await find(redis, "second")).state != "succeeded":
            await asyncio.sleep(0.01)
