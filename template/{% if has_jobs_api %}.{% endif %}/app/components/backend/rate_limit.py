"""A limit on how many jobs an API key may create per minute."""

import hashlib
import math
import time
from functools import lru_cache
from typing import Any

from arq.connections import ArqRedis
from fastapi import HTTPException
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from app.components.backend.security import Key
from app.components.backend.state import Redis
from app.core import keys
from app.core.config import settings

TRIES_PER_MINUTE = 10


async def limit_rate(redis: Redis, key: Key) -> None:
    """Refuse a request if its key has made `JOBS_PER_MINUTE` requests in the last minute.

    Redis counts, so that the limit holds over all web processes.
    """
    limiter = _limiter(redis.connection_pool)
    limit = RateLimitItemPerMinute(settings.JOBS_PER_MINUTE)
    # The name of the counter does not give the key away.
    client = hashlib.sha256((key or "").encode()).hexdigest()[:16]
    if not await limiter.hit(limit, client):
        reset, _ = await limiter.get_window_stats(limit, client)
        detail = f"This key may create jobs {settings.JOBS_PER_MINUTE} times per minute."
        seconds = max(math.ceil(reset - time.time()), 1)
        raise HTTPException(429, detail, {"Retry-After": str(seconds)})


async def may_try(redis: ArqRedis, client: str) -> bool:
    """Return whether a client may try another key: `TRIES_PER_MINUTE` times per minute."""
    limit = RateLimitItemPerMinute(TRIES_PER_MINUTE)
    return await _limiter(redis.connection_pool).hit(limit, "sign-in", client)


@lru_cache(maxsize=4)
def _limiter(pool: Any) -> SlidingWindowCounterRateLimiter:
    storage = RedisStorage(
        "async+redis://", connection_pool=pool, implementation="redispy", key_prefix=keys.RATE
    )
    return SlidingWindowCounterRateLimiter(storage)
