"""FVU, L0, density and dead latents as sums in float64 over heldout rows, whatever the batches they come in."""

import torch
from torch import Tensor


class ReconstructionSums:
    """Errors and variances of every site, added batch by batch.

    The mean moves as batches arrive and the spread follows it (Chan, Golub and LeVeque 1979), so that a mean far
    from zero costs no digits.
    """

    def __init__(self, sites: int, d_model: int) -> None:
        self.rows = 0
        self.mean_SD = torch.zeros(sites, d_model, dtype=torch.float64)
        self.spread_S = torch.zeros(sites, dtype=torch.float64)
        self.error_S = torch.zeros(sites, dtype=torch.float64)

    def add(self, x_BSD: Tensor, x_hat_BSD: Tensor) -> None:
        """Add rows.

        Args:
            x_BSD: raw activations, (B, S, D), of any floating type.
            x_hat_BSD: their reconstructions, in the same units.
        """
        x_BSD, rows = x_BSD.double(), len(x_BSD)
        self.error_S += (x_BSD - x_hat_BSD.double()).square().sum((0, 2)).cpu()
        mean_SD = x_BSD.mean(0)
        self.spread_S += (x_BSD - mean_SD).square().sum((0, 2)).cpu()
        shift_SD = mean_SD.cpu() - self.mean_SD
        total = self.rows + rows
        self.spread_S += shift_SD.square().sum(1) * (self.rows * rows / total)
        self.mean_SD += shift_SD * (rows / total)
        self.rows = total

    def fvu(self) -> Tensor:
        """Fraction of variance unexplained of each site: sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, (S,).

        The mean is that of the rows added. Predicting it gives 1, a perfect reconstruction 0; sites whose rows are
        all equal give infinity or not-a-number.
        """
        return self.error_S / self.spread_S

    def pooled_fvu(self, scales_S: Tensor) -> float:
        """Fraction of variance unexplained of all sites together, both sums taken over scaled activations.

        Args:
            scales_S: a_s of each site, (S,); without them the checkpoint with the largest activations would decide.
        """
        weights_S = scales_S.double().cpu().square()
        return float((weights_S * self.error_S).sum() / (weights_S * self.spread_S).sum())


class ActivityCounts:
    """On how many rows each latent fires: f is not 0, whichever gate, threshold or norm made it so."""

    def __init__(self, sites: int, latents: int) -> None:
        self.rows = 0
        self.count_SL = torch.zeros(sites, latents, dtype=torch.int64)
        self.count_L = torch.zeros(latents, dtype=torch.int64)

    def add(self, f: Tensor) -> None:
        """Add activations: (B, L) where all sites share them, (B, S, L) under gate `site`."""
        fires = f != 0
        self.rows += len(f)
        count = fires.sum(0).cpu()
        self.count_SL += count
        self.count_L += count if f.ndim == 2 else fires.any(1).sum(0).cpu()

    def l0(self) -> Tensor:
        """Mean number of latents that fire on a row, for each site, (S,); pooled it is the mean over sites."""
        return self.count_SL.sum(1, dtype=torch.float64) / self.rows

    def density(self) -> Tensor:
        """Share of rows on which a latent fires at any site, (L,)."""
        return self.count_L.double() / self.rows

    def dead_share(self) -> float:
        """Share of latents that are silent at all sites on all rows."""
        return float((self.count_L == 0).double().mean())
