"""Quantiles of Student's t."""

import math

import numpy as np
import pytest

from ontogeny.figures.student import student_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [
        (1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (10, 2.228), (15, 2.131), (30, 2.042),
        (31, 2.040), (120, 1.980), (100_000, 1.960),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(degrees) == pytest.approx(quantile, abs=5e-4)


def test_other_shares_are_held_too() -> None:
    assert student_quantile(15, 0.99) == pytest.approx(2.947, abs=5e-4)
    assert student_quantile(6, 0.9) == pytest.approx(1.943, abs=5e-4)


@pytest.mark.parametrize("degrees", [5, 16])
def test_the_density_between_the_quantiles_holds_the_share(degrees: int) -> None:
    t = np.linspace(-1, 1, 200_001) * student_quantile(degrees)
    log_weight = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    density = np.exp(log_weight) * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    assert np.trapezoid(density, t) == pytest.approx(0.95, abs=1e-9)


def test_one_group_has_no_interval() -> None:
    assert math.isnan(student_quantile(0))
