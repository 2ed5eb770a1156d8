"""Access control: the API key."""

import hmac
from typing import Annotated

from fastapi import Depends, HTTPException, Security
from fastapi.security import APIKeyHeader

from app.core.config import settings

KEY_HEADER = "X-API-Key"
Key = Annotated[str | None, Security(APIKeyHeader(name=KEY_HEADER, auto_error=False))]


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
