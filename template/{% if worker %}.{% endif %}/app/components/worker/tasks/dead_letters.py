"""The sweep: dead letters that a worker could not write."""

from typing import Any

from app.services import dead_letters
from app.services.malformed import discard_malformed


async def sweep_dead_letters(ctx: dict[str, Any]) -> int:
    """Turn failed results without a dead letter into dead letters; return how many there were.

    Before that it discards what is malformed.
    It is a cron job of every queue, so that it runs while any worker does. arq gives a run of it
    the same id in all queues, so that it happens once.
    """
    redis = ctx["redis"]
    await discard_malformed(redis, redis.default_queue_name)
    return await dead_letters.sweep(redis)
