"""Requests that a page of another site makes in the name of a person who is signed in."""

from urllib.parse import urlsplit

from fastapi import Request

SAFE_METHODS = ("GET", "HEAD")


def is_cross_origin(request: Request) -> bool:
    """Say whether another site has sent a request that can change something.

    The rule is that of OWASP's cheat sheet on cross-site request forgery: browsers say in
    Sec-Fetch-Site where a request comes from. Those that do not, and plain http beyond localhost,
    send an Origin, which has to be the host. A request without both does not come from a page.
    """
    if request.method in SAFE_METHODS:
        return False
    if site := request.headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    except ValueError:
        # It is no URL, as a browser's is.
        return True
