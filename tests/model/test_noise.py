import math
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

from data.leads import expansion_matrix
from model import noise
from tests.model.test_vae import ECG, ENCODED, INDEPENDENT, LAYERS, SCHEMA, SHAPE, TABLE, Z
from vae import VAE, ModelError

LEADS, SAMPLES = 3, 40
RNG = np.random.default_rng(0)
SD = np.exp(0.6 * np.sin(np.arange(SAMPLES) / 6) + np.array([[0.0], [0.5], [-0.7]]))  # (I, T)
BY_LEAD = np.array([[1, 0.6, 0], [0.6, 1, -0.4], [0, -0.4, 1]])
BY_TIME = 0.6 ** np.abs(np.subtract.outer(np.arange(SAMPLES), np.arange(SAMPLES)))


def t_noise(n, seed=1):
    """Student t of 4 degrees of freedom, of covariance SD x (leads, time) x SD."""
    shape = np.kron(BY_LEAD, BY_TIME) * np.outer(SD.ravel(), SD.ravel())
    draws = stats.multivariate_t(shape=shape, df=4, seed=seed).rvs(n)
    return draws.reshape(n, LEADS, SAMPLES)


def correlations(draws):
    """Between leads, and between samples, of (n, I, T)."""
    alike = draws / np.sqrt(np.square(draws).mean(axis=(1, 2), keepdims=True))
    alike = alike / np.sqrt(np.square(alike).mean(axis=0))
    leads = np.einsum("nit,njt->ij", alike, alike) / alike[:, 0].size
    return leads, np.einsum("nit,nis->ts", alike, alike) / alike[:, :, 0].size


def drawn(fitted, n, seed):
    return np.concatenate([part for _, part in noise.draws(fitted, n, seed)])


@pytest.mark.parametrize("kind", ["per_sample", "per_recording", "learned", 0.1])
def test_the_loss_is_that_of_scipy_in_nats(kind):
    rest = RNG.normal(size=(5, LEADS, SAMPLES))
    log_sd = np.log(SD) if kind == "per_sample" else np.array(0.3)
    sd = np.exp(log_sd * np.ones_like(SD)).ravel()
    flat = rest.reshape(5, -1)
    if kind in ("per_sample", "per_recording"):
        expected = -stats.multivariate_t.logpdf(flat, shape=np.diag(sd**2), df=4)
    else:
        expected = -stats.norm.logpdf(flat, 0, sd).sum(axis=1)
    loss = noise.negative_log_likelihood(rest, log_sd, kind)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), expected, rtol=1e-5)


def test_absolute_deviations_are_a_laplace_distribution_of_a_rate_that_varies(monkeypatch):
    monkeypatch.setattr(noise, "ROUNDED", 1e-6)
    log_sd = np.array([[0.1, -0.4, 0.6]])
    scale = np.exp(log_sd) / np.sqrt(2)
    rate = stats.gamma(noise.FREEDOM, scale=1 / noise.FREEDOM)

    def density(rest):
        def at(value):
            return rate.pdf(value) * stats.laplace.pdf(rest, scale=scale / value).prod()

        return integrate.quad(at, 0, np.inf)[0]

    rest = RNG.normal(size=(4, 1, 3))
    loss = noise.negative_log_likelihood(rest, log_sd, "per_sample", "absolute")
    expected = [-np.log(density(one)) for one in rest]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), expected, rtol=1e-4)


def test_absolute_deviations_are_rounded_where_nothing_deviates():
    log_sd = np.log(np.full((2, 3), 0.5))
    rest = tf.Variable(np.zeros((1, 2, 3)))
    with tf.GradientTape() as tape:
        loss = noise.negative_log_likelihood(rest, log_sd, "per_sample", "absolute")
    np.testing.assert_array_equal(tape.gradient(loss, rest), 0)
    rest.assign(np.full((1, 2, 3), 1e-2))  # 0.02 SD
    with tf.GradientTape() as tape:
        loss = noise.negative_log_likelihood(rest, log_sd, "per_sample", "absolute")
    half, full = tape.gradient(loss, rest), math.sqrt(2) / 0.5 * (noise.FREEDOM + 6) / 4
    assert 0.5 * full < float(half[0, 0, 0]) < full


