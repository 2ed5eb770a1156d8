"""A client of Redis for a command."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from arq.connections import ArqRedis

from app.core.config import settings
from app.core.memory import MemoryFullError
from app.core.redis import create_client
from app.services.jobs import JobError


def with_client(ask: Callable[[ArqRedis], Awaitable[Any]]) -> Any:
    """Run `ask` with a client, and return what it returns.

    Raises:
        SystemExit: What was asked for cannot be done. It carries the reason as one line.
    """

    async def run() -> Any:
        async with create_client(settings.redis_settings) as redis:
            return await ask(redis)

    try:
        return asyncio.run(run())
    except (JobError, MemoryFullError) as error:
        raise SystemExit(str(error)) from None
