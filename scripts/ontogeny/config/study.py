"""The study: one config file, one question, one results root."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ontogeny.config.activations import ActivationSettings, RowsSettings
from ontogeny.config.base import Name, Settings
from ontogeny.config.browser import BrowserSettings
from ontogeny.config.comparison import comparison_problems
from ontogeny.config.corpus import CorpusSettings, TokenizerSettings, TokensSettings, TrainedTokenizer
from ontogeny.config.database import DatabaseSettings
from ontogeny.config.dictionaries import DictionarySettings, Recipe, RunSettings, SiteSelection, SweepSettings
from ontogeny.config.drawable import drawable_figures
from ontogeny.config.evaluation import EvaluationSettings
from ontogeny.config.figures import FiguresSettings
from ontogeny.config.hooks import hook_problem, hook_width
from ontogeny.config.inputs import model_problems
from ontogeny.config.interpretation import InterpretationSettings, interpretation_problems
from ontogeny.config.models import ModelSettings, PlantedModel, TrainedModel
from ontogeny.config.shapes import model_shape
from ontogeny.config.starts import start_problems
from ontogeny.config.superposition import superposition_problems
from ontogeny.config.texts import corpus_problems, tokenizer_problems
from ontogeny.sites import Site, shard_name

SPLITS: tuple[Literal["train"], Literal["heldout"]] = ("train", "heldout")
"""Splits of a corpus."""

STAGES = (
    "corpus",
    "tokenizer",
    "tokens",
    "models",
    "activations",
    "dictionaries",
    "metrics",
    "features",
    "database",
    "figures",
    "browser",
)
"""Folders below a results root, in the order of the flow; each is a target."""

RESERVED_NAMES = (*STAGES, "states", "logs", "cache")
"""Names that a study cannot have, since the default study keeps its own folders there."""


class Study(Settings):
    """One config file."""

    study: Name = "default"
    """Name of the study; its results are in `results/<study>/`, those of `default` in `results/`."""
    seed: int = 0
    """Seed of everything random up to the shards; a dictionary's runs have their own."""
    corpus: CorpusSettings
    """The text."""
    tokenizer: TokenizerSettings = TrainedTokenizer(source="train")
    """How text becomes tokens; shared by all models of the study."""
    tokens: TokensSettings = TokensSettings()
    """How tokens become contexts."""
    models: Annotated[dict[Name, ModelSettings], Field(min_length=1)]
    """Language models, or planted ones, by name."""
    activations: ActivationSettings = ActivationSettings()
    """Which activations are read, and how they are kept."""
    dictionaries: Annotated[dict[Name, DictionarySettings], Field(min_length=1)]
    """Crosscoders and plain SAEs (dictionaries over one site), by name."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How dictionaries are measured."""
    interpretation: InterpretationSettings = InterpretationSettings()
    """A language model that explains and rates features, which is off unless it is given an endpoint."""
    database: DatabaseSettings = DatabaseSettings()
    """Where features are stored."""
    browser: BrowserSettings = BrowserSettings()
    """The static copy of the feature browser, `results/browser/`."""
    figures: FiguresSettings = FiguresSettings()
    """What figures look like."""

    @model_validator(mode="after")
    def _check(self) -> "Study":
        problem = next(self._problems(), None)
        if problem:
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if self.study in RESERVED_NAMES:
            yield f"study: {self.study!r} is a folder of the default study; choose another name"
        yield from self.database.problems()
        yield from corpus_problems(self.corpus)
        yield from tokenizer_problems(self.tokenizer)
        for name, model in self.models.items():
            yield from model_problems(f"models.{name}", model)
        yield from start_problems(self.models)
        for name, dictionary in self.dictionaries.items():
            yield from _dictionary_problems(f"dictionaries.{name}", dictionary, self.models)
            yield from _width_problems(f"dictionaries.{name}", dictionary, self.models)
            if dictionary.batch_size > self.activations.train_rows:
                yield (
                    f"dictionaries.{name}.batch_size: a step takes {dictionary.batch_size} rows, but "
                    f"activations.train_rows is {self.activations.train_rows}; lower one or raise the other"
                )
        shown = self.figures.run
        if shown and shown[1] not in (self.runs(shown[0]) if shown[0] in self.dictionaries else ()):
            yield f"figures.run: there is no run {shown[1]!r} of a dictionary {shown[0]!r}"
        for name, run in self.browser.runs:
            if run not in (self.runs(name) if name in self.dictionaries else ()):
                yield f"browser.runs: there is no run {run!r} of a dictionary {name!r}"
        yield from comparison_problems(self)
        yield from interpretation_problems(self)
        yield from superposition_problems(self)

    @property
    def root(self) -> str:
        """Results root, relative to the working directory."""
        return "results" if self.study == "default" else f"results/{self.study}"

    def shards(self, split: str) -> dict[str, int]:
        """Rows of each shard of `split` (`train` or `heldout`), by the shard's name, in order."""
        total = self.activations.train_rows if split == "train" else self.activations.heldout_rows
        size = self.activations.rows_per_shard
        return {shard_name(split, n): min(size, total - n * size) for n in range(-(-total // size))}

    def rows(self, split: Literal["train", "heldout"]) -> dict[str, RowsSettings]:
        """What decides the rows of each shard of `split`, by the shard's name."""
        return {
            shard: RowsSettings(
                seed=self.seed,
                split=split,
                number=number,
                rows_per_shard=self.activations.rows_per_shard,
                rows=rows,
                keep_first_position=self.activations.keep_first_position,
            )
            for number, (shard, rows) in enumerate(self.shards(split).items())
        }

    def sites(self, dictionary: str) -> tuple[Site, ...]:
        """Site axis of a dictionary, in order: selection by selection, checkpoint by checkpoint, hook by hook."""
        return tuple(
            Site(selection.model, step, hook)
            for selection in self.dictionaries[dictionary].sites
            for step in selected_steps(selection, self.models[selection.model])
            for hook in selection.hooks
        )

    def all_sites(self) -> tuple[Site, ...]:
        """Every site of the study once, in the order of the dictionaries."""
        return tuple(dict.fromkeys(site for name in self.dictionaries for site in self.sites(name)))

    def planted_hooks(self) -> dict[str, tuple[str, ...]]:
        """Planted models, which have no checkpoints on disk and no loss, with the hooks at which they are read."""
        hooks: dict[str, list[str]] = {}
        for site in self.all_sites():
            if isinstance(self.models[site.model], PlantedModel):
                hooks.setdefault(site.model, []).append(site.hook)
        return {model: tuple(dict.fromkeys(names)) for model, names in hooks.items()}

    def hook_groups(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """Checkpoints of language models by the hooks read in one forward pass: {hooks: (checkpoint, ...)}."""
        hooks: dict[str, list[str]] = {}
        for site in self.all_sites():
            if not isinstance(self.models[site.model], PlantedModel):
                hooks.setdefault(site.checkpoint, []).append(site.hook)
        groups: dict[tuple[str, ...], list[str]] = {}
        for checkpoint, names in hooks.items():
            groups.setdefault(tuple(sorted(names)), []).append(checkpoint)
        return {names: tuple(checkpoints) for names, checkpoints in groups.items()}

    def sweep(self, dictionary: str) -> SweepSettings:
        """What decides the runs of a dictionary, but for their seeds."""
        settings, shards = self.dictionaries[dictionary], self.shards("train")
        swept = {key: getattr(settings, key) for key in (*Recipe.model_fields, "latents", "k", "sparsity")}
        return SweepSettings(
            **swept,
            dictionary=dictionary,
            sites=self.sites(dictionary),
            shards=tuple(shards),
            rows=sum(shards.values()),
        )

    def runs(self, dictionary: str) -> dict[str, RunSettings]:
        """Runs of a dictionary's sweep by name, in the order latents, k or sparsity, seed."""
        return self.sweep(dictionary).runs(self.dictionaries[dictionary].seeds)

    def figure_names(self) -> tuple[str, ...]:
        """Figures that the study can draw: some need a model trained here, or a dictionary over several sites."""
        return drawable_figures(self)

    def warmup_steps(self) -> int | None:
        """Steps of warm-up that figures mark: those given, or those of the featured model if it is trained here."""
        given = self.figures.two_phases.warmup_steps
        model = self.models[self.sites(self.featured_run()[0])[0].model]
        return model.training.warmup_steps if given is None and isinstance(model, TrainedModel) else given

    def exported_runs(self) -> tuple[tuple[str, str], ...]:
        """Runs, each (dictionary, run), that the static copy of the feature browser holds."""
        return self.browser.runs or (self.featured_run(),)

    def featured_run(self) -> tuple[str, str]:
        """(dictionary, run) that figures of a single run show."""
        if self.figures.run:
            return self.figures.run
        name = max(self.dictionaries, key=lambda name: len(self.sites(name)))
        runs = list(self.runs(name))
        return name, runs[len(runs) // 2]


def selected_steps(selection: SiteSelection, model: ModelSettings) -> tuple[int, ...]:
    """Steps of `model` that `selection` names."""
    if selection.checkpoints == "all":
        return model.checkpoints
    return model.checkpoints[-1:] if selection.checkpoints == "last" else selection.checkpoints


def _dictionary_problems(where: str, dictionary: DictionarySettings, models: dict[str, ModelSettings]) -> Iterator[str]:
    seen: set[Site] = set()
    for number, selection in enumerate(dictionary.sites):
        place = f"{where}.sites[{number}]"
        model = models.get(selection.model)
        if model is None:
            yield f"{place}.model: there is no model {selection.model!r}; models are {', '.join(models)}"
            return
        for step in selected_steps(selection, model):
            if step not in model.checkpoints:
                saved = ", ".join(map(str, model.checkpoints))
                yield f"{place}.checkpoints: step {step} of {selection.model} was never saved; saved steps are {saved}"
        shape = model_shape(model)
        for hook in selection.hooks:
            problem = hook_problem(hook, shape)
            if problem:
                yield f"{place}.hooks: {problem}"
        sites = [Site(selection.model, s, h) for s in selected_steps(selection, model) for h in selection.hooks]
        if len(set(sites)) < len(sites) or seen & set(sites):
            yield f"{place}: a site is listed twice"
        seen |= set(sites)
    if len({isinstance(models[selection.model], PlantedModel) for selection in dictionary.sites}) > 1:
        yield f"{where}.sites: planted activations and those of language models have no rows in common; keep them apart"


def _width_problems(where: str, dictionary: DictionarySettings, models: dict[str, ModelSettings]) -> Iterator[str]:
    """Compare the widths of sites with the first, as far as they are known."""
    first = None
    for number, selection in enumerate(dictionary.sites):
        shape = model_shape(models[selection.model])
        for hook in selection.hooks:
            width = hook_width(hook, shape)
            if first is None and width is not None:
                first = width, f"{hook} of {selection.model}"
            if first is not None and width not in (None, first[0]):
                yield (
                    f"{where}.sites[{number}].hooks: {hook} of {selection.model} is {width} wide, but {first[1]} is "
                    f"{first[0]}; sites of one dictionary share one width"
                )
