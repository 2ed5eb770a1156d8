"""The connection to Redis or Valkey."""

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

import arq.connections
from arq.connections import ArqRedis, RedisSettings
from arq.constants import job_key_prefix
from redis.asyncio.client import Pipeline, Redis
from redis.asyncio.connection import (
    AbstractConnection,
    ConnectionPool,
    DefaultParser,
    SSLConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    WatchError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.core.redis_url import TLS_OPTIONS, parse_url
from app.core.serializer import deserialize, serialize

# A server that has not replied for this long is gone, even if its connection looks open.
RESPONSE_SECONDS = 3
# How long a worker waits for a Redis that is unreachable, full or read-only, before it ends and its
# supervisor takes over.
PATIENCE_SECONDS = 120
# The same for a worker that stops: `stop_grace_period` leaves it 10 s.
STOP_SECONDS = 5
# The same for the API and the command line, where a person waits.
CLIENT_RESPONSE_SECONDS = 1.5
# The password and the keys in .env.example, however they are spelt or lengthened.
EXAMPLE = re.compile("change.?me", re.IGNORECASE)

log = logging.getLogger(__name__)


class PassingError(ResponseError):
    """A refusal that may pass, by its code and words; redis-py has no class for it."""

    def __str__(self) -> str:
        """Return what the server said."""
        return " ".join(self.args)


# The server runs a long script, has lost its primary, cannot save, or lacks replicas.
for _code in ("BUSY", "MASTERDOWN", "MISCONF", "NOREPLICAS"):
    DefaultParser.EXCEPTION_CLASSES[_code] = partial(PassingError, _code)

PASSING_ERRORS = (
    OSError,
    RedisConnectionError,
    RedisTimeoutError,
    OutOfMemoryError,
    ReadOnlyError,
    PassingError,
)
# How long a job waits for a worker. With arq's default, a day, a weekend without one loses it.
MAX_QUEUED_MS = 14 * 86_400_000
# Idle connections are tried after half a minute, so that firewalls and NAT keep them.
KEEPALIVE = {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        getattr(socket, name): value
        for name, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}.items()
        if hasattr(socket, name)
    },
}


class Patience(Retry):
    """Repeat what fails for `seconds` in all, and give each try `response_seconds`.

    redis-py counts tries instead, those of the connection within those of the command, so that the
    same number lets one worker wait for half a minute and another for four. Its `socket_timeout`
    rests on `asyncio.wait_for`, which can lose a cancellation before Python 3.12: a worker would
    not end on SIGTERM.
    """

    def __init__(self, seconds: float, response_seconds: float = RESPONSE_SECONDS) -> None:
        """Repeat for `seconds`; with less than a try needs, one that fails late is the last."""
        super().__init__(NoBackoff(), 0)
        self.seconds = seconds
        self.response_seconds = response_seconds
        self.has_logged_in = False

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        """Be the same for all connections, so that `seconds` can be changed while they wait."""
        return self

    async def call_with_retry(
        self, do: Callable[[], Awaitable[Any]], fail: Callable[[RedisError], Any]
    ) -> Any:
        """Repeat `do` after each error that may pass; `fail` closes the connection."""
        loop = asyncio.get_running_loop()
        start, pause, has_told = loop.time(), 0.05, False
        while True:
            try:
                return await in_time(do, self.response_seconds)
            except PASSING_ERRORS as error:
                await fail(error)  # type: ignore[arg-type]
                # A password that has never been right will not be right soon.
                if isinstance(error, AuthenticationError) and not self.has_logged_in:
                    raise
                waited = loop.time() - start
                if waited + pause > self.seconds:
                    raise
                if waited > 1 and not has_told:
                    has_told = True
                    log.warning("%s Waiting for up to %d s.", _explain(error), self.seconds)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1)


def _explain(error: Exception) -> str | None:
    # Its words name the server of the settings, which need this module.
    from app.core.errors import explain

    return explain(error if isinstance(error, RedisError) else RedisConnectionError(str(error)))


