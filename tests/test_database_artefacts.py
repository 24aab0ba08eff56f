import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from database_files import RunFiles, write_metrics, write_run

from ontogeny.config.database import DatabaseSettings
from ontogeny.database.artefacts import find_artefacts
from ontogeny.database.ingest import describe, write_receipt
from ontogeny.errors import UserError
from ontogeny.evaluation.tables import RunIdentity


def refusal(tmp_path: Path, files: RunFiles) -> str:
    """What the user is told; nothing may be written before all files were read."""
    with pytest.raises(UserError) as raised:
        write_receipt(DatabaseSettings(), tmp_path / "server", *files, tmp_path / "out.json", None)
    said = str(raised.value)
    assert "\n" not in said
    assert not (tmp_path / "server").exists()
    assert not (tmp_path / "out.json").exists()
    return said


@pytest.mark.parametrize(
    ("kind", "file", "expected"),
    [
        ("metrics", "reconstruction.csv", "no such file; expected the run's metrics"),
        ("metrics", "nll-neox.csv", "no such file; expected the run's metrics"),
        ("features", "features.parquet", "no such file; expected a table of the run"),
        ("features", "samples.parquet", "no such file; expected a table of the run"),
        ("dictionary", "config.json", "no such file; expected the folder of a trained run"),
    ],
)
def test_a_missing_file_is_one_line(tmp_path: Path, kind: str, file: str, expected: str) -> None:
    files = write_run(tmp_path)
    path = getattr(files, kind) / file
    path.unlink()
    assert refusal(tmp_path, files).startswith(f"{path}: {expected}")


def test_planted_models_need_no_loss(tmp_path: Path) -> None:
    files = write_run(tmp_path)
    (files.metrics / "nll-neox.csv").unlink()
    run = describe(find_artefacts(*files, None, loss=False))
    assert {measured.metric for measured in run.metrics} == {"fvu", "dead"}
    assert not any(measured.metric.startswith("nll") for site in run.sites for measured in site.metrics)


@pytest.mark.parametrize("file", ["features.parquet", "samples.parquet"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_table_cut_short_is_one_line(tmp_path: Path, file: str, keep: float) -> None:
    files = write_run(tmp_path)
    path = files.features / file
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert refusal(tmp_path, files).startswith(f"{path}: it is damaged (")


@pytest.mark.parametrize("file", ["features.parquet", "samples.parquet"])
def test_tables_of_another_run_are_refused(tmp_path: Path, file: str) -> None:
    files = write_run(tmp_path)
    other = write_run(tmp_path, "latents64-k8-seed0")
    shutil.copy(other.features / file, files.features / file)
    assert refusal(tmp_path, files).startswith(f"{files.features / file}: it is of run latents64-k8-seed0, and ")


def test_metrics_of_another_run_are_refused(tmp_path: Path) -> None:
    files = write_run(tmp_path)
    write_metrics(files.metrics, RunIdentity("crosscoder", "latents64-k8-seed0", 64, 8.0, 0))
    path = files.metrics / "reconstruction.csv"
    assert refusal(tmp_path, files) == (
        f"{path}: line 2 is of run latents64-k8-seed0; expected latents64-k4-seed0; make the table again"
    )


def test_a_damaged_number_is_one_line(tmp_path: Path) -> None:
    files = write_run(tmp_path)
    path = files.metrics / "reconstruction.csv"
    path.write_text(path.read_text().replace(",0.125,", ",0.1x,", 1))
    assert refusal(tmp_path, files).startswith(f"{path}: line 3: could not convert string to float: '0.1x'")


def test_metrics_of_a_site_that_the_run_has_not_are_refused(tmp_path: Path) -> None:
    files = write_run(tmp_path)
    path = files.metrics / "nll-neox.csv"
    path.write_text(path.read_text().replace(",64,blocks", ",65,blocks", 1))
    assert "no site of the run; make the table again" in refusal(tmp_path, files)


def edit(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table and keep what it says of itself."""
    table = pq.read_table(file)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), file)


def test_a_table_that_lacks_a_feature_is_refused(tmp_path: Path) -> None:
    files = write_run(tmp_path)
    edit(files.features / "features.parquet", lambda table: table.slice(0, 63))
    assert (
        refusal(tmp_path, files) == f"{files.features}/features.parquet: 63 features; expected 64; make the table again"
    )


def test_features_out_of_order_are_refused(tmp_path: Path) -> None:
    files = write_run(tmp_path)
    edit(files.features / "features.parquet", lambda table: table.slice(1))
    assert "row 0 holds feature 1; expected features 0 to 63 in order" in refusal(tmp_path, files)


def test_samples_of_features_that_are_not_there_are_refused(tmp_path: Path) -> None:
    files = write_run(tmp_path, latents=80)
    small = write_run(tmp_path, latents=64)
    write_run(tmp_path / "other", latents=80)
    shutil.copy(tmp_path / "other/features/crosscoder/latents64-k4-seed0/samples.parquet", small.features)
    assert (
        refusal(tmp_path, files)
        == f"{files.features}/samples.parquet: feature 64 is not in its place; make the table again"
    )


def test_a_missing_column_is_one_line(tmp_path: Path) -> None:
    files = write_run(tmp_path)
    edit(files.features / "samples.parquet", lambda table: table.drop_columns(["texts"]))
    assert (
        refusal(tmp_path, files) == f"{files.features}/samples.parquet: column 'texts' is missing; make the table again"
    )


def test_a_value_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    files = write_run(tmp_path)

    def negate(table: pa.Table) -> pa.Table:
        densities = table["density"].to_pylist()
        densities[7] = None
        return table.set_column(table.schema.get_field_index("density"), "density", pa.array(densities))

    edit(files.features / "features.parquet", negate)
    said = refusal(tmp_path, files)
    assert said.startswith(f"{files.features}/features.parquet: feature 7: density: Input should be a valid number")
    assert said.endswith("not None; make the table again")


@pytest.mark.parametrize("name", ["decoders", "types", "interpretations"])
def test_further_tables_of_another_run_are_refused(tmp_path: Path, name: str) -> None:
    files, other = write_run(tmp_path), write_run(tmp_path, "latents64-k8-seed0")
    strange = getattr(other.besides(), name)
    with pytest.raises(UserError, match=f"^{strange}: it is of run latents64-k8-seed0, and "):
        find_artefacts(*files, None, besides=files.besides()._replace(**{name: strange}))


def test_a_further_table_that_lacks_a_feature_is_refused(tmp_path: Path) -> None:
    files = write_run(tmp_path)
    for file in (files.besides().decoders, files.besides().attributions[0]):
        whole = file.read_bytes()
        edit(file, lambda table: table.slice(0, 63))
        with pytest.raises(UserError, match=f"^{file}: 63 features; expected 64; make the table again"):
            describe(find_artefacts(*files, None, besides=files.besides()))
        file.write_bytes(whole)


def test_samples_beyond_the_largest_document_are_refused(tmp_path: Path) -> None:
    files = write_run(tmp_path, latents=2, samples=2, window=150_000)
    said = refusal(tmp_path, files)
    assert said.startswith(f"{files.features}/samples.parquet: the samples of feature 0 take ")
    assert said.endswith("MongoDB takes 16; lower evaluation.features.samples or evaluation.features.window")
