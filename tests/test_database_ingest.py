import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from database_commands import SCRIPTS, server_pid, server_runs, wait_until
from database_files import MADE_BY, RunFiles, write_metrics, write_run
from pymongo.database import Database

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.connect import connect
from ontogeny.database.documents import COLUMNS, CONTENTS, DETAILS, FEATURES, RUNS, TERMS, RunName
from ontogeny.database.ingest import write_receipt
from ontogeny.database.reading import read_features, visible_run, visible_runs
from ontogeny.errors import UserError
from ontogeny.evaluation.emergence import feature_classes
from ontogeny.evaluation.tables import RunIdentity

EMBEDDED = DatabaseSettings()
NAME = RunName("planets", "crosscoder", "latents64-k4-seed0")
BIG = RunName("planets", "crosscoder", "latents1600-k4-seed0")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    home = tmp_path / "server"
    wait_until(lambda: not (home / "server.lock").exists() or not server_runs(home))


def ingest(
    root: Path, files: RunFiles, settings: DatabaseSettings = EMBEDDED, study: Path | None = None
) -> dict[str, Any]:
    """Ingest in this process and return the receipt."""
    write_receipt(settings, root / "server", *files, root / "out.json", study)
    receipt: dict[str, Any] = json.loads((root / "out.json").read_text())
    return receipt