def test_what_training_counts_leaves_the_bound_alone():
    kinds = [
        VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample", deviations=deviations)
        for deviations in noise.DEVIATIONS
    ]
    for vae in kinds:
        vae.adapt(ECG, TABLE).fit_noise(ECG, TABLE).compile()
    first, second = (vae.bound(ECG, TABLE) for vae in kinds)
    np.testing.assert_allclose(first, second, rtol=1e-6)  # of the same weights
    losses = [vae.evaluate((ECG, ENCODED), return_dict=True, verbose=0)["loss"] for vae in kinds]
    assert abs(losses[0] - losses[1]) > 1


@pytest.mark.parametrize("noise_kind", ["per_recording", "learned", "mse", 0.1])
def test_absolute_deviations_need_noise_that_is_fitted_after_training(noise_kind):
    with pytest.raises(ModelError, match='needs noise="per_sample"'):
        VAE(SHAPE, *LAYERS, Z, 0, noise=noise_kind, deviations="absolute")
    with pytest.raises(ModelError, match="deviations: squared or absolute"):
        VAE(SHAPE, *LAYERS, Z, 0, deviations="cubed")


def test_the_fit_finds_levels_and_what_goes_together():
    fitted = noise.fit(t_noise(3000), np.full(SD.shape, 1e-3))
    np.testing.assert_allclose(np.exp(fitted.log_sd) / SD, 1, atol=0.06)
    np.testing.assert_allclose(fitted.leads @ fitted.leads.T, BY_LEAD, atol=0.06)
    np.testing.assert_allclose(fitted.time @ fitted.time.T, BY_TIME, atol=0.08)


def test_a_few_recordings_that_fit_badly_do_not_raise_the_levels():
    rest = t_noise(1000)
    spoilt = rest.copy()
    spoilt[::50] *= 100  # 2%: the SD would be 14 times as large
    quietest = np.full(SD.shape, 1e-3)
    ratio = np.exp(noise.fit(spoilt, quietest).log_sd - noise.fit(rest, quietest).log_sd)
    np.testing.assert_allclose(ratio, 1, atol=0.1)


def test_no_level_falls_below_the_quietest():
    rest = t_noise(50)
    rest[:, 0] = 0
    fitted = noise.fit(rest, np.full(SD.shape, 0.02))
    np.testing.assert_allclose(np.exp(fitted.log_sd[0]), 0.02)
    assert all(np.isfinite(part).all() for part in fitted)


def test_few_recordings_give_factors_all_the_same():
    fitted = noise.fit(t_noise(2), np.full(SD.shape, 1e-3))
    assert all(np.isfinite(part).all() for part in fitted)
    assert np.isfinite(drawn(fitted, 3, 0)).all()


def test_draws_are_noise_as_it_was_fitted():
    fitted = noise.Fitted(
        np.log(SD), np.linalg.cholesky(BY_LEAD), np.linalg.cholesky(BY_TIME + 1e-9 * np.eye(40))
    )
    draws = drawn(fitted, 4000, 3)
    np.testing.assert_array_equal(draws, drawn(fitted, 4000, 3))
    assert (draws != drawn(fitted, 4000, 4)).any()
    leads, time = correlations(draws)
    np.testing.assert_allclose(leads, BY_LEAD, atol=0.05)
    np.testing.assert_allclose(time, BY_TIME, atol=0.05)
    # Each recording has a level of its own, and the whole is t distributed at each sample.
    scaled = (draws / SD)[:, 1, 7]
    assert stats.kstest(scaled, stats.t(4).cdf).pvalue > 0.01
    again = noise.fit(draws, np.full(SD.shape, 1e-3))
    np.testing.assert_allclose(np.exp(again.log_sd) / SD, 1, atol=0.06)


@pytest.fixture(scope="module")
def model():
    """Its noise is louder in the first leads and at the end of the beat."""
    ecg = ECG.copy()
    rng = np.random.default_rng(5)
    louder = np.zeros((8, SHAPE[1]))
    louder[:2], louder[:, 40:] = 0.05, 0.1
    eight = rng.normal(size=(len(ecg), 8, SHAPE[1])) * louder
    ecg = ecg + expansion_matrix(VAE(SHAPE, *LAYERS, Z, 0).leads) @ eight
    vae = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample", time_warp=5, qrs_sample=22)
    vae.adapt(ecg, TABLE).fit_noise(ecg, TABLE)
    rng = np.random.default_rng(1)
    for weight in vae.trainable_variables:
        weight.assign_add(rng.normal(0, 0.01, weight.shape))
    vae.fit_noise(ecg, TABLE)
    vae.test_ecg = ecg
    return vae


