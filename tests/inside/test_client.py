"""The worker's client: each job as with arq's own, with fewer requests."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from arq import Retry, func
from arq.connections import ArqRedis
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    retry_key_prefix,
)
from arq.jobs import Job, JobStatus
from arq.utils import timestamp_ms
from arq.worker import create_worker
from redis.exceptions import DataError, ResponseError

from app.components.worker import claims, results
from app.components.worker.client import WorkerRedis, worker_client
from app.components.worker.shared_connection import MAX_REQUEST_BYTES
from app.core import keys
from app.core.config import settings
from app.core.redis import create_client, redis_settings
from tests.inside import servers
from tests.inside.running import running
from tests.support import QUEUE, queue_of, run_burst

RUNS: list[Any] = []
GATE: list[asyncio.Event] = []
LISTENER = keys.listener(QUEUE)
HEARTBEAT = keys.listener_heartbeat(QUEUE)
STOCK = {"redis_pool": None}
# arq's own client leaves its pipeline open then.
CANCELLED_WHILE_IT_LOCKS = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def forget() -> None:
    RUNS.clear()
    GATE[:] = [asyncio.Event()]


@pytest.fixture
def endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens in these tests happens because the client was woken for it."""
    monkeypatch.setattr(claims, "MAX_WAIT_MS", 3_600_000)


async def note(ctx: dict[str, Any], value: Any = None) -> Any:
    RUNS.append(value)
    return value


async def wait_for_gate(ctx: dict[str, Any]) -> None:
    RUNS.append(ctx["job_id"])
    await GATE[0].wait()


async def try_twice(ctx: dict[str, Any]) -> int:
    if ctx["job_try"] == 1:
        raise Retry(defer=0.05)
    return int(ctx["job_try"])


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def send(redis: ArqRedis, task: str, *args: Any, **options: Any) -> Job:
    job = await redis.enqueue_job(task, *args, _queue_name=QUEUE, **options)
    assert job
    return job


async def until_listened(redis: ArqRedis, besides: bytes | None = None) -> None:
    async with asyncio.timeout(60):
        while await redis.get(LISTENER) in (None, besides):
            await asyncio.sleep(0.01)


async def locks(redis: ArqRedis) -> list[bytes]:
    return sorted(await redis.keys(in_progress_key_prefix + "*"))


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[WorkerRedis]:
    async with worker_client(QUEUE, 10) as redis:
        yield redis


@CANCELLED_WHILE_IT_LOCKS
async def test_each_job_runs_once_beside_stock_workers(redis: ArqRedis) -> None:
    for number in range(100):
        await send(redis, "note", number)
    async with AsyncExitStack() as stack:
        for options in ({}, STOCK, {}, STOCK):
            await stack.enter_async_context(running(queue_of(note, **options)))
        await until(lambda: len(RUNS) >= 100)
    assert sorted(RUNS) == list(range(100))
    assert not await locks(redis)


@CANCELLED_WHILE_IT_LOCKS
async def test_two_workers_may_share_a_class(redis: ArqRedis) -> None:
    queue = queue_of(note)
    async with running(queue), running(queue):
        for number in range(100):
            await send(redis, "note", number)
        await until(lambda: len(RUNS) >= 100)
    assert sorted(RUNS) == list(range(100))


def test_a_class_works_in_one_event_loop_after_another() -> None:
    queue = queue_of(note)

    async def run() -> None:
        async with worker_client(QUEUE, 10) as redis:
            await redis.flushdb()
            await asyncio.gather(*(send(redis, "note", number) for number in range(20)))
        await run_burst(queue)

    for _ in range(3):
        asyncio.run(run())
    assert len(RUNS) == 60


async def test_a_queue_that_changes_its_type_after_a_poll_ends_no_worker(redis: ArqRedis) -> None:
    await redis.set(QUEUE, "text")
    await redis.set("other", "text")
    async with client() as worker:
        assert await worker.zcard(QUEUE) == 0
        assert worker.claims.found_malformed
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await worker.zcard("other")
        assert await worker.enqueue_job("note", _job_id="cron:note:1") is None
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await worker.enqueue_job("note", _job_id="note:1")


