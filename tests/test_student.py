"""Quantiles of Student's t."""

import math

import numpy as np
import pandas as pd
import pytest

from ontogeny.figures.axes import site_axis
from ontogeny.figures.norms import class_means
from ontogeny.figures.student import student_quantile, with_interval
from ontogeny.sites import Site


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


def test_an_interval_is_cut_where_its_values_end() -> None:
    table = pd.DataFrame({"value": [0.9, 0.0], "standard_error": [0.1, 0.1], "groups": [2, 2]})
    cosines = with_interval(table, within=(-1, 1))
    assert cosines[["low", "high"]].to_numpy() == pytest.approx(np.array([[0.9 - 1.2706, 1.0], [-1.0, 1.0]]), abs=1e-4)
    assert with_interval(table)["high"].tolist() == pytest.approx([2.1706, 1.2706], abs=1e-4)


def test_mean_norms_have_intervals_from_0_to_1_and_of_ten_features_or_more() -> None:
    sites = site_axis([Site("neox", step, "blocks.0.hook_resid_post") for step in (0, 1)])
    norms_LS = np.ones((19, 2))
    # Nine norms of 0 and one of 1: the mean is 0.1, its error 0.1, and t is 2.262 with nine degrees of freedom.
    norms_LS[:9, 0] = 0
    many = np.arange(19) < 10
    table = class_means(sites, norms_LS, {"many": many, "few": ~many}, "norms").set_index(["class", "step"])
    assert table.loc[("many", 0), ["low", "high"]].tolist() == pytest.approx([0, 0.3262], abs=1e-4)
    assert table.loc["few", ["low", "high"]].isna().all(axis=None)
    assert table.loc["few", "standard_error"].tolist() == [0, 0]
