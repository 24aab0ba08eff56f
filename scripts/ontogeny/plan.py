"""What a study will cost before anything starts: tokens, bytes on disk and floating-point operations per stage."""

from collections.abc import Iterator
from pathlib import Path

from ontogeny.config.corpus import TrainedTokenizer
from ontogeny.config.dictionaries import RunSettings
from ontogeny.config.inputs import model_files
from ontogeny.config.models import HubModel, LocalModel, PlantedModel, TrainedModel
from ontogeny.config.shapes import model_shape
from ontogeny.config.study import SPLITS, Study
from ontogeny.costs import Cost, Shape
from ontogeny.errors import UserError
from ontogeny.featured_costs import encoding_flop, featured_costs, interpretation_remark
from ontogeny.plan_activations import readings, width

STATES_AT_ONCE = 3
"""Training states of a run on disk while the last of them is written: two are kept."""

LISTED_TOKENS = 20
"""Tokens that `decoders.parquet` lists for each feature and site."""

UNTOLD_VOCABULARY = 50304
"""Entries of the vocabulary of a model that is trained on a tokenizer from elsewhere: those of Pythia."""


def known_shape(study: Study, name: str) -> Shape | None:
    """Find the shape of a model in the study or on disk; None where it is not told. A planted one has no blocks."""
    model = study.models[name]
    if isinstance(model, PlantedModel):
        return Shape(layers=0, d_model=model.d_model, d_mlp=0, vocab_size=0)
    shape = model_shape(model)
    vocab_size = shape.vocab_size
    if isinstance(model, TrainedModel):
        vocab_size = _vocabulary(study) or UNTOLD_VOCABULARY
    if shape.layers is None or shape.d_model is None or shape.d_mlp is None or vocab_size is None:
        return None
    return Shape(shape.layers, shape.d_model, shape.d_mlp, vocab_size)


def _vocabulary(study: Study) -> int | None:
    return study.tokenizer.vocab_size if isinstance(study.tokenizer, TrainedTokenizer) else None


def study_costs(study: Study, shapes: dict[str, Shape]) -> list[Cost]:
    """Add up what each stage takes; models without a shape count nothing.

    Args:
        study: the study.
        shapes: shape of each model by name, those that are known.
    """
    return [
        _tokens(study),
        *_training(study, shapes),
        *_checkpoints(study, shapes),
        _harvest(study, shapes),
        *(_dictionary(study, name, shapes) for name in study.dictionaries),
        _reconstruction(study, shapes),
        *_losses(study, shapes),
        _features(study, shapes),
        _decoders(study, shapes),
        *featured_costs(study, shapes),
    ]