def test_the_noise_of_a_model_is_large_where_its_ecgs_are_hard_to_tell(model):
    sd = model.noise_sd_uv
    assert sd.shape == (8, SHAPE[1])
    assert sd[:, 45:].mean() > 1.5 * sd[2:, 5:35].mean()
    assert sd[:2, 5:35].mean() > 1.15 * sd[2:, 5:35].mean()
    assert model.noise_uv == pytest.approx(np.sqrt((sd.astype(float) ** 2).mean()))
    # Calibrated: in these units what is left has a size of 1 at each sample, t distributed.
    rest = (model.test_ecg - model.reconstruct(model.test_ecg, TABLE, seed=0))[:, INDEPENDENT]
    size = np.square(1000 * rest / sd).mean(axis=(1, 2))
    assert np.median(size) == pytest.approx(1, abs=0.3)


def test_training_further_forgets_the_noise_and_says_that_the_prior_is_of_before(tmp_path):
    vae = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample").adapt(ECG, TABLE)
    vae.fit_noise(ECG, TABLE).fit_prior(ECG, TABLE).save(tmp_path)
    vae = VAE.load(tmp_path)
    assert np.asarray(vae.noise_shape).any()
    vae.compile(keras.optimizers.SGD(1e-6), run_eagerly=True)

    def train():
        vae.fit((ECG, TABLE), batch_size=len(ECG), verbose=0)

    said = r"trained on since fit_prior: .*Call fit_prior and fit_noise again"
    train()
    assert not np.asarray(vae.noise_shape).any()
    np.testing.assert_array_equal(vae.noise_leads, np.eye(8))
    with pytest.warns(UserWarning, match=said):
        vae.generate(2)
    vae.generate(2)  # it is said once
    train()
    with warnings.catch_warnings(record=True) as caught:  # Keras warns of itself, too
        warnings.simplefilter("always")
        vae.save(tmp_path / "again")
    assert any(re.search(said, str(one.message)) for one in caught)
    train()
    vae.fit_noise(ECG, TABLE).fit_prior(ECG, TABLE).generate(2)
    fitted = keras.ops.convert_to_numpy(vae.noise_shape).copy()
    vae.fit((ECG, TABLE), epochs=0, verbose=0)
    vae.generate(2)
    vae.encoder.trainable = vae.decoder.trainable = False
    train()
    vae.generate(2)  # neither latents nor what is decoded of them have changed
    np.testing.assert_array_equal(vae.noise_shape, fitted)


@pytest.mark.parametrize("how", ["train_on_batch", "adapt"])
def test_a_step_by_hand_or_a_new_start_lets_go_of_noise_and_prior_too(how):
    vae = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample").adapt(ECG, TABLE)
    vae.fit_noise(ECG, TABLE).fit_prior(ECG, TABLE)
    vae.compile(keras.optimizers.SGD(1e-6), run_eagerly=True)
    getattr(vae, how)(*((ECG, TABLE) if how == "adapt" else ((ECG, ENCODED),)))
    assert not np.asarray(vae.noise_shape).any()
    with pytest.warns(UserWarning, match="since fit_prior"):
        vae.generate(2)


def test_the_objective_is_that_of_the_fitted_noise(model):
    mean, log_var = model.encode(model.test_ecg, TABLE)
    decoded = model.decode(mean, TABLE)[:, INDEPENDENT]
    rest = 1000 * (model.test_ecg[:, INDEPENDENT] - decoded).astype(np.float64)
    sd = model.noise_sd_uv.astype(np.float64).ravel()
    likelihood = stats.multivariate_t.logpdf(
        rest.reshape(len(rest), -1), shape=np.diag(sd**2), df=4
    )
    model.compile(run_eagerly=True)
    found = model.evaluate([model.test_ecg, ENCODED], batch_size=150, verbose=0, return_dict=True)
    # The loss is that of amplitudes in units of `scale` and `profile`, of geometric mean 1.
    unit = rest[0].size * np.log(1000 * float(model.scale))
    assert found["reconstruction"] == pytest.approx(-(likelihood + unit).mean(), rel=1e-4)

    z = mean + np.exp(0.5 * log_var) * np.random.default_rng(0).standard_normal(mean.shape)
    rest = 1000 * (model.test_ecg - model.decode(z, TABLE))[:, INDEPENDENT].astype(np.float64)
    flat = rest.reshape(len(rest), -1)
    expected = stats.multivariate_t.logpdf(flat, shape=np.diag(sd**2), df=4) + unit
    expected -= 0.5 * (np.exp(log_var) + mean**2 - 1 - log_var).sum(axis=1)
    np.testing.assert_allclose(model.bound(model.test_ecg, TABLE), expected, rtol=2e-3, atol=0.5)


