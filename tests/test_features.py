import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_study import (
    SITES,
    constant,
    make_rows,
    make_shards,
    make_tokens,
    random_crosscoder,
    save,
    script,
)
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ontogeny.activations.rows import read_rows
from ontogeny.config.evaluation import FeatureSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.emergence import ABSENT, emergence
from ontogeny.evaluation.features import write_features


def test_emergence_by_hand() -> None:
    norms_LS = np.array(
        [
            [4.0, 2.0, 1.0, 1.0],  # there from the start, then lost
            [0.0, 1.0, 3.0, 2.0],  # grows late; 1 / 3 is below tau
            [1.0, 0.0, 2.0, 2.0],  # exactly tau at the start is not above it
            [0.0, 0.0, 0.0, 0.0],  # no decoder at all
            [3.0, 3.0, 3.0, 3.0],  # always there
        ]
    )
    found = emergence(norms_LS, 0.5)
    assert found.normalised[0].tolist() == [1.0, 0.5, 0.25, 0.25]
    assert found.normalised[3].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert found.peak.tolist() == [0, 2, 2, ABSENT, 0]
    assert found.first.tolist() == [0, 2, 2, ABSENT, 0]
    assert found.initialisation.tolist() == [True, False, False, False, True]
    assert found.persistence.tolist() == [0.25, 0.5, 0.5, 0.0, 1.0]
    assert emergence(norms_LS, 0.3).first.tolist() == [0, 1, 0, ABSENT, 0]


@pytest.mark.parametrize("threshold", [1e-6, 0.5, 0.999])
def test_every_feature_with_a_decoder_emerges_by_its_peak(threshold: float) -> None:
    norms_LS = np.random.default_rng(0).exponential(size=(500, 7)).astype(np.float32) ** 3
    found = emergence(norms_LS, threshold)
    assert (found.first >= 0).all()
    assert (found.first <= found.peak).all()


SETTINGS = FeatureSettings(samples=4, window=3)
D_MODEL = 6
SHARDS = ("heldout-00000", "heldout-00001")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    """Make a study whose 50 heldout rows leave out 48 positions of its contexts."""
    folder = tmp_path_factory.mktemp("study")
    make_tokens(folder)
    return folder, make_shards(folder, make_rows(folder, (30, 20)), D_MODEL)