def _tokens(study: Study) -> Cost:
    """As many as `tokens.max_tokens` lets each split have, in full contexts, with 8 bytes of length and document each.

    They are written once in passing and once for good.
    """
    length, most = study.tokens.context_length, study.tokens.max_tokens or 0
    width = 2 if (_vocabulary(study) or 2**16) < 2**16 else 4
    contexts = 2 * -(-most // length)
    return Cost("tokens", 2, 2.0 * most, contexts * (width * length + 8.0), 0.0, float(contexts * width * length))


def _training(study: Study, shapes: dict[str, Shape]) -> list[Cost]:
    costs = []
    for name, model in study.models.items():
        if isinstance(model, TrainedModel):
            tokens = float(model.training.steps * model.training.batch_size * study.tokens.context_length)
            disk = 4 * shapes[name].parameters * len(model.checkpoints)
            costs.append(Cost(f"language_model {name}", 1, tokens, disk, 3 * shapes[name].forward_flop() * tokens))
    return costs


def _checkpoints(study: Study, shapes: dict[str, Shape]) -> Iterator[Cost]:
    """Weights of checkpoints from elsewhere: local ones take this room only where they cannot be linked.

    Those of the hub are taken to be of two bytes.
    """
    for name, model in study.models.items():
        steps = {site.step for site in study.all_sites() if site.model == name}
        if isinstance(model, LocalModel):
            yield Cost(f"checkpoint {name}", len(steps), 0.0, sum(_weights(model, step) for step in steps), 0.0)
        elif isinstance(model, HubModel) and name in shapes:
            yield Cost(f"checkpoint {name}", len(steps), 0.0, 2 * shapes[name].parameters * len(steps), 0.0)


def _weights(model: LocalModel, step: int) -> float:
    """Bytes of the weights of a checkpoint; of two kinds, safetensors are taken."""
    files = [Path(file) for file in model_files(model, step)]
    kinds = ([file for file in files if file.suffix == kind] for kind in (".safetensors", ".bin"))
    return float(sum(file.stat().st_size for file in next(filter(None, kinds), [])))


def _harvest(study: Study, shapes: dict[str, Shape]) -> Cost:
    chosen = readings(study, shapes)[study.activations.mode]
    rows = sum(sum(study.shards(split).values()) for split in SPLITS)
    return Cost("activations", chosen.jobs, float(rows), chosen.disk, chosen.flop)


def _dictionary(study: Study, name: str, shapes: dict[str, Shape]) -> Cost:
    """A dense step takes 10 S D L FLOP a row: encode, decode, and three products backward.

    Weights take 8 S D L bytes, and a training state holds them with their two moments.
    """
    channels = _width(study, name, shapes)
    runs = study.runs(name).values()
    rows = sum(run.rows * run.epochs for run in runs)
    disk = sum(8.0 * channels * run.latents for run in runs)
    flop = sum(10.0 * channels * run.latents * run.rows * run.epochs for run in runs)
    states = sum(_states(run) * 3 * 8.0 * channels * run.latents for run in runs)
    return Cost(f"dictionary {name}", len(runs), float(rows), disk, flop, states)


def _width(study: Study, name: str, shapes: dict[str, Shape]) -> int:
    """Count the channels of all sites of a dictionary."""
    return sum(width(study, site) for site in study.sites(name) if site.model in shapes)


def _states(run: RunSettings) -> int:
    """Count the training states on disk at one time; there is one more where the run is stopped between two."""
    steps = run.rows // run.batch_size * run.epochs
    return min((steps - 1) // run.save_every + 1, STATES_AT_ONCE)


def _reconstruction(study: Study, shapes: dict[str, Shape]) -> Cost:
    """Heldout rows are encoded, and decoded as if every feature fired, which is the most that this can take."""
    encoded = _encoded(study, shapes)
    return Cost("reconstruction", len(encoded), float(study.activations.heldout_rows), 0.0, 2 * sum(encoded))


def _encoded(study: Study, shapes: dict[str, Shape]) -> list[float]:
    """FLOP of encoding the heldout rows, of each run."""
    return [
        study.activations.heldout_rows * encoding_flop([_width(study, name, shapes)], run.latents)
        for name in study.dictionaries
        for run in study.runs(name).values()
    ]


def _losses(study: Study, shapes: dict[str, Shape]) -> list[Cost]:
    tokens = float(study.evaluation.nll.tokens)
    jobs, flop = 0, 0.0
    for name in study.dictionaries:
        runs = len(study.runs(name))
        sites = [site for site in study.sites(name) if not isinstance(study.models[site.model], PlantedModel)]
        jobs += runs * len({site.model for site in sites}) * study.evaluation.nll.parts
        flop += runs * sum(4 * tokens * shapes[site.model].forward_flop() for site in sites if site.model in shapes)
    return [Cost("losses", jobs, tokens, 0.0, flop)] if jobs else []


def _features(study: Study, shapes: dict[str, Shape]) -> Cost:
    """Count readings of samples at one byte for each token and site, which is most of what stays.

    Beside them are, while they are made, four bytes for each, and 12 for each firing on heldout rows, of which k says
    how many there are; before that, 24 while firings are sorted. Heldout rows are encoded once.
    """
    settings = study.evaluation.features
    tokens = (settings.samples + settings.quantiles * settings.quantile_samples) * (2 * settings.window + 1)
    runs = [
        (run, run.latents * tokens * len(run.sites)) for name in study.dictionaries for run in study.runs(name).values()
    ]
    rows = study.activations.heldout_rows
    firings = [rows * (run.k or 0) for run, _ in runs]
    scratch = sum(max(24.0 * fired, 12.0 * fired + 4.0 * read) for fired, (_, read) in zip(firings, runs, strict=True))
    flop = sum(_encoded(study, shapes))
    return Cost("features", len(runs), float(rows), float(sum(read for _, read in runs)), flop, scratch)


def _decoders(study: Study, shapes: dict[str, Shape]) -> Cost:
    """Cosines of a feature at all pairs of sites and with all other features, and its logits at every site.

    Four bytes of each cosine of sites stay, and eight of each token that is listed, where there is a language model;
    as many of the tokens are beside them while they are found.
    """
    runs, disk, flop, scratch = 0, 0.0, 0.0, 0.0
    for name in study.dictionaries:
        width, sites = _width(study, name, shapes), study.sites(name)
        read = [site for site in sites if not isinstance(study.models[site.model], PlantedModel)]
        known = [shapes[site.model] for site in read if site.model in shapes]
        logits = sum(shape.d_model * shape.vocab_size for shape in known)
        for run in study.runs(name).values():
            tokens = 8.0 * run.latents * len(read) * LISTED_TOKENS
            runs, scratch = runs + 1, scratch + tokens
            disk += 4.0 * run.latents * len(sites) ** 2 + tokens
            flop += 2.0 * run.latents * ((len(sites) + run.latents) * width + logits)
    return Cost("decoders", runs, 0.0, disk, flop, scratch)


def plan_text(study: Study, rate: float) -> str:
    """Write the plan of a study as a table.

    Args:
        study: the study.
        rate: TFLOP/s that the machine sustains.

    Raises:
        UserError: the rate is not above 0.
    """
    if not rate > 0:
        raise UserError(f"--rate: {rate:g} TFLOP/s; expected what the machine sustains, above 0, such as RATE=0.1")
    known = {name: shape for name in study.models if (shape := known_shape(study, name))}
    costs = study_costs(study, known)
    sums = [sum(numbers) for numbers in zip(*((c.jobs, c.disk, c.flop, c.scratch) for c in costs), strict=True)]
    costs.append(Cost("total", int(sums[0]), 0.0, *sums[1:]))
    lines = [f"{'stage':<28}{'jobs':>8}{'tokens':>12}{'disk':>12}{'scratch':>12}{'FLOP':>12}{'hours':>10}"]
    lines += [
        f"{cost.stage:<28}{cost.jobs:>8}{cost.tokens:>12.3g}{cost.disk / 1e9:>9.3g} GB{cost.scratch / 1e9:>9.3g} GB"
        f"{cost.flop:>12.2e}{cost.flop / rate / 1e12 / 3600:>10.3g}"
        for cost in costs
    ]
    return "\n".join([f"Study {study.study} at {rate:g} TFLOP/s", *lines, *_remarks(study, known)])


def _remarks(study: Study, known: dict[str, Shape]) -> Iterator[str]:
    """Say what the numbers mean, and what is not in them."""
    yield "disk stays; scratch is needed beside it if all jobs of a stage run at one time, and goes with them"
    for mode, reading in readings(study, known).items():
        chosen = " (chosen)" if mode == study.activations.mode else ""
        yield f"activations {mode}{chosen}: {reading.text()}"
    if study.tokens.max_tokens is None:
        yield "corpus and tokens: as the text gives them, since tokens.max_tokens is not set; counted as nothing"
    else:
        yield "corpus: as the text gives it, counted as nothing"
    if any(run.k is None for name in study.dictionaries for run in study.runs(name).values()):
        yield "features: 24 bytes for each firing on heldout rows; how many a run without k has is counted as nothing"
    yield from interpretation_remark(study)
    for name, model in study.models.items():
        if isinstance(model, LocalModel):
            yield f"checkpoint {name}: links, which take no room, where {study.root}/ is on the same file system"
        if name not in known:
            place = (
                "in its config.json" if isinstance(model, LocalModel) else f"on the hub (models.{name}.shape tells it)"
            )
            yield f"{name}: {place}, of unknown shape, counted as nothing"
