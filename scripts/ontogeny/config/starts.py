"""Which models begin with the weights of others, and whether they can."""

from collections.abc import Iterator, Mapping

from ontogeny.config.models import ModelSettings, TrainedModel


def start_problems(models: Mapping[str, ModelSettings]) -> Iterator[str]:
    """Say what is wrong with the models that others start from."""
    for name, model in models.items():
        if not isinstance(model, TrainedModel) or model.start is None:
            continue
        where, start = f"models.{name}.start", model.start
        other = models.get(start.model)
        if not isinstance(other, TrainedModel):
            trained = [known for known, model in models.items() if isinstance(model, TrainedModel) and known != name]
            yield (
                f"{where}.model: {start.model!r} is no model that is trained here; "
                f"expected one of: {', '.join(trained) or 'none is there'}"
            )
        elif start.step not in other.checkpoints:
            saved = ", ".join(map(str, other.checkpoints))
            yield f"{where}.step: step {start.step} of {start.model} was never saved; saved steps are {saved}"
        elif other.architecture != model.architecture:
            yield f"{where}: the architecture of {name} is not that of {start.model}; write the same for both"
        elif name in _origins(models, name):
            yield f"{where}.model: {name} would start from itself; let one model start from new weights"


def _origins(models: Mapping[str, ModelSettings], name: str) -> list[str]:
    """List the models behind one, the nearest first, each once."""
    found: list[str] = []
    model = models.get(name)
    while isinstance(model, TrainedModel) and model.start and model.start.model not in found:
        found.append(model.start.model)
        model = models.get(model.start.model)
    return found
