"""The connection to Redis or Valkey."""

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.redis_url import parse_url
from app.core.serializer import deserialize, serialize


def redis_settings(url: str, password: str | None = None) -> RedisSettings:
    """Return what arq needs to connect to `url`, and to try again when the connection breaks.

    Raises:
        ValueError: `parse_url` refuses the URL.
    """
    return RedisSettings(
        **vars(parse_url(url, password)),
        retry_on_timeout=True,
        retry_on_error=[RedisConnectionError],
    )


def describe_server(settings: RedisSettings) -> str:
    """Return where `settings` points, without its password."""
    if settings.unix_socket_path:
        return f"unix://{settings.unix_socket_path}?db={settings.database}"
    return f"redis{'s' * settings.ssl}://{settings.host}:{settings.port}/{settings.database}"


def is_open_to_others(settings: RedisSettings) -> bool:
    """Return whether the way to the server is neither local nor guarded by TLS or a password."""
    is_local = settings.unix_socket_path or settings.host in ("localhost", "127.0.0.1", "::1")
    return not (is_local or settings.ssl or settings.password)


def create_client(settings: RedisSettings) -> ArqRedis:
    """Return a client for the API, the command line and tests; the caller closes it.

    Unlike arq's `create_pool` it connects on first use, so that a web server starts and reports
    what is wrong while Redis is down. Each call fails within 2 s, after one fresh connection for
    one that the server has closed meanwhile.
    """
    return ArqRedis(
        host=settings.host,
        port=settings.port,
        unix_socket_path=settings.unix_socket_path,
        db=settings.database,
        username=settings.username,
        password=settings.password,
        ssl=settings.ssl,
        ssl_cert_reqs=settings.ssl_cert_reqs,
        ssl_ca_certs=settings.ssl_ca_certs,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_check_hostname=settings.ssl_check_hostname,
        socket_connect_timeout=settings.conn_timeout,
        socket_timeout=1.5,
        # Not the list of the settings: a worker's redis-py adds time-outs to it.
        retry_on_error=[RedisConnectionError],
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        job_serializer=serialize,
        job_deserializer=deserialize,
    )
