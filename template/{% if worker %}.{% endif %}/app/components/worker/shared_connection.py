"""One connection for what a worker and its tasks send to Redis in the same moment."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import ResponseError

from app.core.redis import PASSING_ERRORS, RESPONSE_SECONDS, in_time

# More would hold up what others send.
MAX_REQUEST_BYTES = 100_000
# How long nothing is shared after a failure, so that each command fails once and not twice.
PAUSE_SECONDS = 10
# These wait for something, or change the connection.
NOT_SHARED = re.compile(
    "B[LRZ]|WAIT|XREAD|AUTH|CLIENT|HELLO|MIGRATE|MONITOR|MULTI|QUIT|RESET|SELECT|SHUTDOWN"
    "|[PS]?SUBSCRIBE|WATCH",
    re.IGNORECASE,
)


def can_share(command: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Return whether a command, as redis-py has it, may leave with others."""
    name = command[0]
    is_plain = EMPTY_RESPONSE not in options and NEVER_DECODE not in options
    return is_plain and isinstance(name, str) and not NOT_SHARED.match(name)


def pack(connection: AbstractConnection, commands: Sequence[tuple[Any, ...]]) -> bytes:
    """Return commands as they are sent."""
    try:
        if not any(" " in str(name) for name, *_ in commands):
            return b"".join(map(hiredis.pack_command, commands))
    except TypeError:
        pass
    # Names of two words and other types are left to redis-py, which takes eight times as long.
    return b"".join(connection.pack_commands(commands))


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, how many replies it has, and the future that gets them."""

    data: bytes
    reply_count: int
    replies: asyncio.Future[list[Any] | None]


class SharedConnection:
    """Requests of one moment leave in one write. While they are on their way, the next ones gather.

    They are tried once. What then has no reply is to be sent on a connection of its own, which is
    patient and where it holds up nothing else.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """Take a connection that does not retry by itself."""
        self._connection = connection
        self._waiting: list[Request] = []
        self._sender: asyncio.Task[None] | None = None
        self._paused_until = 0.0

    async def send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any] | None:
        """Return the reply to each command, errors of the server included.

        None means that they are to be sent again on another connection. As with redis-py's own
        retries, the server may have executed them.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._paused_until:
            return None
        data = pack(self._connection, commands)
        if len(data) > MAX_REQUEST_BYTES:
            return None
        request = Request(data, len(commands), loop.create_future())
        self._waiting.append(request)
        if self._sender is None or self._sender.done():
            # It starts after all tasks that are ready now.
            self._sender = loop.create_task(self._send())
        return await request.replies

    async def close(self) -> None:
        """Send what waits, and close the connection."""
        if self._sender:
            await asyncio.wait([self._sender], timeout=RESPONSE_SECONDS)
        await self._connection.disconnect()

    async def _send(self) -> None:
        while self._waiting:
            requests, self._waiting = self._waiting, []
            try:
                await in_time(partial(self._exchange, requests), RESPONSE_SECONDS)
            except PASSING_ERRORS:
                self._paused_until = asyncio.get_running_loop().time() + PAUSE_SECONDS
                await self._connection.disconnect(nowait=True)
            finally:
                for request in requests:
                    if not request.replies.done():
                        request.replies.set_result(None)

    async def _exchange(self, requests: Sequence[Request]) -> None:
        """Send the requests and read their replies.

        Raises:
            redis.exceptions.RedisError: Replies are missing, or a refusal that may pass is one.
        """
        refusal = None
        await self._connection.send_packed_command(b"".join(each.data for each in requests))
        for request in requests:
            replies: list[Any] = []
            while len(replies) < request.reply_count:
                try:
                    replies.append(await self._connection.read_response())
                except ResponseError as error:
                    replies.append(error)
            # Redis executes none of the commands if it is too full for one of them.
            if refusals := [reply for reply in replies if isinstance(reply, PASSING_ERRORS)]:
                refusal = refusals[0]
            elif not request.replies.done():
                request.replies.set_result(replies)
        if refusal:
            raise refusal
