"""How full Redis is, so that new work is refused while workers can still write their results."""

import time
from typing import Any
from weakref import WeakKeyDictionary

from arq.connections import ArqRedis
from redis.exceptions import ResponseError

# Above this share of `maxmemory`, new jobs are refused.
MAX_SHARE = 0.9
# How long a share that was looked up is used, in seconds.
LOOKUP_INTERVAL = 1

_shares: WeakKeyDictionary[ArqRedis, tuple[float, float]] = WeakKeyDictionary()


class MemoryFullError(Exception):
    """Redis has no memory left for new jobs; the message says what to do."""


async def memory_share(redis: ArqRedis) -> float:
    """Return the used share of `maxmemory`, or 0 without a limit; looked up once a second."""
    looked_up, share = _shares.get(redis, (0.0, 0.0))
    if time.monotonic() - looked_up > LOOKUP_INTERVAL:
        memory = await memory_info(redis)
        limit = int(memory.get("maxmemory", 0))
        share = int(memory["used_memory"]) / limit if limit else 0.0
        _shares[redis] = (time.monotonic(), share)
    return share


async def memory_info(redis: ArqRedis) -> dict[str, Any]:
    """Return what Redis says of its memory, which is nothing to a user who may not ask."""
    try:
        memory: dict[str, Any] = await redis.info("memory")
    except ResponseError:
        # Redis itself refuses what it has no memory for.
        return {}
    return memory


async def require_memory(redis: ArqRedis) -> None:
    """Refuse new work from 90 % of `maxmemory` on.

    Raises:
        MemoryFullError: There is no memory left for it.
    """
    share = await memory_share(redis)
    if share >= MAX_SHARE:
        raise MemoryFullError(
            f"Redis uses {share:.0%} of its memory: purge dead letters, let the workers drain the "
            "queues, or raise maxmemory."
        )
