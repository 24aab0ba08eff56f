"""Dictionaries: crosscoders over a list of sites, and the runs of their sweeps."""

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ontogeny.config.base import Count, Fraction, Name, NonNegative, Positive, Settings
from ontogeny.config.models import Steps
from ontogeny.sites import Site


class SiteSelection(Settings):
    """Sites of one model: every checkpoint listed at every hook listed."""

    model: Name
    """A model of the study."""
    checkpoints: Literal["all", "last"] | Steps = "all"
    """Checkpoints: a list of steps, `all` of the model, or its `last`."""
    hooks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Hook points by their transformer-lens names, such as `blocks.2.hook_resid_post`."""


class DeadLatents(Settings):
    """What is done about latents that fall silent."""

    policy: Literal["none", "auxk", "resample"] = "none"
    """`auxk`: dead latents learn to reconstruct what is left of the error (Gao et al. 2024, section A.2); `resample`:
    now and then they start again from badly reconstructed rows (Bricken et al. 2023, appendix)."""
    after_rows: Count = 16384
    """Rows of silence after which a latent counts as dead, for `auxk` and in the training log."""
    k: Count = 64
    """Dead latents used on a row, for `auxk`."""
    coefficient: NonNegative = 0.03125
    """Weight of the auxiliary loss, for `auxk`."""
    interval: Annotated[int, Field(ge=2)] = 25000
    """Steps between two resamplings; what was silent for the second half of them is dead, for `resample`."""
    times: Count = 4
    """Resamplings in a run, for `resample`."""
    candidates: Count = 819200
    """Rows from which starts are drawn, with a probability that goes with the square of their loss, for `resample`."""
    encoder_scale: Positive = 0.2
    """Encoder norm of a resampled latent over the mean of the living, for `resample`."""


class SharedLatents(Settings):
    """Designated shared latents: the first latents have one decoder for all sites (Mishra-Sharma et al. 2025)."""

    share: Fraction = 0.0
    """Share of the latents that are designated, rounded to whole latents."""
    sparsity: NonNegative = 0.15
    """Their sparsity coefficient over that of all others; low, so that they take what the sites have in common."""


class Recipe(Settings):
    """How a dictionary is built and trained; everything that its runs share."""

    nonlinearity: Literal["relu", "topk", "batchtopk", "jumprelu"] = "batchtopk"
    """Which latents fire: `topk` and `batchtopk` keep k a row by h_i n_i; `jumprelu` has a learnt threshold each."""
    gate: Literal["shared", "site"] = "shared"
    """`shared`: a latent fires at all sites or none; `site` (for `jumprelu`): where h_i n_is passes its threshold."""
    penalty: Literal["none", "l1", "tanh", "tanh_quad"] = "none"
    """Sparsity term; its coefficient is swept in `sparsity`."""
    tanh_scale: Positive = 4.0
    """c in tanh(c f n) of `tanh` and `tanh_quad`."""
    frequency_scale: Positive = 0.01
    """s in p (1 + p / s) of `tanh_quad`, p a latent's mean tanh."""
    threshold: Positive = 0.1
    """First threshold of `jumprelu`."""
    bandwidth: Positive = 2.0
    """Width of the rectangle through which `jumprelu` thresholds learn."""
    threshold_learning_rate: Positive = 0.1
    """Learning rate of `jumprelu` thresholds as a multiple of `learning_rate`."""
    dead: DeadLatents = DeadLatents()
    """What is done about latents that fall silent."""
    shared: SharedLatents = SharedLatents()
    """Latents whose decoder is the same at all sites, as in model diffing."""
    decoder: Literal["free", "unit"] = "free"
    """`unit`: every latent's decoder, all sites together, is kept at norm 1."""
    center: bool = False
    """Subtract each site's mean before encoding."""
    pre_bias: bool = False
    """Subtract the decoder bias before encoding (Bricken et al. 2023); files hold it folded into the encoder bias."""
    site_error: Literal["sum", "mean"] = "sum"
    """Squared error of a row: summed over sites (Lindsey et al. 2024) or averaged (Ge et al. 2025)."""
    initialisation: Literal["tied", "independent"] = "tied"
    """`tied`: every site starts from one draw, which lets features align over sites, and sizes of one seed start alike;
    `independent`: every site has a draw of its own, and so has every size of a dictionary over one site."""
    decoder_norm: Positive | Literal["search"] = 0.1
    """Norm of a latent's decoder at each site at the start; `search`: the best on the first batch."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of Adam."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of Adam's moments."""
    gradient_clip: Positive | None = 1.0
    """Largest norm of the gradient; none if null."""
    batch_size: Count = 1024
    """Rows a step."""
    epochs: Count = 1
    """Passes over the training rows."""
    warmup: Fraction = 0.05
    """Share of the steps with linear learning-rate warm-up."""
    decay: Fraction = 0.2
    """Share of the steps, at the end, over which the learning rate falls."""
    final_learning_rate: Fraction = 0.0
    """Share of the peak to which the learning rate falls."""
    sparsity_warmup: Fraction = 0.05
    """Share of the steps over which the sparsity coefficient rises from 0."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products; parameters, sums and optimiser are float32."""
    log_every: Count = 10
    """Steps between two rows of `training.csv`."""
    density_histograms: Annotated[int, Field(ge=0)] = 0
    """Histograms of feature density over the run, evenly spaced, in `density.csv`; each resampling adds two."""
    density_rows: Count = 65536
    """Training rows on which a histogram is counted, in whole batches; fewer where there are fewer."""
    save_every: Count = 200
    """Steps between two saved training states."""

    @property
    def keeps_densities(self) -> bool:
        """Whether `density.csv` has histograms."""
        return self.density_histograms > 0 or self.dead.policy == "resample"

    @property
    def shares_products(self) -> bool:
        """Whether runs that are trained together can share their matrix products: `relu` with `l1`, nothing more."""
        products = self.nonlinearity == "relu" and self.penalty == "l1" and self.precision == "float32"
        extras = self.dead.policy != "none" or self.shared.share or self.density_histograms or self.pre_bias
        return products and not extras

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.gate == "site" and self.nonlinearity != "jumprelu":
            raise ValueError(f"gate 'site' belongs to nonlinearity 'jumprelu', not {self.nonlinearity!r}")
        if self.decoder == "unit" and self.decoder_norm == "search":
            raise ValueError("decoder 'unit' leaves no norm to search; give decoder_norm a number")
        if self.shared.share and self.dead.policy == "resample":
            raise ValueError("dead policy 'resample' gives every site another decoder; take 'auxk' with shared latents")
        return self


