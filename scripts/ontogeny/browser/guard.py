"""What every request and every answer pass: token, CSRF cookie, size of a form, headers."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlencode

from fastapi import Request
from starlette.responses import RedirectResponse, Response

from ontogeny.browser.errors import ForbiddenError

Next: TypeAlias = Callable[[Request], Awaitable[Response]]
Page: TypeAlias = Callable[[Request, int, str], Response]

TOKEN_COOKIE, CSRF_COOKIE = "ontogeny_token", "ontogeny_csrf"
CSRF = re.compile(r"[A-Za-z0-9_-]{43}")
"""What `secrets.token_urlsafe(32)` makes."""
PORT = re.compile(r":(\d{1,5})$")
"""The port that a browser knows the server by, in its header Host."""
LARGEST_FORM = 100_000
"""Bytes of a change at most."""

HEADERS = {
    # plotly.js sets styles as it draws; scripts come from this server alone, and none stands in a page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Lets requests through that may be answered."""

    def __init__(self, token: str | None, refuse: Page) -> None:
        """Take what is needed.

        Args:
            token: what every page needs; None on a machine of one's own.
            refuse: makes the page that says why nothing is shown.
        """
        self._token, self._refuse = token, refuse

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Answer a request, or pass it on and complete the answer."""
        known = request.cookies.get(_own(CSRF_COOKIE, request), "")
        request.state.csrf = known if CSRF.fullmatch(known) else secrets.token_urlsafe(32)
        response = self._stop(request) or await call_next(request)
        if request.state.csrf != known:
            _set_cookie(response, _own(CSRF_COOKIE, request), request.state.csrf)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    def _stop(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            length = request.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > LARGEST_FORM:
                return self._refuse(request, 413, f"a change may have {LARGEST_FORM:,} bytes; shorten the note")
        return self._login(request) if self._token is not None else None

    def _login(self, request: Request) -> Response | None:
        """Take a token from the address into a cookie, or look for the cookie."""
        token = self._token or ""
        cookie = hmac.new(token.encode(), b"ontogeny browser", hashlib.sha256).hexdigest()
        given = request.query_params.get("token")
        if given is not None and request.method == "GET":
            if not hmac.compare_digest(given.encode(), token.encode()):
                return self._refuse(request, 401, "this is not the token that the server was started with")
            rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
            response = RedirectResponse(request.url.path + (f"?{urlencode(rest)}" if rest else ""), 303)
            _set_cookie(response, _own(TOKEN_COOKIE, request), cookie)
            return response
        if hmac.compare_digest(request.cookies.get(_own(TOKEN_COOKIE, request), "").encode(), cookie.encode()):
            return None
        return self._refuse(request, 401, "this page needs a token; open the address that the server printed")


def check_origin(request: Request, csrf: str) -> None:
    """Check that a change comes from a page of this server.

    Args:
        request: what asks for the change.
        csrf: what its form sent along.

    Raises:
        ForbiddenError: another site, or nobody, sent it.
    """
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    same = origin is None or origin.partition("://")[2] == host
    cookie = request.cookies.get(_own(CSRF_COOKIE, request), "")
    if not (same and CSRF.fullmatch(cookie) and hmac.compare_digest(cookie.encode(), csrf.encode())):
        raise ForbiddenError("this change does not come from a page of this server; reload the page and try again")


def _own(name: str, request: Request) -> str:
    """Name a cookie by the port too: a browser sends the cookies of a host to all of its servers."""
    port = PORT.search(request.headers.get("host", ""))
    return f"{name}_{port[1]}" if port else name


def _set_cookie(response: Response, name: str, value: str) -> None:
    response.set_cookie(name, value, httponly=True, samesite="strict", path="/")
