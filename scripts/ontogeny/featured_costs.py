"""What the measurements of the featured run will cost, and what a language model that rates its features will."""

from collections.abc import Iterator

from ontogeny.config.comparison import compared_runs
from ontogeny.config.interpretation import interpreted
from ontogeny.config.models import PlantedModel
from ontogeny.config.study import Study
from ontogeny.costs import Cost, Shape, depth
from ontogeny.interpretation.costs import (
    CHARACTERS,
    DECISION_TOKENS,
    EXPLANATION,
    EXPLANATION_TOKENS,
    Requests,
    estimate,
)
from ontogeny.interpretation.prompts import DETECT, FUZZ, Window, decision_messages, explanation_messages
from ontogeny.sites import Site

TASKS, ITEM_TOKENS = 5, 10
"""Tasks, and tokens of an item, in the mean over tasks."""


class _Featured:
    """The featured run: its sites, width and size."""

    def __init__(self, study: Study, shapes: dict[str, Shape]) -> None:
        self.dictionary, run = study.featured_run()
        self.latents = study.runs(self.dictionary)[run].latents
        self.sites = study.sites(self.dictionary)
        self.known = [site for site in self.sites if site.model in shapes]
        self.widths = [shapes[site.model].d_model for site in self.known]
        read = [site for site in self.sites if not isinstance(study.models[site.model], PlantedModel)]
        self.language_models = list(dict.fromkeys(site.model for site in read))
        self.heldout = study.activations.heldout_rows
        self.encode = encoding_flop(self.widths, self.latents)

    def forward(self, shapes: dict[str, Shape]) -> float:
        """FLOP of a token through the checkpoints of all sites, each as far as its deepest site."""
        deepest: dict[str, Site] = {}
        for site in self.known:
            deepest[site.checkpoint] = max(deepest.get(site.checkpoint, site), site, key=depth)
        return sum(shapes[site.model].forward_flop(depth(site)) for site in deepest.values())


def encoding_flop(widths: list[int], latents: int) -> float:
    """FLOP of encoding a row: two for each weight of the encoders, W_enc of (S, D, L)."""
    return 2.0 * sum(widths) * latents


def featured_costs(study: Study, shapes: dict[str, Shape]) -> list[Cost]:
    """Add up what the figures of the featured run take beyond its reconstruction and features.

    Args:
        study: the study.
        shapes: shape of each model by name, those that are known.
    """
    drawn, run = set(study.figure_names()), _Featured(study, shapes)
    costs: list[Cost] = []
    if "two_phases" in drawn:
        costs += _ngram(study, shapes, run)
    if "norm_as_strength" in drawn:
        costs.append(_probes(study, run))
    if "attribution" in drawn:
        costs += [_attribution(study, shapes, run, model) for model in run.language_models]
    if "feature_types" in drawn:
        costs.append(_feature_types(study, shapes, run))
    if study.evaluation.matching.against:
        costs.append(_matching(study, shapes, run))
    if len(run.sites) > 1:
        costs.append(_geometry(run))
    if study.interpretation.endpoint:
        costs.append(Cost("windows", 1, float(run.heldout), 0.0, run.heldout * run.encode))
        costs.append(Cost("interpretation", 1, float(requests(study).input_tokens), 0.0, 0.0))
    return costs


def _ngram(study: Study, shapes: dict[str, Shape], run: _Featured) -> Iterator[Cost]:
    """One forward pass of every checkpoint that the study reads."""
    tokens = float(study.evaluation.ngram.tokens)
    for model in run.language_models:
        steps = len({site.step for site in study.all_sites() if site.model == model})
        flop = steps * tokens * shapes[model].forward_flop() if model in shapes else 0.0
        yield Cost(f"ngram {model}", 1, tokens, 0.0, flop)


def _probes(study: Study, run: _Featured) -> Cost:
    """Rows are encoded; at each site, a row adds to products of activations, D^2, and to two with features, D F."""
    settings = study.evaluation.probes
    rows = sum(min(settings.rows, n) for n in (study.activations.train_rows, study.activations.heldout_rows))
    features = min(settings.features, run.latents)
    moments = sum(2.0 * width**2 + 4.0 * width * features for width in run.widths)
    return Cost("probes", 1, float(rows), 0.0, rows * (run.encode + moments))


