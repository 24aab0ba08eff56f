"""Statistics count every training row once in float64, and refuse damaged shards before they compute anything."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ontogeny.activations.statistics import SiteStatistics, read_statistics, site_statistics, write_statistics
from ontogeny.activations.store import Floats, Shard, open_shard, write_shard
from ontogeny.errors import UserError
from ontogeny.sites import Site

SCRIPTS = Path(__file__).parents[1] / "scripts"
SITE = Site("neox", 512, "blocks.2.hook_resid_post")


def activations(rows: int = 9000, d_model: int = 24) -> Floats:
    """Rows with a mean far above their spread, as residual streams have in some channels, exact in float16."""
    values = np.random.default_rng(0).standard_normal((rows, d_model))
    values[:, :3] += (900, -300, 40)
    return values.astype(np.float16).astype(np.float32)


def shard_files(folder: Path, activations_BD: Floats, *sizes: int, dtype: str = "float16") -> list[Path]:
    paths = []
    for number, part_BD in enumerate(np.split(activations_BD, np.cumsum(sizes)[:-1])):
        paths.append(folder / f"train-{number:05d}.h5")
        write_shard(paths[-1], part_BD, SITE, f"rows{number}", dtype, {})
    return paths


def statistics_of(paths: list[Path]) -> SiteStatistics:
    return site_statistics([open_shard(path) for path in paths])


def test_p14_p4_statistics_equal_float64_over_all_rows(tmp_path: Path) -> None:
    activations_BD = activations()
    found = statistics_of(shard_files(tmp_path, activations_BD, 5000, 3000, 1000))
    exact_BD = activations_BD.astype(np.float64)
    norm = np.linalg.norm(exact_BD, axis=1).mean()
    centered = np.linalg.norm(exact_BD - exact_BD.mean(0), axis=1).mean()
    assert found.rows == 9000
    np.testing.assert_allclose(found.mean, exact_BD.mean(0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.mean_norm, norm, rtol=1e-13)
    np.testing.assert_allclose(found.centered_norm, centered, rtol=1e-12)
    np.testing.assert_allclose(found.scale, np.sqrt(24) / norm, rtol=1e-13)


def test_scaled_rows_have_the_mean_norm_of_a_standard_normal(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, activations(), 9000)
    scaled_BD = open_shard(paths[0]).read(0, 9000) * statistics_of(paths).scale
    assert np.linalg.norm(scaled_BD, axis=1).mean() == pytest.approx(np.sqrt(24), rel=1e-5)


def test_a_hand_computed_case(tmp_path: Path) -> None:
    found = statistics_of(shard_files(tmp_path, np.array([[3, 4], [0, 0], [-3, -4], [0, 4]], np.float32), 4))
    assert found.mean.tolist() == [0, 1]
    assert found.mean_norm == 3.5
    assert found.scale == np.sqrt(2) / 3.5
    assert found.centered_norm == pytest.approx((np.sqrt(18) + 1 + np.sqrt(34) + 3) / 4)


def test_statistics_do_not_depend_on_how_rows_are_cut_into_shards(tmp_path: Path) -> None:
    one = statistics_of(shard_files(tmp_path / "one", activations(), 9000))
    many = statistics_of(shard_files(tmp_path / "many", activations(), 4097, 1, 4902))
    np.testing.assert_allclose(one.mean, many.mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose((one.rows, *one[2:]), (many.rows, *many[2:]), rtol=1e-13)


def test_int8_shards_are_measured_as_they_are_read(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, activations(), 9000, dtype="int8")
    read_BD = open_shard(paths[0]).read(0, 9000).astype(np.float64)
    np.testing.assert_allclose(statistics_of(paths).mean, read_BD.mean(0), rtol=1e-12, atol=1e-12)


def test_p14_the_file_names_the_rows_it_is_made_of_and_reads_back_exactly(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, activations(), 6000, 3000)
    counts = write_statistics(paths, tmp_path / "statistics.json", None)
    assert counts == {"rows": 9000, "bytes": sum(path.stat().st_size for path in paths)}
    value = json.loads((tmp_path / "statistics.json").read_text())
    assert (value["model"], value["step"], value["hook"]) == SITE
    assert value["shards"] == {"train-00000": "rows0", "train-00001": "rows1"}
    found, expected = read_statistics(tmp_path / "statistics.json"), statistics_of(paths)
    assert found.mean.tobytes() == expected.mean.tobytes()
    assert found[:1] + found[2:] == expected[:1] + expected[2:]


def test_equal_shards_give_equal_statistics_to_the_byte(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, activations(), 6000, 3000)
    for name in ("one.json", "two.json"):
        write_statistics(paths, tmp_path / name, None)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def test_a_flipped_byte_is_refused_before_any_number_is_written(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, activations(), 6000, 3000)
    flip(paths[1])
    line: list[str | Path] = [
        sys.executable,
        SCRIPTS / "site_statistics.py",
        "--shards",
        *paths,
        "--out",
        tmp_path / "statistics.json",
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {paths[1]}: its bytes have changed.*; delete it and run again\n", done.stderr)
    assert not (tmp_path / "statistics.json").exists()


def test_a_shard_cut_short_or_missing_is_refused(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, activations(), 6000, 3000)
    paths[0].write_bytes(paths[0].read_bytes()[:-5000])
    with pytest.raises(UserError, match=re.escape(f"{paths[0]}: no whole HDF5 file")):
        write_statistics(paths, tmp_path / "statistics.json", None)
    paths[0].unlink()
    with pytest.raises(UserError, match=re.escape(f"{paths[0]}: there is no such file")):
        write_statistics(paths, tmp_path / "statistics.json", None)


def refused(shards: list[Shard]) -> str:
    with pytest.raises(UserError) as error:
        site_statistics(shards)
    return str(error.value)


def test_rows_are_not_counted_twice(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, activations(), 6000, 3000)
    line = refused([open_shard(path) for path in (*paths, paths[0])])
    assert line == f"{paths[0]}: it holds the same rows as {paths[0]}; give each shard once"


def test_shards_of_different_sites_are_refused(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, activations(), 9000)
    other = tmp_path / "other.h5"
    write_shard(other, activations(10), SITE._replace(step=8), "other", "float16", {})
    line = refused([open_shard(paths[0]), open_shard(other)])
    assert f"{other}: it holds 24 channels of {SITE._replace(step=8).key}, but {paths[0]} holds" in line


def test_a_site_without_any_activation_is_refused(tmp_path: Path) -> None:
    paths = shard_files(tmp_path, np.zeros((10, 4), np.float32), 10)
    assert f"all activations of {SITE.key} are 0; choose another hook" in refused([open_shard(paths[0])])


@pytest.mark.parametrize("text", ["", "{", '{"rows": 3}', "[]"])
def test_a_file_that_holds_no_statistics_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "statistics.json"
    with pytest.raises(UserError, match="there is no such file"):
        read_statistics(path)
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{path}: these are no statistics of a site")):
        read_statistics(path)
