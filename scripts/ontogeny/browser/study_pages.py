"""Pages besides those of features: the study's figures, a scatter, two runs side by side, a typed text."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import FileResponse, HTMLResponse, Response

from ontogeny.browser.compare import compare_page, read_other
from ontogeny.browser.errors import BadRequestError
from ontogeny.browser.figures import SUFFIXES, figures_page
from ontogeny.browser.guard import HEADERS, check_origin
from ontogeny.browser.pages import RUN, Named, Shared
from ontogeny.browser.parameters import read_list_query
from ontogeny.browser.scatter import chosen_quantities, scatter_page
from ontogeny.browser.state import find_run
from ontogeny.browser.typed_text import text_page
from ontogeny.database.reading import NotFoundError

router = APIRouter()

# plotly.js compiles the programs by which it draws points on the graphics card.
EVALUATING = {
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace(
        "script-src 'self'", "script-src 'self' 'unsafe-eval'"
    )
}


@router.get("/figures")
def figures(state: Shared) -> Response:
    """Show the figures of the study."""
    page = figures_page(state.study, state.root / "figures", state.figures)
    return HTMLResponse(state.renderer.page("figures.html", page=page))


@router.get("/figures/{file}")
def figure(file: str, state: Shared) -> Response:
    """Send a file of a figure."""
    name, _, suffix = file.rpartition(".")
    path = state.root / "figures" / file
    if name not in state.figures or suffix not in SUFFIXES or not path.is_file():
        raise NotFoundError("there is no such figure; make figures draws those of the study")
    return FileResponse(path, media_type=SUFFIXES[suffix], headers={"Cache-Control": "no-cache"})


@router.get(RUN + "scatter")
def scatter(name: Named, request: Request, state: Shared) -> Response:
    """Show every feature as a point."""
    items = request.query_params.multi_items()
    with state.connection.database() as database:
        head = find_run(database, name)
        axes = [(key, value) for key, value in items if key in ("x", "y")]
        query = read_list_query([pair for pair in items if pair[0] not in ("x", "y")], head.run, head.quantities)
        page = scatter_page(database, head, query, *chosen_quantities(axes, head))
    return HTMLResponse(state.renderer.page("scatter.html", page=page), headers=EVALUATING)


@router.get(RUN + "compare")
def compare(name: Named, request: Request, state: Shared) -> Response:
    """Show two runs side by side."""
    items = request.query_params.multi_items()
    if any(key != "with" for key, _ in items) or len(items) > 1:
        raise BadRequestError("expected one parameter, with")
    other = read_other(request.query_params.get("with", ""))
    with state.connection.database() as database:
        page = compare_page(database, find_run(database, name), other)
    return HTMLResponse(state.renderer.page("compare.html", page=page))


@router.get(RUN + "try")
def empty_text(name: Named, request: Request, state: Shared) -> Response:
    """Show where to type a text."""
    with state.connection.database() as database:
        page = text_page(database, find_run(database, name), "", None, request.state.csrf)
    return HTMLResponse(state.renderer.page("text.html", page=page))


@router.post(RUN + "try")
def typed_text(
    name: Named, text: Annotated[str, Form()], csrf: Annotated[str, Form()], request: Request, state: Shared
) -> Response:
    """Show which features fire on a text."""
    check_origin(request, csrf)
    with state.connection.database() as database:
        head = find_run(database, name)
        read = state.readers.read(name, text)
        page = text_page(database, head, text, read, request.state.csrf)
    return HTMLResponse(state.renderer.page("text.html", page=page))
