"""Tests of the mixture that latents are drawn from."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, multivariate_t

from model import prior
from model.prior import Mixture, Prior, fit_mixture, fit_prior, standard_normal

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-2.0, 0.0, 1.0], [1.0, 1.0, -1.0]])
FACTORS = np.array(
    [
        [[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [0.0, -0.3, 0.6]],
        [[0.5, 0.0, 0.0], [0.0, 1.5, 0.0], [0.7, 0.2, 0.4]],
    ]
)
TRUTH = Mixture(WEIGHTS[:, None], MEANS[:, None], FACTORS, np.ones(1))
# The same shapes in two sizes, the second of other means.
SIZES = np.array([0.5, 2.0])
IN_SIZES = Mixture(
    np.array([[0.1, 0.2], [0.6, 0.1]]),
    np.stack([MEANS, MEANS + [0.5, -1.0, 0.0]], axis=1),
    FACTORS,
    SIZES,
)


def components(mixture):
    """(weight, mean, covariance) of each Gaussian of a mixture."""
    for k, j in np.ndindex(mixture.weights.shape):
        factor = mixture.scales[j] * mixture.factors[k]
        yield mixture.weights[k, j], mixture.means[k, j], factor @ factor.T


@pytest.mark.parametrize("mixture", [TRUTH, IN_SIZES])
def test_the_density_is_that_of_scipy(mixture):
    z = np.random.default_rng(0).normal(size=(50, 3))
    expected = sum(
        weight * multivariate_normal(mean, covariance).pdf(z)
        for weight, mean, covariance in components(mixture)
    )
    np.testing.assert_allclose(mixture.log_density(z), np.log(expected), rtol=1e-9)


@pytest.mark.parametrize("mixture", [TRUTH, IN_SIZES])
def test_samples_have_the_mean_and_covariance_of_the_mixture(mixture):
    z = mixture.sample(200_000, seed=1)
    weights, means, covariances = map(np.array, zip(*components(mixture), strict=True))
    mean = weights @ means
    spread = means - mean
    covariance = np.einsum("k,kij->ij", weights, covariances) + (weights * spread.T) @ spread
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=0.015)
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.03)
    found, sd = mixture.moments()
    np.testing.assert_allclose(found, mean)
    np.testing.assert_allclose(sd, np.sqrt(np.diag(covariance)))


def test_the_same_seed_draws_the_same_and_another_does_not():
    np.testing.assert_array_equal(TRUTH.sample(5, seed=2), TRUTH.sample(5, seed=2))
    assert not np.allclose(TRUTH.sample(5, seed=2), TRUTH.sample(5, seed=3))


def test_a_fit_of_many_subjects_comes_near_to_the_truth():
    z = TRUTH.sample(40_000, seed=4)  # so many that the shrinkage does not show
    held_out = TRUTH.sample(4000, seed=5)
    fitted = fit_mixture(z, components=2)
    gap = TRUTH.log_density(held_out).mean() - fitted.log_density(held_out).mean()
    assert -0.001 < gap < 0.01
    order = np.argsort(fitted.weights.sum(axis=1))
    np.testing.assert_allclose(fitted.weights.sum(axis=1)[order], WEIGHTS, atol=0.03)
    means = (fitted.weights[..., None] * fitted.means).sum(axis=1) / fitted.weights.sum(
        axis=1, keepdims=True
    )
    np.testing.assert_allclose(means[order], MEANS, atol=0.1)


def test_of_very_many_subjects_an_even_selection_makes_the_mixture(monkeypatch):
    z = TRUTH.sample(1000, seed=4)
    monkeypatch.setattr(prior, "MOST", 334)
    np.testing.assert_array_equal(fit_mixture(z).means, fit_mixture(z[::3]).means)
    assert not np.allclose(fit_mixture(z).means, fit_mixture(z[:334]).means)


@pytest.mark.parametrize("freedom", [3, 6])
def test_heavy_tails_are_those_of_the_truth(freedom):
    # A Student t in four dimensions: no finite mixture has it, so its density is the judge.
    truth = multivariate_t(np.zeros(4), np.eye(4), df=freedom)
    z, held_out = (truth.rvs(4000, random_state=seed) for seed in (1, 2))
    gaussian = multivariate_normal(z.mean(axis=0), np.cov(z.T)).logpdf(held_out).mean()
    gap = truth.logpdf(held_out).mean() - fit_mixture(z).log_density(held_out).mean()
    assert gap < 0.05
    assert truth.logpdf(held_out).mean() - gaussian > 3 * gap
    drawn = np.linalg.norm(fit_mixture(z).sample(20_000), axis=1)
    for percentile in (5, 50, 95):
        expected = np.percentile(np.linalg.norm(held_out, axis=1), percentile)
        assert np.percentile(drawn, percentile) == pytest.approx(expected, rel=0.06)


def test_far_subjects_may_lie_on_one_side():
    # A tenth are three times as wide, and elsewhere.
    rng = np.random.default_rng(3)
    far = rng.random(5000) < 0.1
    z = rng.normal(size=(5000, 3)) * np.where(far, 3, 1)[:, None] + far[:, None] * [3.0, 0, 0]
    drawn = fit_mixture(z, components=1).sample(50_000)
    np.testing.assert_allclose(drawn.mean(axis=0), z.mean(axis=0), atol=0.08)
    skew = ((z - z.mean(axis=0)) ** 3).mean(axis=0)[0]
    assert ((drawn - drawn.mean(axis=0)) ** 3).mean(axis=0)[0] == pytest.approx(skew, rel=0.3)


def test_a_mixture_fits_two_groups_better_than_one_gaussian_does():
    z, held_out = TRUTH.sample(1000, seed=6), TRUTH.sample(1000, seed=7)
    gaussian = multivariate_normal(z.mean(axis=0), np.cov(z.T)).logpdf(held_out).mean()
    assert fit_mixture(z).log_density(held_out).mean() > gaussian + 0.3


def test_of_gaussian_latents_nothing_is_lost_to_the_sizes():
    z, held_out = np.random.default_rng(6).normal(size=(2, 2000, 5))
    gaussian = multivariate_normal(z.mean(axis=0), np.cov(z.T)).logpdf(held_out).mean()
    received = fit_mixture(z, components=1).log_density(held_out).mean()
    assert received == pytest.approx(gaussian, abs=0.001)


def test_a_small_component_is_shrunken_towards_the_covariance_of_all():
    # Ten copies of one subject: without shrinkage their component has no width at all.
    rare = np.tile([30.0, 0.0, 0.0], (10, 1))
    z = np.concatenate([np.random.default_rng(8).normal(size=(190, 3)), rare])
    fitted = fit_mixture(z, components=2)
    k, j = np.unravel_index(np.argmax(fitted.means[..., 0]), fitted.weights.shape)
    assert np.linalg.det(fitted.scales[j] * fitted.factors[k]) > 0.3


@pytest.mark.parametrize(("subjects", "expected"), [(3, 1), (15, 1), (16, 2), (400, 4)])
def test_few_subjects_get_few_components(subjects, expected):
    z = np.random.default_rng(9).normal(size=(subjects, 3))
    fitted = fit_mixture(z)
    assert len(fitted.weights) == expected
    assert np.isfinite(fitted.sample(10)).all()


def test_the_standard_normal_is_what_it_says():
    z, conditions = np.random.default_rng(10).normal(size=(2, 20, 4))
    prior = standard_normal(4, 4)
    expected = multivariate_normal(np.zeros(4)).logpdf(z)
    np.testing.assert_allclose(prior.log_density(z, conditions), expected)
    drawn = prior.sample(np.ones((20_000, 4)), seed=1)
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(4), atol=0.05)


# Two conditions; the latent hangs on both, its spread on the second.
MEAN = np.array([[0.2, 0, 0], [1, 0, 0], [0, -1, 0.5]])
LOG_SD = np.array([[0, 0, 0], [0, 0, 0], [0.5, 0, -0.3]])
# The second latent takes a share of the first that grows with the second condition, the third ones
# of both, at all conditions.
COUPLING = np.zeros((3, 3, 3))
COUPLING[2, 1, 0] = 0.6
COUPLING[0, 2, :2] = 0.2, -0.4
CONDITIONAL = Prior(MEAN, LOG_SD, COUPLING, *standard_normal(3, 0).mixture)


def subjects(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 2))


def test_the_density_given_conditions_is_that_of_scipy():
    conditions, z = subjects(40, 0), np.random.default_rng(1).normal(size=(40, 3))
    received = CONDITIONAL.log_density(z, conditions)
    for row in range(40):
        one, other = conditions[row]
        mean = np.array([0.2 + one, -other, 0.5 * other])
        sd = np.exp([0.5 * other, 0, -0.3 * other])
        mixed = np.linalg.inv(np.eye(3) - COUPLING[0] - other * COUPLING[2])
        covariance = np.diag(sd) @ mixed @ mixed.T @ np.diag(sd)
        expected = multivariate_normal(mean, covariance).logpdf(z[row])
        assert received[row] == pytest.approx(expected)


def test_draws_have_the_covariance_of_the_density():
    conditions = np.tile([0.0, 1.5], (200_000, 1))
    z = CONDITIONAL.sample(conditions, seed=2)
    mixed = np.linalg.inv(np.eye(3) - COUPLING[0] - 1.5 * COUPLING[2])
    sd = np.diag(np.exp([0.75, 0, -0.45]))
    np.testing.assert_allclose(np.cov(z.T), sd @ mixed @ mixed.T @ sd, atol=0.04)


def test_a_fitted_prior_follows_the_conditions_in_mean_spread_and_coupling():
    conditions = subjects(20_000, 2)
    fitted = fit_prior(CONDITIONAL.sample(conditions, seed=3), conditions)
    np.testing.assert_allclose(fitted.mean[1:], MEAN[1:], atol=0.05)
    np.testing.assert_allclose(fitted.log_sd[1:], LOG_SD[1:], atol=0.06)
    # What couples latents at the mean of the conditions, 0 here, is a matter of the mixture.
    np.testing.assert_allclose(fitted.coupling[0], 0, atol=0.01)
    held_out = subjects(20_000, 4)
    z = CONDITIONAL.sample(held_out, seed=5)
    gap = CONDITIONAL.log_density(z, held_out) - fitted.log_density(z, held_out)
    assert -0.002 < gap.mean() < 0.03
    uncoupled = fitted._replace(coupling=np.zeros((3, 3, 3)))
    assert (CONDITIONAL.log_density(z, held_out) - uncoupled.log_density(z, held_out)).mean() > 0.1


@pytest.mark.parametrize("far", [1.0, 15.0, 300.0])
def test_the_spread_is_the_penalised_maximum_of_scipy_even_if_one_subject_is_far_out(far):
    conditions = subjects(243, 14)
    z = np.random.default_rng(15).normal(size=(243, 3)) * np.exp(conditions @ LOG_SD[1:])
    z[0] = far
    fitted = fit_prior(z, conditions)
    design = np.column_stack([np.ones(243), conditions])
    rest = z - design @ fitted.mean

    def loss(log_sd, latent):
        eta = design @ log_sd
        nats = eta + (rest[:, latent] * np.exp(-eta)) ** 2 / 2
        return nats.sum() + prior.PENALTY * (log_sd[1:] ** 2).sum()

    for latent, found in enumerate(fitted.log_sd.T):
        best = minimize(loss, np.zeros(3), (latent,), "Nelder-Mead", options={"fatol": 1e-10}).x
        np.testing.assert_allclose(found, best, atol=2e-3)


def test_where_a_condition_has_its_zero_does_not_matter():
    conditions = subjects(500, 12)
    z = CONDITIONAL.sample(conditions, seed=13)
    fitted, shifted = fit_prior(z, conditions), fit_prior(z, conditions + [0.0, 5.0])
    assert np.abs(fitted.coupling[2]).max() > 0.1
    np.testing.assert_allclose(
        shifted.log_density(z, conditions + [0.0, 5.0]),
        fitted.log_density(z, conditions),
        rtol=1e-6,
    )


def test_a_fitted_prior_keeps_the_mixture_of_what_is_left():
    conditions = subjects(4000, 6)
    u = TRUTH.sample(4000, seed=7)
    fitted = fit_prior(u + conditions @ np.ones((2, 3)), conditions)
    held_out = TRUTH.sample(4000, seed=8)
    density = fitted.log_density(held_out, np.zeros((4000, 2))).mean()
    gaussian = multivariate_normal(u.mean(axis=0), np.cov(u.T)).logpdf(held_out).mean()
    assert density > gaussian + 0.3


def test_of_noise_alone_few_subjects_learn_next_to_nothing_of_the_conditions():
    z = np.random.default_rng(9).normal(size=(100, 3))
    fitted = fit_prior(z, subjects(100, 10))
    assert np.abs(fitted.mean[1:]).max() < 0.25
    assert np.abs(fitted.log_sd[1:]).max() < 0.25
    assert np.abs(fitted.coupling).max() < 0.05


def test_a_condition_that_never_varies_and_none_at_all_are_no_trouble():
    z = np.random.default_rng(11).normal(size=(60, 3))
    for conditions in (np.ones((60, 2)), np.zeros((60, 2)), np.zeros((60, 0))):
        fitted = fit_prior(z, conditions)
        drawn = fitted.sample(np.repeat(conditions, 200, axis=0), seed=1)
        np.testing.assert_allclose(drawn.std(axis=0), z.std(axis=0), rtol=0.1)


def test_the_same_draw_is_placed_where_the_conditions_ask_for():
    conditions = np.array([[0.0, 0.0], [2.0, 0.0]])
    for row in (0, 1):
        drawn = CONDITIONAL.sample(conditions[[row] * 5], seed=4)
        expected = CONDITIONAL.sample(np.zeros((5, 2)), seed=4) + [2 * row, 0, 0]
        np.testing.assert_allclose(drawn, expected)


def test_json_gives_back_the_same_draws():
    again = Prior.from_dict(json.loads(json.dumps(CONDITIONAL.to_dict())), 3, 2)
    conditions = subjects(20, 0)
    received = again.sample(conditions, seed=1)
    np.testing.assert_array_equal(received, CONDITIONAL.sample(conditions, seed=1))


def test_a_prior_of_before_there_was_a_coupling_has_none():
    earlier = {name: part for name, part in CONDITIONAL.to_dict().items() if name != "coupling"}
    assert not Prior.from_dict(earlier, 3, 2).coupling.any()


def test_a_mixture_of_before_there_were_sizes_has_one():
    prior = Prior(MEAN, LOG_SD, COUPLING, *TRUTH)
    earlier = prior.to_dict() | {"weights": WEIGHTS.tolist(), "means": MEANS.tolist()}
    del earlier["scales"]
    conditions = subjects(20, 0)
    received = Prior.from_dict(earlier, 3, 2).sample(conditions, seed=1)
    np.testing.assert_array_equal(received, prior.sample(conditions, seed=1))


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        [],
        {**CONDITIONAL.to_dict(), "weights": "many"},
        {**CONDITIONAL.to_dict(), "weights": []},
        {**CONDITIONAL.to_dict(), "weights": 1.0},
        {**CONDITIONAL.to_dict(), "weights": [[-1.0]]},
        {**CONDITIONAL.to_dict(), "scales": [0.0]},
        {**CONDITIONAL.to_dict(), "scales": [1.0, 2.0]},
        {**CONDITIONAL.to_dict(), "scales": 1.0},
        {**CONDITIONAL.to_dict(), "mean": MEAN[:2].tolist()},
        {**CONDITIONAL.to_dict(), "coupling": COUPLING[:2].tolist()},
        {**CONDITIONAL.to_dict(), "coupling": COUPLING.transpose(0, 2, 1).tolist()},
        {**CONDITIONAL.to_dict(), "means": [[[0.0, 0.0]]]},
        {**CONDITIONAL.to_dict(), "factors": np.full((1, 3, 3), np.nan).tolist()},
    ],
)
def test_a_damaged_description_is_one_clear_error(damaged):
    with pytest.raises(ValueError, match="prior"):
        Prior.from_dict(damaged, 3, 2)
