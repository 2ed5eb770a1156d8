"""Stock arq: nothing of the project is imported, so that neither its code nor its memory weighs on arq.

`BENCH_SETTINGS` has the settings of the project's queue that decide how fast arq may go.
"""

import json
import os
from typing import Any

from arq.connections import RedisSettings

from bench.jobs import noop, simulate_io

SETTINGS: dict[str, Any] = json.loads(os.environ["BENCH_SETTINGS"])
SERVER = {
    "queue_name": os.environ.get("BENCH_QUEUE") or SETTINGS["queue_name"],
    "redis_settings": RedisSettings.from_dsn(os.environ["REDIS_URL"]),
}


async def io(ctx: dict[str, Any]) -> dict[str, float | str]:
    """Wait and ask Redis."""
    return await simulate_io(ctx["redis"].echo)


def worker(**settings: Any) -> type:
    """Return a class for arq, which ignores what a class inherits."""
    return type("WorkerSettings", (), {**settings, "functions": (noop, io)})


Same = worker(**SETTINGS | SERVER)
Defaults = worker(**SERVER, max_jobs=50)
