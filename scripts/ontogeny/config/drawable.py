"""Which figures a study can draw."""

from typing import TYPE_CHECKING

from ontogeny.config.comparison import (
    dictionaries_of_layers,
    dictionaries_of_two_models,
    pareto_dictionaries,
    sizes_swept,
)
from ontogeny.config.models import PlantedModel, TrainedModel
from ontogeny.config.superposition import superposition_sweeps

if TYPE_CHECKING:
    from ontogeny.config.study import Study


def drawable_figures(study: "Study") -> tuple[str, ...]:
    """Name the figures that a study can draw, by the sites of its featured run and by its models."""
    featured, run = study.featured_run()
    sites, swept = study.sites(featured), superposition_sweeps(study)
    several, of_two = len(sites) > 1, bool(dictionaries_of_two_models(study))
    # Over two models, what evolves is nothing, and the figure of two models has norms and latent scaling.
    evolves = several and not of_two
    checkpoints = several and len({(site.model, site.hook) for site in sites}) == 1
    learning = checkpoints and not isinstance(study.models[sites[0].model], PlantedModel)
    trained = any(isinstance(model, TrainedModel) and model.training.steps for model in study.models.values())
    reads_text = not any(isinstance(study.models[site.model], PlantedModel) for site in sites)
    conditions = {
        "superposition": bool(swept),
        "pareto": bool(pareto_dictionaries(study)),
        "sweep": bool(sizes_swept(study)),
        "reconstruction": featured not in swept,
        "density": study.runs(featured)[run].keeps_densities,
        "decoder_norms": evolves,
        "evolution_overview": evolves,
        "feature_classes": evolves,
        "model_diff": of_two,
        "layers": bool(dictionaries_of_layers(study)),
        "robustness": bool(study.evaluation.matching.against),
        "language_model": trained,
        "two_phases": learning,
        "norm_as_strength": evolves,
        "attribution": reads_text,
        "necessity_sufficiency": reads_text,
        "feature_types": evolves and reads_text,
        "complexity": learning,
    }
    return tuple(name for name, holds in conditions.items() if holds)
