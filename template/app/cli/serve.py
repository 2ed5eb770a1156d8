"""Run the web server."""

import errno
import socket
from typing import Annotated

import structlog
import typer

from app.core.config import find_unread_names, settings
from app.core.log import configure_logging

# A connection holds up to 64 KB of a body that has not been read. More clients get a 503, except
# for /livez.
MAX_CONNECTIONS = 500
# How long a connection may wait for its next request.
KEEP_ALIVE_SECONDS = 5
# How long running requests may take on SIGTERM.
GRACE_SECONDS = 10
MAX_HEAD_BYTES = 16_384


def serve(
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a file below app/ changes.")
    ] = False,
) -> None:
    """Run the web server on HOST and PORT."""
    # Here, since all other commands start faster without it.
    import uvicorn

    from app.components.backend.protocol import DeadlineProtocol

    check_port(settings.HOST, settings.PORT, "set HOST or PORT")
    configure_logging()
    for name, similar in find_unread_names().items():
        meant = f": do you mean {similar[0]}?" if similar else ""
        structlog.stdlib.get_logger(__name__).warning(f"nothing reads {name} of .env{meant}")
    uvicorn.run(
        "app.components.backend.main:app",
        host=settings.HOST,
        port=settings.PORT,
        reload=reload,
        reload_dirs=["app"] if reload else None,
        log_config=None,
        http=DeadlineProtocol,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


def check_port(host: str, port: int, way_out: str) -> None:
    """Make sure that a server can listen on a port.

    Raises:
        SystemExit: It cannot. The message ends with `way_out`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            way_out = f"stop the other process, or {way_out}"
        # Python adds the address to the reason of the system.
        reason = str(error.strerror).partition(" (while")[0]
        raise SystemExit(f"Cannot listen on {host}:{port} ({reason}): {way_out}.") from None
