"""A limit on how many jobs an API key may create per minute."""

import hashlib
import time

from fastapi import HTTPException

from app.components.backend.security import Key
from app.components.backend.state import Redis
from app.core import keys
from app.core.config import settings


async def limit_rate(redis: Redis, key: Key) -> None:
    """Refuse a key's request where it has made `JOBS_PER_MINUTE` in this minute of the clock.

    Redis counts, so that the limit holds over all web processes.
    """
    now = int(time.time())
    # The name tells nobody the key.
    name = keys.rate(hashlib.sha256((key or "").encode()).hexdigest()[:16], now // 60)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.incr(name)
        pipe.expire(name, 120)
        count, _ = await pipe.execute()
    if count > settings.JOBS_PER_MINUTE:
        detail = f"This key may create jobs {settings.JOBS_PER_MINUTE} times a minute."
        raise HTTPException(429, detail, {"Retry-After": str(60 - now % 60)})
