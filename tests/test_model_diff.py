"""Two models by the features of one crosscoder: both relative norms, and latent scaling on planted cases."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from ontogeny.evaluation.model_diff import compared, norm_difference, relative_norm
from ontogeny.evaluation.moments import Moments

Doubles = NDArray[np.float64]
ROWS, WIDTH = 20000, 10
OF_BOTH, OF_B, SHRUNK, DECOUPLED, SUBSTITUTE, OF_A = range(6)
"""What the models have: a feature of both; one of B alone; one of both that the crosscoder writes for B alone, and
that is in A's error; one of both that another latent, the next one, writes for A; and one of A alone."""


def test_relative_norms_are_those_published() -> None:
    norms_L2 = np.array([[3.0, 1.0], [0.0, 2.0], [2.0, 0.0], [1.0, 1.0], [0.7, 0.3], [0.0, 0.0]])
    assert relative_norm(norms_L2) == pytest.approx([0.25, 1, 0, 0.5, 0.3, np.nan], nan_ok=True)
    assert norm_difference(norms_L2) == pytest.approx(
        [(2 / 3 + 1) / 2, 0, 1, 0.5, (4 / 7 + 1) / 2, np.nan], nan_ok=True
    )


@pytest.fixture(scope="module")
def planted() -> tuple[Doubles, Doubles, Doubles]:
    """Feature activations, the decoders of the crosscoder, and activations of both models less its bias."""
    random = np.random.default_rng(0)
    f_BL = random.uniform(0.5, 1.5, (ROWS, 6)) * (random.random((ROWS, 6)) < 0.2)
    f_BL[:, SUBSTITUTE] = f_BL[:, DECOUPLED]
    d_LD = np.linalg.qr(random.standard_normal((WIDTH, WIDTH)))[0][:6] * np.array([2, 1.5, 1, 3, 0.5, 1])[:, None]
    d_LD[SUBSTITUTE] = d_LD[DECOUPLED]
    W_dec_L2D = np.repeat(d_LD[:, None], 2, axis=1)
    W_dec_L2D[OF_B, 0] = W_dec_L2D[SHRUNK, 0] = W_dec_L2D[DECOUPLED, 0] = 0
    W_dec_L2D[SUBSTITUTE, 1] = W_dec_L2D[OF_A, 1] = 0
    x_B2D = np.einsum("bl,lsd->bsd", f_BL, W_dec_L2D)
    x_B2D[:, 0] += f_BL[:, SHRUNK, None] * d_LD[SHRUNK]
    x_B2D += 0.01 * random.standard_normal(x_B2D.shape)
    return f_BL, W_dec_L2D, x_B2D


@pytest.fixture(scope="module")
def table(planted: tuple[Doubles, Doubles, Doubles]) -> pd.DataFrame:
    f_BL, W_dec_L2D, x_B2D = (torch.from_numpy(values) for values in planted)
    moments = Moments(2, WIDTH, 6, torch.device("cpu"))
    error_B2D = x_B2D - torch.einsum("bl,lsd->bsd", f_BL, W_dec_L2D)
    for part in torch.arange(ROWS).split(3000):
        moments.add(x_B2D[part], error_B2D[part], f_BL[part])
    return compared(W_dec_L2D, moments)


def test_betas_are_the_least_squares_scales_of_each_target(
    planted: tuple[Doubles, Doubles, Doubles], table: pd.DataFrame
) -> None:
    f_BL, W_dec_L2D, x_B2D = planted
    x_hat_B2D = np.einsum("bl,lsd->bsd", f_BL, W_dec_L2D)
    for i in range(6):
        larger = np.linalg.norm(W_dec_L2D[i], axis=1).argmax()
        direction = (f_BL[:, i, None] * W_dec_L2D[i, larger]).ravel()
        for s, name in enumerate("ab"):
            error = x_B2D[:, s] - x_hat_B2D[:, s] + f_BL[:, i, None] * W_dec_L2D[i, s]
            for kind, target in (("error", error), ("reconstruction", x_hat_B2D[:, s])):
                (expected,), *_ = np.linalg.lstsq(direction[:, None], target.ravel(), rcond=None)
                assert table[f"beta_{kind}_{name}"][i] == pytest.approx(expected, abs=1e-9), (i, kind, name)


def test_latent_scaling_tells_what_is_of_one_model_alone(table: pd.DataFrame) -> None:
    assert table.norm_difference.round(9).tolist() == [0.5, 0, 0, 0, 1, 1]
    nu = table[["nu_error", "nu_reconstruction"]].to_numpy()
    assert np.abs(nu[[OF_B, OF_A]]).max() < 0.05
    assert nu[SHRUNK] == pytest.approx([1, 0], abs=0.05)
    assert nu[DECOUPLED] == pytest.approx([0, 1], abs=0.05)
    assert table.cosine[OF_BOTH] == pytest.approx(1)
    assert table.firings.between(0.18 * ROWS, 0.22 * ROWS).all()


def test_the_cosine_of_equal_and_of_opposite_decoders_is_no_more_than_1() -> None:
    random = torch.Generator().manual_seed(0)
    d_LD = torch.randn(500, WIDTH, generator=random, dtype=torch.float64)
    unclamped = torch.nn.functional.cosine_similarity(d_LD, d_LD, dim=1)
    assert unclamped.max() > 1, "rounding as in real decoders"
    moments = Moments(2, WIDTH, 500, torch.device("cpu"))
    x_B2D = torch.randn(4, 2, WIDTH, generator=random, dtype=torch.float64)
    moments.add(x_B2D, x_B2D, torch.ones(4, 500, dtype=torch.float64))
    for sign in (1, -1):
        cosine = compared(torch.stack([d_LD, sign * d_LD], dim=1), moments).cosine
        assert cosine.between(-1, 1).all()
        assert cosine.to_numpy() == pytest.approx(sign)
