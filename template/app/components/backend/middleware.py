"""Middleware: security headers on responses, limits on the size and time of request bodies."""

import asyncio

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1_000_000
# How long a client may take to send a body.
MAX_BODY_SECONDS = 30

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# FastAPI's pages load their scripts from there, and start them in the page.
DOCS_POLICY = (
    "default-src 'self' https://cdn.jsdelivr.net 'unsafe-inline'; "
    "img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; worker-src blob:; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def add_security_headers(app: ASGIApp) -> ASGIApp:
    """Give each response the headers that it has not set itself."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"] in ("/docs", "/redoc"):
                    headers["Content-Security-Policy"] = DOCS_POLICY
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, send_with_headers)

    return wrapped


def limit_body(app: ASGIApp) -> ASGIApp:
    """Refuse a body that is larger than `MAX_BODY_BYTES`, or slower than `MAX_BODY_SECONDS`.

    A body that is declared too large is refused before it is read. The connection is closed, since
    the rest of the body would come.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        # A server refuses what is not a number.
        declared = int(length) if length.isdecimal() else 0
        deadline: float | None = asyncio.get_running_loop().time() + MAX_BODY_SECONDS
        received = 0

        def refuse_size(size: int) -> None:
            if size > MAX_BODY_BYTES:
                detail = f"the body is larger than {MAX_BODY_BYTES:,} bytes"
                raise HTTPException(413, detail, {"Connection": "close"})

        async def receive_within_limits() -> Message:
            nonlocal deadline, received
            refuse_size(declared)
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                detail = f"the body did not come within {MAX_BODY_SECONDS} s"
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            received += len(message.get("body", b""))
            refuse_size(received)
            if not message.get("more_body"):
                deadline = None
            return message

        await app(scope, receive_within_limits, send)

    return wrapped
