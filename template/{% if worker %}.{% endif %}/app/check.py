"""A cheap `arq --check`: has this host's worker of a queue reported lately?

    python -m app.check [--live] QUEUE

It reads the key that `arq --check` reads, and exits with 0 or 1 as that does. A container's probe
runs it several times a minute, so it imports neither the tasks nor redis-py, which cost ten times
as much processor time as the rest.

`--live` fails only where Redis says that no worker has reported, and takes reports. It is for
engines that restart what fails: workers wait for Redis themselves, and a restart would not bring it
back.
"""

import os
import socket
import sys
import threading

import hiredis

from app.core import keys
from app.core.redis_url import Server, parse_url
from app.core.secret_files import read_secret_file

# For a connection, and for each reply.
TIMEOUT_SECONDS = 3
# For all of them. The probes give it ten.
MAX_SECONDS = 8


def main(arguments: list[str]) -> int:
    """Write one line, and return the exit status."""
    is_live = arguments[:1] == ["--live"]
    if len(arguments) != 1 + is_live or arguments[-1].startswith("-"):
        sys.stderr.write("usage: python -m app.check [--live] QUEUE\n")
        return 2
    name = arguments[-1]
    # A queue of another naming is given by its whole `queue_name`.
    queue_name = name if ":" in name else f"arq:queue:{name}"
    # No time-out of a socket, and no signal, ends the look-up of a host name.
    timer = threading.Timer(MAX_SECONDS, give_up, [0 if is_live else 1])
    timer.start()
    try:
        report = ask_server("GET", keys.sentinel(queue_name))
        if is_live and not report:
            # A server that is full or read-only refuses this, as it refuses a worker's report.
            ask_server("SET", keys.WRITE_CHECK, "1", "EX", "60")
    except OSError as error:
        line = f"Redis does not answer ({error}): start it, or correct REDIS_URL."
    except ValueError as error:
        line = str(error)
    else:
        # As for `arq --check`, an empty report is none.
        if report:
            sys.stdout.write(f"{escape(f'{name}: {report}')}\n")
            return 0
        line, is_live = f"{name}: no worker on this host has reported lately.", False
    finally:
        timer.cancel()
    sys.stderr.write(f"{escape(line)}\n")
    return 0 if is_live else 1


def give_up(status: int) -> None:
    """End this process, whatever it waits for."""
    sys.stderr.write(f"Redis does not answer ({MAX_SECONDS} s): start it, or correct REDIS_URL.\n")
    os._exit(status)


def escape(text: str) -> str:
    """Do as `app.core.log.escape`, which takes longer to import than all the rest."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def ask_server(*words: str) -> object:
    """Return the reply to a command; None for a key that has no text.

    Raises:
        OSError: The server cannot be reached.
        ValueError: The settings are wrong, or the server refuses the login.
    """
    url = read_secret_file("REDIS_URL") or os.environ.get("REDIS_URL")
    if not url:
        # It is in `.env` or the default: a developer's machine, where this may take its time.
        from app.core.config import settings

        url = settings.REDIS_URL
    server = parse_url(url, read_secret_file("REDIS_PASSWORD"))
    if isinstance(server.host, list):
        server.host, server.port = find_master(server.host, server.sentinel_master)
    with connect(server) as connection:
        if server.password:
            login = [server.username] if server.username else []
            ask(connection, "AUTH", *login, server.password)
        if server.database:
            ask(connection, "SELECT", str(server.database))
        return ask(connection, *words)


def find_master(sentinels: list[tuple[str, int]], name: str) -> tuple[str, int]:
    """Ask one Sentinel after the other for the address of a master.

    Raises:
        OSError: None of them knows it.
    """
    for address in sentinels:
        try:
            with socket.create_connection(address, TIMEOUT_SECONDS) as connection:
                match ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", name):
                    case [str(host), str(port)]:
                        return host, int(port)
        except (OSError, ValueError):
            continue
    raise OSError(f"no Sentinel knows the master {name!r}")


def connect(server: Server) -> socket.socket:
    """Return a connection, with TLS if the URL asks for it."""
    if server.unix_socket_path:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(server.unix_socket_path)
        return connection
    host = str(server.host)
    connection = socket.create_connection((host, server.port), TIMEOUT_SECONDS)
    if not server.ssl:
        return connection
    # Only TLS pays for this import.
    import ssl

    context = ssl.create_default_context(cafile=server.ssl_ca_certs)
    context.check_hostname = server.ssl_check_hostname
    context.verify_mode = ssl.VerifyMode[f"CERT_{server.ssl_cert_reqs.upper()}"]
    if server.ssl_certfile:
        context.load_cert_chain(server.ssl_certfile, server.ssl_keyfile)
    return context.wrap_socket(connection, server_hostname=host)


def ask(connection: socket.socket, *words: str) -> object:
    """Send a command, and return its reply.

    Raises:
        OSError: The connection broke, or no reply came in time.
        ValueError: The reply is an error.
    """
    connection.sendall(hiredis.pack_command(words))  # type: ignore[arg-type] # its hint is wrong
    reader = hiredis.Reader(protocolError=ConnectionError, encoding="utf-8", errors="replace")
    while (reply := reader.gets()) is False:
        data = connection.recv(65_536)
        if not data:
            raise ConnectionError("it has closed the connection")
        reader.feed(data)
    if isinstance(reply, hiredis.ReplyError):
        if str(reply).startswith("WRONGTYPE"):
            # Another program wrote the key. A worker's next report replaces it.
            return None
        raise ValueError(f"Redis refuses: {str(reply).rstrip('. ')}. Correct REDIS_URL.")
    return reply


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