def test_the_bound_is_the_same_in_microvolts_and_nan_without_likelihood():
    one, other = (VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample") for _ in range(2))
    one.adapt(ECG, TABLE).fit_noise(ECG, TABLE)
    for ours, theirs in zip(one.variables, other.variables, strict=True):
        theirs.assign(ours)
    other.mean_beat.assign(1000 * one.mean_beat)
    other.scale.assign(1000 * one.scale)
    np.testing.assert_allclose(other.bound(1000 * ECG, TABLE), one.bound(ECG, TABLE), rtol=1e-3)
    assert np.isnan(VAE(SHAPE, *LAYERS, Z, 0, noise="mse").bound(ECG[:3])).all()


def test_noise_of_each_sample_is_likelier_on_other_subjects():
    """Judged by ECGs that neither was fitted to, of a cohort whose noise is uneven."""
    rng = np.random.default_rng(2)
    uneven = np.where(np.arange(SHAPE[1]) < 30, 0.02, 0.2)
    expansion = expansion_matrix(VAE(SHAPE, *LAYERS, Z, 0).leads)
    ecg = ECG + expansion @ (rng.normal(size=(len(ECG), 8, SHAPE[1])) * uneven)
    bounds = {}
    for kind in ("per_sample", "per_recording"):
        vae = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise=kind)
        vae.adapt(ecg[:100], TABLE[:100]).fit_noise(ecg[:100], TABLE[:100])
        bounds[kind] = vae.bound(ecg[100:], TABLE[100:]).mean()
    assert bounds["per_sample"] > bounds["per_recording"] + 50


def test_generated_noise_is_that_of_recordings(model):
    conditions = {"age": 60, "sex": "male", "bmi": 27}
    plain = model.generate(2000, seed=4, **conditions)
    noisy = model.generate(2000, seed=4, noise=True, **conditions)
    added = (noisy - plain).astype(np.float64)
    assert noisy.dtype == np.float32
    # Einthoven and Goldberger hold for what a machine would record, too.
    expected = np.einsum("li,nit->nlt", expansion_matrix(model.leads), added[:, INDEPENDENT])
    np.testing.assert_allclose(added, expected, atol=1e-5)
    leads, time = correlations(added[:, INDEPENDENT])
    fitted = [np.asarray(part) for part in (model.noise_leads, model.noise_time)]
    np.testing.assert_allclose(leads, fitted[0] @ fitted[0].T, atol=0.05)
    np.testing.assert_allclose(time, fitted[1] @ fitted[1].T, atol=0.06)
    q = np.quantile(np.abs(1000 * added[:, INDEPENDENT]), 0.5, axis=0)
    np.testing.assert_allclose(q / stats.t(4).ppf(0.75), model.noise_sd_uv, rtol=0.2)


def test_noise_that_a_model_does_not_have_is_refused():
    with pytest.raises(ModelError, match='noise="per_sample"'):
        VAE(SHAPE, *LAYERS, Z, 0, noise="learned").generate(2, noise=True)


def test_the_level_is_that_of_subjects_that_it_was_not_trained_on():
    vae = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample").adapt(ECG, TABLE)
    own = vae.fit_noise(ECG, TABLE).noise_sd_uv
    rng = np.random.default_rng(6)
    louder = expansion_matrix(vae.leads) @ rng.normal(0, 0.2, (len(ECG), 8, SHAPE[1]))
    others = vae.fit_noise(ECG, TABLE, (ECG + louder, TABLE)).noise_sd_uv
    ratio = others / own  # of the level alone
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)
    rest = (ECG + louder - vae.reconstruct(ECG + louder, TABLE, seed=0))[:, INDEPENDENT]
    size = np.square(1000 * rest / others).mean(axis=(1, 2))
    assert np.median(size) == pytest.approx(1, abs=0.25)


