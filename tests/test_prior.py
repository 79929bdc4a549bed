"""Tests of the mixture that latents are drawn from."""

import json

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from prior import Mixture, fit_mixture, standard_normal

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-2.0, 0.0, 1.0], [1.0, 1.0, -1.0]])
FACTORS = np.array(
    [
        [[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [0.0, -0.3, 0.6]],
        [[0.5, 0.0, 0.0], [0.0, 1.5, 0.0], [0.7, 0.2, 0.4]],
    ]
)
TRUTH = Mixture(WEIGHTS, MEANS, FACTORS)
COVARIANCES = FACTORS @ FACTORS.transpose(0, 2, 1)


def test_the_density_is_that_of_scipy():
    z = np.random.default_rng(0).normal(size=(50, 3))
    expected = sum(
        weight * multivariate_normal(mean, covariance).pdf(z)
        for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    )
    np.testing.assert_allclose(TRUTH.log_density(z), np.log(expected), rtol=1e-9)


def test_samples_have_the_mean_and_covariance_of_the_mixture():
    z = TRUTH.sample(200_000, seed=1)
    mean = WEIGHTS @ MEANS
    spread = MEANS - mean
    covariance = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES) + (WEIGHTS * spread.T) @ spread
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=0.015)
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.03)


def test_the_same_seed_draws_the_same_and_another_does_not():
    np.testing.assert_array_equal(TRUTH.sample(5, seed=2), TRUTH.sample(5, seed=2))
    assert not np.allclose(TRUTH.sample(5, seed=2), TRUTH.sample(5, seed=3))


def test_a_fit_of_many_subjects_comes_near_to_the_truth():
    z = TRUTH.sample(40_000, seed=4)  # so many that the shrinkage does not show
    held_out = TRUTH.sample(4000, seed=5)
    fitted = fit_mixture(z, components=2)
    gap = TRUTH.log_density(held_out).mean() - fitted.log_density(held_out).mean()
    assert -0.001 < gap < 0.01
    order = np.argsort(fitted.weights)
    np.testing.assert_allclose(fitted.weights[order], WEIGHTS, atol=0.03)
    np.testing.assert_allclose(fitted.means[order], MEANS, atol=0.1)


def test_a_mixture_fits_two_groups_better_than_one_gaussian_does():
    z, held_out = TRUTH.sample(1000, seed=6), TRUTH.sample(1000, seed=7)
    one, several = fit_mixture(z, components=1), fit_mixture(z)
    gaussian = multivariate_normal(z.mean(axis=0), np.cov(z.T)).logpdf(held_out).mean()
    assert one.log_density(held_out).mean() == pytest.approx(gaussian, abs=0.005)
    assert several.log_density(held_out).mean() > gaussian + 0.3


def test_a_small_component_is_shrunken_towards_the_covariance_of_all():
    # Ten copies of one subject: without shrinkage their component has no width at all.
    rare = np.tile([30.0, 0.0, 0.0], (10, 1))
    z = np.concatenate([np.random.default_rng(8).normal(size=(190, 3)), rare])
    fitted = fit_mixture(z, components=2)
    small = fitted.factors[np.argmax(fitted.means[:, 0])]
    assert np.linalg.det(small) > 0.3


@pytest.mark.parametrize(("subjects", "expected"), [(3, 1), (15, 1), (16, 2), (400, 4)])
def test_few_subjects_get_few_components(subjects, expected):
    z = np.random.default_rng(9).normal(size=(subjects, 3))
    fitted = fit_mixture(z)
    assert len(fitted.weights) == expected
    assert np.isfinite(fitted.sample(10)).all()


def test_the_standard_normal_is_what_it_says():
    z = np.random.default_rng(10).normal(size=(20, 4))
    expected = multivariate_normal(np.zeros(4)).logpdf(z)
    np.testing.assert_allclose(standard_normal(4).log_density(z), expected)


def test_json_gives_back_the_same_draws():
    again = Mixture.from_dict(json.loads(json.dumps(TRUTH.to_dict())), 3)
    np.testing.assert_array_equal(again.sample(20, seed=1), TRUTH.sample(20, seed=1))


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        [],
        {**TRUTH.to_dict(), "weights": "many"},
        {**TRUTH.to_dict(), "weights": []},
        {**TRUTH.to_dict(), "weights": 1.0},
        {**TRUTH.to_dict(), "weights": [0.5, -0.5]},
        {**TRUTH.to_dict(), "means": [[0.0, 0.0], [1.0, 1.0]]},
        {**TRUTH.to_dict(), "factors": np.full((2, 3, 3), np.nan).tolist()},
    ],
)
def test_a_damaged_description_is_one_clear_error(damaged):
    with pytest.raises(ValueError, match="mixture"):
        Mixture.from_dict(damaged, 3)