async def in_time(do: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """Await `do()` for `seconds` at most.

    Raises:
        redis.exceptions.TimeoutError: There was no reply in time.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as limit:
            # A task may have blocked the event loop meanwhile: a reply that is there is read first.
            timer = loop.call_later(seconds, lambda: limit.reschedule(loop.time() + 0.05))
            try:
                return await do()
            finally:
                timer.cancel()
    except TimeoutError as error:
        raise RedisTimeoutError(f"no reply within {seconds:g} s") from error


async def log_in(connection: AbstractConnection) -> None:
    """Do what redis-py does first on a connection, where it sets no limit of time."""
    await in_time(connection.on_connect, RESPONSE_SECONDS)


class SafePipeline(Pipeline):
    """A pipeline whose errors hold no command, and which survives a broken connection."""

    def annotate_exception(self, *_: Any) -> None:
        """Leave the server's words alone: redis-py would add the command, secrets included."""

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Survive a connection that breaks after WATCH, where redis-py raises WatchError.

        arq expects it of EXEC only; elsewhere it would end the worker. Its first question after
        WATCH is EXISTS, which is asked again: without WATCH until Redis answers, then with it. The
        second is for a job's ZSCORE: None is a job that another worker has taken, so that the next
        poll finds it.
        """
        try:
            return await super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except WatchError:
            if args[0] == "EXISTS":
                await self.immediate_execute_command(*args, **options)
                await self.watch(*args[1:])
                return await self.immediate_execute_command(*args, **options)
            if args[0] == "ZSCORE":
                return None
            raise

    async def reset(self) -> None:
        """Survive a server that hangs at UNWATCH: redis-py sets no limit of time there."""
        if self.watching and self.connection:
            try:
                await in_time(super().reset, RESPONSE_SECONDS)
            except RedisTimeoutError:
                # The connection is closed by now, and what it watched is forgotten.
                self.watching = False
        await super().reset()  # type: ignore[no-untyped-call]

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Tell a refused transaction from one whose watched key has changed.

        arq would take the first for the second, and a job that was refused for one whose id is
        taken. For a cron job's run that is right: its refusal would end the worker.
        """
        commands = self.command_stack
        try:
            return await super().execute(raise_on_error)
        except WatchError as error:
            refusal = error.__context__
            if isinstance(refusal, ResponseError) and not _is_cron(commands):
                raise refusal from None
            raise
        except ResponseError as error:
            # The queue has another type since the last poll; the next one discards it.
            if "WRONGTYPE" in str(error) and _is_cron(commands):
                raise WatchError(str(error)) from error
            raise


def _is_cron(commands: list[Any]) -> bool:
    return any(f"{job_key_prefix}cron:" in str(args[1:2]) for args, _ in commands)


class PatientPool(ConnectionPool):
    """A pool that opens a connection as patiently as it sends commands, and several at a time.

    redis-py does not repeat the login, which is where a proxy fails whose server is away. And it
    opens one connection at a time: behind a silent server, each request waits for those before it.
    """

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        """Return a connection that is open, for one caller."""
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            if not await _is_ready(connection):
                await connection.disconnect()
                await connection.retry.call_with_retry(
                    partial(self.ensure_connection, connection), lambda _: connection.disconnect()
                )
        except BaseException:
            await self.release(connection)
            raise
        return connection


async def _is_ready(connection: AbstractConnection) -> bool:
    """Say whether a connection is open, and holds no reply to an earlier command."""
    try:
        return connection.is_connected and not await connection.can_read_destructive()
    except (RedisConnectionError, OSError):
        return False


class MasterConnection(SentinelManagedConnection):
    """A connection to the master that asks the sentinels for its address before each try.

    redis-py would try an address as long as the client's retry allows, and an old master is away
    for ever.
    """

    async def connect_to(self, address: tuple[str, int]) -> None:
        """Connect to an address, or fail at once."""
        patience, self.retry = self.retry, Retry(NoBackoff(), 0)
        try:
            await super().connect_to(address)  # type: ignore[no-untyped-call]
        finally:
            self.retry = patience


class MasterSSLConnection(MasterConnection, SentinelManagedSSLConnection):
    """The same with TLS."""


class MasterPool(PatientPool, SentinelConnectionPool):
    """The connections to a master, and to the sentinels that know it."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close them; redis-py would leave those to the sentinels open."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.connection_pool.disconnect()


class Client(ArqRedis):
    """arq's client with `SafePipeline`, which does not wait for a silent server without end."""

    def __init__(self, pool_or_conn: ConnectionPool | None = None, **options: Any) -> None:
        """Connect as `pool_or_conn` says, or as redis-py's `options` say."""
        own = {"redis_connect_func": log_in, "expires_extra_ms": MAX_QUEUED_MS, **KEEPALIVE}
        super().__init__(pool_or_conn, **{**own, **options})
        if pool_or_conn is None and "connection_pool" not in options:
            pool = self.connection_pool
            self.connection_pool = PatientPool(
                pool.connection_class, pool.max_connections, **pool.connection_kwargs
            )

    @classmethod
    def from_pool(cls, connection_pool: ConnectionPool) -> Redis:
        """Take the pool that redis-py makes for Sentinel, and add what any other pool here has.

        arq leaves out the time-outs and which errors to retry.
        """
        if isinstance(connection_pool, SentinelConnectionPool):
            sentinels = connection_pool.sentinel_manager
            limits: dict[str, Any] = {"socket_connect_timeout": 1, **KEEPALIVE}
            for sentinel in sentinels.sentinels:
                sentinel.connection_pool.connection_kwargs |= {"socket_timeout": 1, **limits}
            is_ssl = issubclass(connection_pool.connection_class, SSLConnection)
            own = {"retry": Patience(0.1), "retry_on_error": list(PASSING_ERRORS), **limits}
            own |= {"redis_connect_func": log_in, **connection_pool.connection_kwargs}
            own["connection_class"] = MasterSSLConnection if is_ssl else MasterConnection
            name = connection_pool.service_name
            connection_pool = MasterPool(name, sentinels, **own)  # type: ignore[no-untyped-call]
        return super().from_pool(connection_pool)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline."""
        return SafePipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


# What arq makes of `redis_settings`, for a worker and for `arq --check`: its `RedisSettings` has no
# field for `redis_connect_func`, so that both would wait for a silent server without end.
arq.connections.ArqRedis = Client  # type: ignore[assignment,misc]


def redis_settings(url: str, password: str | None = None) -> RedisSettings:
    """Return what arq needs to connect to `url`, and to try again when the connection breaks.

    Raises:
        ValueError: `parse_url` refuses the URL.
    """
    return RedisSettings(
        **vars(parse_url(url, password)),
        # A second try is for a connection that the server has closed meanwhile.
        retry=Patience(0.1),
        retry_on_timeout=True,
        retry_on_error=list(PASSING_ERRORS),
    )


def describe_server(settings: RedisSettings) -> str:
    """Return where `settings` points, without its password."""
    if settings.unix_socket_path:
        return f"unix://{settings.unix_socket_path}?db={settings.database}"
    scheme = "rediss" if settings.ssl else "redis"
    if isinstance(settings.host, str):
        return f"{scheme}://{settings.host}:{settings.port}/{settings.database}"
    hosts = ",".join(f"{host}:{port}" for host, port in settings.host)
    return f"{scheme}+sentinel://{hosts}/{settings.sentinel_master}/{settings.database}"


def find_weakness(settings: RedisSettings) -> str | None:
    """Return why the way to the server is unsafe in production, and what to do; None if it is not.

    A server on this machine needs neither TLS nor a password.
    """
    if settings.unix_socket_path or settings.host in ("localhost", "127.0.0.1", "::1"):
        return None
    if settings.ssl and not settings.ssl_check_hostname:
        return "does not check the server's certificate in production: name its ssl_ca_certs"
    password = (settings.password or "").strip()
    if EXAMPLE.search(password):
        return "has the example's password in production: choose another"
    if not password and not settings.ssl_certfile:
        return "has no password in production, and its host is another: set one"
    return None


def connection_pool(settings: RedisSettings, **options: Any) -> ConnectionPool:
    """Return the connections of a client, which `options` of redis-py's connection describe too."""
    names = {"username", "password", "ssl"}
    if settings.ssl:
        names |= TLS_OPTIONS | {"ssl_check_hostname"}
    options |= {name: getattr(settings, name) for name in names}
    options |= {"db": settings.database, "socket_connect_timeout": settings.conn_timeout}
    if isinstance(settings.host, str):
        options |= {"unix_socket_path": settings.unix_socket_path}
        client: Redis = Client(host=settings.host, port=settings.port, **options)
    else:
        client = Sentinel(settings.host).master_for(settings.sentinel_master, Client, **options)
    return client.connection_pool


def create_client(settings: RedisSettings) -> ArqRedis:
    """Return a client for the API, the command line and tests; the caller closes it.

    Unlike arq's `create_pool` it connects on first use, so that a web server starts and reports
    what is wrong while Redis is down. Each call fails within 2 s, after one fresh connection for
    one that the server has closed meanwhile.
    """
    pool = connection_pool(
        settings,
        # A list of its own: redis-py adds to it.
        retry_on_error=[RedisConnectionError],
        retry=Patience(0.1, CLIENT_RESPONSE_SECONDS),
    )
    client = Client(pool, job_serializer=serialize, job_deserializer=deserialize)
    client.auto_close_connection_pool = True
    return client
