"""The routes that need the key, and what they refuse before they read a request."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from app.components.backend.security import KEY_HEADER, has_key, require_key


class KeyRoute(APIRoute):
    """A route that needs the key, which is checked before a byte of the body is read.

    FastAPI reads the body before it calls dependencies. It ignores a query that no parameter
    takes, which would be a misspelt field, and all but the last value of a field that is there
    twice, in the query or in JSON: such requests are refused.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handle = super().get_route_handler()

        async def handle_with_key(request: Request) -> Response:
            require_key(has_key(request.headers.get(KEY_HEADER)))
            names = [name for name, _ in request.query_params.multi_items()]
            wrong = _find_repeated(names)
            if not self.dependant.query_params:
                wrong = dict.fromkeys(names, "unknown field")
            if self.body_field:
                # FastAPI says the same of a client that has gone.
                with suppress(ClientDisconnect):
                    wrong |= _find_repeated_in_json(await request.body())
            if wrong:
                raise RequestValidationError(
                    [{"loc": ("request", name), "msg": text} for name, text in wrong.items()]
                )
            return await handle(request)

        return handle_with_key


def _find_repeated(names: Iterable[str]) -> dict[str, str]:
    return {name: "given more than once" for name, count in Counter(names).items() if count > 1}


def _find_repeated_in_json(body: bytes) -> dict[str, str]:
    found: dict[str, str] = {}

    def look_at(pairs: list[tuple[str, Any]]) -> None:
        found.update(_find_repeated(name for name, _ in pairs))

    # What is not JSON is refused by FastAPI.
    with suppress(ValueError, RecursionError):
        json.loads(body, object_pairs_hook=look_at)
    return found
