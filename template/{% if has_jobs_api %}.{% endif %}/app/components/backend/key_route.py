"""The routes that need the key, and what they refuse before they read a request."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from app.components.backend.security import KEY_HEADER, has_key, require_key


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
            require_key(has_key(request.headers.get(KEY_HEADER)))
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
