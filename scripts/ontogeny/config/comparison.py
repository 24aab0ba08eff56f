"""Which runs are compared with each other, and whether they can be."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ontogeny.config.dictionaries import RunSettings
from ontogeny.config.superposition import superposition_sweeps

if TYPE_CHECKING:
    from ontogeny.config.study import Study


def compared_runs(study: "Study") -> tuple[tuple[str, str], ...]:
    """(dictionary, run) of every run that `evaluation.matching` compares with the featured one."""
    shown, run = study.featured_run()
    point = _point(study.runs(shown)[run])
    return tuple(
        (name, other)
        for name in study.evaluation.matching.against
        for other, settings in study.runs(name).items()
        if _point(settings) == point and (name, other) != (shown, run)
    )


def dictionaries_drawn(study: "Study") -> tuple[str, ...]:
    """Dictionaries that are there for more than that comparison, and have no figure of their own."""
    shown, own = study.featured_run()[0], superposition_sweeps(study)
    return tuple(
        name
        for name in study.dictionaries
        if name not in own and (name == shown or name not in study.evaluation.matching.against)
    )


def dictionaries_of_two_models(study: "Study") -> tuple[str, ...]:
    """Dictionaries over the sites of the featured one if these are one site of each of two language models."""
    sites = study.sites(study.featured_run()[0])
    if len(sites) != 2 or len({site.model for site in sites}) != 2 or study.planted_hooks():
        return ()
    return tuple(name for name in study.dictionaries if study.sites(name) == sites)


def dictionaries_of_layers(study: "Study") -> tuple[str, ...]:
    """Dictionaries over the sites of the featured one, or one of them, if these are layers of one language model."""
    sites = study.sites(study.featured_run()[0])
    if len(sites) < 2 or len({site.checkpoint for site in sites}) != 1 or study.planted_hooks():
        return ()
    return tuple(
        name for name in study.dictionaries if study.sites(name) == sites or study.sites(name) in [(s,) for s in sites]
    )


def sizes_swept(study: "Study") -> tuple[str, ...]:
    """Dictionaries that sweep both their size and their sparsity or k, and have no figure of their own."""
    apart = superposition_sweeps(study)
    return tuple(
        name
        for name, own in study.dictionaries.items()
        if name not in apart and len(own.latents) > 1 and max(len(own.k or ()), len(own.sparsity or ())) > 1
    )


def pareto_dictionaries(study: "Study") -> tuple[str, ...]:
    """Dictionaries of the figure `pareto`; none where `sweep` or `layers` has them all, more than three."""
    drawn, swept, layers = dictionaries_drawn(study), sizes_swept(study), dictionaries_of_layers(study)
    has_them_all = any(len(own) > 3 and set(drawn) <= set(own) for own in (swept, layers))
    return () if has_them_all else drawn


def _point(settings: RunSettings) -> tuple[int, int | None, float | None]:
    """Name the point of a sweep that a run stands for, which leaves its seed open."""
    return settings.latents, settings.k, settings.sparsity


def comparison_problems(study: "Study") -> Iterator[str]:
    """Say what is wrong with `evaluation.matching`, of a study without other mistakes."""
    where, against = "evaluation.matching.against", study.evaluation.matching.against
    missing = [name for name in against if name not in study.dictionaries]
    if missing:
        yield f"{where}: there is no dictionary {missing[0]!r}; dictionaries are {', '.join(study.dictionaries)}"
        return
    shown, run = study.featured_run()
    sites = study.sites(shown)
    if against and len({(site.model, site.hook) for site in sites}) > 1:
        yield f"{where}: {shown} has sites beyond the checkpoints of one model at one hook; set figures.run to another"
    seeds: dict[str, set[int]] = {}
    for name, other in compared_runs(study):
        seeds.setdefault(name, set()).add(study.runs(name)[other].seed)
    reference = study.runs(shown)[run]
    for name in against:
        if name not in seeds:
            yield f"{where}: {name} has no run with the latents, k and sparsity of {run} of {shown} beside that one"
        elif _tied(study, name, shown) and reference.seed in seeds[name]:
            yield (
                f"{where}: {name} starts from the same directions as {run} of {shown} (initialisation 'tied', seed "
                f"{reference.seed}), so that features would match by that alone; give it other seeds"
            )
        if len(set(study.sites(name)) & set(sites)) < 2:
            yield f"{where}: {name} and {shown} have fewer than two sites in common"


def _tied(study: "Study", *names: str) -> bool:
    """Tell whether all sites of these dictionaries start from one draw, which then depends on the seed alone."""
    return all(study.dictionaries[name].initialisation == "tied" for name in names)
