"""A config is refused in one line that says what, where and what to do, or it is a study."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ontogeny.config.load import load_study, read_study
from ontogeny.errors import UserError
from ontogeny.sites import Site

PROJECT = Path(__file__).resolve().parents[1]
DEFAULT = yaml.safe_load((PROJECT / "config.yaml").read_text())
HOOK = "blocks.2.hook_resid_post"


def changed(*path: str | int, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(DEFAULT)
    here = config
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return config


PLANTED = {"source": "planted", "checkpoints": [0, 8]}


def planted_beside(hook: str) -> dict[str, Any]:
    config = changed("models", "toy", value=PLANTED)
    config["dictionaries"]["sae"]["sites"].append({"model": "toy", "hooks": [f"blocks.2.{hook}"]})
    return config


def started(model: str = "neox", step: int = 1000, **settings: Any) -> dict[str, Any]:
    """Add a model that starts from another."""
    shape = DEFAULT["models"]["neox"]["architecture"]
    tuned = {"source": "train", "checkpoints": [0], "architecture": shape, "start": {"model": model, "step": step}}
    return changed("models", "tuned", value={**tuned, **settings})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed("dictionaries", "sae", "latent", value=[8]), "dictionaries.sae.latent: unknown key; did you mean 'latents'?"),
        (changed("corpus", "heldot", value=0.1), "corpus.heldot: unknown key; did you mean 'heldout'?"),
        (changed("activations", "rows", value=5), "activations.rows: unknown key; did you mean 'train_rows'?"),
        (changed("models", "neox", "checkpoint", value=[0]), "models.neox.checkpoint: unknown key; did you mean 'checkpoints'?"),
        (changed("models", "neox", "revision", value="main"), "models.neox.revision: unknown key; docs/configuration.md lists the keys"),
        (
            changed("activations", "train_rows", value="1e5"),
            'activations.train_rows: input should be a whole number, not "1e5"; write it out, as in 100000',
        ),
        (changed("models", "other", value=None), "models.other: input should be a section of keys, not null"),
        (changed("dictionaries", "sae", "k", value=[]), "dictionaries.sae.k: expected at least one item, not none"),
        (changed("corpus", "heldout", value=0), "corpus.heldout: input should be greater than 0, not 0"),
        (changed("seed", value="one"), 'seed: input should be a whole number, not "one"'),
        (changed("seed", value=True), "seed: input should be a whole number, not true"),
        (changed("tokens", "context_length", value="128"), 'tokens.context_length: input should be a whole number, not "128"'),
        (
            changed("evaluation", "matching", "against", value=["seeds"]),
            "evaluation.matching.against: there is no dictionary 'seeds'; dictionaries are crosscoder, crosscoder-512, ",
        ),
        (
            changed("dictionaries", "other-seed", "k", value=[8]),
            "evaluation.matching.against: other-seed has no run with the latents, k and sparsity of latents2048-k32-",
        ),
        (
            changed("evaluation", "matching", "against", value=["crosscoder"]),
            "evaluation.matching.against: crosscoder has no run with the latents, k and sparsity of latents2048-k32-",
        ),
        (
            changed("dictionaries", "other-spacing", "sites", 0, "checkpoints", value=[8]),
            "evaluation.matching.against: other-spacing and crosscoder have fewer than two sites in common",
        ),
        (
            changed("dictionaries", "crosscoder", "sites", 0, "hooks", value=["blocks.1.hook_resid_post", HOOK]),
            "evaluation.matching.against: crosscoder has sites beyond the checkpoints of one model at one hook",
        ),
        (
            changed("dictionaries", "sae", "sites", 0, "checkpoints", value=[7]),
            "dictionaries.sae.sites[0].checkpoints: step 7 of neox was never saved; saved steps are 0, 1, 2",
        ),
        (
            changed("dictionaries", "sae", "sites", 0, "hooks", value=["blocks.9.hook_resid_post"]),
            "dictionaries.sae.sites[0].hooks: hook 'blocks.9.hook_resid_post' is in block 9, but the model has 4",
        ),
        (
            changed("dictionaries", "sae", "sites", 0, "hooks", value=["blocks.2.hook_resid_pots"]),
            "no hook point with one vector per position; did you mean 'blocks.2.hook_resid_post'?",
        ),
        (changed("dictionaries", "sae", "sites", 0, "model", value="gpt"), "there is no model 'gpt'; models are neox"),
        (changed("models", "neox", "checkpoints", value=[0, 4, 2]), "steps must be ascending and distinct, not [0, 4, 2]"),
        (changed("models", "neox", "checkpoints", value=[0, 5000]), "step 5000 is after the last training step"),
        (
            changed("dictionaries", "sae", "sites", 0, "hooks", value=["blocks.2.mlp.gate.hook_out"]),
            "hook 'blocks.2.mlp.gate.hook_out' is of a gated MLP, which a gpt_neox has not; did you mean 'blocks.2.mlp.in.hook_out'?",
        ),
        (
            changed("dictionaries", "sae", "sites", 0, "hooks", value=["blocks.2.hook_mlp_out", "blocks.2.mlp.hook_post"]),
            "dictionaries.sae.sites[0].hooks: blocks.2.mlp.hook_post of neox is 512 wide, but blocks.2.hook_mlp_out of neox is 128",
        ),
        (
            changed("dictionaries", "sae", "batch_size", value=131073),
            "dictionaries.sae.batch_size: a step takes 131073 rows, but activations.train_rows is 131072; lower one or raise",
        ),
        (
            changed("models", "neox", value={"source": "hub", "name": "a/b", "revision": "main", "checkpoints": [0, 8]}),
            "models.neox: revision 'main' is the same for all 2 checkpoints; write {step} where the step belongs",
        ),
        (changed("models", "neox", "architecture", "heads", value=3), "3 heads do not divide d_model 128"),
        (changed("study", value="figures"), "study: 'figures' is a folder of the default study; choose another name"),
        (changed("study", value="../x"), "study: string should match pattern"),
        (changed("corpus", value={"source": "files", "format": "text", "paths": ["no/*.txt"]}), "corpus.paths: 'no/*.txt' matches no file"),
        (changed("corpus", value={"source": "saved", "path": "nowhere"}), "nowhere/ is no folder that `datasets` wrote"),
        (changed("figures", "run", value=["crosscoder", "best"]), "there is no run 'best' of a dictionary 'crosscoder'"),
        (changed("dictionaries", "sae", "nonlinearity", value="relu"), "nonlinearity 'relu' takes no k"),
        (changed("dictionaries", "sae", "penalty", value="l1"), "penalty 'l1' needs sparsity"),
        (changed("dictionaries", "sae", "k", value=[4096]), "k 4096 is above the 2048 latents"),
        (changed("dictionaries", "sae", "seeds", value=[1, 1]), "seeds lists a value twice: [1, 1]"),
        (changed("dictionaries", "sae", "gate", value="site"), "gate 'site' belongs to nonlinearity 'jumprelu'"),
        (started(model="sae"), "models.tuned.start.model: 'sae' is no model that is trained here; expected one of: neox, untrained"),
        (started(step=3), "models.tuned.start.step: step 3 of neox was never saved; saved steps are 0, 1, 2"),
        (started(architecture={"layers": 3}), "models.tuned.start: the architecture of tuned is not that of neox"),
        (started(model="tuned", step=0), "models.tuned.start.model: tuned would start from itself"),
        (
            changed("models", "neox", "training", value={"documents": [0.5, 0.5]}),
            "models.neox.training.documents: documents go from a share to a larger one, such as [0, 0.5], not [0.5, 0.5]",
        ),
        (changed("models", "toy", value={**PLANTED, "emergent": 1.5}), "models.toy.emergent: input should be less than or equal to 1"),
        (changed("models", "toy", value={**PLANTED, "dying": 0.5, "rotating": 0.6}), "models.toy: emergent, dying and rotating are shares"),
        (changed("models", "toy", value={**PLANTED, "emergen": 0.6}), "models.toy.emergen: unknown key; did you mean 'emergent'?"),
        (planted_beside("hook_resid_pots"), "no hook point with one vector per position; did you mean 'blocks.2.hook_resid_post'?"),
        (planted_beside("hook_resid_post"), "dictionaries.sae.sites: planted activations and those of language models have no"),
        ({}, "the config is empty"),
        ({"seed": 1}, "corpus: this key is required"),
    ],
)  # fmt: skip
def test_bad_config_gets_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_study(config)
    assert str(error.value).startswith("config.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_scientific_notation_without_a_point_is_a_number() -> None:
    config = yaml.safe_load("learning_rate: 1e-3")
    assert isinstance(config["learning_rate"], str)
    study = load_study(changed("dictionaries", "sae", "learning_rate", value=config["learning_rate"]))
    assert study.dictionaries["sae"].learning_rate == 1e-3


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    for place, text in (
        ("'study'", "study: one\nseed: 1\nstudy: two\n"),
        ("'k'", "d:\n  - {k: [1]}\n  - {k: [1],\n k: 2}\n"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=rf"study.yaml: key {place} is given twice, again in line [34]$"):
            read_study(file)


def test_sites_of_two_models_share_a_width() -> None:
    config = changed("models", "wide", value={**DEFAULT["models"]["neox"], "architecture": {"d_model": 256}})
    config["dictionaries"]["sae"]["sites"] = [
        {"model": name, "checkpoints": "last", "hooks": [HOOK]} for name in ("neox", "wide")
    ]
    with pytest.raises(UserError, match=rf"sites\[1\].hooks: {HOOK} of wide is 256 wide, but {HOOK} of neox is 128;"):
        load_study(config)


def test_sites_keep_the_order_of_the_config() -> None:
    study = load_study(
        changed("dictionaries", "sae", "sites", value=[
            {"model": "neox", "checkpoints": "last", "hooks": ["blocks.3.hook_resid_post", HOOK]},
            {"model": "neox", "checkpoints": [512, 1000], "hooks": ["blocks.1.hook_mlp_out"]},
        ])
    )  # fmt: skip
    last = DEFAULT["models"]["neox"]["checkpoints"][-1]
    assert study.sites("sae") == (
        Site("neox", last, "blocks.3.hook_resid_post"),
        Site("neox", last, HOOK),
        Site("neox", 512, "blocks.1.hook_mlp_out"),
        Site("neox", 1000, "blocks.1.hook_mlp_out"),
    )


def test_one_forward_pass_reads_every_hook_of_a_checkpoint_and_no_other() -> None:
    selection = [{"model": "neox", "checkpoints": [512], "hooks": [HOOK, "blocks.0.hook_mlp_out"]}]
    groups = load_study(changed("dictionaries", "sae", "sites", value=selection)).hook_groups()
    assert groups[("blocks.0.hook_mlp_out", HOOK)] == ("neox/step512",)
    assert "neox/step512" not in groups[(HOOK,)]
    assert "neox/step256" in groups[(HOOK,)]


def test_planted_models_are_read_by_no_forward_pass() -> None:
    config = changed("models", "toy", value=PLANTED)
    config["dictionaries"]["sae"]["sites"] = [{"model": "toy", "hooks": [HOOK, "blocks.90.hook_mlp_out"]}]
    study = load_study(config)
    assert study.planted_hooks() == {"toy": (HOOK, "blocks.90.hook_mlp_out")}
    assert {key.split("/")[0] for checkpoints in study.hook_groups().values() for key in checkpoints} == {
        "neox",
        "untrained",
    }


def test_sweep_has_a_run_for_every_combination() -> None:
    study = load_study(changed("dictionaries", "sae", "seeds", value=[0, 1]))
    runs = study.runs("sae")
    assert len(runs) == len(DEFAULT["dictionaries"]["sae"]["k"]) * 2
    assert runs["latents2048-k32-seed1"].seed == 1
    assert runs["latents2048-k32-seed1"].k == 32


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        ({"sparsity": [0.2, 1, 16.0]}, ["sparsity0.2", "sparsity1", "sparsity16"]),
        ({"sparsity": [0.1234567, 0.12345671]}, ["sparsity0.1234567", "sparsity0.12345671"]),
        ({"sparsity": [1e-5, 1e6, 1e20]}, ["sparsity1e-05", "sparsity1000000", "sparsity1e20"]),
        ({"seeds": [20240101, 20240102, -1]}, ["seed20240101", "seed20240102", "seed-1"]),
        ({"latents": [1048576, 1048577]}, ["latents1048576", "latents1048577"]),
    ],
)
def test_run_names_tell_all_values_apart(sweep: dict[str, list[float]], names: list[str]) -> None:
    config = changed("dictionaries", "sae", "penalty", value="l1")
    config["dictionaries"]["sae"] |= {"sparsity": [0.5], "k": [32], "seeds": [0], **sweep}
    runs = list(load_study(config).runs("sae"))
    assert len(runs) == len(names)
    assert all(f"-{name}-" in f"-{run}-" for name, run in zip(names, runs, strict=True))


@pytest.mark.parametrize(("k", "middle"), [([16], 16), ([16, 32], 32), ([8, 16, 32], 16)])
def test_figures_show_the_middle_run_of_the_widest_dictionary(k: list[int], middle: int) -> None:
    config = changed("dictionaries", "crosscoder", "k", value=k)
    del config["figures"]["run"], config["evaluation"]["matching"]
    assert load_study(config).featured_run() == ("crosscoder", f"latents2048-k{middle}-sparsity0.2-seed0")


def test_last_shard_is_shorter() -> None:
    config = changed("activations", "train_rows", value=1000 * 2 + 100)
    config["activations"]["rows_per_shard"] = 1000
    shards = load_study(config).shards("train")
    assert shards == {"train-00000": 1000, "train-00001": 1000, "train-00002": 100}


def test_two_models_several_hooks_and_streaming_can_be_said() -> None:
    config = changed("models", "base", value=DEFAULT["models"]["neox"])
    config["dictionaries"]["diff"] = {
        "sites": [{"model": name, "checkpoints": "last", "hooks": [HOOK]} for name in ("base", "neox")],
        "latents": [1024, 2048], "nonlinearity": "jumprelu", "gate": "site", "penalty": "tanh_quad",
        "sparsity": [0.1, 0.3], "seeds": [0, 1],
    }  # fmt: skip
    study = load_study(config)
    assert len(study.runs("diff")) == 8
    assert [site.model for site in study.sites("diff")] == ["base", "neox"]


@pytest.mark.parametrize(
    ("name", "drawn", "left_out"),
    [
        ("model-diff-small", {"model_diff", "pareto", "reconstruction", "language_model"}, {"layers", "decoder_norms"}),
        ("model-diff", {"model_diff", "pareto", "reconstruction"}, {"layers", "language_model", "feature_classes"}),
        ("cross-layer-small", {"layers", "decoder_norms", "evolution_overview"}, {"model_diff", "two_phases"}),
        ("cross-layer-gpt2", {"layers", "decoder_norms", "evolution_overview"}, {"model_diff", "language_model"}),
    ],
)
def test_studies_of_models_and_layers_draw_figures_of_their_own(name: str, drawn: set[str], left_out: set[str]) -> None:
    figures = set(read_study(PROJECT / f"configs/{name}.yaml").figure_names())
    assert drawn <= figures
    assert not left_out & figures
