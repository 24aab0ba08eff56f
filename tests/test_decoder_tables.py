"""The table of decoders of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_study import HOOK, make_models, make_rows, make_shards, make_tokens, random_crosscoder, save, script
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import GPTNeoXForCausalLM

from ontogeny.config.evaluation import FeatureSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.decoder_tables import SCHEMA, write_decoders
from ontogeny.evaluation.features import write_features
from ontogeny.sites import Site
from ontogeny.tokenizer import read_tokenizer

D_MODEL = 16
SITES = (Site("neox", 4, HOOK), Site("other", 0, "blocks.0.ln1.hook_normalized"), Site("neox", 0, HOOK))
"""Out of the order of checkpoints, and one at a hook that is not read in the residual stream."""
TOLD = (0, 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_tokens(folder)
    make_models(folder, D_MODEL, SITES)
    make_shards(folder, make_rows(folder, (30, 20)), D_MODEL, SITES)
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>"}))
    return folder


def described(study: Path, out: Path, crosscoder: Crosscoder, dictionary: str = "crosscoder") -> Path:
    """Save a dictionary and the table of its features; return the folder of the run."""
    run = save(out, crosscoder, dictionary)
    tokens, tokenizer = study / "tokens/heldout.h5", study / "tokenizer/tokenizer.json"
    shards = ("heldout-00000", "heldout-00001")
    write_features(FeatureSettings(), run, study / "activations", shards, tokens, tokenizer, out, None)
    return run


def write(study: Path, out: Path, run: Path, models: bool = True) -> list[dict[str, Any]]:
    write_decoders(
        run,
        out / "features.parquet",
        study / "models" if models else None,
        study / "tokenizer/tokenizer.json",
        out / "decoders.parquet",
        None,
    )
    table = pq.read_table(out / "decoders.parquet")
    assert table.schema.remove_metadata() == SCHEMA
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def direct_logits(study: Path, crosscoder: Crosscoder, s: int, vocabulary: int) -> NDArray[np.float64]:
    """Compute what decoders at a site in the residual stream add to logits, in float64 (shape: [L, V])."""
    model = GPTNeoXForCausalLM.from_pretrained(study / "models" / crosscoder.sites[s].checkpoint)
    unembedding = model.get_output_embeddings().weight.detach().double().numpy()[:vocabulary]
    norm = model.gpt_neox.final_layer_norm.weight.detach().double().numpy()
    raw_LD = crosscoder.W_dec[:, s].detach().double().numpy() / float(crosscoder.scales[s])
    logits = ((raw_LD - raw_LD.mean(1, keepdims=True)) * norm) @ unembedding.T
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize("at_once", [1, 2**22])
def test_a_table_is_what_float64_says(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("ontogeny.evaluation.decoder_tables.NUMBERS_AT_ONCE", 200 * at_once)
    monkeypatch.setattr("ontogeny.evaluation.decoders.BLOCK", 1500 * at_once)
    crosscoder = random_crosscoder(D_MODEL, "jumprelu", "site", sites=SITES).requires_grad_(False)
    crosscoder.W_dec[7, 2] = 0
    rows = write(study, tmp_path, described(study, tmp_path, crosscoder))
    assert [row["feature"] for row in rows] == list(range(40))
    dead = pq.read_table(tmp_path / "features.parquet")["dead"].to_pylist()
    assert dead[3]

    W = crosscoder.W_dec.double().numpy()
    unit_LV = W.reshape(40, -1) / np.linalg.norm(W.reshape(40, -1), axis=1, keepdims=True)
    cosine_LL = unit_LV @ unit_LV.T
    tokenizer = study / "tokenizer/tokenizer.json"
    vocabulary = read_tokenizer(tokenizer).vocab_size
    decoder = Tokenizer.from_file(str(tokenizer))
    logits = {s: direct_logits(study, crosscoder, s, vocabulary) for s in TOLD}
    for row in rows:
        latent = row["feature"]
        norm_S = np.linalg.norm(W[latent], axis=1)
        for place, cosine in enumerate(row["rotation"]):
            s, t = divmod(place, 3)
            both = norm_S[s] * norm_S[t]
            assert cosine == (pytest.approx(W[latent, s] @ W[latent, t] / both, abs=1e-6) if both else None)
        others = [other for other in range(40) if other != latent and not dead[other]]
        assert row["neighbours"] == sorted(others, key=lambda other: -cosine_LL[latent, other])[:8]
        assert row["neighbour_cosines"] == pytest.approx(cosine_LL[latent, row["neighbours"]], abs=1e-5)
        for s in range(3):
            names = ("promoted", "promoted_logits", "suppressed", "suppressed_logits")
            ids, high, low_ids, low = (row[name][s] for name in names)
            if s == 1 or (latent, s) == (7, 2):
                assert ids == high == low_ids == low == row["promoted_texts"][s] == row["suppressed_texts"][s] == []
                continue
            own_V = logits[s][latent]
            assert ids == np.argsort(-own_V)[:10].tolist()
            assert low_ids == np.argsort(own_V)[:10].tolist()
            assert high == pytest.approx(own_V[ids], rel=1e-4)
            assert low == pytest.approx(own_V[low_ids], rel=1e-4)
            assert row["promoted_texts"][s] == [decoder.decode([token], skip_special_tokens=False) for token in ids]
            assert len(row["suppressed_texts"][s]) == 10


def test_the_planted_token_is_promoted(study: Path, tmp_path: Path) -> None:
    """A decoder that points where a checkpoint's unembedding reads a token promotes it at this checkpoint alone."""
    crosscoder = random_crosscoder(D_MODEL, "relu", sites=SITES).requires_grad_(False)
    model = GPTNeoXForCausalLM.from_pretrained(study / "models" / SITES[0].checkpoint)
    crosscoder.W_dec[5] = model.get_output_embeddings().weight[40].detach()
    row = write(study, tmp_path, described(study, tmp_path, crosscoder))[5]
    assert row["promoted"][0][0] == 40
    assert row["promoted"][2][0] != 40
    assert row["rotation"] == pytest.approx([1.0] * 9)


