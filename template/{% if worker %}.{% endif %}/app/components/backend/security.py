"""Access control: the API key."""

import hmac
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader

from app.core.config import settings

_header = APIKeyHeader(name="X-API-Key", auto_error=False)
Key = Annotated[str | None, Security(_header)]


def has_key(key: Key) -> bool:
    """Return whether the request has the key, in a time that tells nothing about the key."""
    if settings.API_KEY is None or key is None:
        return False
    return hmac.compare_digest(key.encode(), settings.API_KEY.get_secret_value().encode())


HasKey = Annotated[bool, Depends(has_key)]


def require_key(has_key: HasKey) -> None:
    """Refuse a request without the key.

    The connection is closed, since the body of the request may not have been read.
    """
    if settings.API_KEY is None:
        detail = "No key is set: set API_KEY in the environment or in .env."
        raise HTTPException(403, detail, {"Connection": "close"})
    if not has_key:
        headers = {"Connection": "close", "WWW-Authenticate": "X-API-Key"}
        raise HTTPException(401, "Send the key as X-API-Key.", headers)


class KeyRoute(APIRoute):
    """A route that needs the key, which is checked before a byte of the body is read.

    FastAPI reads the body before it calls dependencies. It ignores a query that no parameter
    takes, which would be a misspelt field: such a request is refused.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handle = super().get_route_handler()

        async def handle_with_key(request: Request) -> Response:
            require_key(has_key(request.headers.get(_header.model.name)))
            if not self.dependant.query_params and request.query_params:
                raise RequestValidationError(
                    [
                        {"type": "extra_forbidden", "loc": ("query", name), "msg": "unknown field"}
                        for name in request.query_params
                    ]
                )
            return await handle(request)

        return handle_with_key
