"""Agreement of dates from tables of counts, beside the plain formulas on the dates themselves."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ontogeny.evaluation.agreement import (
    PERMUTATIONS,
    bootstrap,
    contingency,
    equal,
    equal_by_chance,
    permutation_p,
    spearman,
    within,
)


def ranks(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rank values one by one, those that are equal at the mean of their places."""
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


@pytest.fixture
def dates() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    random = np.random.default_rng(0)
    first = random.integers(0, 5, 300)
    return first, np.clip(first + random.integers(-1, 3, 300), 0, 4)


def test_shares_by_hand() -> None:
    table = contingency(np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 2, 2, 0]), 3)
    assert table.tolist() == [[2, 1, 0], [0, 0, 1], [1, 0, 1]]
    assert float(equal(table)) == 3 / 6
    assert float(within(table)) == 5 / 6
    assert equal_by_chance(table) == (3 * 3 + 1 * 1 + 2 * 2) / 36


def test_rank_correlation_is_pearsons_of_mean_ranks(dates: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
    table = contingency(*dates, 6)
    assert float(spearman(table)) == pytest.approx(np.corrcoef(ranks(dates[0]), ranks(dates[1]))[0, 1], abs=1e-12)
    assert spearman(np.stack([table, table.T, np.diag([3, 2, 0, 0, 1, 9])])) == pytest.approx(
        [float(spearman(table))] * 2 + [1.0]
    )


def test_interval_is_that_of_resampled_features(dates: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
    found = bootstrap(contingency(*dates, 5), spearman, np.random.default_rng(1))
    random, samples = np.random.default_rng(2), []
    for _ in range(500):
        chosen = random.integers(0, 300, 300)
        samples.append(np.corrcoef(ranks(dates[0][chosen]), ranks(dates[1][chosen]))[0, 1])
    assert [found.low, found.high] == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=0.015)
    assert found.low < found.value < found.high


def test_p_tells_chance_from_agreement(dates: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
    random = np.random.default_rng(3)
    assert permutation_p(contingency(*dates, 5), random) == 1 / (PERMUTATIONS + 1)
    by_chance = [permutation_p(contingency(dates[0], random.permutation(dates[1]), 5), random) for _ in range(8)]
    assert 0.2 < np.mean(by_chance) < 0.8
    assert permutation_p(np.array([[0, 1], [1, 0]]), random) == 1
    assert permutation_p(np.array([[1, 0], [0, 1]]), random) == pytest.approx(0.5, abs=0.03)


def test_nothing_to_compare_is_not_a_number() -> None:
    for table in (np.zeros((3, 3), np.int64), np.diag([5, 0, 0])):
        assert np.isnan(spearman(table))
        assert np.isnan(permutation_p(table, np.random.default_rng(0)))
        assert np.isnan(bootstrap(table, spearman, np.random.default_rng(0)).low)
    assert np.isnan(equal(np.zeros((3, 3), np.int64)))
    assert np.isnan(equal_by_chance(np.zeros((3, 3), np.int64)))