@pytest.mark.parametrize("sites", [SITES, SITES[:1]])
def test_without_a_language_model_no_token_is_promoted(study: Path, tmp_path: Path, sites: tuple[Site, ...]) -> None:
    crosscoder = random_crosscoder(D_MODEL, "topk", sites=sites)
    rows = write(study, tmp_path, described(study, tmp_path, crosscoder), models=False)
    for row in rows:
        assert len(row["rotation"]) == len(sites) ** 2
        assert len(row["neighbours"]) == 8
        for column in SCHEMA.names[4:]:
            assert row[column] == [[]] * len(sites)


def test_the_command_writes_the_same_bytes(study: Path, tmp_path: Path) -> None:
    run = described(study, tmp_path, random_crosscoder(D_MODEL, "batchtopk", sites=SITES))
    write(study, tmp_path, run)
    made = script(
        "decoders.py", "--dictionary", run, "--features", tmp_path / "features.parquet", "--models", study / "models",
        "--tokenizer", study / "tokenizer/tokenizer.json", "--out", tmp_path / "again.parquet",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "decoders.parquet").read_bytes()
    metadata = pq.read_schema(tmp_path / "decoders.parquet").metadata
    assert json.loads(metadata[b"sites"]) == [site._asdict() for site in SITES]
    assert (metadata[b"dictionary"], metadata[b"run"]) == (b"crosscoder", b"run")


def test_mistakes_are_one_line(study: Path, tmp_path: Path) -> None:
    run = described(study, tmp_path, random_crosscoder(D_MODEL, "relu", sites=SITES))
    other = save(tmp_path, random_crosscoder(D_MODEL, "relu", sites=SITES), "other")
    with pytest.raises(UserError, match=r"features.parquet: it is not of the run in .*other"):
        write(study, tmp_path, other)
    with pytest.raises(UserError, match=r"step\d: there is no model here"):
        write_decoders(
            run, tmp_path / "features.parquet", tmp_path, study / "tokenizer/tokenizer.json", tmp_path / "out.parquet", None
        )  # fmt: skip
    assert not (tmp_path / "out.parquet").exists()
