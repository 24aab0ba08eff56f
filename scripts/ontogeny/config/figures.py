"""What figures look like."""

from typing import Annotated, Literal

from pydantic import Field

from ontogeny.config.base import Count, Name, NonNegative, Number, Settings

Millimetres = Annotated[Number, Field(ge=40, le=1000)]
"""A length on paper that leaves room for axes."""


class FigureStyle(Settings):
    """What all figures share."""

    font_size: Annotated[Number, Field(ge=4, le=40)] = 7.0
    """Points; tick labels are one point smaller."""
    dpi: Annotated[Count, Field(ge=50, le=2400)] = 300
    """Resolution of the PNG files, and of the heatmaps inside the PDF files."""


class FigureSettings(Settings):
    """Size of one figure on paper."""

    width: Millimetres = 88.0
    """Millimetres; a column is 88, a page 180."""
    height: Millimetres = 66.0
    """Millimetres."""


class PageFigure(FigureSettings):
    """Size of a figure as wide as a page."""

    width: Millimetres = 180.0
    """Millimetres; a column is 88, a page 180."""


class ReconstructionFigure(PageFigure):
    """Error and loss per site."""

    height: Millimetres = 60.0
    """Millimetres."""
    smallest_cost: NonNegative = 0.05
    """Nats per token that an ablation must cost for the recovered share to be drawn; below, that share is noise."""


class DecoderNormsFigure(PageFigure):
    """Heatmap of decoder norms over training."""

    height: Millimetres = 100.0
    """Millimetres."""
    features: Count = 200
    """Features in the sample: equal numbers of both classes, as far as there are, by chance from those that fire."""
    seed: int = 0
    """Seed of the sample."""
    colormap: Literal["magma", "inferno", "plasma", "viridis", "cividis", "gray"] = "magma"
    """A perceptually uniform matplotlib colour map; it runs from light (0) to dark (1), like ink on paper."""


class EvolutionOverviewFigure(DecoderNormsFigure):
    """Norms, rotation and persistence of features on one page."""

    height: Millimetres = 106.0
    """Millimetres."""


class FeatureClassesFigure(PageFigure):
    """Classes of features by tau."""


class TwoPhasesFigure(PageFigure):
    """Language model against n-grams, and the dimensionality of features."""

    height: Millimetres = 58.0
    """Millimetres."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Training steps of the learning rate's warm-up, which are marked; known of models that are trained here, and not
    marked for others if left out. Pythia's are 1430."""


class NormAsStrengthFigure(PageFigure):
    """Decoder norm against linear probes and latent scaling."""

    height: Millimetres = 62.0
    """Millimetres."""
    low_norm: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A feature's decoder norm over its maximum over sites is low up to this value, as with `emergence_threshold`."""
    least_r2: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Features whose probe has an R^2 below at every site are left out: no site reads them."""
    read: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A site reads a feature where the R^2 of its probe is at least this share of the feature's best."""
    shrinkage: Annotated[float, Field(gt=1)] = 2.0
    """A norm is shrunk where latent scaling asks for at least so many times as much."""
    resamples: Count = 1000
    """Draws of features, with replacement, behind the intervals of correlations."""
    seed: int = 0
    """Seed of these draws."""


class SweepFigure(PageFigure):
    """Unexplained variance and dead features against L0, one column a dictionary."""

    height: Millimetres = 80.0
    """Millimetres."""


class DensityFigure(PageFigure):
    """How often features fire, over training and around resamplings."""

    height: Millimetres = 62.0
    """Millimetres."""


class TasksFigure(PageFigure):
    """What features do for tasks, one row of panels a task."""

    height: Millimetres = 165.0


class ModelDiffFigure(PageFigure):
    """Two models by the features of one crosscoder."""

    height: Millimetres = 116.0
    """Millimetres."""
    nu: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """A feature is of one model alone where both ratios of latent scaling are within this of 0, for the caption."""


class LayersFigure(PageFigure):
    """Features of a crosscoder over the layers of one model, and what patching a layer costs."""

    height: Millimetres = 108.0
    """Millimetres, for up to six layers."""
    row: Millimetres = 48.0
    """Millimetres of them for a row of six layers; further layers make further rows."""


