"""Take out of the database what nobody follows any more."""

from collections.abc import Collection
from pathlib import Path

from pymongo.database import Database

from ontogeny.config.database import EMBEDDED, DatabaseSettings
from ontogeny.database.connect import DURABLE, Document, connect
from ontogeny.database.documents import COLUMNS, CONTENTS, DETAILS, FEATURES, RUNS, TERMS, RunName
from ontogeny.database.names import claim_name
from ontogeny.database.reading import visible_runs
from ontogeny.database.tables import BATCH


def remove_runs(
    settings: DatabaseSettings,
    home: Path,
    receipts: Path,
    study: str,
    kept: Collection[tuple[str, str]],
    made_by: Path | None = None,
) -> list[RunName]:
    """Remove the runs of a study that it no longer has; what people added to their features stays.

    Args:
        settings: which database.
        home: folder of the embedded server's files.
        receipts: folder of the receipts; without its receipt, a run that comes back is ingested again.
        study: name of the study.
        kept: dictionary and run of all that it has.
        made_by: the study's `study.json`, or None.

    Returns:
        What was removed.

    Raises:
        UserError: the database cannot be used, or the study's name in it belongs to another results root.
    """
    with connect(settings, home) as database:
        if settings.uri != EMBEDDED:
            claim_name(database, study, made_by)
        gone = [
            name for name in visible_runs(database) if name.study == study and (name.dictionary, name.run) not in kept
        ]
        for name in gone:
            (receipts / name.dictionary / f"{name.run}.json").unlink(missing_ok=True)
            database[RUNS].with_options(write_concern=DURABLE).delete_one({"_id": name.id})
        _remove_unfollowed(database, study, kept)
    return gone


def _remove_unfollowed(database: Database[Document], study: str, kept: Collection[tuple[str, str]]) -> None:
    """Remove the contents of all runs that the study has no longer, also what a killed removal or ingest has left."""
    for run in database[CONTENTS].distinct("run"):
        name = RunName(*run.split("/"))
        if name.study == study and (name.dictionary, name.run) not in kept:
            remove_contents(database, run, keep=None)


def remove_contents(database: Database[Document], run: str, keep: str | None) -> None:
    """Remove the contents of a run that its document does not follow, in pieces that hold no server up.

    Args:
        database: where from.
        run: the run.
        keep: the content that its document follows; None if there is none.
    """
    for other in list(database[CONTENTS].find({"run": run, "_id": {"$ne": keep}})):
        for start in range(0, other["features"], BATCH):
            piece = {"content": other["_id"], "feature": {"$gte": start, "$lt": start + BATCH}}
            database[FEATURES].delete_many(piece)
            database[DETAILS].delete_many(piece)
        for name in (COLUMNS, TERMS):
            database[name].delete_many({"content": other["_id"]})
        database[CONTENTS].delete_one({"_id": other["_id"]})
