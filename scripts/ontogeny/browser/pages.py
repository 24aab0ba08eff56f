"""The pages that are read."""

import random
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from ontogeny.browser.feature_list import list_page
from ontogeny.browser.feature_page import feature_page
from ontogeny.browser.home import home_page
from ontogeny.browser.parameters import read_list_query
from ontogeny.browser.rendering import STATIC
from ontogeny.browser.state import State, find_run
from ontogeny.database.documents import RunName
from ontogeny.database.query import find_features
from ontogeny.database.reading import NotFoundError

router = APIRouter()
FILES = StaticFiles(directory=STATIC, packages=[("plotly", "package_data")])
"""Own scripts and styles, and plotly.js from its package."""
RUN = "/{study}/{dictionary}/{run}/"


def state_of(request: Request) -> State:
    """Find what all requests share."""
    state: State = request.app.state.browser
    return state


def run_name(study: str, dictionary: str, run: str) -> RunName:
    """Read the name of a run from an address."""
    return RunName(study, dictionary, run)


Shared = Annotated[State, Depends(state_of)]
Named = Annotated[RunName, Depends(run_name)]


@router.get("/")
def home(state: Shared) -> Response:
    """Show all runs."""
    with state.connection.database() as database:
        page = home_page(database, state.study)
    return HTMLResponse(state.renderer.page("home.html", page=page))


@router.get("/static/{name}")
async def static(name: str, request: Request) -> Response:
    """Send a script or a stylesheet; the reader asks each time whether it has changed."""
    response = await FILES.get_response(name, request.scope)
    response.headers["Cache-Control"] = "no-cache"
    return response


@router.get(RUN)
def features(name: Named, request: Request, state: Shared) -> Response:
    """Show a list of features."""
    with state.connection.database() as database:
        head = find_run(database, name)
        query = read_list_query(request.query_params.multi_items(), head.run, head.quantities)
        page = list_page(database, head, query, state.extents.of(database, head), request.state.csrf)
    return HTMLResponse(state.renderer.page("list.html", page=page))


@router.get(RUN + "random")
def random_feature(name: Named, request: Request, state: Shared) -> Response:
    """Lead to any feature that a query finds."""
    with state.connection.database() as database:
        head = find_run(database, name)
        query = read_list_query(request.query_params.multi_items(), head.run, head.quantities)
        found = find_features(database, head.run, query.of_database())
    if not len(found):
        raise NotFoundError("no feature is found by this query; change its filters")
    chosen = int(random.choice(found))
    return RedirectResponse(state.renderer.links.feature(name, chosen, query.address()), 303)


@router.get(RUN + "{feature}")
def feature(name: Named, feature: int, request: Request, state: Shared) -> Response:
    """Show a feature."""
    with state.connection.database() as database:
        head = find_run(database, name)
        query = read_list_query(request.query_params.multi_items(), head.run, head.quantities)
        found_N = find_features(database, head.run, query.of_database())
        page = feature_page(database, head, feature, query, found_N, request.state.csrf)
    return HTMLResponse(state.renderer.page("feature.html", page=page))
