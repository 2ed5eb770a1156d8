"""The connection to Redis or Valkey."""

from urllib.parse import parse_qsl, unquote, urlsplit

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.serializer import deserialize, serialize

URL_FORMS = "redis://user:password@host:6379/0, rediss://… for TLS, or unix:///path.sock?db=0"
TLS_OPTIONS = {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}


def redis_settings(url: str) -> RedisSettings:
    """Return what arq needs to connect to `url`, and to try again when the connection breaks.

    arq's own `RedisSettings.from_dsn` keeps percent-encoded passwords encoded, drops the TLS
    options and does not compare the host name with the server's certificate.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with user, password and database as redis-py
            takes them; a `rediss` URL can have redis-py's `ssl_*` file options in its query.

    Raises:
        ValueError: The URL has none of these forms. The message does not repeat the URL, which
            may hold a password.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        path_database = "" if parts.scheme == "unix" else parts.path.lstrip("/")
        settings = RedisSettings(
            host=parts.hostname or "localhost",
            port=parts.port or 6379,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            database=int(options.pop("db", path_database) or 0),
            retry_on_timeout=True,
            retry_on_error=[RedisConnectionError],
        )
    except ValueError:
        raise ValueError(f"not a URL of the form {URL_FORMS}") from None

    if parts.scheme == "unix" and parts.path:
        settings.unix_socket_path = unquote(parts.path)
    elif parts.scheme == "rediss" and parts.hostname:
        settings.ssl = True
        settings.ssl_check_hostname = options.get("ssl_cert_reqs", "required") == "required"
        for name in TLS_OPTIONS & options.keys():
            setattr(settings, name, options.pop(name))
    elif parts.scheme != "redis" or not parts.hostname:
        raise ValueError(f"not a URL of the form {URL_FORMS}")
    if options:
        raise ValueError(f"unknown option {', '.join(sorted(options))!r} in the URL")
    return settings


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