class DictionarySettings(Recipe):
    """One crosscoder and its sweep: a run for each of latents x (k or sparsity) x seed."""

    preset: Literal["pythia-160m", "pythia-6.9b", "towards-monosemanticity", "gpt2-cross-layer"] | None = None
    """A published recipe, whose values stand for every key that is not given here."""
    sites: Annotated[tuple[SiteSelection, ...], Field(min_length=1)]
    """Where activations are read; their order is the dictionary's site axis."""
    latents: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Dictionary sizes."""
    k: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Latents kept a row, for `topk` and `batchtopk`."""
    sparsity: Annotated[tuple[NonNegative, ...], Field(min_length=1)] | None = None
    """Sparsity coefficients, for every penalty but `none`."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds of initialisation and of the order of rows."""
    sweep: Literal["apart", "together"] = "apart"
    """`apart`: a job for each run; `together`: one job trains all runs of a seed on the same batches, so that shards
    are read, or streamed models run, once for all of them: on a CPU, with as many threads, to the same bytes. Plain
    `relu` with `l1` in float32, for many small dictionaries, shares matrix products too, and is then the same but for
    rounding."""

    @model_validator(mode="after")
    def _check_sweep(self) -> "DictionarySettings":
        counts = self.nonlinearity in ("topk", "batchtopk")
        if counts != (self.k is not None):
            raise ValueError(f"nonlinearity {self.nonlinearity!r} {'needs' if counts else 'takes no'} k")
        if (self.penalty != "none") != (self.sparsity is not None):
            raise ValueError(f"penalty {self.penalty!r} {'takes no' if self.penalty == 'none' else 'needs'} sparsity")
        if self.k is not None and max(self.k) > min(self.latents):
            raise ValueError(f"k {max(self.k)} is above the {min(self.latents)} latents of the smallest run")
        for key in ("latents", "k", "sparsity", "seeds"):
            values = getattr(self, key) or ()
            if len(set(values)) != len(values):
                raise ValueError(f"{key} lists a value twice: {list(values)}")
        return self


class RunSettings(Recipe):
    """One point of a sweep, with everything that decides its result."""

    dictionary: Name
    """Name of the dictionary in the study."""
    run: Name
    """Name of the run, such as `latents2048-k32-seed0`."""
    sites: tuple[Site, ...]
    """The site axis, in order."""
    latents: Count
    """L, the number of features."""
    k: Count | None
    """Latents kept a row, for `topk` and `batchtopk`."""
    sparsity: NonNegative | None
    """Coefficient of the penalty."""
    seed: int
    """Seed of initialisation and of the order of rows."""
    shards: tuple[str, ...]
    """Names of the training shards, in order."""
    rows: Count
    """Rows of all training shards together."""

    @property
    def shared_latents(self) -> int:
        """Designated shared latents, the first of all."""
        return round(self.shared.share * self.latents)

    @property
    def sparsity_label(self) -> float:
        """Column `sparsity` of the tables: k where the nonlinearity has one, else the coefficient (0 if none)."""
        return float(self.k if self.k is not None else self.sparsity or 0.0)


class SweepSettings(Recipe):
    """The sweep of a dictionary, whatever its seeds, with everything that decides its results."""

    dictionary: Name
    """Name of the dictionary in the study."""
    sites: tuple[Site, ...]
    """The site axis, in order."""
    latents: tuple[Count, ...]
    """Dictionary sizes."""
    k: tuple[Count, ...] | None
    """Latents kept a row, for `topk` and `batchtopk`."""
    sparsity: tuple[NonNegative, ...] | None
    """Coefficients of the penalty."""
    shards: tuple[str, ...]
    """Names of the training shards, in order."""
    rows: Count
    """Rows of all training shards together."""

    def runs(self, seeds: Sequence[int]) -> dict[str, RunSettings]:
        """List the runs by name, in the order latents, k or sparsity, seed."""
        shared = {key: getattr(self, key) for key in (*Recipe.model_fields, "dictionary", "sites", "shards", "rows")}
        runs = {}
        for latents, k, sparsity, seed in product(self.latents, self.k or (None,), self.sparsity or (None,), seeds):
            name = run_name(latents, k, sparsity, seed)
            runs[name] = RunSettings(**shared, run=name, latents=latents, k=k, sparsity=sparsity, seed=seed)
        return runs


def run_name(latents: int, k: int | None, sparsity: float | None, seed: int) -> str:
    """Name of a run, such as `latents2048-k32-seed0`."""
    parts = (("latents", latents), ("k", k), ("sparsity", sparsity), ("seed", seed))
    return "-".join(f"{key}{_in_name(value)}" for key, value in parts if value is not None)


def _in_name(value: float) -> str:
    """Write a number in the fewest digits that tell it from all others, whole ones without a point."""
    return repr(value).removesuffix(".0").replace("e+", "e")
