"""Runs of every kind in a real database, and a client of the pages over it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from database_files import SITES, RunFiles, write_run
from fastapi.testclient import TestClient

from ontogeny.browser.app import make_app
from ontogeny.config.database import DatabaseSettings
from ontogeny.database.artefacts import NOTHING, Besides
from ontogeny.database.ingest import write_receipt
from ontogeny.sites import Site

HOOK = "blocks.2.hook_resid_post"
KINDS = {
    "checkpoints": SITES,
    "one": SITES[-1:],
    "layers": [Site("neox", 512, f"blocks.{block}.hook_resid_post") for block in range(4)],
    "models": [Site("neox", 512, HOOK), Site("gpt", 512, HOOK)],
    "sites": [Site(model, step, HOOK) for model in ("neox", "gpt") for step in (0, 512)],
    "thirty-two": [Site("neox", step, HOOK) for step in (0, *(2**n for n in range(17)), *range(70_000, 84_000, 1000))],
}
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
BASE = "http://127.0.0.1:8765"


def address(kind: str, rest: object = "") -> str:
    return f"/planets/crosscoder/{kind}/{rest}"


def add_run(root: Path, kind: str, sites: Sequence[Site], latents: int = 64, bare: bool = False) -> RunFiles:
    """Write a run and put it into the embedded database of `root`."""
    files = write_run(root, kind, latents=latents, samples=6, sites=list(sites))
    ingest(root, files, NOTHING if bare else files.besides())
    return files


def ingest(root: Path, files: RunFiles, besides: Besides) -> None:
    write_receipt(DatabaseSettings(), root / "server", *files, root / "receipt.json", None, False, besides)


def add_hostile_run(root: Path) -> None:
    """Add a run whose every text is an attack on the page."""
    files = write_run(root, "hostile", latents=8, samples=3)
    for file, columns in (
        (files.features / "samples.parquet", ["texts"]),
        (files.features / "decoders.parquet", ["promoted_texts", "suppressed_texts"]),
        (files.features / "interpretations.parquet", ["explanation"]),
    ):
        table = pq.read_table(file)
        for name in columns:
            values = pa.array(_replaced(table[name].to_pylist()), table.schema.field(name).type)
            table = table.set_column(table.schema.get_field_index(name), name, values)
        pq.write_table(table, file)
    ingest(root, files, files.besides())


def _replaced(value: Any) -> Any:
    return [_replaced(one) for one in value] if isinstance(value, list) else HOSTILE


@contextmanager
def browsing(root: Path, token: str | None = None, uri: str = "embedded") -> Iterator[TestClient]:
    """Serve the pages of the database of `root`."""
    app = make_app(DatabaseSettings(uri=uri), root / "server", root, "planets", token)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client