def write(folder: Path, crosscoder: Crosscoder, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    dictionary = save(out, crosscoder)
    tokens, tokenizer = folder / "tokens/heldout.h5", folder / "tokenizer/tokenizer.json"
    write_features(SETTINGS, dictionary, folder / "activations", SHARDS, tokens, tokenizer, out, None)
    features, samples = (pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("features", "samples"))
    return features, samples


def feature_activations(crosscoder: Crosscoder, x_BSD: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        f: NDArray[np.float32] = crosscoder.encode(torch.from_numpy(x_BSD)).numpy()
    return f.max(axis=1) if f.ndim == 3 else f


@pytest.mark.parametrize(("nonlinearity", "gate"), [("batchtopk", "shared"), ("jumprelu", "site")])
def test_features_are_what_numpy_computes(
    study: tuple[Path, NDArray[np.float32]], tmp_path: Path, nonlinearity: str, gate: str
) -> None:
    folder, x_BSD = study
    crosscoder = random_crosscoder(D_MODEL, nonlinearity, gate)
    features, _ = write(folder, crosscoder, tmp_path)
    f_BL = feature_activations(crosscoder, x_BSD).astype(np.float64)
    norms_LS = np.linalg.norm(crosscoder.W_dec.detach().double().numpy(), axis=2)
    assert [row["feature"] for row in features] == list(range(40))
    for row, f_B, norm_S in zip(features, f_BL.T, norms_LS, strict=True):
        active = f_B[f_B > 0]
        assert row["density"] == pytest.approx(len(active) / 50)
        assert row["dead"] == (len(active) == 0)
        above = [(active > row["max_activation"] * i / 40).sum() for i in range(41)]
        assert row["histogram"] == [int(above[i] - above[i + 1]) for i in range(40)]
        assert sum(row["histogram"]) == len(active)
        assert row["max_activation"] == pytest.approx(f_B.max(), rel=1e-5)
        assert row["mean_activation"] == pytest.approx(active.mean() if len(active) else 0.0, rel=1e-5)
        assert row["decoder_norm"] == pytest.approx(norm_S, rel=1e-5)
        assert row["normalised_norm"] == pytest.approx(norm_S / norm_S.max(), rel=1e-5)
        above = norm_S / norm_S.max() > 0.5
        assert (row["peak_site"], row["peak_step"]) == (norm_S.argmax(), SITES[norm_S.argmax()].step)
        assert (row["emergence_site"], row["emergence_step"]) == (above.argmax(), SITES[above.argmax()].step)
        assert row["initialisation"] == above[0] == (row["class"] == "initialisation")
        assert row["class"] in ("initialisation", "emergent")
        assert row["persistence"] == above.mean()
    assert features[3]["dead"]
    assert not all(row["dead"] for row in features)


@pytest.mark.parametrize(("nonlinearity", "gate"), [("batchtopk", "shared"), ("jumprelu", "site")])
def test_samples_are_the_strongest_rows_of_the_text(
    study: tuple[Path, NDArray[np.float32]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nonlinearity: str,
    gate: str,
) -> None:
    monkeypatch.setattr("ontogeny.evaluation.encoding.LARGEST_BLOCK", 7)
    monkeypatch.setattr("ontogeny.evaluation.samples.SAMPLES_AT_ONCE", 11)
    folder, x_BSD = study
    crosscoder = random_crosscoder(D_MODEL, nonlinearity, gate)
    _, samples = write(folder, crosscoder, tmp_path)
    f_BL = feature_activations(crosscoder, x_BSD)
    rows = [read_rows(folder / f"activations/rows/{shard}.h5") for shard in SHARDS]
    places = [place for shard in rows for place in zip(shard.context.tolist(), shard.position.tolist(), strict=True)]
    row_of = {place: row for row, place in enumerate(places)}
    assert len(row_of) == 50
    with h5py.File(folder / "tokens/heldout.h5") as file:
        tokens, length, document = (file[name][()] for name in ("tokens", "length", "document"))
    for feature in range(40):
        best: dict[int, tuple[float, int]] = {}
        for (context, position), activation in zip(places, f_BL[:, feature].tolist(), strict=True):
            if activation > max(0.0, best.get(context, (0.0, 0))[0]):
                best[context] = (activation, position)
        expected = sorted(((a, c, p) for c, (a, p) in best.items()), key=lambda found: (-found[0], found[1]))[:4]
        kept = [sample for sample in samples if sample["feature"] == feature and sample["quantile"] is None]
        assert [(s["rank"], s["context"], s["position"]) for s in kept] == [
            (rank, c, p) for rank, (_, c, p) in enumerate(expected)
        ]
        for sample, (activation, context, position) in zip(kept, expected, strict=True):
            assert sample["activation"] == pytest.approx(activation, rel=1e-5)
            assert sample["document"] == document[context]
            window = range(max(0, position - 3), min(int(length[context]), position + 4))
            assert sample["start"] == window[0]
            assert sample["tokens"] == tokens[context, window[0] : window[-1] + 1].tolist()
            for place, found in zip(window, sample["activations"], strict=True):
                row = row_of.get((context, place))
                assert found == (None if row is None else pytest.approx(f_BL[row, feature], rel=1e-5))
    everywhere = [found for sample in samples for found in sample["activations"]]
    assert None in everywhere
    assert 0.0 in everywhere


def test_windows_are_readable_where_characters_are_split(
    study: tuple[Path, NDArray[np.float32]], tmp_path: Path
) -> None:
    folder, _ = study
    _, samples = write(folder, random_crosscoder(D_MODEL, "relu"), tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    texts = {text for sample in samples for text in sample["texts"]}
    assert "\ufffd" in texts, "no window shows a token that is part of a character"
    assert any(text.startswith(" ") for text in texts), "spaces before words are lost"
    assert "<|endoftext|>" in texts
    for sample in samples:
        assert len(sample["texts"]) == len(sample["tokens"]) == len(sample["activations"])
        if "\ufffd" not in sample["texts"]:
            assert "".join(sample["texts"]) == tokenizer.decode(sample["tokens"], skip_special_tokens=False)


def test_files_say_what_made_them(study: tuple[Path, NDArray[np.float32]], tmp_path: Path) -> None:
    write(study[0], random_crosscoder(D_MODEL, "relu"), tmp_path)
    for name in ("features", "samples"):
        metadata = pq.read_schema(tmp_path / f"{name}.parquet").metadata
        assert json.loads(metadata[b"sites"]) == [site._asdict() for site in SITES]
        assert metadata[b"versions"].startswith(b"torch ")
        assert (metadata[b"dictionary"], metadata[b"run"], metadata[b"rows"]) == (b"crosscoder", b"run", b"50")
        assert (metadata[b"samples"], metadata[b"emergence_threshold"]) == (b"4", b"0.5")


def test_a_dictionary_that_never_fires_has_features_and_no_samples(
    study: tuple[Path, NDArray[np.float32]], tmp_path: Path
) -> None:
    features, samples = write(study[0], constant(np.zeros((2, D_MODEL))), tmp_path)
    assert samples == []
    for row in features:
        assert row["histogram"] == [0] * 40
        assert (row["dead"], row["density"], row["mean_activation"], row["max_activation"]) == (True, 0.0, 0.0, 0.0)
        assert row["normalised_norm"] == [0.0, 0.0]
        assert [row[name] for name in ("peak_site", "peak_step", "emergence_site", "emergence_step", "class")] == [
            None
        ] * 5
        assert (row["initialisation"], row["persistence"]) == (False, 0.0)


def test_the_command_writes_the_same_bytes(study: tuple[Path, NDArray[np.float32]], tmp_path: Path) -> None:
    folder, _ = study
    write(folder, random_crosscoder(D_MODEL, "jumprelu", "site"), tmp_path)
    made = script(
        "features.py", "--settings", SETTINGS.model_dump_json(), "--dictionary", tmp_path / "dictionaries/crosscoder/run",
        "--activations", folder / "activations", "--shards", *SHARDS, "--tokens", folder / "tokens/heldout.h5",
        "--tokenizer", folder / "tokenizer/tokenizer.json", "--out", tmp_path / "again",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["features.parquet", "samples.parquet"]
    for name in ("features.parquet", "samples.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_rows_of_other_tokens_are_refused(study: tuple[Path, NDArray[np.float32]], tmp_path: Path) -> None:
    folder, _ = study
    make_tokens(tmp_path, contexts=10)
    dictionary = save(tmp_path, random_crosscoder(D_MODEL, "relu"))
    tokens, tokenizer = tmp_path / "tokens/heldout.h5", tmp_path / "tokenizer/tokenizer.json"
    with pytest.raises(UserError, match=r"rows/heldout-00000.h5: its rows are not of .*tokens/heldout.h5"):
        write_features(SETTINGS, dictionary, folder / "activations", SHARDS, tokens, tokenizer, tmp_path / "out", None)
    assert not (tmp_path / "out/features.parquet").exists()


def test_shards_of_other_rows_are_refused(tmp_path: Path) -> None:
    make_tokens(tmp_path)
    make_shards(tmp_path, make_rows(tmp_path, (30, 20)), D_MODEL)
    make_rows(tmp_path, (29, 20))
    with pytest.raises(UserError, match=r"shards heldout-00000 and rows/heldout-00000.h5 differ"):
        write(tmp_path, random_crosscoder(D_MODEL, "relu"), tmp_path)
