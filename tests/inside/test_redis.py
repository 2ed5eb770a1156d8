"""The connection: every URL that is refused, and errors and outages that workers survive."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq.connections import ArqRedis, create_pool
from pydantic import SecretStr
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    WatchError,
)

from app.components.worker.client import worker_client
from app.core.config import WORKER_QUEUES, settings
from app.core.errors import explain
from app.core.redis import (
    RESPONSE_SECONDS,
    Patience,
    create_client,
    describe_server,
    find_weakness,
    in_time,
    redis_settings,
)
from app.services.health import check_redis
from app.services.job_list import list_jobs
from app.services.job_lookup import find
from app.services.malformed import discard_malformed
from app.services.rates import read_rows
from tests.support import QUEUE


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/abc",
        "redis://host/-1",
        "redis://host/1_0",
        "redis://host/0/1",
        "redis://host?db=one",
        "redis://host/0?colour=red",
        "redis://host/0?socket_timeout=1",
        "redis://u:123#ab@host/0",
        "redis://u:1/23@host/0",
        "redis://u:12?x=y@host/0",
        "redis://host:0/0",
        "redis://host:99999/0",
        "redis://host /0",
        "redis://ho\nst/0",
        "redis:///0",
        "rediss://host?ssl_cert_reqs=yes",
        "redis://host?ssl_cert_reqs=none",
        "unix://run/redis.sock",
        "redis+sentinel://host",
        "host:6379",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as error:
        redis_settings(url)
    assert "123" not in str(error.value)


def test_a_server_is_described_without_its_password() -> None:
    for url in (
        "redis://host:7000/3",
        "rediss+sentinel://one:26379,two:26380/main/1",
        "unix:///redis.sock?db=0",
    ):
        given = redis_settings(url.replace("://", "://user:s3cret@"))
        assert describe_server(given) == url
        assert given.password == "s3cret"  # noqa: S105


@pytest.mark.parametrize(
    ("url", "weakness"),
    [
        ("redis://elsewhere", "no password"),
        ("redis://:@elsewhere", "no password"),
        ("rediss://elsewhere", "no password"),
        ("redis+sentinel://one,two/main", "no password"),
        ("redis://:%20@elsewhere", "no password"),
        ("redis://:change-me@elsewhere", "the example's password"),
        ("redis://:Change_Me_2@elsewhere", "the example's password"),
        ("rediss://:a@elsewhere?ssl_cert_reqs=none", "does not check"),
        ("rediss://:a@elsewhere?ssl_cert_reqs=optional", "does not check"),
        ("redis://:a@elsewhere", None),
        ("rediss://:a@elsewhere", None),
        ("rediss://elsewhere?ssl_certfile=/own.pem", None),
        ("redis://localhost", None),
        ("unix:///a", None),
    ],
)
def test_an_unsafe_way_to_the_server_is_named(url: str, weakness: str | None) -> None:
    found = find_weakness(redis_settings(url))
    assert (weakness is None and found is None) or (weakness and weakness in str(found))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfMemoryError("command not allowed"), "is full: purge"),
        (ReadOnlyError("You can't write against a read only replica."), "is read-only"),
        (NoPermissionError("User x has no permissions to run 'eval'"), "refuses a right (User x"),
        (ResponseError("ERR ACL failure in script: no"), "refuses a right"),
        (AuthenticationError("invalid username-password pair"), "refuses the login"),
        (BusyLoadingError("Redis is loading the dataset"), "is loading its data"),
        (ResponseError("MOVED 3999 127.0.0.1:6381"), "is a cluster, which arq does not"),
        (ResponseError("MISCONF Redis is configured to save"), "cannot save its data"),
        (RedisError("Error 111 connecting"), "refuses a command"),
        (InvalidResponse('Protocol error, got "H"'), "does not reply as Redis does (Protocol"),
        (ResponseError("unknown command 'X', with args beginning with: 's3cret'"), "'X)"),
        (
            ResponseError(
                "Command # 2 (SET k s3cret of pipeline caused error: s3cret) of pipeline caused "
                "error: ('WRONGTYPE Operation',)"
            ),
            "(WRONGTYPE Operation)",
        ),
        (ResponseError("x" * 80_000 + "\x1b[2J\n"), "xxx…)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_short_line(error: RedisError, words: str) -> None:
    line = str(explain(error))
    assert words in line
    assert "s3cret" not in line
    assert len(line) < 400
    assert line.isprintable()


@pytest.mark.parametrize("is_stock", [False, True])
async def test_an_error_of_redis_holds_no_argument(redis: ArqRedis, is_stock: bool) -> None:
    client = redis
    if is_stock:
        # As arq makes one for a worker.
        client = await create_pool(settings.redis_settings, job_serializer=redis.job_serializer)
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisError) as error:
            await client.enqueue_job("login", password=SecretStr("hunter2-plain"))
    finally:
        await redis.config_set("maxmemory", 0)
    assert "hunter2-plain" not in str(error.value)
    assert "maxmemory" in str(error.value)
    assert "is full: purge" in str(explain(error.value))
    if is_stock:
        await client.aclose()


async def test_patience_is_one_figure() -> None:
    # Nothing listens there: the connection's tries are within those of the command.
    async with create_client(redis_settings("redis://127.0.0.1:1")) as client:
        client.set_retry(Patience(1))
        start = asyncio.get_running_loop().time()
        with pytest.raises(RedisError):
            await client.ping()
        assert 0.5 < asyncio.get_running_loop().time() - start < 2


async def test_a_reply_that_came_while_a_task_blocked_is_read(redis: ArqRedis) -> None:
    await redis.client_pause(300)
    reply = asyncio.ensure_future(in_time(lambda: redis.incr("key"), 0.2))
    # Long enough for the request to leave.
    for _ in range(10):
        await asyncio.sleep(0)
    time.sleep(1)
    assert await reply == 1


async def test_a_full_server_is_waited_for(redis: ArqRedis) -> None:
    client = await create_pool(settings.redis_settings)
    client.set_retry(Patience(10))
    await redis.config_set("maxmemory", 1)
    write = asyncio.ensure_future(client.set("key", "value"))
    await asyncio.sleep(0.3)
    assert not write.done()
    await redis.config_set("maxmemory", 0)
    assert await write
    await client.aclose()


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "NOREPLICAS": (
        {"min-replicas-to-write": 1},
        {"min-replicas-to-write": 0},
        "has too few replicas",
    ),
    "MASTERDOWN": (
        {"replica-serve-stale-data": "no", "replicaof": "127.0.0.1 1"},
        {"replica-serve-stale-data": "yes", "replicaof": "no one"},
        "has lost its primary",
    ),
    "BUSY": ({}, {}, "runs a script that takes long"),
}


@asynccontextmanager
async def refusing(redis: ArqRedis, code: str) -> AsyncIterator[None]:
    """Have the server refuse commands with a code."""
    script: asyncio.Future[Any] | None = None

    async def configure(values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name == "replicaof":
                await redis.replicaof(*value.split())
            else:
                await redis.config_set(name, value)

    before, after, _ = REFUSALS[code]
    await configure(before)
    if code == "BUSY":
        await redis.config_set("busy-reply-threshold", 10)
        endless = create_client(settings.redis_settings)
        script = asyncio.ensure_future(endless.eval("while true do end", 0))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
    yield
    if script:
        await redis.script_kill()
        with pytest.raises(RedisError):
            await script
        await endless.aclose()
    await configure(after)


@pytest.mark.parametrize("is_stock", [False, True])
@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refusal_that_may_pass_is_waited_for(
    redis: ArqRedis, code: str, is_stock: bool
) -> None:
    client: ArqRedis = worker_client(QUEUE, 10)
    if is_stock:
        client = await create_pool(settings.redis_settings)
    client.set_retry(Patience(10))

    async def watch() -> None:
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch("watched")
            await is_refusing.wait()
            assert await pipe.exists("watched") == 0

    async def write() -> None:
        async with client.pipeline(transaction=True) as pipe:
            pipe.set("other", "value")
            await pipe.execute()

    is_refusing = asyncio.Event()
    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0.1)
    async with refusing(redis, code):
        is_refusing.set()
        waiting = [asyncio.ensure_future(one) for one in (client.set("key", "value"), write())]
        await asyncio.sleep(0.3)
        assert not any(one.done() for one in waiting)
        assert watching.done() == (code == "NOREPLICAS")
        hasty = create_client(settings.redis_settings)
        with pytest.raises(RedisError) as error:
            await hasty.set("key", "value")
        await hasty.aclose()
        assert REFUSALS[code][2] in str(explain(error.value)) or "is read-only" in str(
            explain(error.value)
        )
    await asyncio.gather(watching, *waiting)
    await client.aclose()


@asynccontextmanager
async def closing_server() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A proxy whose server is away until the event: it takes connections, and closes them."""
    is_back = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while is_back.is_set() and (data := await reader.read(65536)):
            writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"redis://{host}:{port}", is_back
    server.close()