def test_who_adapts_or_warms_up_a_model_trains_without_its_fitted_noise():
    vae = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample").adapt(ECG, TABLE)
    vae.fit_noise(ECG, TABLE)
    assert np.ptp(np.asarray(vae.noise_shape)) > 0.1
    vae.adapt(ECG, TABLE)
    assert not np.asarray(vae.noise_shape).any()
    np.testing.assert_array_equal(np.asarray(vae.noise_time), np.eye(SHAPE[1]))


def test_the_warp_of_a_model_moves_its_mean_beat():
    vae = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample", time_warp=5, qrs_sample=22)
    vae.adapt(ECG, TABLE)
    vae.decoder.get_layer("linear_ecg").kernel.assign(np.zeros((Z + 5, 8 * SHAPE[1])))
    still = vae.decode(np.zeros((1, Z)), ENCODED[:1])[0, 0]
    np.testing.assert_allclose(still, np.asarray(vae.mean_beat)[0], atol=1e-5)
    speed = 1.5
    vae.decoder.get_layer("speeds").bias.assign(np.full(5, np.arctanh(np.log(speed))))
    time = np.arange(SHAPE[1])
    at = vae.settings["qrs_sample"]
    source = np.clip(at + speed * (time - at), 0, SHAPE[1] - 1)
    moved = vae.decode(np.zeros((1, Z)), ENCODED[:1])[0, 0]
    np.testing.assert_allclose(moved, np.interp(source, time, still), atol=1e-4)


@pytest.mark.parametrize(("n", "seed"), [(None, 0), (0, 0), (2.5, 0), (2, -1), (2, None)])
def test_draws_that_are_none_are_refused(n, seed):
    vae = VAE(SHAPE, *LAYERS, Z, 0, noise="per_sample")
    with pytest.raises(ModelError, match="Expected"):
        vae.draw_noise(n, seed)


def test_a_last_axis_of_one_is_taken():
    fitted = []
    for ecg in (ECG, ECG[..., None]):
        vae = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample").adapt(ecg, TABLE)
        fitted.append(vae.fit_noise(ecg, TABLE, (ecg, TABLE)))
    one, other = fitted
    np.testing.assert_array_equal(one.noise_sd_uv, other.noise_sd_uv)
    np.testing.assert_array_equal(one.bound(ECG, TABLE), other.bound(ECG[..., None], TABLE))


def test_everything_is_saved(tmp_path):
    model = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample", time_warp=5)
    model.adapt(ECG, TABLE).fit_noise(ECG, TABLE)
    for name in ("model", "model.keras"):
        model.save(tmp_path / name)
        again = (
            VAE.load(tmp_path / name)
            if name == "model"
            else keras.saving.load_model(tmp_path / name)
        )
        np.testing.assert_array_equal(again.noise_sd_uv, model.noise_sd_uv)
        np.testing.assert_array_equal(
            again.generate(3, seed=1, noise=True, age=40), model.generate(3, 1, noise=True, age=40)
        )
        np.testing.assert_array_equal(again.reconstruct(ECG, TABLE), model.reconstruct(ECG, TABLE))


@pytest.mark.parametrize("hidden", [(), (6,)])
def test_the_latent_is_standardised_under_a_warp(hidden):
    vae = VAE(
        SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="per_sample", time_warp=4, hidden=hidden
    ).adapt(ECG, TABLE)
    rng = np.random.default_rng(3)
    for weight in vae.trainable_variables:
        weight.assign_add(rng.normal(0, 0.05, weight.shape))
    before = vae.reconstruct(ECG, TABLE)
    vae.standardise_latent(ECG, TABLE)
    np.testing.assert_allclose(vae.reconstruct(ECG, TABLE), before, atol=2e-4)
    mean, log_var = vae.encode(ECG, TABLE)
    np.testing.assert_allclose(mean.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(mean.var(axis=0) + np.exp(log_var).mean(axis=0), 1, atol=1e-2)
