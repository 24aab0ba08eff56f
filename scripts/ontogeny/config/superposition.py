"""Sweeps over planted features, of which one table and one figure show how much each run has found."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ontogeny.config.models import PlantedModel

if TYPE_CHECKING:
    from ontogeny.config.study import Study


def superposition_sweeps(study: "Study") -> dict[str, tuple[str, str]]:
    """(model, hook) of the dictionaries of which all runs are measured in one job, by name.

    They are those that are trained together, in products that they share, over one planted model at one hook.
    """
    places = {name: {(site.model, site.hook) for site in study.sites(name)} for name in study.dictionaries}
    return {
        name: next(iter(found))
        for name, found in places.items()
        if study.dictionaries[name].sweep == "together"
        and study.dictionaries[name].shares_products
        and len(found) == 1
        and all(isinstance(study.models[model], PlantedModel) for model, _ in found)
    }


def superposition_problems(study: "Study") -> Iterator[str]:
    """Say what is wrong with such sweeps, of a study without other mistakes."""
    for name in superposition_sweeps(study):
        dictionary = study.dictionaries[name]
        if dictionary.initialisation == "tied" and len(dictionary.latents) > 1:
            yield (
                f"dictionaries.{name}.initialisation: 'tied' lets all sizes start from the same directions, so that "
                "latents of two sizes would match by that alone; write 'independent'"
            )
