"""The crosscoder: one class with a site axis, and the two files it is kept in.

Shapes are in names: B rows, S sites, D channels of a site (d_model), L latents. *Raw* activations are in the language
model's units; *scaled* ones, x_s = a_s (raw_s - c_s), have a mean norm of sqrt(D) at every site. Weights, norms and
thresholds belong to scaled activations, and the scales are applied here and nowhere else: folding them into the weights
of a crosscoder is wrong where sites differ in norm, since the encoder sums over sites and gates read decoder norms.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ontogeny.crosscoder.nonlinearity import firing_above, topk
from ontogeny.crosscoder.products import product
from ontogeny.errors import UserError
from ontogeny.files import write_json
from ontogeny.sites import Site
from ontogeny.tensors import write_tensors

WEIGHTS_FILE = "crosscoder.safetensors"
CONFIG_FILE = "config.json"


class Crosscoder(nn.Module):
    """A sparse dictionary over the activations of S sites; with one site, a plain sparse autoencoder.

    Attributes:
        W_enc_LSD: encoder, latent by latent, so that the gradient of few latents is few rows (shape: [L, S, D]).
        b_enc: encoder bias (shape: [L]).
        pre_bias: whether b_dec is subtracted before encoding; never so in a crosscoder that was loaded.
        W_dec: decoder (shape: [L, S, D]).
        b_dec: decoder bias (shape: [S, D]).
        scales: a_s (shape: [S]).
        centers: c_s, in raw units, 0 where nothing is subtracted (shape: [S, D]).
        threshold: what h n has to pass to fire: (shape: [L]) for `jumprelu`, (shape: [1]) for `batchtopk`, else None.
    """

    scales: Tensor
    centers: Tensor
    threshold: Tensor | None

    def __init__(
        self,
        sites: Sequence[Site],
        d_model: int,
        latents: int,
        nonlinearity: str,
        gate: str = "shared",
        k: int | None = None,
        pre_bias: bool = False,
    ) -> None:
        """Make a crosscoder of zeros, without scales or centers."""
        super().__init__()
        self.sites = tuple(Site(*site) for site in sites)
        self.d_model, self.latents = d_model, latents
        self.nonlinearity, self.gate, self.k, self.pre_bias = nonlinearity, gate, k, pre_bias
        self.W_enc_LSD = nn.Parameter(torch.zeros(latents, len(sites), d_model))
        self.b_enc = nn.Parameter(torch.zeros(latents))
        self.W_dec = nn.Parameter(torch.zeros(latents, len(sites), d_model))
        self.b_dec = nn.Parameter(torch.zeros(len(sites), d_model))
        self.register_buffer("scales", torch.ones(len(sites)))
        self.register_buffer("centers", torch.zeros(len(sites), d_model))
        size = {"jumprelu": latents, "batchtopk": 1}.get(nonlinearity)
        self.register_buffer("threshold", None if size is None else torch.zeros(size))

    @property
    def W_enc(self) -> Tensor:
        """The encoder as files hold it, a view (shape: [S, D, L])."""
        return self.W_enc_LSD.permute(1, 2, 0)

    def encode(self, raw_BSD: Tensor) -> Tensor:
        """Encode raw activations as a row is encoded alone, whatever else is in the batch.

        Args:
            raw_BSD: raw activations (shape: [B, S, D]).

        Returns:
            f (shape: [B, L]), or (shape: [B, S, L]) under gate `site`; exactly 0 where a latent does not fire.
        """
        h_BL = self.pre_activations(self.scaled(raw_BSD))
        norms_LS = self.decoder_norms()
        if self.gate == "site":
            return firing_above(h_BL[:, None], norms_LS.T, self.thresholds())
        if self.nonlinearity == "relu":
            return h_BL.relu()
        if self.nonlinearity == "topk":
            return topk(h_BL, norms_LS.sum(1), self.kept_a_row())
        return firing_above(h_BL, norms_LS.sum(1), self.thresholds())

    def decode(self, f: Tensor) -> Tensor:
        """Turn what `encode` returned into raw activations (shape: [B, S, D])."""
        if self.gate == "site":
            scaled_BSD = torch.stack([f[:, s] @ self.W_dec[:, s] for s in range(len(self.sites))], dim=1) + self.b_dec
        else:
            scaled_BSD = self.reconstruct(f)
        return self.unscaled(scaled_BSD)

    def forward(self, raw_BSD: Tensor) -> Tensor:
        """Reconstruct raw activations (shape: [B, S, D])."""
        decoded: Tensor = self.decode(self.encode(raw_BSD))
        return decoded

    def scaled(self, raw_BSD: Tensor) -> Tensor:
        """Scale raw activations: x_s = a_s (raw_s - c_s) (shape: [B, S, D])."""
        scales_S1 = self.scales[:, None]
        return torch.addcmul(-scales_S1 * self.centers, raw_BSD, scales_S1)

    def unscaled(self, x_BSD: Tensor) -> Tensor:
        """Undo `scaled`: raw_s = x_s / a_s + c_s (shape: [B, S, D])."""
        return x_BSD / self.scales[:, None] + self.centers

    def pre_activations(self, x_BSD: Tensor) -> Tensor:
        """Compute h = sum_s W_enc[s]^T x_s + b_enc from scaled activations (shape: [B, L])."""
        return (x_BSD.flatten(1) @ self.W_enc_LSD.flatten(1).T).add_(self.encoder_bias())

    def encoder_bias(self) -> Tensor:
        """Return b_enc, with what a bias that is subtracted before encoding comes to (shape: [L])."""
        if not self.pre_bias:
            return self.b_enc
        return self.b_enc - self.W_enc_LSD.flatten(1) @ self.b_dec.flatten()

    def reconstruct(self, f_BL: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
        """Compute x_hat_s = sum_i f_i W_dec[i, s] + b_dec[s], in scaled units (shape: [B, S, D])."""
        return product(f_BL, self.W_dec.flatten(1), precision).add_(self.b_dec.flatten()).view(-1, *self.b_dec.shape)

    def decoder_norms(self) -> Tensor:
        """Compute n_is = ||W_dec[i, s]||, on scaled activations (shape: [L, S])."""
        norms_LS: Tensor = torch.linalg.vector_norm(self.W_dec, dim=-1)
        return norms_LS

    def kept_a_row(self) -> int:
        """Return the k of a nonlinearity that has one."""
        if self.k is None:
            raise ValueError(f"nonlinearity {self.nonlinearity!r} needs k")
        return self.k

    def thresholds(self) -> Tensor:
        """Return the thresholds of a nonlinearity that has them."""
        if self.threshold is None:
            raise ValueError(f"nonlinearity {self.nonlinearity!r} has no threshold")
        return self.threshold


def save_crosscoder(folder: Path, crosscoder: Crosscoder, description: Mapping[str, Any]) -> None:
    """Write `crosscoder.safetensors` and `config.json` into `folder`, which is there already.

    Args:
        folder: where to.
        crosscoder: the trained crosscoder.
        description: what `config.json` says beside what the crosscoder knows of itself: dictionary, run, sparsity,
            seed, tokens, study and versions.

    Raises:
        UserError: the disk is full.
    """
    tensors = _tensors(crosscoder) | {"b_enc": crosscoder.encoder_bias()}
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    config = {
        "sites": [site._asdict() for site in crosscoder.sites],
        "scales": crosscoder.scales.tolist(),
        "centers": [center.tolist() if center.any() else None for center in crosscoder.centers],
        "nonlinearity": crosscoder.nonlinearity,
        "gate": crosscoder.gate,
        "k": crosscoder.k,
        "latents": crosscoder.latents,
        **description,
    }
    write_tensors(folder / WEIGHTS_FILE, tensors, json.dumps(dict(description), sort_keys=True))
    write_json(folder / CONFIG_FILE, config)


def load_crosscoder(folder: Path) -> Crosscoder:
    """Load a crosscoder from `crosscoder.safetensors` and `config.json` alone, ready to be applied to raw activations.

    Raises:
        UserError: a file is missing or damaged, or the two do not belong together.
    """
    weights = folder / WEIGHTS_FILE
    config = _read_config(folder / CONFIG_FILE)
    sites = [Site(**site) for site in config["sites"]]
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: cannot be read ({error}); train the run again") from None
    d_model = tensors["b_dec"].shape[-1] if "b_dec" in tensors else 0
    crosscoder = Crosscoder(sites, d_model, config["latents"], config["nonlinearity"], config["gate"], config["k"])
    for site, center in enumerate(config["centers"]):
        crosscoder.centers[site] = 0.0 if center is None else torch.tensor(center)
    crosscoder.scales.copy_(torch.tensor(config["scales"]))
    expected = _tensors(crosscoder)
    shapes = {name: tuple(value.shape) for name, value in expected.items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if found != shapes:
        raise UserError(f"{weights}: holds {found}, but {CONFIG_FILE} describes {shapes}; train the run again")
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(tensors[name])
    return crosscoder


def _tensors(crosscoder: Crosscoder) -> dict[str, Tensor]:
    """Name the tensors of `crosscoder.safetensors`."""
    tensors = {"W_enc": crosscoder.W_enc, "b_enc": crosscoder.b_enc}
    tensors |= {"W_dec": crosscoder.W_dec, "b_dec": crosscoder.b_dec}
    return tensors if crosscoder.threshold is None else tensors | {"threshold": crosscoder.threshold}


def _read_config(file: Path) -> dict[str, Any]:
    """Read `config.json` and refuse one that lacks a key."""
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; expected the folder of a trained run") from None
    except ValueError as error:
        raise UserError(f"{file}: no JSON ({error}); train the run again") from None
    keys = ("sites", "scales", "centers", "nonlinearity", "gate", "k", "latents")
    missing = [key for key in keys if key not in config]
    if missing:
        raise UserError(f"{file}: key {missing[0]!r} is missing; train the run again")
    return dict(config)
