"""Running everything on this machine while developing."""

import importlib.util
import os
import sys

from app.cli.serve import check_port
from app.core.config import WORKER_QUEUES, settings


def dev() -> None:
    """Run the Procfile: the web server, a worker a queue, and a Valkey unless REDIS_URL is set.

    Every process but the Valkey starts again when a file below app/ changes.
    """
    if importlib.util.find_spec("honcho") is None:
        raise SystemExit("honcho is not installed: get the development tools with `uv sync`.")
    check_port(settings.HOST, settings.PORT, "set HOST or PORT")
    processes = ["web", *(f"worker-{name.replace('_', '-')}" for name in WORKER_QUEUES)]
    if "REDIS_URL" not in settings.model_fields_set:
        port = settings.redis_settings.port
        check_port("127.0.0.1", port, "set REDIS_URL to use the server that runs there")
        processes.append("redis")
    # honcho gives the first process of the Procfile, the web server, this PORT.
    honcho = [sys.executable, "-m", "honcho", "start", "--port", str(settings.PORT), *processes]
    os.execv(sys.executable, honcho)  # noqa: S606 - no shell is what we want
