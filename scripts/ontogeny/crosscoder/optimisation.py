"""Adam that clips, stops and steps in one pass, the decoder of unit norm, and gradients of several processes."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ontogeny.crosscoder.parallel import ALONE, Ranks


class FusedAdam(torch.optim.Adam):
    """Adam in one pass over the parameters, which also divides the gradients and can leave everything as it is.

    The two attributes are those by which torch's gradient scaler talks to a fused optimiser.

    Attributes:
        grad_scale: what gradients are divided by (scalar).
        found_inf: 1 to leave parameters and moments as they are, else 0 (scalar).
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, groups: list[dict[str, object]], betas: tuple[float, float]) -> None:
        super().__init__(groups, betas=betas, fused=True)

    def step_clipped(self, norm: Tensor, largest: float | None, frozen: Tensor) -> None:
        """Take a step with a gradient of at most norm `largest`, or none if `frozen`; nothing waits for the device.

        Args:
            norm: norm of all gradients together (scalar).
            largest: largest norm; None leaves gradients alone.
            frozen: whether to leave everything as it is (scalar, bool).
        """
        self.grad_scale = None if largest is None else (norm / largest).clamp_min(1.0)
        self.found_inf = frozen.float()
        self.step()


def project_out(gradient_LSD: Tensor, W_dec_LSD: Tensor, ranks: Ranks = ALONE) -> None:
    """Take from a gradient, in place, what would change the norm of a latent's decoder, all sites together.

    Args:
        gradient_LSD: gradient of the decoder (shape: [L, S, D]).
        W_dec_LSD: decoder of unit norm (shape: [L, S, D]).
        ranks: the processes, each of which has some of the sites.
    """
    along_L11 = ranks.sum_over_sites((gradient_LSD * W_dec_LSD).sum((1, 2), keepdim=True))
    gradient_LSD.sub_(along_L11 * W_dec_LSD)


def tie_sites(gradient_LSD: Tensor, latents: int, sites: int, ranks: Ranks = ALONE) -> None:
    """Give the first latents, in place, the mean over all sites of their gradient.

    It is the gradient's projection on decoders that are the same at all sites: decoders that are equal stay so, to the
    bit, since Adam treats entries with equal gradients and moments alike.

    Args:
        gradient_LSD: gradient of the decoder at the sites of this process (shape: [L, S, D]).
        latents: how many latents are shared.
        sites: sites of all processes together.
        ranks: the processes, each of which has some of the sites.
    """
    gradient_LSD[:latents] = ranks.sum_over_sites(gradient_LSD[:latents].sum(1, keepdim=True)) / sites


def restore_unit_norm(W_dec_LSD: Tensor, ranks: Ranks = ALONE) -> None:
    """Scale each latent's decoder, all sites of all processes together, to norm 1, in place."""
    W_dec_LSD.div_(ranks.norm_over_sites(torch.linalg.vector_norm(W_dec_LSD, dim=(1, 2), keepdim=True)))


def share_gradients(parameters: Iterable[Tensor], alike: Iterable[Tensor], ranks: Ranks) -> None:
    """Average gradients over data ranks, in place; parameters that all processes have get one gradient, bit by bit.

    Args:
        parameters: those of this process.
        alike: those of them that do not belong to its sites.
        ranks: the processes.
    """
    for parameter in parameters if ranks.data_ranks > 1 else ():
        if parameter.grad is not None:
            ranks.mean_over_data(parameter.grad)
    for parameter in alike:
        if parameter.grad is not None:
            ranks.like_first_site(parameter.grad)


def whole_norm(
    parameters: Iterable[Tensor], alike: Iterable[Tensor], loss: Tensor, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Compute the norm of the gradient of all sites, and the sum of losses over processes (scalars).

    Args:
        parameters: those of this process.
        alike: those of them that all processes have; they count once.
        loss: loss of this process (scalar).
        ranks: the processes.
    """
    counted_before = {id(parameter) for parameter in alike} if ranks.site > 0 else set()
    own = [parameter for parameter in parameters if id(parameter) not in counted_before]
    gradients = [parameter.grad.flatten() for parameter in own if parameter.grad is not None]
    norm = torch.stack([torch.dot(gradient, gradient) for gradient in gradients]).sum().sqrt()
    if ranks.world == 1:
        return norm, loss
    square, total = ranks.total(torch.stack((norm.double().square(), loss.double())))
    return square.sqrt().to(norm.dtype), total.to(norm.dtype)
