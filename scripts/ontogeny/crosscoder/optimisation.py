"""Adam that clips, stops and steps in one pass, and the decoder of unit norm."""

import torch
from torch import Tensor


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


def project_out(gradient_LSD: Tensor, W_dec_LSD: Tensor) -> None:
    """Take from a gradient, in place, what would change the norm of a latent's decoder, all sites together.

    Args:
        gradient_LSD: gradient of the decoder (shape: [L, S, D]).
        W_dec_LSD: decoder of unit norm (shape: [L, S, D]).
    """
    along_L11 = (gradient_LSD * W_dec_LSD).sum((1, 2), keepdim=True)
    gradient_LSD.sub_(along_L11 * W_dec_LSD)


def restore_unit_norm(W_dec_LSD: Tensor) -> None:
    """Scale each latent's decoder, all sites together, to norm 1, in place."""
    W_dec_LSD.div_(torch.linalg.vector_norm(W_dec_LSD, dim=(1, 2), keepdim=True))
