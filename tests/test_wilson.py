"""Wilson's intervals of shares."""

import numpy as np
import pandas as pd
import pytest

from ontogeny.figures.wilson import wilson_interval, with_count_interval


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, 857, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_intervals_are_those_of_the_publication(count: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(count, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_at_its_ends_the_share_found_is_as_far_off_as_a_normal_one_may_be() -> None:
    """The interval holds the shares q for which (p - q)^2 <= z^2 q (1 - q) / n."""
    count, total = np.array([3.0, 48.0, 250.0]), np.array([10.0, 1898.0, 300.0])
    for end in wilson_interval(count, total):
        off = np.abs(count / total - end) / np.sqrt(end * (1 - end) / total)
        np.testing.assert_allclose(off, 1.959964, rtol=1e-6)
    narrow, wide = (np.subtract(*wilson_interval(count, total, share)[::-1]) for share in (0.5, 0.99))
    assert (narrow < wide).all()


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).binomial(200, 0.03, 20000)
    low, high = wilson_interval(drawn, 200)
    assert ((low <= 0.03) & (high >= 0.03)).mean() == pytest.approx(0.95, abs=0.02)


def test_counts_have_intervals_in_their_own_unit_and_none_where_there_is_nothing() -> None:
    table = with_count_interval(pd.DataFrame({"n": [81, 5, 0], "of": [263, np.nan, 0]}), "n", "of")
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([0.2553 * 263, 0.3662 * 263], abs=0.02)
    assert table.loc[1:, ["low", "high"]].isna().all(axis=None)
