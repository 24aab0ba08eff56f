import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_study import (
    HOOK,
    SITES,
    constant,
    identity,
    make_models,
    make_rows,
    make_shards,
    make_tokens,
    random_crosscoder,
    save,
    script,
)
from torch import Tensor
from transformers import AutoModelForCausalLM

from ontogeny.activations.statistics import read_statistics
from ontogeny.config.evaluation import NllSettings
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.heldout import spaced_contexts
from ontogeny.evaluation.losses import write_nll
from ontogeny.evaluation.nll import write_losses
from ontogeny.evaluation.tables import COLUMNS
from ontogeny.language_model.bridge import load_model
from ontogeny.sites import Site
from ontogeny.tokens import read_tokens

D_MODEL = 16
OTHER = Site("other", 0, HOOK)
METRICS = {
    "nll_clean", "nll_reconstructed", "nll_mean_ablated", "nll_zero_ablated", "recovered_mean", "recovered_zero"
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_tokens(folder)
    sites = (*SITES, OTHER)
    make_shards(folder, make_rows(folder, (70,)), D_MODEL, sites)
    make_models(folder, D_MODEL, sites)
    return folder


def measured(
    study: Path,
    crosscoder: Crosscoder,
    out: Path,
    tokens: int = 10_000,
    batch: int = 4,
    keep_first: bool = False,
    model: str = "neox",
    parts: int = 1,
) -> pd.DataFrame:
    file, dictionary = out / f"nll-{model}.csv", save(out, crosscoder)
    settings = NllSettings(tokens=tokens, batch_contexts=batch, parts=parts)
    sums = [out / f"part-{part}.csv" for part in range(parts)]
    for part in range(parts):
        write_losses(
            dictionary, model, study / "models", study / "tokens/heldout.h5", study / "activations",
            settings, part, keep_first, sums[part],
        )  # fmt: skip
    write_nll(dictionary, sums, file)
    return pd.read_csv(file)


def values(table: pd.DataFrame, metric: str) -> list[float]:
    return list(table[table.metric == metric].sort_values("step").value)


def mean_of(study: Path, site: Site) -> np.ndarray[Any, np.dtype[np.float64]]:
    return read_statistics(study / f"activations/{site.key}/statistics.json").mean


class Reference:
    """The language model as `transformers` runs it, with the output of a block replaced by hand."""

    def __init__(self, study: Path, site: Site) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(study / "models" / site.checkpoint)
        self.block = self.model.gpt_neox.layers[1]

    @torch.no_grad()
    def run(self, tokens_T: Tensor, put_TD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the activations, (T, D), and the logits in float64, (T, V), with `put_TD` in place of the former."""
        seen: list[Tensor] = []

        def replace(_module: object, _inputs: object, output: Any) -> Any:
            own = output[0] if isinstance(output, tuple) else output
            seen.append(own[0])
            new = own if put_TD is None else put_TD[None]
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handle = self.block.register_forward_hook(replace)
        logits_TV = self.model(tokens_T[None]).logits[0].double()
        handle.remove()
        return seen[0], logits_TV


def expected_losses(study: Path, crosscoder: Crosscoder, first: int) -> dict[Site, Mapping[str, float]]:
    """Compute the mean losses of each site, context by context and without padding."""
    with h5py.File(study / "tokens/heldout.h5") as file:
        contexts = [tokens[:length] for tokens, length in zip(file["tokens"], file["length"], strict=True)]
    references = {site: Reference(study, site) for site in crosscoder.sites}
    losses: dict[Site, dict[str, list[float]]] = {site: {} for site in crosscoder.sites}
    for context in contexts:
        tokens_T = torch.from_numpy(context.astype(np.int64))
        own = {site: reference.run(tokens_T)[0] for site, reference in references.items()}
        with torch.inference_mode():
            x_hat_TSD = crosscoder(torch.stack(list(own.values()), 1))
        for s, (site, reference) in enumerate(references.items()):
            mean_D = torch.from_numpy(mean_of(study, site)).float()
            new = {"reconstructed": x_hat_TSD[:, s], "mean_ablated": mean_D, "zero_ablated": torch.zeros(D_MODEL)}
            for variant, value_TD in {"clean": own[site], **new}.items():
                patched_TD = own[site].clone()
                patched_TD[first:] = value_TD[first:] if value_TD.ndim == 2 else value_TD
                _, logits_TV = reference.run(tokens_T, patched_TD)
                chance_TV = logits_TV.log_softmax(-1)
                nats = [-float(chance_TV[t, tokens_T[t + 1]]) for t in range(len(tokens_T) - 1)]
                losses[site].setdefault(variant, []).extend(nats)
    return {site: {variant: float(np.mean(nats)) for variant, nats in found.items()} for site, found in losses.items()}


@pytest.mark.parametrize("keep_first", [False, True])
def test_losses_are_those_of_the_model_patched_by_hand(study: Path, tmp_path: Path, keep_first: bool) -> None:
    crosscoder = random_crosscoder(D_MODEL, "topk")
    table = measured(study, crosscoder, tmp_path, keep_first=keep_first)
    expected = expected_losses(study, crosscoder, first=0 if keep_first else 1)
    for site in SITES:
        losses = expected[site]
        found = table[table.step == site.step].set_index("metric").value
        for variant, loss in losses.items():
            assert found[f"nll_{variant}"] == pytest.approx(loss, rel=1e-5)
        for ablation in ("mean", "zero"):
            cost = losses[f"{ablation}_ablated"] - losses["clean"]
            assert abs(cost) > 0.1, "the ablation costs nothing, so this test would show nothing"
            share = (losses[f"{ablation}_ablated"] - losses["reconstructed"]) / cost
            assert found[f"recovered_{ablation}"] == pytest.approx(share, rel=1e-3)
    lengths = read_tokens(study / "tokens/heldout.h5").length
    assert set(table.tokens) == {int((lengths - 1).sum())}


def test_the_identity_recovers_everything(study: Path, tmp_path: Path) -> None:
    table = measured(study, identity(D_MODEL), tmp_path)
    for ablation in ("mean", "zero"):
        assert values(table, f"recovered_{ablation}") == pytest.approx([1.0, 1.0], abs=1e-5)
    assert values(table, "nll_reconstructed") == pytest.approx(values(table, "nll_clean"), abs=1e-6)


def test_the_mean_recovers_nothing(study: Path, tmp_path: Path) -> None:
    table = measured(study, constant(np.stack([mean_of(study, site) for site in SITES])), tmp_path)
    assert values(table, "recovered_mean") == [0.0, 0.0]
    assert values(table, "recovered_zero") != [0.0, 0.0]


def test_zero_is_the_zero_ablation(study: Path, tmp_path: Path) -> None:
    table = measured(study, constant(np.zeros((2, D_MODEL))), tmp_path)
    assert values(table, "recovered_zero") == [0.0, 0.0]
    assert values(table, "recovered_mean") != [0.0, 0.0]


def test_a_constant_reconstruction_leaves_position_0_alone(study: Path, tmp_path: Path) -> None:
    crosscoder = constant(np.full((2, D_MODEL), 3.0))
    kept = measured(study, crosscoder, tmp_path, keep_first=False)
    replaced = measured(study, crosscoder, tmp_path, keep_first=True)
    assert values(kept, "nll_clean") == values(replaced, "nll_clean")
    for variant in ("reconstructed", "mean_ablated", "zero_ablated"):
        assert values(kept, f"nll_{variant}") != pytest.approx(values(replaced, f"nll_{variant}"), rel=1e-4)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_batches_change_nothing(study: Path, tmp_path: Path, batch: int) -> None:
    crosscoder = random_crosscoder(D_MODEL, "batchtopk")
    table = measured(study, crosscoder, tmp_path / "one", batch=batch)
    expected = measured(study, crosscoder, tmp_path / "other", batch=3)
    for metric in METRICS:
        assert values(table, metric) == pytest.approx(values(expected, metric), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_give_the_same_bytes(study: Path, tmp_path: Path, parts: int) -> None:
    """Nine contexts are five batches of two, so of seven parts some are empty."""
    crosscoder = random_crosscoder(D_MODEL, "topk")
    measured(study, crosscoder, tmp_path / "whole", batch=2)
    measured(study, crosscoder, tmp_path / "parts", batch=2, parts=parts)
    assert (tmp_path / "parts/nll-neox.csv").read_bytes() == (tmp_path / "whole/nll-neox.csv").read_bytes()


def test_a_damaged_part_is_one_line(tmp_path: Path) -> None:
    dictionary = save(tmp_path, random_crosscoder(D_MODEL, "topk"))
    part = tmp_path / "part-0.csv"
    with pytest.raises(UserError, match=r"part-0.csv: no such file; run the rule 'losses'"):
        write_nll(dictionary, [part], tmp_path / "nll.csv")
    part.write_text("model,step\n")
    with pytest.raises(UserError, match=r"part-0.csv: columns are model, step; expected model, step, hook, variant"):
        write_nll(dictionary, [part], tmp_path / "nll.csv")
    assert not (tmp_path / "nll.csv").exists()


def test_models_that_do_not_fit_together_give_the_same(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crosscoder = random_crosscoder(D_MODEL, "batchtopk", sites=(*SITES, OTHER))
    loaded: list[Path] = []

    def counting(folder: Path) -> Any:
        loaded.append(folder)
        return load_model(folder)

    monkeypatch.setattr("ontogeny.evaluation.checkpoints.load_model", counting)
    together = measured(study, crosscoder, tmp_path / "together", batch=2)
    assert len(loaded) == 3, "models that fit together are loaded once"
    monkeypatch.setattr("ontogeny.evaluation.checkpoints.KEPT_BYTES", 1)
    monkeypatch.setattr("ontogeny.evaluation.nll.ROUND_BYTES", 5 * 12 * 3 * D_MODEL * 4)
    alone = measured(study, crosscoder, tmp_path / "alone", batch=2)
    pd.testing.assert_frame_equal(alone, together)
    assert len(loaded) <= 3 + 3 * 5, "9 contexts make 3 rounds of 2 batches, with at most 5 loads each"


def test_a_model_runs_four_times_for_a_site_and_a_batch(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []

    def counting(folder: Path) -> Any:
        model = load_model(folder)
        model.register_forward_pre_hook(lambda *_: runs.append(folder.parent.name))
        return model

    monkeypatch.setattr("ontogeny.evaluation.checkpoints.load_model", counting)
    measured(study, random_crosscoder(D_MODEL, "relu", sites=(*SITES, OTHER)), tmp_path, batch=5)
    assert (runs.count("neox"), runs.count("other")) == (2 * 2 * 4, 2)


def test_other_models_lend_their_activations_only(study: Path, tmp_path: Path) -> None:
    crosscoder = random_crosscoder(D_MODEL, "relu", sites=(*SITES, OTHER))
    table = measured(study, crosscoder, tmp_path)
    expected = expected_losses(study, crosscoder, first=1)
    assert list(table.step.unique()) == [0, 4]
    assert values(table, "nll_reconstructed") == pytest.approx(
        [expected[site]["reconstructed"] for site in SITES], rel=1e-5
    )
    other = measured(study, crosscoder, tmp_path, model="other")
    assert set(other.model) == {"other"}
    assert values(other, "nll_reconstructed") == pytest.approx([expected[OTHER]["reconstructed"]], rel=1e-5)


def test_two_hooks_of_a_checkpoint_are_replaced_one_at_a_time(study: Path, tmp_path: Path) -> None:
    sites = (Site("neox", 4, "blocks.0.hook_resid_post"), SITES[1])
    statistics = study / f"activations/{sites[0].key}/statistics.json"
    statistics.parent.mkdir(parents=True, exist_ok=True)
    statistics.write_bytes((study / f"activations/{sites[1].key}/statistics.json").read_bytes())
    both = measured(study, identity(D_MODEL, sites), tmp_path / "both")
    alone = measured(study, identity(D_MODEL, sites[1:]), tmp_path / "alone")
    late = both[both.hook == HOOK].set_index("metric").value
    early = both[both.hook != HOOK].set_index("metric").value
    for metric, value in alone.set_index("metric").value.items():
        assert late[metric] == pytest.approx(value, rel=1e-6)
    assert early["nll_clean"] == late["nll_clean"]
    assert early["nll_zero_ablated"] != pytest.approx(late["nll_zero_ablated"], rel=1e-3)


def test_contexts_are_spread_over_the_split(study: Path) -> None:
    tokens = read_tokens(study / "tokens/heldout.h5")
    chosen = spaced_contexts(tokens, 2 * 12 + 1, keep_first_position=False)
    assert chosen.tokens.tolist() == tokens.tokens[[0, 3, 6]].tolist()
    assert len(spaced_contexts(tokens, 10**9, keep_first_position=False).tokens) == 9
    lengths = tokens.length[[0, 3, 6]].tolist()
    assert chosen.replaced.sum(1).tolist() == [length - 1 for length in lengths]
    assert spaced_contexts(tokens, 25, keep_first_position=True).replaced.sum(1).tolist() == lengths


def test_the_command_writes_the_same_bytes(study: Path, tmp_path: Path) -> None:
    table = measured(study, random_crosscoder(D_MODEL, "jumprelu", "site"), tmp_path, tokens=60)
    assert tuple(table.columns) == COLUMNS
    assert set(table.metric) == METRICS
    assert len(table) == 2 * 6
    dictionary, sums = tmp_path / "dictionaries/crosscoder/run", tmp_path / "sums.csv"
    made = script(
        "losses.py", "--settings", json.dumps({"tokens": 60, "batch_contexts": 4}), "--model", "neox",
        "--dictionary", dictionary, "--models", study / "models",
        "--tokens", study / "tokens/heldout.h5", "--activations", study / "activations", "--out", sums,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    made = script("nll.py", "--dictionary", dictionary, "--losses", sums, "--out", tmp_path / "again.csv")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "nll-neox.csv").read_bytes()


def test_mistakes_get_one_line(study: Path, tmp_path: Path) -> None:
    crosscoder = random_crosscoder(D_MODEL, "relu")
    with pytest.raises(UserError, match="there is no site of a model 'gpt'; models of this dictionary are neox"):
        measured(study, crosscoder, tmp_path, model="gpt")
    unsaved = random_crosscoder(D_MODEL, "relu", sites=(Site("neox", 7, HOOK), SITES[0]))
    with pytest.raises(UserError, match=r"neox/step7/.*/statistics.json: there is no such file"):
        measured(study, unsaved, tmp_path)
    absent = random_crosscoder(D_MODEL, "relu", sites=(Site("absent", 7, HOOK), SITES[0]))
    with pytest.raises(UserError, match=r"absent/step7/checkpoint.json: no such file"):
        measured(study, absent, tmp_path)
