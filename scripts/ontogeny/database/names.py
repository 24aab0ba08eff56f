"""Names of studies on a server that several people may use: the first results root to take one keeps it."""

import json
from contextlib import suppress
from pathlib import Path

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ontogeny.database.connect import DURABLE, Document
from ontogeny.database.documents import STUDIES
from ontogeny.errors import UserError


def claim_name(database: Database[Document], name: str, study: Path | None) -> None:
    """Check that what is stored under a study's name is of this results root, and take a name that is free.

    Most studies are called `default`. Without this, two people who share a server would remove each other's features.

    Args:
        database: where the study is to be stored.
        name: the study's name.
        study: the study's `study.json`, whose `origin` stands for its results root; None, or one without, may use a
            name that is free, and does not take it.

    Raises:
        UserError: the name belongs to another results root.
    """
    origin = json.loads(study.read_text()).get("origin") if study and study.is_file() else None
    studies = database[STUDIES].with_options(write_concern=DURABLE)
    if origin and not studies.find_one({"_id": name}):
        with suppress(DuplicateKeyError):
            studies.insert_one({"_id": name, "origin": origin})
    found = studies.find_one({"_id": name})
    if found and found["origin"] != origin:
        raise UserError(
            f"database {database.name}: the study {name!r} in it is of {found['origin']}, and this one of "
            f"{origin or 'no study.json'}; give `study:` or database.name another name, or, if that study is yours and "
            f"this one replaces it, remove the document {name!r} of the collection {STUDIES}"
        )
