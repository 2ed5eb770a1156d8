"""What `REDIS_URL` says. This module imports little, since `app.check` has to start fast."""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

URL_FORMS = (
    "redis://user:password@host:6379/0, rediss://… for TLS, unix:///path.sock?db=0, "
    "or redis+sentinel://host1:26379,host2:26379/master/0"
)
TLS_OPTIONS = {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}


class Server:
    """The fields of arq's `RedisSettings` that a URL sets: `RedisSettings(**vars(server))`."""

    # arq's defaults. With Sentinel `host` has the addresses of the sentinels, each with its port.
    host: str | list[tuple[str, int]] = "localhost"
    port = 6379
    unix_socket_path: str | None = None
    username: str | None = None
    password: str | None = None
    database = 0
    ssl = False
    ssl_check_hostname = False
    ssl_cert_reqs = "required"
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    sentinel = False
    sentinel_master = ""


def parse_url(url: str, password: str | None = None) -> Server:
    """Return where a URL points.

    arq's own `RedisSettings.from_dsn` keeps percent-encoded passwords encoded, drops the TLS
    options and does not compare the host name with the server's certificate.

    Args:
        url: One of `URL_FORMS`, with user, password and database as redis-py takes them. With TLS
            (`rediss://`, `rediss+sentinel://`) the query can have redis-py's `ssl_*` file options.
        password: The password, if the URL has none.

    Raises:
        ValueError: The URL has none of these forms. The message does not repeat the URL, which
            may hold a password.
    """
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("the URL holds a space or a control character: remove it")
    scheme, _, rest = url.partition("://")
    # Otherwise the user would be the host, and half of the password the port, without a word.
    if "#" in rest or (scheme != "unix" and "@" in rest[len(re.split("[/?]", rest)[0]) :]):
        raise ValueError("a # / or ? of a password has to be %23, %2F or %3F in the URL")
    server = Server()
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        login, _, location = parts.netloc.rpartition("@")
        user, _, url_password = map(unquote, login.partition(":"))
        path = parts.path.removeprefix("/")
        if parts.scheme == "unix" and path and not location:
            server.unix_socket_path, path = unquote(parts.path), ""
        elif parts.scheme in ("redis", "rediss"):
            server.host, server.port = split_address(location, 6379)
        elif parts.scheme in ("redis+sentinel", "rediss+sentinel") and path[:1] not in ("", "/"):
            master, _, path = path.partition("/")
            server.sentinel, server.sentinel_master = True, unquote(master)
            server.host = [split_address(address, 26379) for address in location.split(",")]
        else:
            raise ValueError("another form")
    except ValueError:
        raise ValueError(f"not a URL of the form {URL_FORMS}") from None

    if url_password and password:
        raise ValueError("the URL has a password, and REDIS_PASSWORD_FILE holds one: leave one out")
    server.username, server.password = user or None, url_password or password
    database = options.pop("db", path) or "0"
    if not (database.isascii() and database.isdecimal()):
        raise ValueError("the URL's database is not a number")
    server.database = int(database)
    if parts.scheme.startswith("rediss"):
        server.ssl = True
        for name in TLS_OPTIONS & options.keys():
            setattr(server, name, options.pop(name))
        if server.ssl_cert_reqs not in ("none", "optional", "required"):
            raise ValueError("ssl_cert_reqs in the URL is none, optional or required")
        server.ssl_check_hostname = server.ssl_cert_reqs == "required"
    if options:
        raise ValueError(f"unknown option {', '.join(sorted(options))!r} in the URL")
    return server


def split_address(address: str, default_port: int) -> tuple[str, int]:
    """Split `host:port` or `[IPv6 address]:port`.

    Raises:
        ValueError: There is no host, or the port is not a number.
    """
    parts = urlsplit(f"//{address}")
    # Not several hosts with commas, which only Sentinel takes. A zone of IPv6 follows a %.
    if not re.fullmatch(r"[\w.:%-]+", parts.hostname or "") or parts.port == 0:
        raise ValueError("no host or port")
    return str(parts.hostname), parts.port or default_port