@pytest.mark.parametrize("is_stock", [False, True])
async def test_a_proxy_whose_server_is_away_is_waited_for(is_stock: bool) -> None:
    async with closing_server() as (url, is_back):
        client = create_client(redis_settings(url))
        if is_stock:
            is_back.set()
            client = await create_pool(redis_settings(url))
            await client.connection_pool.disconnect()
            is_back.clear()
        client.set_retry(Patience(10))
        writing = asyncio.ensure_future(client.set("key", "value"))
        await asyncio.sleep(0.3)
        assert not writing.done()
        is_back.set()
        assert await writing
        await client.aclose()


async def test_requests_do_not_wait_behind_each_other_for_a_silent_server() -> None:
    async with silent_server() as url, create_client(redis_settings(url)) as client:
        start = asyncio.get_running_loop().time()
        await asyncio.gather(*(client.ping() for _ in range(20)), return_exceptions=True)
        assert asyncio.get_running_loop().time() - start < 5


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """A server that takes connections and commands, and never replies."""
    connected: set[asyncio.StreamWriter] = set()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.add(writer)
        await reader.read()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"redis://{host}:{port}"
    server.close()
    for writer in connected:
        writer.close()
        await writer.wait_closed()


async def test_a_check_of_a_silent_server_ends() -> None:
    check = (sys.executable, "-m", "arq", "app.components.worker.queues.system.WorkerSettings")
    async with silent_server() as url:
        process = await asyncio.create_subprocess_exec(
            *check, "--check", env=os.environ | {"REDIS_URL": url}, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(6 * (RESPONSE_SECONDS + 1) + 10):
            _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().splitlines()[-1].startswith("Redis at redis://127.0.0.1:")


@pytest.mark.parametrize("question", ["EXISTS", "ZSCORE"])
async def test_a_connection_that_breaks_after_watch(redis: ArqRedis, question: str) -> None:
    await redis.set("arq:in-progress:job", "1")
    await redis.zadd(QUEUE, {"job": 5})
    async with redis.pipeline(transaction=True) as pipe:
        await pipe.watch("arq:in-progress:job")
        assert pipe.connection
        if question == "ZSCORE":
            assert await pipe.exists("arq:in-progress:job") == 1
        await redis.client_kill_filter(_type="normal", skipme=True)
        if question == "EXISTS":
            assert await pipe.exists("arq:in-progress:job") == 1
            assert await pipe.zscore(QUEUE, "job") == 5
        else:
            assert await pipe.zscore(QUEUE, "job") is None
    async with redis.pipeline(transaction=True) as pipe:
        await pipe.watch("other")
        await redis.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(WatchError):
            await pipe.get("other")


@asynccontextmanager
async def user_with(redis: ArqRedis, *rights: str) -> AsyncIterator[ArqRedis]:
    """A client of a user who has every right but those that are taken away."""
    await redis.execute_command(  # type: ignore[no-untyped-call]
        *("ACL", "SETUSER", "lacking", "reset", "on", ">word", "~*", "&*", "+@all", *rights)
    )
    path = settings.redis_settings.unix_socket_path
    async with create_client(redis_settings(f"unix://lacking:word@{path}")) as client:
        yield client
    await redis.acl_deluser("lacking")


@pytest.mark.parametrize(
    "rights",
    [["-zadd"], ["-psetex"], ["-exists"], ["-evalsha"], ["-@write"], ["resetkeys", "~arq:queue:*"]],
    ids=str,
)
async def test_a_user_who_may_not_enqueue_is_not_ready(redis: ArqRedis, rights: list[str]) -> None:
    async with user_with(redis, *rights) as client:
        check = await check_redis(client)
    assert check.status == "fail"
    assert "refuses a right" in str(check.output)
    assert (await check_redis(redis)).status == "pass"
    assert not await redis.zcard("arq:queue:system")


async def test_a_right_that_is_missing_makes_no_job_malformed_or_unknown(redis: ArqRedis) -> None:
    queue_name = WORKER_QUEUES["system"]["queue_name"]
    await redis.enqueue_job("system_health_check", _job_id="good", _queue_name=queue_name)
    async with user_with(redis, "-get", "-mget") as client:
        with pytest.raises(NoPermissionError):
            await discard_malformed(client, queue_name)
        with pytest.raises(NoPermissionError):
            await list_jobs(client)
        with pytest.raises(NoPermissionError):
            await find(client, "good")
    assert await redis.zscore(queue_name, "good")
    async with user_with(redis, "-hgetall") as client:
        with pytest.raises(NoPermissionError):
            await read_rows(client, ["system"])


async def test_a_connection_with_an_unread_reply_is_not_used(redis: ArqRedis) -> None:
    connection = await redis.connection_pool.get_connection()
    await connection.send_command("PING")
    await asyncio.sleep(0.1)
    await redis.connection_pool.release(connection)
    assert await redis.echo("word") == b"word"
