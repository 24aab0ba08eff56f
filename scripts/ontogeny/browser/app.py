"""The application: pages, changes, and what is answered where something is wrong."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, JSONResponse, Response

from ontogeny.browser import changes, pages, study_pages
from ontogeny.browser.connection import Connection
from ontogeny.browser.errors import BadRequestError, ForbiddenError, UnavailableError
from ontogeny.browser.guard import HEADERS, Guard
from ontogeny.browser.links import Links
from ontogeny.browser.rendering import Renderer
from ontogeny.browser.state import State
from ontogeny.browser.typed_text import TextReaders
from ontogeny.config.database import DatabaseSettings
from ontogeny.database.edits import ConflictError
from ontogeny.database.reading import NotFoundError
from ontogeny.errors import UserError

log = logging.getLogger("ontogeny")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names under which a page is asked for on its own machine."""
STATUS: dict[type[UserError], int] = {
    BadRequestError: 400,
    ForbiddenError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    UnavailableError: 503,
    UserError: 500,
}
TITLES = {
    400: "This address cannot be read",
    401: "A token is needed",
    403: "Not from here",
    404: "Not found",
    405: "Not possible",
    409: "Changed elsewhere",
    413: "Too long",
    500: "Something is wrong",
    503: "The database cannot be used",
}
AGAIN_SECONDS = 5
"""After which a reader asks again for a page that a stopped database could not answer."""


def make_app(
    settings: DatabaseSettings,
    home: Path,
    root: Path,
    study: str,
    token: str | None,
    context_length: int = 128,
    figures: tuple[str, ...] = (),
) -> FastAPI:
    """Make the application.

    Args:
        settings: which database.
        home: folder of the embedded server's files.
        root: results root of the study.
        study: name of the study, whose runs come first.
        token: what every page needs; None for a server that only its own machine reaches.
        context_length: tokens that the study's models read at once.
        figures: figures that the study can draw, in order.
    """
    readers = TextReaders(study, root, context_length)
    state = State(Connection(settings, home), Renderer(Links()), study, root, readers, figures)
    app = FastAPI(title="Ontogeny", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_held_by(state))
    app.state.browser = state
    for router in (changes.router, study_pages.router, pages.router):
        app.include_router(router)
    app.middleware("http")(Guard(token, _refuse))
    if token is None:
        # A page of another site that points its name at this machine would come with that name. With a token there is
        # no need: the cookie belongs to the name under which the token was given.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"], www_redirect=False)
    for kind in (UserError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer)
    return app


def _held_by(state: State) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Open the database before the first request, and let go of it after the last."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(_open, state.connection)
        yield
        await run_in_threadpool(state.connection.close)

    return lifespan


def _open(connection: Connection) -> None:
    try:
        with connection.database():
            pass
    except UnavailableError as error:
        log.warning("%s", error)


async def _answer(request: Request, error: Exception) -> Response:
    """Say in one line what is wrong; what nobody foresaw is in the server's log alone."""
    if isinstance(error, UserError):
        status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        return _refuse(request, status, str(error))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        if first["loc"][0] == "path":
            return _refuse(request, 404, "there is no such page; features have whole numbers")
        return _refuse(request, 400, f"{first['loc'][-1]}: {first['msg']}")
    if isinstance(error, HTTPException):
        text = {404: "there is no such page", 405: "nothing can be sent to this address"}.get(error.status_code)
        return _refuse(request, error.status_code, text or error.detail)
    return _refuse(request, 500, "the server failed at this page; its log says more")


def _refuse(request: Request, status: int, text: str) -> Response:
    """Make the page, or for scripts the JSON, that says why there is no other."""
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"error": text}, status, headers=HEADERS)
    state: State = request.app.state.browser
    title = TITLES.get(status, "Not possible")
    again = AGAIN_SECONDS if status == 503 and request.method == "GET" else None
    page = state.renderer.page("error.html", status=status, title=title, text=text, again=again)
    headers = {**HEADERS, "Retry-After": str(again)} if again else HEADERS
    return HTMLResponse(page, status, headers=headers)
