"""What people change: bookmarks, tags, interpretations and notes."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, RedirectResponse, Response

from ontogeny.browser.errors import BadRequestError
from ontogeny.browser.guard import check_origin
from ontogeny.browser.pages import RUN, Named, Shared
from ontogeny.browser.parameters import read_list_query
from ontogeny.browser.state import find_run
from ontogeny.database.edits import Change, change

router = APIRouter()

FIELDS = 10
"""Fields of a form at most."""


class Form(BaseModel):
    """A change as a form sends it; what is left out stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    csrf: str
    """What the page was given to send along."""
    revision: Annotated[int, Field(ge=0)]
    """Revision that the page shows."""
    back: Literal["list", "feature"] = "feature"
    """Page to lead back to, for readers without scripts."""
    bookmark: Literal["on", "off"] | None = None
    """Whether the feature is bookmarked."""
    tags: str | None = None
    """Tags between commas."""
    interpretation: str | None = None
    """What it stands for."""
    note: str | None = None
    """Anything else."""

    def change(self) -> Change:
        """Make the change that the database takes.

        Raises:
            BadRequestError: a text is too long.
        """
        tags = None if self.tags is None else tuple(tag for tag in map(str.strip, self.tags.split(",")) if tag)
        bookmark = None if self.bookmark is None else self.bookmark == "on"
        try:
            return Change(bookmark=bookmark, tags=tags, interpretation=self.interpretation, note=self.note)
        except ValidationError as error:
            raise BadRequestError(_said(error)) from None


async def read_form(request: Request) -> Form:
    """Read a change and see where it comes from.

    Raises:
        BadRequestError: it is none.
        ForbiddenError: it does not come from a page of this server.
    """
    sent = await request.form(max_files=0, max_fields=FIELDS)
    if len(sent.multi_items()) != len(sent):
        raise BadRequestError("a field is given twice")
    fields: dict[str, Any] = dict(sent)
    check_origin(request, str(fields.get("csrf", "")))
    try:
        return Form.model_validate(fields)
    except ValidationError as error:
        raise BadRequestError(_said(error)) from None


@router.post(RUN + "{feature}/edit")
def edit(
    name: Named, feature: int, form: Annotated[Form, Depends(read_form)], request: Request, state: Shared
) -> Response:
    """Change a feature and say what is there now, or lead back to the page."""
    wanted = form.change()
    with state.connection.database() as database:
        head = find_run(database, name)
        query = read_list_query(request.query_params.multi_items(), head.run, head.quantities)
        after = change(database, head.run, feature, wanted, form.revision)
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse(after.model_dump(include={"bookmark", "tags", "interpretation", "note", "revision"}))
    links = state.renderer.links
    if form.back == "list":
        return RedirectResponse(f"{links.features(name, query.address())}#f{feature}", 303)
    return RedirectResponse(f"{links.feature(name, feature, query.address())}#notes", 303)


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{first['loc'][0]}: {first['msg'][0].lower()}{first['msg'][1:]}"
