"""What a study will cost before anything starts: tokens, bytes on disk and floating-point operations per stage."""

import json
from pathlib import Path
from typing import NamedTuple

from ontogeny.config.corpus import TrainedTokenizer
from ontogeny.config.models import LocalModel, TrainedModel
from ontogeny.config.study import Study

BYTES_PER_VALUE = {"float16": 2, "int8": 1}


class Shape(NamedTuple):
    """What of a model decides its cost."""

    layers: int
    d_model: int
    d_mlp: int
    vocab_size: int

    def forward_flop(self, layers: int | None = None) -> float:
        """FLOP of a forward pass per token, through `layers` blocks, or through all of them and the unembedding.

        Two FLOP per weight (Kaplan et al. 2020, section 2.1), without the attention scores.
        """
        block = 4 * self.d_model**2 + 2 * self.d_model * self.d_mlp
        if layers is not None:
            return 2.0 * block * layers
        return 2.0 * (block * self.layers + self.d_model * self.vocab_size)

    @property
    def parameters(self) -> float:
        """Weights, embedding and unembedding apart."""
        block = 4 * self.d_model**2 + 2 * self.d_model * self.d_mlp
        return float(block * self.layers + 2 * self.d_model * self.vocab_size)


class Cost(NamedTuple):
    """What a stage takes."""

    stage: str
    jobs: int
    tokens: float
    disk: float
    flop: float


def model_shape(study: Study, name: str) -> Shape | None:
    """Find the shape of a model in the study or on disk; None where only the hub knows it."""
    model = study.models[name]
    if isinstance(model, TrainedModel):
        shape = model.architecture
        vocab = study.tokenizer.vocab_size if isinstance(study.tokenizer, TrainedTokenizer) else 50304
        return Shape(shape.layers, shape.d_model, shape.d_mlp or 4 * shape.d_model, vocab)
    if not isinstance(model, LocalModel):
        return None
    config = json.loads((Path(model.path.format(step=model.checkpoints[0])) / "config.json").read_text())
    width = config.get("hidden_size") or config["n_embd"]
    layers = config.get("num_hidden_layers") or config["n_layer"]
    return Shape(layers, width, config.get("intermediate_size") or 4 * width, config["vocab_size"])


def study_costs(study: Study, shapes: dict[str, Shape]) -> list[Cost]:
    """Add up what each stage takes; models without a shape count nothing.

    Args:
        study: the study.
        shapes: shape of each model by name, those that are known.
    """
    return [
        *_training(study, shapes),
        _harvest(study, shapes),
        *(_dictionary(study, name, shapes) for name in study.dictionaries),
        _losses(study, shapes),
    ]


def _training(study: Study, shapes: dict[str, Shape]) -> list[Cost]:
    costs = []
    for name, model in study.models.items():
        if isinstance(model, TrainedModel):
            tokens = float(model.training.steps * model.training.batch_size * study.tokens.context_length)
            disk = 4 * shapes[name].parameters * len(model.checkpoints)
            costs.append(Cost(f"language_model {name}", 1, tokens, disk, 3 * shapes[name].forward_flop() * tokens))
    return costs


def _harvest(study: Study, shapes: dict[str, Shape]) -> Cost:
    shards = {**study.shards("train"), **study.shards("heldout")}
    rows = sum(shards.values())
    sites = study.all_sites()
    deepest: dict[tuple[str, int], int] = {}
    for site in sites:
        block = site.hook.split(".")
        depth = int(block[1]) + 1 if block[0] == "blocks" else 0
        key = (site.model, site.step)
        deepest[key] = max(deepest.get(key, 0), depth)
    disk = sum(
        rows * shapes[s.model].d_model * BYTES_PER_VALUE[study.activations.dtype] for s in sites if s.model in shapes
    )
    flop = sum(rows * shapes[name].forward_flop(depth) for (name, _), depth in deepest.items() if name in shapes)
    return Cost("activations", len(deepest) * len(shards), float(rows), float(disk), flop)


def _dictionary(study: Study, name: str, shapes: dict[str, Shape]) -> Cost:
    """A dense step takes 10 S D L FLOP a row: encode, decode, and three products backward."""
    width = sum(shapes[site.model].d_model for site in study.sites(name) if site.model in shapes)
    runs = study.runs(name).values()
    rows = sum(run.rows * run.epochs for run in runs)
    disk = sum(8.0 * width * run.latents for run in runs)
    flop = sum(10.0 * width * run.latents * run.rows * run.epochs for run in runs)
    return Cost(f"dictionary {name}", len(runs), float(rows), disk, flop)


def _losses(study: Study, shapes: dict[str, Shape]) -> Cost:
    tokens = float(study.evaluation.nll.tokens)
    jobs, flop = 0, 0.0
    for name in study.dictionaries:
        runs = len(study.runs(name))
        sites = study.sites(name)
        jobs += runs * len({site.model for site in sites})
        flop += runs * sum(4 * tokens * shapes[site.model].forward_flop() for site in sites if site.model in shapes)
    return Cost("nll", jobs, tokens, 0.0, flop)


def plan_text(study: Study, rate: float) -> str:
    """Write the plan of a study as a table.

    Args:
        study: the study.
        rate: TFLOP/s that the machine sustains.
    """
    known = {name: shape for name in study.models if (shape := model_shape(study, name))}
    costs = study_costs(study, known)
    costs.append(Cost("total", sum(c.jobs for c in costs), 0.0, sum(c.disk for c in costs), sum(c.flop for c in costs)))
    lines = [f"{'stage':<28}{'jobs':>8}{'tokens':>12}{'disk':>12}{'FLOP':>12}{'hours':>10}"]
    lines += [
        f"{cost.stage:<28}{cost.jobs:>8}{cost.tokens:>12.3g}{cost.disk / 1e9:>9.3g} GB{cost.flop:>12.2e}"
        f"{cost.flop / rate / 1e12 / 3600:>10.3g}"
        for cost in costs
    ]
    lines += [f"{name}: on the hub, of unknown shape, counted as nothing" for name in study.models if name not in known]
    return "\n".join([f"Study {study.study} at {rate:g} TFLOP/s", *lines])
