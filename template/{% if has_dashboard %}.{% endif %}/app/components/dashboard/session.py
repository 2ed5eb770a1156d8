"""Sign-in with the API key, kept in a signed cookie; and which requests may change something."""

import hashlib
import hmac
import secrets
import time

import structlog
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from app.components.backend.cross_origin import SAFE_METHODS, is_cross_origin
from app.components.backend.rate_limit import may_try
from app.components.dashboard.pages import render
from app.core.config import settings

MAX_SESSION_SECONDS = 8 * 3600
# What a browser may do without a key.
OPEN_PATHS = ("/ops/sign-in", "/ops/sign-out", "/ops/static/")

log = structlog.stdlib.get_logger(__name__)


def session_secret() -> str:
    """Return what signs the cookies: a change of a key ends every session."""
    key = settings.API_KEY.get_secret_value() if settings.API_KEY else secrets.token_hex()
    other = settings.READ_ONLY_API_KEY.get_secret_value() if settings.READ_ONLY_API_KEY else ""
    return hmac.digest(key.encode(), f"operations pages {other}".encode(), hashlib.sha256).hex()


def role_of(key: str) -> str | None:
    """Return what a key allows, in a time that tells nothing of the keys."""
    keys = {"operator": settings.API_KEY, "viewer": settings.READ_ONLY_API_KEY}
    for role, secret in keys.items():
        right = secret.get_secret_value().encode() if secret else b""
        if right and hmac.compare_digest(key.encode(errors="replace"), right):
            return role
    return None


async def guard(request: Request, respond: RequestResponseEndpoint) -> Response:
    """Let a request through if its session may do what it asks for."""
    if is_cross_origin(request):
        return PlainTextResponse("This request came from another site.", 403)
    if not request.url.path.startswith(OPEN_PATHS):
        role = request.session.get("role")
        # Each answer that tells something sets the cookie anew.
        if not role or request.session.get("until", 0) < time.time():
            return RedirectResponse("/ops/sign-in", 303)
        if role == "viewer" and request.method not in SAFE_METHODS:
            return PlainTextResponse("The read-only key cannot change anything.", 403)
    return await respond(request)


async def sign_in(request: Request) -> Response:
    """Show the form, or start a session with the key that it sends."""
    if request.method != "POST":
        text = None if settings.API_KEY else "No key is set: set API_KEY, then restart."
        return render(request, "sign_in", text=text)
    client = request.client.host if request.client else "unknown"
    if not await may_try(request.state.redis, client):
        return render(request, "sign_in", 429, text="Too many tries: wait a minute.")
    role = role_of(str((await request.form()).get("key")))
    audit(request, "sign in", role=role)
    if role is None:
        return render(request, "sign_in", 401, text="Wrong key.")
    request.session.update(role=role, until=time.time() + MAX_SESSION_SECONDS)
    return RedirectResponse("/ops/", 303)


async def sign_out(request: Request) -> Response:
    """End the session of this browser; a new API key ends all."""
    request.session.clear()
    return RedirectResponse("/ops/sign-in", 303)


def audit(request: Request, action: str, **details: object) -> None:
    """Write the line that says who did what."""
    client = request.client.host if request.client else "unknown"
    log.info("operations page", action=action, client=client, **details)
