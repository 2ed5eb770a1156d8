"""What the web application holds while it runs, and how a route asks for it."""

from typing import Annotated, TypedDict

from arq.connections import ArqRedis
from fastapi import Depends, Request


class State(TypedDict):
    """What the lifespan yields; Starlette puts it into each request's `state`."""

    redis: ArqRedis


def get_redis(request: Request) -> ArqRedis:
    """Return the client that the lifespan holds."""
    redis: ArqRedis = request.state.redis
    return redis


Redis = Annotated[ArqRedis, Depends(get_redis)]
