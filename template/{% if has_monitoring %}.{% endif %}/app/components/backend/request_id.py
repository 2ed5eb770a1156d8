"""The id of each request: in its response, its log lines, and the jobs that it enqueues."""

import re
from uuid import UUID

import structlog
from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.serializer import carried

# W3C Trace Context, version 00.
TRACEPARENT = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def add_request_id(app: Starlette) -> None:
    """Take the id from `X-Request-ID`, or make one; it is outside all other middleware."""
    app.add_middleware(_bind)
    # A UUID can be written with any number of hyphens.
    app.add_middleware(CorrelationIdMiddleware, transformer=lambda text: UUID(text).hex)


def _bind(app: ASGIApp) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        names = {"request_id": correlation_id.get() or ""}
        traceparent = Headers(scope=scope).get("traceparent", "")
        if TRACEPARENT.fullmatch(traceparent):
            names["traceparent"] = traceparent
        # Each request has its own asyncio task, so nothing has to be taken back.
        carried.set(names)
        structlog.contextvars.bind_contextvars(request_id=names["request_id"])
        await app(scope, receive, send)

    return wrapped
