"""Time of the questions that the feature browser asks, on a database of many generated features.

Features, samples and all other tables have random numbers; words are drawn from 4,096. The database is made once in a
folder and kept there, since 100,000 features take minutes: `make bench-browser`. Every figure is a median.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from database_files import RunFiles, write_run
from fastapi.testclient import TestClient

from ontogeny.browser.app import make_app
from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import Run, RunName
from ontogeny.database.edits import edits_of
from ontogeny.database.ingest import write_receipt
from ontogeny.database.query import Query, find_features, read_columns
from ontogeny.database.reading import read_details, read_features, visible_run, visible_runs

REPEATS = 9
PAGE = 50
SAMPLES = 8
"""Samples of a feature; 22 in a study, but it is the number of features that questions depend on."""


def main() -> None:
    """Make the database where there is none, and print a table of milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path("results/benchmarks/browser"))
    arguments = parser.parse_args()
    name = RunName("planets", "crosscoder", f"latents{arguments.features}-k4-seed0")
    home = arguments.folder / "server"
    settings = DatabaseSettings()
    with connect(settings, home) as database:
        if name not in visible_runs(database):
            _generate(arguments.folder, name, arguments.features)
        run = visible_run(database, name)

        def page(query: Query, start: int) -> int:
            found = find_features(database, run, query)
            return len(read_features(database, run, found[start : start + PAGE].tolist()))

        middle = run.latents // 2
        _tell("run", lambda: visible_run(database, name).latents)
        _tell("page, by number, in the middle", lambda: page(Query(), middle))
        _tell("page, by peak norm, in the middle", lambda: page(Query(order="peak_norm", descending=True), middle))
        for said, query in _filters(run).items():
            _tell(said, partial(page, query, 0))
        _tell("details of a feature", lambda: len(read_details(database, run, middle).samples))
        _tell("two columns for a scatter", lambda: len(read_columns(database, run, ["density", "peak_norm"])))
        _tell("edits", lambda: len(edits_of(database, run)))
        _pages(arguments.folder, name, middle)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"peak memory of the process that serves the pages {peak:.0f} MiB\n")


def _pages(folder: Path, name: RunName, feature: int) -> None:
    """Time whole pages, from request to answer."""
    app = make_app(DatabaseSettings(), folder / "server", folder, name.study, None)
    run = f"/{name.study}/{name.dictionary}/{name.run}/"
    pages = {
        "list": run,
        "list, by density, filtered": f"{run}?sort=density&desc=1&class=transient&min.peak_norm=1",
        "list, words": f"{run}?q=w77*&sort=peak_norm",
        "feature": f"{run}{feature}",
        "feature, in a list": f"{run}{feature}?sort=density&desc=1",
        "scatter": f"{run}scatter",
        "runs": "/",
    }
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for said, path in pages.items():
            _tell(f"page over HTTP: {said}", partial(_size, client, path))


def _size(client: TestClient, path: str) -> int:
    return len(client.get(path).raise_for_status().content)


def _filters(run: Run) -> dict[str, Query]:
    word = "w77"
    return {
        "page, one class, by density": Query(among={"class": ("transient",)}, order="density"),
        "page, class, type and two ranges": Query(
            among={"class": ("lasting", "fading"), "type": ("induction",)},
            between={"density": (0.2, 0.8), "emergence_step": (1, None)},
            order="peak_norm",
            descending=True,
        ),
        "page, nothing found": Query(between={"density": (2, None)}, order="peak_norm"),
        "page, a word": Query(words=word),
        "page, a word in the context": Query(words=word, in_context=True),
        "page, words that begin so, by density": Query(words=f"{word}*", order="density"),
        "page, two words of interpretations": Query(words="concept about", order="complexity"),
        "page, by attribution": Query(order=next(name for name in run.columns if "/" in name), descending=True),
    }


def _generate(folder: Path, name: RunName, features: int) -> None:
    files: RunFiles = write_run(folder, name.run, latents=features, samples=SAMPLES)
    start = time.monotonic()
    write_receipt(
        DatabaseSettings(),
        folder / "server",
        files.features,
        files.metrics,
        files.dictionary,
        folder / "receipt.json",
        None,
        besides=files.besides(),
    )
    sys.stdout.write(f"{features:,} features ingested in {time.monotonic() - start:.0f} s\n")


def _tell(said: str, ask: Callable[[], int]) -> None:
    """Print the median time of a question, and the longest, in milliseconds."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        found = ask()
        seconds.append(time.perf_counter() - start)
    middle, longest = 1000 * statistics.median(seconds), 1000 * max(seconds)
    sys.stdout.write(f"{said:40} {middle:8.1f} ms, longest {longest:8.1f} ms, {found} found\n")


if __name__ == "__main__":
    main()
