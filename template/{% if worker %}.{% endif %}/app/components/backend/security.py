"""Access control: the API key."""

import hmac
from collections import Counter
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
    takes, which would be a misspelt field, and all but the last value of one that is there twice:
    such requests are refused.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handle = super().get_route_handler()

        async def handle_with_key(request: Request) -> Response:
            require_key(has_key(request.headers.get(_header.model.name)))
            counts = Counter(name for name, _ in request.query_params.multi_items())
            wrong = {name: "given more than once" for name, count in counts.items() if count > 1}
            if not self.dependant.query_params:
                wrong = dict.fromkeys(counts, "unknown field")
            if wrong:
                raise RequestValidationError(
                    [{"loc": ("query", name), "msg": text} for name, text in wrong.items()]
                )
            return await handle(request)

        return handle_with_key
