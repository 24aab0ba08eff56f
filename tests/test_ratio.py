"""Means over tokens whose documents are of unlike length."""

import math

import numpy as np
import pytest
import torch

from ontogeny.evaluation.ratio import ratio_over_groups


def test_two_documents_counted_by_hand() -> None:
    """Document 7 has losses 2 and 4 on two and two tokens, document 3 has 6 on one: the mean is 12 / 5."""
    found = ratio_over_groups(torch.tensor([[2.0], [4.0], [6.0]]), torch.tensor([2, 2, 1]), torch.tensor([7, 7, 3]))
    assert found.groups == 2
    assert float(found.mean) == pytest.approx(2.4)
    # Residuals are 6 - 2.4 * 4 = -3.6 and 6 - 2.4 = 3.6; G / (G - 1) = 2.
    assert float(found.standard_error) == pytest.approx(math.sqrt(2 * 2 * 3.6**2) / 5)


def test_with_groups_of_one_size_it_is_the_error_of_the_mean_of_means() -> None:
    sums = np.random.default_rng(0).normal(size=(12, 3))
    found = ratio_over_groups(torch.from_numpy(sums), torch.full((12,), 5), torch.arange(12) // 2)
    means = sums.reshape(6, 2, 3).sum(1) / 10
    np.testing.assert_allclose(found.mean, means.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, means.std(0, ddof=1) / np.sqrt(6), rtol=1e-12)


def test_the_error_is_how_much_means_of_other_documents_differ() -> None:
    """Tokens of a document share half of their variance, so an error over tokens would be far too small."""
    random = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(400):
        items_G = random.integers(5, 60, 30)
        group_N = np.repeat(np.arange(30), items_G)
        value_N = random.normal(size=30)[group_N] + random.normal(size=len(group_N))
        found = ratio_over_groups(
            torch.from_numpy(value_N)[:, None], torch.ones(len(group_N)), torch.from_numpy(group_N)
        )
        means.append(float(found.mean))
        errors.append(float(found.standard_error))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_one_document_has_no_error_and_an_empty_one_does_not_count() -> None:
    found = ratio_over_groups(torch.tensor([[2.0], [0.0]]), torch.tensor([4, 0]), torch.tensor([0, 1]))
    assert (found.groups, float(found.mean)) == (1, 0.5)
    assert math.isnan(float(found.standard_error))