class RobustnessFigure(PageFigure):
    """Emergence of features in one run against that in others."""

    height: Millimetres = 70.0
    """Millimetres of a row of three panels; further comparisons make further rows."""


class FeatureTypesFigure(PageFigure):
    """Decoder norms over training of each type of features."""

    height: Millimetres = 52.0
    """Millimetres."""
    singles: Annotated[int, Field(ge=0)] = 6
    """Features of each type that are drawn by themselves, by chance."""
    seed: int = 0
    """Seed of their choice."""


class ComplexityFigure(PageFigure):
    """Emergence step against the context that features need, and against a language model's ratings of them."""

    height: Millimetres = 66.0
    """Millimetres of a row of panels; ratings make a second row."""
    resamples: Count = 2000
    """Draws of features, with replacement, behind the intervals of correlations."""
    permutations: Count = 9999
    """Shuffles of features behind the p value."""
    seed: int = 0
    """Seed of these draws."""


class SuperpositionFigure(PageFigure):
    """What the runs of a sweep over planted features have found, by sparsity and dictionary size."""

    height: Millimetres = 110.0
    """Millimetres of two rows of panels; further sweeps make further pairs of rows."""
    colormap: Literal["magma", "inferno", "plasma", "viridis", "cividis", "gray"] = "magma"
    """A perceptually uniform matplotlib colour map; it runs from light (low) to dark (high), like ink on paper."""


class FiguresSettings(Settings):
    """The study's figures."""

    style: FigureStyle = FigureStyle()
    """What all figures share."""
    run: tuple[Name, Name] | None = None
    """Dictionary and run that figures of one run show; by default the middle run of the dictionary with most sites."""
    pareto: FigureSettings = FigureSettings()
    """L0 against explained variance."""
    sweep: SweepFigure = SweepFigure()
    """FVU and dead features against L0 of every dictionary that sweeps size and sparsity."""
    reconstruction: ReconstructionFigure = ReconstructionFigure()
    """FVU, loss and recovered loss per site."""
    density: DensityFigure = DensityFigure()
    """How often features fire, over training and around resamplings."""
    decoder_norms: DecoderNormsFigure = DecoderNormsFigure()
    """Decoder norms of a feature sample over training."""
    evolution_overview: EvolutionOverviewFigure = EvolutionOverviewFigure()
    """Decoder norms of a feature sample, rotation of decoders, persistence of features."""
    feature_classes: FeatureClassesFigure = FeatureClassesFigure()
    """Features of each class by tau, and how each class moves over training."""
    model_diff: ModelDiffFigure = ModelDiffFigure()
    """Relative decoder norms, cosines, latent scaling and recovered loss of a crosscoder over two models."""
    layers: LayersFigure = LayersFigure()
    """Layers that features span, and loss change against L0 at each layer, beside SAEs of single layers."""
    robustness: RobustnessFigure = RobustnessFigure()
    """Emergence steps of matched features in one run against those in others, for `evaluation.matching`."""
    language_model: FigureSettings = FigureSettings()
    """Loss of the language model with its checkpoints."""
    two_phases: TwoPhasesFigure = TwoPhasesFigure()
    """KL divergence of the language model from n-grams, its loss against theirs, and feature dimensionality."""
    norm_as_strength: NormAsStrengthFigure = NormAsStrengthFigure()
    """Decoder norms against what linear probes and latent scaling say."""
    attribution: TasksFigure = TasksFigure()
    """Tasks at every checkpoint, and the features that lead in them."""
    necessity_sufficiency: TasksFigure = TasksFigure()
    """Tasks with features ablated, or with few of them kept."""
    feature_types: FeatureTypesFigure = FeatureTypesFigure()
    """Decoder norms over training of current-token, previous-token, induction and context-sensitive features."""
    complexity: ComplexityFigure = ComplexityFigure()
    """Emergence step against the context that features need, and against ratings where there are any."""
    superposition: SuperpositionFigure = SuperpositionFigure()
    """What the runs of a sweep over planted features have found, by sparsity and dictionary size."""
