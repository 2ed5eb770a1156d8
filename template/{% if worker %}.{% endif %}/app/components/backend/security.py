"""Access control: the API key."""

import hmac
from typing import Annotated

from fastapi import Depends, HTTPException, Security
from fastapi.security import APIKeyHeader

from app.core.config import settings

_header = APIKeyHeader(name="X-API-Key", auto_error=False)
Key = Annotated[str | None, Security(_header)]


def has_key(key: Key) -> bool:
    """Say whether the request has the key, in a time that tells nothing of it."""
    if settings.API_KEY is None or key is None:
        return False
    return hmac.compare_digest(key.encode(), settings.API_KEY.get_secret_value().encode())


HasKey = Annotated[bool, Depends(has_key)]


def require_key(has_key: HasKey) -> None:
    """Refuse a request without the key."""
    if settings.API_KEY is None:
        raise HTTPException(403, "No key is set: set API_KEY in the environment or in .env.")
    if not has_key:
        raise HTTPException(401, "Send the key as X-API-Key.", {"WWW-Authenticate": "X-API-Key"})
