"""Made-up tables of the default study, for each figure those that it reads."""

from pathlib import Path

import axis_tables
import figure_tables as made_up
import model_tables
import sweep_tables


def default_tables(folder: Path) -> dict[str, list[Path]]:
    """Write the tables of the default study, for each figure those that it reads."""
    crosscoders = [made_up.identity("crosscoder", k) for k in (16, 32, 64)]
    singles = [made_up.identity("sae", k) for k in (16, 32, 64)]
    reconstructions = [made_up.reconstruction(folder, run) for run in crosscoders]
    return {
        "superposition": [sweep_tables.superposition(folder)],
        "pareto": [
            *reconstructions,
            *(made_up.reconstruction(folder, run, made_up.SITES[-1:], gain=0.18) for run in singles),
            made_up.reconstruction(folder, made_up.identity("untrained", 32), made_up.UNTRAINED, shift=-0.02),
        ],
        "sweep": sweep_tables.sweep(folder),
        "density": [sweep_tables.density(folder)],
        "reconstruction": reconstructions + [made_up.nll(folder, run) for run in crosscoders],
        "decoder_norms": [table := made_up.features(folder, made_up.norms(2048))],
        "evolution_overview": made_up.overview_of(folder, table),
        "feature_classes": made_up.classes_of(folder, table),
        "robustness": made_up.comparisons(folder, "half-the-checkpoints", "other-spacing", "other-seed"),
        "language_model": [model_tables.training(folder), model_tables.tokenizer(folder)],
        "two_phases": [model_tables.ngram(folder), made_up.dimensionality(folder, crosscoders[1])],
        "norm_as_strength": [made_up.probes(folder)],
        "feature_types": made_up.types_of(folder, table),
        "complexity": made_up.types_of(folder, table),
        "model_diff": axis_tables.two_models(folder),
        "layers": axis_tables.layers(folder / "layers"),
        "attribution": model_tables.tasks(folder, "attribution"),
        "necessity_sufficiency": model_tables.tasks(folder, "ablations"),
    }