def start(root: Path, files: RunFiles, out: str = "out.json") -> subprocess.Popen[str]:
    """Ingest by the command."""
    options = {
        "--settings": "{}",
        "--home": root / "server",
        "--features": files.features,
        "--metrics": files.metrics,
        "--dictionary": files.dictionary,
        "--out": root / out,
    }
    line = [sys.executable, str(SCRIPTS / "database.py"), *(str(part) for pair in options.items() for part in pair)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said


def dump(database: Database[Any]) -> dict[str, list[Any]]:
    return {
        name: sorted(database[name].find(), key=lambda document: str(document["_id"]))
        for name in (RUNS, FEATURES, DETAILS, COLUMNS, TERMS, CONTENTS)
    }


def writes(database: Database[Any]) -> int:
    counters = database.client.admin.command("serverStatus")["opcounters"]
    return int(counters["insert"] + counters["update"] + counters["delete"])


def test_a_receipt_says_what_is_in_the_database(root: Path) -> None:
    files = write_run(root)
    receipt = ingest(root, files)
    with connect(EMBEDDED, root / "server") as database:
        found = dump(database)
        run = visible_run(database, NAME)
        assert visible_runs(database) == [NAME]
    assert {name: len(found[name]) for name in (RUNS, FEATURES, DETAILS)} == receipt["collections"]
    assert receipt["collections"] == {"runs": 1, "features": 64, "details": 64}
    table = pq.read_table(files.features / "features.parquet")
    norms = np.array([row for row in table["normalised_norm"].to_pylist() if any(row)])
    classes = dict(Counter(feature_classes(norms, 0.5)))
    assert receipt["counts"] == {"features": 64, "samples": 600, "dead": 4, "classes": classes, "types": {}}
    assert (receipt["content"], receipt["hash"]) == (run.content, run.hash)
    assert (receipt["server"], receipt["database"], receipt["study"]) == ("embedded", "ontogeny", "planets")


def test_ingesting_again_writes_nothing(root: Path) -> None:
    files = write_run(root)
    ingest(root, files)
    receipt = (root / "out.json").read_bytes()
    with connect(EMBEDDED, root / "server") as database:
        before, count = dump(database), writes(database)
        ingest(root, files)
        assert writes(database) == count
        assert dump(database) == before
    assert (root / "out.json").read_bytes() == receipt


def test_a_run_is_of_the_commit_that_made_its_tables_whoever_ingests_it(root: Path) -> None:
    files, study = write_run(root), root / "study.json"
    counts = []
    with connect(EMBEDDED, root / "server") as database:
        for commit in ("c2", "c3"):
            study.write_text(json.dumps({"study": "planets", "hash": "h2", "commit": commit, "seed": 0}))
            assert ingest(root, files, study=study)["provenance"]["commit"] == commit
            assert visible_run(database, NAME).provenance == MADE_BY
            counts.append(writes(database))
    assert counts[0] == counts[1], "another commit is no reason to write the run again"


def test_two_homes_hold_the_same(root: Path) -> None:
    receipts = [ingest(root / name, write_run(root / name)) for name in ("one", "two")]
    assert receipts[0] == receipts[1]
    with connect(EMBEDDED, root / "one/server") as one, connect(EMBEDDED, root / "two/server") as two:
        assert dump(one) == dump(two)


def test_new_metrics_change_the_run_and_touch_no_feature(root: Path) -> None:
    files = write_run(root)
    old = ingest(root, files)
    write_metrics(files.metrics, RunIdentity("crosscoder", NAME.run, 64, 4.0, 0), fvu=0.25)
    with connect(EMBEDDED, root / "server") as database:
        count = writes(database)
        new = ingest(root, files)
        assert writes(database) == count + 1
        assert visible_run(database, NAME).metrics[1].value == 0.25
    assert new["content"] == old["content"]
    assert new["hash"] != old["hash"]


def test_new_features_replace_the_old_ones(root: Path) -> None:
    ingest(root, write_run(root))
    receipt = ingest(root, write_run(root, latents=48, seed=1))
    with connect(EMBEDDED, root / "server") as database:
        found = dump(database)
    assert len(found[FEATURES]) == len(found[DETAILS]) == 48
    kept = [document for name in (FEATURES, DETAILS, COLUMNS, TERMS) for document in found[name]]
    assert {document["content"] for document in kept} == {receipt["content"]}
    assert [document["_id"] for document in found[CONTENTS]] == [receipt["content"]]


def test_lost_features_are_written_again(root: Path) -> None:
    files = write_run(root)
    ingest(root, files)
    with connect(EMBEDDED, root / "server") as database:
        before = dump(database)
        database[FEATURES].drop()
        ingest(root, files)
        assert dump(database) == before


def test_a_killed_ingest_shows_nothing_and_the_next_completes_it(root: Path) -> None:
    files = write_run(root, BIG.run, latents=1600, samples=3)
    with connect(EMBEDDED, root / "server") as database:
        kill_midway(database, start(root, files), 1600)
        with pytest.raises(UserError, match=r"there is no run planets/crosscoder/latents1600-k4-seed0"):
            visible_run(database, BIG)
        assert not (root / "out.json").exists()
        finish(start(root, files))
        found = dump(database)
    fresh = root / "fresh"
    ingest(fresh, write_run(fresh, BIG.run, latents=1600, samples=3))
    with connect(EMBEDDED, fresh / "server") as database:
        assert dump(database) == found


def test_a_killed_ingest_leaves_the_old_run_whole(root: Path) -> None:
    ingest(root, write_run(root, BIG.run, latents=700, samples=3))
    with connect(EMBEDDED, root / "server") as database:
        old = visible_run(database, BIG)
        before = read_features(database, old, range(700))
        kill_midway(database, start(root, write_run(root, BIG.run, latents=1600, samples=3, seed=1)), 2300)
        assert visible_run(database, BIG) == old
        assert read_features(database, old, range(700)) == before
        finish(start(root, write_run(root, BIG.run, latents=900, samples=3, seed=2)))
        new = visible_run(database, BIG)
        assert [feature.feature for feature in read_features(database, new, range(900))] == list(range(900))
        assert database[FEATURES].estimated_document_count() == 900
        assert database[CONTENTS].estimated_document_count() == 1


def kill_midway(database: Database[Any], process: subprocess.Popen[str], end: int) -> None:
    """Kill an ingest, and all that it started, after it wrote some features and before it wrote the last."""
    begun = database[FEATURES].estimated_document_count()
    wait_until(lambda: database[FEATURES].estimated_document_count() > begun or process.poll() is not None, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert begun < database[FEATURES].estimated_document_count() < end


def test_an_ingested_run_survives_a_killed_server(root: Path) -> None:
    with connect(EMBEDDED, root / "server"):
        finish(start(root, write_run(root, BIG.run, latents=700, samples=3)))
        os.kill(server_pid(root / "server"), signal.SIGKILL)
    with connect(EMBEDDED, root / "server") as database:
        run = visible_run(database, BIG)
        assert len(read_features(database, run, range(700))) == 700
        assert database[DETAILS].count_documents({"content": run.content}) == 700
        assert json.loads((root / "out.json").read_text())["hash"] == run.hash


def test_two_ingests_at_once_both_succeed(root: Path) -> None:
    runs = [write_run(root, f"latents600-k{k}-seed0", latents=600, samples=3, seed=k) for k in (4, 8)]
    processes = [start(root, files, f"{number}.json") for number, files in enumerate(runs)]
    for process in processes:
        finish(process)
    assert not server_runs(root / "server")
    with connect(EMBEDDED, root / "server") as database:
        for number, name in enumerate(visible_runs(database)):
            run = visible_run(database, name)
            assert len(read_features(database, run, range(600))) == 600
            assert json.loads((root / f"{number}.json").read_text())["hash"] == run.hash


def test_a_server_of_the_users_own_is_used(root: Path) -> None:
    files = write_run(root)
    with connect(EMBEDDED, root / "elsewhere") as other:
        host, port = other.client.address or ("", 0)
        settings = DatabaseSettings(uri=f"mongodb://{host}:{port}/?directConnection=true", name="shared")
        receipt = ingest(root, files, settings)
        assert other.client["shared"][FEATURES].estimated_document_count() == 64
    assert not (root / "server").exists()
    assert (receipt["server"], receipt["database"]) == (f"mongodb://{host}:{port}", "shared")


def test_two_studies_share_a_database(root: Path) -> None:
    files = write_run(root)
    ingest(root, files)
    study = root / "study.json"
    study.write_text(json.dumps({"study": "moons", "hash": "h", "commit": "c", "seed": 0}))
    write_receipt(EMBEDDED, root / "server", files.features, files.metrics, files.dictionary, root / "o.json", study)
    with connect(EMBEDDED, root / "server") as database:
        assert visible_runs(database) == [NAME._replace(study="moons"), NAME]
        assert visible_run(database, NAME._replace(study="moons")).provenance["commit"] == "c1"
        assert database[FEATURES].estimated_document_count() == 128


def test_nobody_overwrites_the_study_of_somebody_else_who_uses_its_name(root: Path) -> None:
    with connect(EMBEDDED, root / "elsewhere") as other:
        host, port = other.client.address or ("", 0)
        shared = DatabaseSettings(uri=f"mongodb://{host}:{port}/?directConnection=true", name="shared")
        mine, theirs = (study_of(root / name, f"{name}:/home/{name}/results") for name in ("alice", "bob"))
        ingest(root, write_run(root), shared, mine)
        before = dump(other.client["shared"])
        different = write_run(root / "bob", latents=48, seed=1)
        for study, said in ((theirs, "bob:/home/bob/results"), (None, "no study.json")):
            with pytest.raises(UserError) as raised:
                ingest(root / "bob", different, shared, study)
            assert str(raised.value) == (
                f"database shared: the study 'planets' in it is of alice:/home/alice/results, and this one of {said}; "
                "give `study:` or database.name another name, or, if that study is yours and this one replaces it, "
                "remove the document 'planets' of the collection studies"
            )
            assert dump(other.client["shared"]) == before
        assert not (root / "bob/out.json").exists()
        assert ingest(root / "bob", different, shared, mine)["counts"]["features"] == 48, "one's own is replaced"
        shared = shared.model_copy(update={"name": "of_bob"})
        assert ingest(root / "bob", different, shared, theirs)["counts"]["features"] == 48


def test_an_embedded_database_is_of_its_root_whatever_its_name_was(root: Path) -> None:
    for origin in ("alice:/here", "alice:/there"):
        ingest(root, write_run(root), EMBEDDED, study_of(root, origin))


def study_of(folder: Path, origin: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "study.json"
    file.write_text(json.dumps({"study": "planets", "hash": "h", "commit": "c", "seed": 0, "origin": origin}))
    return file


def test_the_command_says_a_mistake_in_one_line(root: Path) -> None:
    files = write_run(root)
    (files.metrics / "nll-neox.csv").unlink()
    process = start(root, files)
    said = process.communicate()[1]
    assert process.returncode == 1
    assert said.count("\n") == 1
    assert said.startswith(f"error: {files.metrics}/nll-neox.csv: no such file")
