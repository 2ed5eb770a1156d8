"""Transactions that are executed in the same moment leave in one write on one connection."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.exceptions import ResponseError

from app.core.redis import PASSING_ERRORS, PATIENCE_SECONDS, RESPONSE_SECONDS, Patience


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is sent, how many replies it has, and the future that gets them."""

    data: bytes
    reply_count: int
    replies: asyncio.Future[list[Any]]


class Transactions:
    """The transactions of one client.

    While those of one moment are on their way, the next ones gather. Those whose replies a broken
    connection has lost are sent again, as by redis-py, and so are those that a full server refuses.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        """Take a connection that does not retry by itself."""
        self._connection = connection
        self.patience: Retry = Patience(PATIENCE_SECONDS)
        self._waiting: list[Transaction] = []
        self._sender: asyncio.Task[None] | None = None

    def send(self, commands: Sequence[tuple[Any, ...]]) -> asyncio.Future[list[Any]]:
        """Execute commands in a transaction; the future gets all replies, EXEC's last."""
        commands = [("MULTI",), *commands, ("EXEC",)]
        loop = asyncio.get_running_loop()
        transaction = Transaction(self._pack(commands), len(commands), loop.create_future())
        self._waiting.append(transaction)
        if self._sender is None or self._sender.done():
            # It starts after all tasks that are ready now.
            self._sender = loop.create_task(self._send())
        return transaction.replies

    async def close(self) -> None:
        """Send what waits, and close the connection."""
        if self._sender:
            await asyncio.wait([self._sender], timeout=RESPONSE_SECONDS)
        await self._connection.disconnect()

    def _pack(self, commands: Sequence[tuple[Any, ...]]) -> bytes:
        try:
            if not any(" " in str(name) for name, *_ in commands):
                return b"".join(map(hiredis.pack_command, commands))
        except TypeError:
            pass
        # Names of two words and other types are left to redis-py, which takes eight times as long.
        return b"".join(self._connection.pack_commands(commands))

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self.patience.call_with_retry(
                    lambda: self._exchange(batch),  # noqa: B023 - called before the next batch
                    lambda _: self._connection.disconnect(nowait=True),
                )
            except Exception as error:
                await self._connection.disconnect(nowait=True)
                for transaction in batch:
                    if not transaction.replies.done():
                        transaction.replies.set_exception(error)

    async def _exchange(self, batch: list[Transaction]) -> None:
        """Send the transactions that have no replies yet, and read them."""
        batch = [transaction for transaction in batch if not transaction.replies.done()]
        data = b"".join(transaction.data for transaction in batch)
        refusal = None
        await self._connection.send_packed_command(data)
        for transaction in batch:
            replies = [await self._read() for _ in range(transaction.reply_count)]
            # Redis executes none of the commands if it is too full for one of them.
            if refusals := [reply for reply in replies if isinstance(reply, PASSING_ERRORS)]:
                refusal = refusals[0]
            elif not transaction.replies.done():
                transaction.replies.set_result(replies)
        if refusal:
            raise refusal

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error
