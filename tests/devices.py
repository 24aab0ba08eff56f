"""Every device of this machine, for tests of code that runs on any of them."""

import pytest
import torch
from torch import Tensor

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

on_every_device = pytest.mark.parametrize("device", DEVICES)


def random(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Draw the same normal numbers on every device, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)