def _attribution(study: Study, shapes: dict[str, Shape], run: _Featured, model: str) -> Cost:
    """Items are read at all sites; at each site of the model, the blocks behind it run again and again.

    They do so twice for the metric with and without features, forward and backward for each point of the gradients,
    and for each of three rankings with k features ablated and with them alone.
    """
    settings = study.evaluation.tasks
    tokens = float(TASKS * settings.items * min(ITEM_TOKENS, study.tokens.context_length))
    passes = 2 + 2 * (1 + settings.integration_steps) + 3 * 2 * sum(k < run.latents for k in settings.ks)
    sites = [site for site in run.known if site.model == model]
    rest = sum(shapes[model].forward_flop() - shapes[model].forward_flop(depth(site)) for site in sites)
    return Cost(f"attribution {model}", 1, tokens, 0.0, tokens * (run.forward(shapes) + run.encode + passes * rest))


def _feature_types(study: Study, shapes: dict[str, Shape], run: _Featured) -> Cost:
    """Heldout rows are encoded; copies, and top samples cut to 1, 2, 4, ... tokens and BOS, are read at all sites.

    Samples count as if no cut context restored their activation, which is the most that they can take.
    """
    settings, length = study.evaluation.feature_types, study.tokens.context_length
    copies = 2 * settings.sequences * (1 + 2 * min(settings.copied, (length - 1) // 2))
    samples = min(settings.features, run.latents) * min(settings.samples, study.evaluation.features.samples)
    cuts = [2**power for power in range(length.bit_length()) if 2**power < length]
    read = copies + samples * sum(n + 1 for n in cuts)
    encoded = run.heldout + copies + samples * len(cuts)
    flop = encoded * run.encode + read * run.forward(shapes)
    return Cost("feature_types", 1, float(run.heldout + read), 0.0, flop)


def _matching(study: Study, shapes: dict[str, Shape], run: _Featured) -> Cost:
    """Heldout rows through the other run, and the cosines of all pairs of features over the sites of both."""
    compared, flop = compared_runs(study), 0.0
    for name, other in compared:
        latents = study.runs(name)[other].latents
        known = [site for site in study.sites(name) if site.model in shapes]
        shared = [shapes[site.model].d_model for site in known if site in run.sites]
        flop += run.heldout * encoding_flop([shapes[site.model].d_model for site in known], latents)
        flop += 2.0 * run.latents * latents * sum(shared)
    return Cost("matching", len(compared), float(run.heldout), 0.0, flop)


def _geometry(run: _Featured) -> Cost:
    """Cosines of a feature at all pairs of sites, and two products with a matrix of D^2 for each feature and site."""
    width = sum(run.widths)
    flop = run.latents * (2.0 * len(run.sites) * width + sum(4.0 * own**2 for own in run.widths))
    return Cost("geometry", 1, 0.0, 0.0, flop)


def requests(study: Study) -> Requests:
    """Estimate what is asked of the language model that rates features, if it was never asked before.

    Windows are taken as full, and their tokens as long as those by which questions are measured.
    """
    settings = study.interpretation
    name, run = study.featured_run()
    features = min(interpreted(study)["features"], study.runs(name)[run].latents)
    window = Window(("x" * CHARACTERS,) * settings.window, (False,) * settings.window)
    one = estimate(explanation_messages([window] * settings.examples), EXPLANATION_TOKENS)
    asked = [window] * (2 * (settings.tests // 2))
    for template in (DETECT, FUZZ):
        one = one.plus(estimate(decision_messages(template, EXPLANATION, asked), DECISION_TOKENS * len(asked)))
    return Requests(*(features * count for count in one))


def interpretation_remark(study: Study) -> Iterator[str]:
    """Say what the language model that rates features will be asked, and what that costs."""
    settings = study.interpretation
    if settings.endpoint:
        yield (
            f"interpretation: about {requests(study).text(settings)}; answers that cannot be read are asked for again, "
            f"those in {study.root}/cache/interpretation/ are not"
        )