async def test_an_idle_worker_is_woken(redis: ArqRedis, endless_wait: None) -> None:
    async with running(queue_of(note)):
        for number in range(3):
            await send(redis, "note", number)
            await until(lambda number=number: RUNS[-1:] == [number])


async def test_a_deferred_job_wakes_its_worker(redis: ArqRedis, endless_wait: None) -> None:
    async with running(queue_of(note, try_twice)):
        job = await send(redis, "note", _defer_by=0.3)
        await job.result(timeout=20)
        result = await job.result_info()
        assert result
        assert (result.start_time - result.enqueue_time).total_seconds() >= 0.3
        assert await (await send(redis, "try_twice")).result(timeout=20) == 2


async def test_one_idle_worker_wakes_for_all(
    redis: ArqRedis, endless_wait: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They run scripts too.
    monkeypatch.setattr(results, "OBSERVERS", ())

    async def count_claims() -> int:
        commands = await redis.info("commandstats")
        return int(commands.get("cmdstat_eval", {"calls": 0})["calls"])

    async with AsyncExitStack() as stack:
        before = await count_claims()
        for _ in range(4):
            earlier = await redis.get(LISTENER)
            await stack.enter_async_context(running(queue_of(note)))
            # A new worker takes the place of the one that listens.
            async with asyncio.timeout(60):
                while await redis.get(LISTENER) == earlier:
                    await asyncio.sleep(0.01)
        command: Any = redis.execute_command
        named_until = await command("PEXPIRETIME", LISTENER)
        for number in range(20):
            # Short enough to be renewed, long enough for a busy machine.
            await redis.pexpire(HEARTBEAT, 2400)
            await (await send(redis, "note", number)).result(timeout=20, poll_delay=0.01)
        # One for the heartbeat, for each job that comes, and for each that ends, instead of four.
        assert await count_claims() < before + 4 + 4 * 20
        # Of a heartbeat the others hear nothing, but to name a worker again would wake them.
        assert await command("PEXPIRETIME", LISTENER) == named_until


async def test_a_worker_without_a_slot_wakes_the_others(
    redis: ArqRedis, endless_wait: None
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            queue = queue_of(note, wait_for_gate, max_jobs=1)
            await stack.enter_async_context(running(queue))
        for number in range(2):
            await send(redis, "wait_for_gate")
            await until(lambda number=number: len(RUNS) == number + 1)
        await (await send(redis, "note")).result(timeout=20)
        GATE[0].set()


async def test_a_worker_that_stops_no_longer_listens(redis: ArqRedis) -> None:
    async with running(queue_of(note)):
        await until_listened(redis)
    assert not await redis.exists(LISTENER)


async def test_a_new_worker_listens_in_place_of_one_that_was_killed(
    redis: ArqRedis, endless_wait: None
) -> None:
    await redis.set(LISTENER, "killed")
    await redis.set(HEARTBEAT, 1)
    async with running(queue_of(note)):
        await (await send(redis, "note")).result(timeout=20)


async def test_an_idle_worker_listens_in_place_of_one_that_was_killed(redis: ArqRedis) -> None:
    async with running(queue_of(note)):
        await until_listened(redis)
        await redis.set(HEARTBEAT, 1, px=60_000)
        await redis.set(LISTENER, "killed")
        await (await send(redis, "note")).result(timeout=20)
        assert await redis.get(LISTENER) == b"killed"
        await redis.delete(HEARTBEAT)
        await until_listened(redis, besides=b"killed")


@pytest.mark.parametrize("change", [["FLUSHDB"], ["LPUSH", LISTENER, "text"]])
async def test_a_worker_listens_whatever_becomes_of_its_key(
    redis: ArqRedis, endless_wait: None, change: list[str]
) -> None:
    async with running(queue_of(note)), running(queue_of(note)):
        await until_listened(redis)
        # In one transaction: a worker that finds no name in between writes its own.
        transaction: Any = redis.pipeline().delete(LISTENER)
        transaction.execute_command(*change)
        await transaction.execute()
        for number in range(3):
            await (await send(redis, "note", number)).result(timeout=20, poll_delay=0.01)


async def test_a_freed_slot_is_used(redis: ArqRedis, endless_wait: None) -> None:
    async with running(queue_of(note, wait_for_gate, max_jobs=1)):
        first = await send(redis, "wait_for_gate")
        await until(lambda: RUNS)
        await send(redis, "note", "second")
        assert await first.status() is JobStatus.in_progress
        GATE[0].set()
        await until(lambda: "second" in RUNS)


async def test_no_more_jobs_are_locked_than_slots_are_free(redis: ArqRedis) -> None:
    jobs = [await send(redis, "wait_for_gate") for _ in range(5)]
    async with running(queue_of(wait_for_gate, max_jobs=2)):
        await until(lambda: len(RUNS) == 2)
        assert len(await locks(redis)) == 2
        GATE[0].set()
        await asyncio.gather(*(job.result(timeout=20) for job in jobs))


async def test_jobs_behind_locked_ones_are_found(redis: ArqRedis) -> None:
    for number in range(250):
        await send(redis, "note", number, _job_id=f"{number:03}")
    others = [f"{in_progress_key_prefix}{number:03}" for number in range(240)]
    for lock in others:
        await redis.set(lock, "another worker", ex=60)
    async with running(queue_of(note, max_jobs=10, queue_read_limit=245)):
        await until(lambda: len(RUNS) >= 5)
        await redis.delete(*others)
        await until(lambda: len(RUNS) == 250)
    # The limit of ids that are looked at holds.
    assert sorted(RUNS[:5]) == [240, 241, 242, 243, 244]


async def test_locks_that_are_not_used_are_given_back(redis: ArqRedis) -> None:
    queue = queue_of(wait_for_gate, max_jobs=10)
    for number in range(5):
        await send(redis, "wait_for_gate", _job_id=str(number))
    worker = create_worker(queue, max_jobs=2, handle_signals=False)
    task = asyncio.create_task(worker.async_run())
    await until(lambda: len(RUNS) == 2)
    async with asyncio.timeout(60):
        while len(await locks(redis)) > 2:
            await asyncio.sleep(0.01)
    counts = await redis.mget([f"{retry_key_prefix}{number}" for number in range(5)])
    assert sorted(int(count or 0) for count in counts) == [0, 0, 0, 1, 1]
    GATE[0].set()
    # A job that ends at the moment of the cancellation would cancel this test too.
    await until(lambda: len(RUNS) == 5 and not worker.tasks)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await worker.close()


async def test_a_poll_that_is_cancelled_gives_its_locks_back(redis: ArqRedis) -> None:
    job = await send(redis, "note")
    async with client() as worker:
        await redis.client_pause(300, all=False)
        poll = asyncio.create_task(worker.claims.poll(0, 100))
        await asyncio.sleep(0.05)
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll
    # The client has sent what waited before it closed.
    assert not await redis.exists(retry_key_prefix + job.job_id)
    assert not await locks(redis)


@pytest.mark.parametrize("is_full_then", [False, True])
async def test_a_lost_reply_is_asked_for_again(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch, is_full_then: bool
) -> None:
    job = await send(redis, "note")
    await redis.zadd(abort_jobs_ss, {job.job_id: 1})
    async with client() as worker:
        connection = worker.claims._connection
        read = connection.read_response
        lost: list[Any] = []

        async def lose_the_first_claim(**options: Any) -> Any:
            reply = await read(**options)
            if isinstance(reply, list) and not lost:
                lost.append(reply)
                await redis.config_set("maxmemory", int(is_full_then))
                raise ConnectionError("lost")
            return reply

        monkeypatch.setattr(connection, "read_response", lose_the_first_claim)
        if is_full_then:
            assert await worker.claims.poll(0, 100) == []
            await redis.config_set("maxmemory", 0)
        assert await worker.claims.poll(0, 100) == [job.job_id.encode()]
        (claim,) = worker.claims._locked.values()
        assert claim.replies["ZREM"] == 1
        assert lost
        assert await redis.get(retry_key_prefix + job.job_id) == b"1"


async def test_a_server_that_another_replaces_is_left(tmp_path: Path) -> None:
    """Behind one address, as a hosted server fails over: the old one is a replica from then on."""
    connections: list[Awaitable[Any]] = []

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
        target.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", ports[0])
        connections.append(asyncio.gather(pump(reader, to_server), pump(from_server, writer)))

    with servers.process(tmp_path, "old") as (_, old), servers.process(tmp_path, "new") as (_, new):
        ports = [old, new]
        async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            server = redis_settings(f"redis://127.0.0.1:{port}")
            async with WorkerRedis(server, QUEUE, 10) as worker:
                assert await worker.claims.poll(0, 100) == []
                replica = create_client(redis_settings(f"redis://127.0.0.1:{old}"))
                primary = create_client(redis_settings(f"redis://127.0.0.1:{new}"))
                await replica.slaveof("127.0.0.1", new)
                job = await send(primary, "note")
                ports.reverse()
                async with asyncio.timeout(60):
                    while not (found := await worker.claims.poll(0, 100)):
                        pass
                assert found == [job.job_id.encode()]
                await asyncio.gather(replica.aclose(), primary.aclose())
        await asyncio.gather(*connections)


async def test_a_clock_that_is_set_back_delays_no_poll(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client() as worker:
        assert await worker.claims.poll(0, 100) == []
        an_hour_ago = timestamp_ms() - 3_600_000
        monkeypatch.setattr(claims, "timestamp_ms", lambda: an_hour_ago)
        async with asyncio.timeout(60):
            assert await worker.claims.poll(0, 100) == []


async def test_a_try_ends_once_however_often_that_is_sent(redis: ArqRedis) -> None:
    job = await send(redis, "note", _defer_until=datetime.fromtimestamp(1, UTC), _expires=60)
    lock = in_progress_key_prefix + job.job_id

    async def end(worker: WorkerRedis) -> float | None:
        # As after a reply that was lost.
        worker.shared._paused_until = math.inf
        async with worker.pipeline(transaction=True) as pipe:
            pipe.zincrby(QUEUE, 5000, job.job_id)
            pipe.delete(lock)
            await pipe.execute()
        score: float | None = await redis.zscore(QUEUE, job.job_id)
        return score

    async with client() as worker:
        await redis.set(lock, f"{worker.claims.lock_prefix}1")
        assert await end(worker) == 6000
        assert not await redis.exists(lock)
        await redis.set(lock, "another worker")
        assert await end(worker) == 6000
        assert await redis.get(lock) == b"another worker"
        await redis.zrem(QUEUE, job.job_id)
        assert await end(worker) is None
        # A task's own.
        async with worker.pipeline(transaction=True) as pipe:
            pipe.zincrby("scores", 5, "Ada")
            assert await pipe.execute() == [5]


@pytest.mark.parametrize("is_paused", [False, True])
async def test_ids_to_abort_of_another_type_end_no_worker(redis: ArqRedis, is_paused: bool) -> None:
    async with client() as worker:
        worker.shared._paused_until = math.inf if is_paused else 0
        await redis.set(abort_jobs_ss, "text")
        async with worker.pipeline(transaction=True) as pipe:
            pipe.set("key", 1)
            pipe.zrem(abort_jobs_ss, "job")
            assert await pipe.execute() == [True, 0]
        async with worker.pipeline(transaction=True) as pipe:
            pipe.zrem("key", "member")
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                await pipe.execute()


async def test_a_backlog_does_not_hold_up_who_watches_it(redis: ArqRedis) -> None:
    async with client() as worker:
        for name in ("cron:watch_health", "note", "cron:mine", "send_alert"):
            await asyncio.sleep(0.002)
            await worker.enqueue_job(name, _job_id=name, _queue_name=QUEUE)
        # Another program's.
        await redis.zadd(QUEUE, {"first": 0})
        await worker.enqueue_job("send_alert", _job_id="last", _queue_name=QUEUE)
    _, *found, _ = await redis.zrange(QUEUE, 0, -1)
    assert found == [b"send_alert", b"cron:watch_health", b"note", b"cron:mine"]


async def test_a_cron_job_that_a_full_server_refuses_is_enqueued_later(redis: ArqRedis) -> None:
    await redis.config_resetstat()
    async with client() as worker:
        await redis.config_set("maxmemory", 1)
        asking = asyncio.create_task(
            worker.enqueue_job("cron:note", _job_id="cron:note:1", _queue_name=QUEUE)
        )
        async with asyncio.timeout(60):
            while "errorstat_OOM" not in await redis.info("errorstats"):
                await asyncio.sleep(0.01)
        await redis.config_set("maxmemory", 0)
        assert await asking
        assert await redis.zcard(QUEUE) == 1
        # An id that is taken is not asked for again.
        assert await worker.enqueue_job("cron:note", _job_id="cron:note:1") is None


async def test_a_job_waits_longer_than_a_weekend(redis: ArqRedis) -> None:
    job = await send(redis, "note")
    assert await redis.pttl(job_key_prefix + job.job_id) > 10 * 86_400_000


async def test_a_running_job_can_be_aborted(redis: ArqRedis) -> None:
    async with running(queue_of(wait_for_gate)):
        job = await send(redis, "wait_for_gate")
        await until(lambda: RUNS)
        assert await job.abort(timeout=20)


async def test_a_lock_lasts_as_long_as_arq_wants(redis: ArqRedis) -> None:
    async with running(queue_of(func(wait_for_gate, timeout=1000))):
        for _ in range(2):
            job = await send(redis, "wait_for_gate")
            await until(lambda job=job: job.job_id in RUNS)
            lock_key = in_progress_key_prefix + job.job_id
            # The job starts while the time of its lock is on its way.
            async with asyncio.timeout(60):
                while not 1_000_000 < await redis.pttl(lock_key) <= 1_010_000:
                    await asyncio.sleep(0.01)


async def test_a_worker_drains_after_the_server_was_full(redis: ArqRedis) -> None:
    for number in range(20):
        await send(redis, "note", number)
    await redis.config_set("maxmemory", 1)
    try:
        worker = create_worker(
            queue_of(note, on_startup=None, on_shutdown=None),
            poll_delay=0.01,
            handle_signals=False,
        )
        worker._last_health_check = float("inf")
        task = asyncio.create_task(worker.async_run())
        await asyncio.sleep(0.3)
        assert not task.done()
        assert not RUNS
    finally:
        await redis.config_set("maxmemory", 0)
    async with asyncio.timeout(60):
        while await redis.zcard(QUEUE) or worker.tasks:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await worker.close()


async def test_a_server_without_tracking_is_polled(redis: ArqRedis) -> None:
    await redis.acl_setuser(
        "limited", enabled=True, nopass=True, keys="*", commands=["+@all", "-client|tracking"]
    )
    url = settings.REDIS_URL.replace("unix://", "unix://limited:x@")
    options = redis_settings(url)
    pool = worker_client(QUEUE, 10)
    pool.connection_pool.connection_kwargs |= {"username": options.username, "password": "x"}
    pool._make_connections()
    async with running(queue_of(note, redis_pool=pool)):
        await send(redis, "note", 1)
        await until(lambda: RUNS)
        assert not pool.claims._is_tracking


async def test_bad_records_harm_only_themselves(redis: ArqRedis) -> None:
    await redis.zadd(QUEUE, {b"\xff": 1, b"a-list": 1, b"a-text": 1})
    await redis.zadd(f"{job_key_prefix}a-list", {"not": 1})
    await redis.set(f"{job_key_prefix}a-text", "text")
    await redis.set(f"{retry_key_prefix}a-text", "text")
    async with running(queue_of(note)):
        await send(redis, "note", 1)
        await until(lambda: RUNS)


async def test_a_queue_of_another_type_is_no_end(redis: ArqRedis) -> None:
    await redis.set(QUEUE, "text")
    pool = worker_client(QUEUE, 10)
    async with pool:
        assert await pool.claims.poll(0, 10) == []


PIPELINES = {
    "replies": [
        ("set", "a", 1),
        ("get", "a"),
        ("incr", "a"),
        ("hset", "h", "f", 1.5),
        ("hgetall", "h"),
    ],
    "scores": [("zadd", "z", {"m": 1.5}), ("zrange", "z", 0, -1, False, True)],
    "flags": [("set", "a", "b", 5), ("expire", "a", 10), ("exists", "a", "b")],
    "two words": [("set", "a", 1), ("object", "ENCODING", "a"), ("config_get", "save")],
    "bytes": [("set", b"a", b"\xff\x00"), ("get", b"a"), ("mget", "a", "b")],
    "empty": [("mget", [])],
    "an error in one": [("set", "a", "x"), ("incr", "a")],
    "a refused command": [("set", "a", "x"), ("execute_command", "NONSENSE")],
    "a wrong type": [("set", "a", True)],
    "none": [],
}


@pytest.mark.parametrize("commands", PIPELINES.values(), ids=list(PIPELINES))
async def test_a_transaction_gives_what_redis_py_gives(
    redis: ArqRedis, commands: list[tuple[Any, ...]]
) -> None:
    async def run(redis: ArqRedis) -> Any:
        await redis.flushdb()
        async with redis.pipeline(transaction=True) as pipe:
            try:
                for name, *arguments in commands:
                    getattr(pipe, name)(*arguments)
                return await pipe.execute()
            except (ResponseError, DataError) as error:
                return type(error)

    async with client() as worker:
        assert await run(worker) == await run(redis)


@pytest.mark.parametrize("commands", PIPELINES.values(), ids=list(PIPELINES))
async def test_a_command_gives_what_redis_py_gives(
    redis: ArqRedis, commands: list[tuple[Any, ...]]
) -> None:
    async def run(redis: ArqRedis) -> Any:
        await redis.flushdb()
        try:
            return [await getattr(redis, name)(*arguments) for name, *arguments in commands]
        except (ResponseError, DataError) as error:
            return type(error)

    async with client() as worker:
        assert await run(worker) == await run(redis)


async def test_what_is_sent_in_one_moment_leaves_in_one_write(redis: ArqRedis) -> None:
    async with client() as worker:

        async def add(number: int) -> list[Any]:
            async with worker.pipeline(transaction=True) as pipe:
                pipe.set(f"key-{number}", number)
                pipe.get(f"key-{number}")
                return await pipe.execute()

        await add(0)
        before = (await redis.info("stats"))["total_reads_processed"]
        *replies, echo = await asyncio.gather(*map(add, range(50)), worker.echo("text"))
        after = (await redis.info("stats"))["total_reads_processed"]
    assert replies == [[True, str(number).encode()] for number in range(50)]
    assert echo == b"text"
    # One is that of INFO.
    assert after - before == 2


async def test_a_command_that_waits_holds_up_no_other(redis: ArqRedis) -> None:
    async with client() as worker:
        first = asyncio.ensure_future(worker.execute_command("BLPOP", "list", 0))
        async with asyncio.timeout(60):
            while not (await redis.info("clients"))["blocked_clients"]:
                await worker.echo("text")
        await worker.execute_command("RPUSH", "list", "value")
        assert await first == (b"list", b"value")
        assert not worker.shared._paused_until


async def test_a_large_request_holds_up_no_other(redis: ArqRedis) -> None:
    value = bytes(2 * MAX_REQUEST_BYTES)
    async with client() as worker:
        await worker.set("key", value)
        assert not worker.shared._connection.is_connected
        assert await worker.get("key") == value


async def test_what_the_shared_connection_loses_is_sent_on_another(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(**_: Any) -> None:
        raise ConnectionError("lost")

    async with client() as worker:
        monkeypatch.setattr(worker.shared._connection, "read_response", lose)
        async with worker.pipeline(transaction=True) as pipe:
            pipe.set("key", 1)
            replies = await asyncio.gather(pipe.execute(), worker.echo("text"))
        assert replies == [[True], b"text"]
