"""uvicorn's HTTP protocol with a deadline for requests that do not come to an end.

Above the limit of connections it still replies to the liveness probe.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# How long a client may take to send the head of a request. `middleware.py` limits the body.
MAX_HEAD_SECONDS = 10


class DeadlineProtocol(H11Protocol):
    """Close connections whose client opens them, or begins a request, and falls silent.

    uvicorn's own timeout is for connections that wait for their next request.
    """

    deadline: asyncio.TimerHandle | None = None

    @property
    def limit_concurrency(self) -> int | None:
        """Return the limit for the request that has just come: uvicorn asks once per request.

        A busy server is alive: an engine that restarts it leaves its load to the others.
        """
        return None if self.scope["path"] == "/livez" else self.config.limit_concurrency

    @limit_concurrency.setter
    def limit_concurrency(self, _: int | None) -> None:
        """Take what uvicorn sets, which is what the configuration says."""

    def connection_made(self, transport: Any) -> None:
        """Expect a request."""
        super().connection_made(transport)
        self.expect_head()

    def data_received(self, data: bytes) -> None:
        """Expect the rest of a head that is not complete."""
        super().data_received(data)
        self.expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        if self.deadline:
            self.deadline.cancel()
        super().connection_lost(exc)

    def expect_head(self) -> None:
        """Start the deadline if a head is expected, and end it once the head is there."""
        if self.conn.their_state is not h11.IDLE:
            if self.deadline:
                self.deadline.cancel()
            self.deadline = None
        elif self.deadline is None:
            self.deadline = self.loop.call_later(MAX_HEAD_SECONDS, self.transport.close)
