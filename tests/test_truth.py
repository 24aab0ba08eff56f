"""Comparisons with the truth, on dictionaries small enough to be compared by hand."""

import numpy as np
import pytest

from ontogeny.evaluation.emergence import ABSENT
from ontogeny.evaluation.truth import Lifetimes, cosines, find_planted, lifetimes, mean_max_cosine_similarity, rotations

# Three sites, two channels. Feature 0 is there throughout, 1 emerges at site 1, 2 turns by 90 degrees.
PLANTED_GSD = np.array(
    [
        [[1, 0], [1, 0], [1, 0]],
        [[0, 0], [0, 1], [0, 1]],
        [[1, 0], [0.5**0.5, 0.5**0.5], [0, 1]],
    ]
)
# Latent 0 is feature 1 with a trace of it at site 0, latent 1 is nothing, 2 is feature 2, 3 is feature 0 but dies.
LEARNT_LSD = np.array(
    [
        [[0, 0.1], [0, 2], [0, 2]],
        [[0, 0], [0, 0], [0, 0]],
        [[3, 0], [3 * 0.5**0.5, 3 * 0.5**0.5], [0, 3]],
        [[4, 0], [4, 0], [0, 0]],
    ]
)


def test_cosines_are_over_all_sites_together() -> None:
    expected_LG = [
        [0, 4 / (8.01**0.5 * 2**0.5), (2 * 0.5**0.5 + 2) / (8.01**0.5 * 3**0.5)],
        [0, 0, 0],
        [(1 + 0.5**0.5) / 3, (0.5**0.5 + 1) / 6**0.5, 1],
        [(2 / 3) ** 0.5, 0, (1 + 0.5**0.5) / 6**0.5],
    ]
    assert cosines(LEARNT_LSD, PLANTED_GSD) == pytest.approx(np.array(expected_LG))


def test_mmcs_says_how_much_was_found_and_how_little_else_there_is() -> None:
    found, pure = mean_max_cosine_similarity(LEARNT_LSD, PLANTED_GSD)
    near, half = 4 / (8.01**0.5 * 2**0.5), (2 / 3) ** 0.5
    assert found == pytest.approx((half + near + 1) / 3)
    assert pure == pytest.approx((near + 0 + 1 + half) / 4)
    assert mean_max_cosine_similarity(PLANTED_GSD, PLANTED_GSD) == pytest.approx((1, 1))
    assert mean_max_cosine_similarity(-PLANTED_GSD[:1], PLANTED_GSD[:1]) == pytest.approx((-1, -1))


def test_cosines_of_float32_are_summed_in_float64() -> None:
    vectors = np.random.default_rng(0).standard_normal((4, 50, 100)).astype(np.float32)
    double = vectors.astype(np.float64).reshape(4, -1)
    norms = np.linalg.norm(double, axis=1)
    assert cosines(vectors, vectors) == pytest.approx(double @ double.T / np.outer(norms, norms), abs=1e-14)


def test_lifetimes_reach_from_the_first_site_above_tau_to_the_last() -> None:
    norms_LS = np.array([[2.0, 2, 2, 2], [0.9, 1.1, 2, 0.9], [0, 0, 0, 5], [3, 0, 3, 0], [0, 0, 0, 0]])
    found = lifetimes(norms_LS, 0.5)
    assert found.emergence.tolist() == [0, 1, 3, 0, ABSENT]
    assert found.death.tolist() == [4, 3, 4, 3, ABSENT]
    assert lifetimes(norms_LS, 0.4).death.tolist() == [4, 4, 4, 3, ABSENT]


def test_rotation_is_the_angle_between_the_ends_of_a_life() -> None:
    turning = [[np.cos(np.radians(angle)), np.sin(np.radians(angle))] for angle in (0, 60, 130, 180)]
    decoder_LSD = np.array([turning] * 4) * np.arange(1, 5)[:, None]
    lived = Lifetimes(np.array([0, 0, 1, ABSENT]), np.array([4, 3, 2, ABSENT]))
    assert rotations(decoder_LSD, lived) == pytest.approx([180, 130, 0, np.nan], nan_ok=True)
    small = np.array([[[1.0, 0.0], [1.0, 1e-9]]])
    assert rotations(small, Lifetimes(np.array([0]), np.array([2]))) == pytest.approx(np.degrees(1e-9), rel=1e-6)


def test_each_planted_feature_is_read_from_its_closest_latent() -> None:
    found = find_planted(LEARNT_LSD, PLANTED_GSD, 0.5)
    assert found.latent.tolist() == [3, 0, 2]
    assert found.cosine == pytest.approx([(2 / 3) ** 0.5, 4 / (8.01**0.5 * 2**0.5), 1])
    assert found.recovered().tolist() == [False, True, True]
    assert found.recovered(0.8).tolist() == [True, True, True]
    assert found.lifetimes.emergence.tolist() == [0, 1, 0]
    assert found.lifetimes.death.tolist() == [2, 3, 3]
    assert found.angle == pytest.approx([0, 0, 90])


def test_the_truth_is_found_in_itself() -> None:
    found = find_planted(PLANTED_GSD, PLANTED_GSD, 0.5)
    assert found.latent.tolist() == [0, 1, 2]
    assert found.lifetimes.emergence.tolist() == [0, 1, 0]
    assert found.lifetimes.death.tolist() == [3, 3, 3]
