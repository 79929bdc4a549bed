import json
import random

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data.conditions import Condition, ConditionError, ConditionSchema
from model import inputs
from model.prior import standard_normal
from vae import PUBLISHED, VAE, ModelError, gaussian_kl

SHAPE = (12, 60)
LAYERS = ((3, 4), ((1, 20), (12, 1)), ("same", "valid"))
INDEPENDENT = [0, 1, 6, 7, 8, 9, 10, 11]
Z = 4


def simulated(n, seed=0):
    """ECGs of 12 leads with three latent factors, and age, sex and BMI that act on them."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "age": rng.uniform(30, 80, n),
            "sex": rng.choice(["female", "male"], n),
            "bmi": rng.normal(27, 4, n),
        }
    )
    columns = [table["age"] - 55, 10.0 * (table["sex"] == "male"), 3 * (table["bmi"] - 27)]
    scores = np.concatenate([np.stack(columns, 1) / 10, rng.normal(size=(n, 3))], axis=1)
    waves = np.random.default_rng(99).normal(size=(7, 8, 20)).repeat(3, axis=2)  # mV
    eight = 0.3 * waves[0] + 0.1 * np.tensordot(scores, waves[1:], 1)
    one, two = (eight + rng.normal(0, 0.03, eight.shape))[:, :2].transpose(1, 0, 2)
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    chest = eight[:, 2:] + rng.normal(0, 0.03, eight[:, 2:].shape)
    return np.concatenate([np.stack(limb, 1), chest], axis=1).astype(np.float32), table


ECG, TABLE = simulated(150)
SCHEMA = ConditionSchema(
    [
        Condition("age", unit="years", low=0, high=120),
        Condition("sex", "binary", categories=("male", "female")),
        Condition("bmi", unit="kg/m2"),
    ]
).fit(TABLE)
ENCODED = SCHEMA.encode(TABLE)


def linear(**arguments):
    """Adapted, and not trained: all is in the linear path."""
    return VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, **arguments).adapt(ECG, TABLE)


def trained(noise="learned", **arguments):
    """As after training: every weight is somewhere, and the convolutions count."""
    model = linear(noise=noise, **arguments)
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign_add(rng.normal(0, 0.02, weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return trained()


# --- objective ------------------------------------------------------------------------------------


def measured(model, ecg=ECG, encoded=ENCODED, batch_size=150, **arguments):
    """What Keras reports of a validation set."""
    model.compile(run_eagerly=True)
    return model.evaluate(
        [ecg, encoded], batch_size=batch_size, verbose=0, return_dict=True, **arguments
    )


def by_hand(model):
    """Standardised ECGs, their decoding, and the posterior, through the public functions alone."""
    mean, log_var = model.encode(ECG, TABLE)
    centre, scale = np.asarray(model.mean_beat), float(model.scale)
    decoded = model.decode(mean, TABLE)[:, INDEPENDENT].astype(np.float64)
    return (ECG[:, INDEPENDENT] - centre) / scale, (decoded - centre) / scale, mean, log_var


def closed_form_kl(mean, log_var):
    return 0.5 * (np.exp(log_var) + mean**2 - 1 - log_var)


@pytest.mark.parametrize("noise", ["learned", 0.02, "per_recording", "mse"])
def test_the_objective_is_minus_log_likelihood_plus_kl_in_nats(noise):
    model = trained(noise)
    x, decoded, mean, log_var = by_hand(model)
    if noise == "mse":
        expected = ((x - decoded) ** 2).mean(axis=(1, 2))
    elif noise == "per_recording":
        size = x[0].size
        left = (x - decoded).reshape(-1, size)
        cov = np.exp(2 * float(model.log_noise)) * np.eye(size)
        expected = -stats.multivariate_t.logpdf(left, shape=cov, df=4)
    else:
        sd = 0.02 / float(model.scale) if noise == 0.02 else np.exp(float(model.log_noise))
        expected = -stats.norm.logpdf(x, decoded, sd).sum(axis=(1, 2))
        assert model.noise_uv == pytest.approx(1000 * sd * float(model.scale))
    kl = closed_form_kl(mean, log_var)
    values = measured(model, batch_size=60)
    assert values["reconstruction"] == pytest.approx(expected.mean(), rel=1e-4)
    assert values["kl"] == pytest.approx(kl.sum(axis=1).mean(), rel=1e-4)
    assert values["objective"] == pytest.approx((expected + kl.sum(axis=1)).mean(), rel=1e-4)
    error = 1000 * float(model.scale) * np.sqrt(((x - decoded) ** 2).mean(axis=(1, 2)))
    assert values["rmse_uv"] == pytest.approx(error.mean(), rel=1e-4)
    batches = [kl[start : start + 60].mean(axis=0) for start in (0, 60, 120)]
    active = np.average([(part > 0.1).sum() for part in batches], weights=[60, 60, 30])
    assert values["active_units"] == pytest.approx(active)


def test_the_error_of_noise_of_each_sample_is_in_microvolts_too():
    model = trained("per_sample", profile_power=0.5)
    assert np.ptp(np.asarray(model.profile)) > 0.1
    x, decoded, *_ = by_hand(model)
    error = 1000 * float(model.scale) * np.sqrt(((x - decoded) ** 2).mean(axis=(1, 2)))
    assert measured(model)["rmse_uv"] == pytest.approx(error.mean(), rel=1e-4)


def test_the_likelihood_is_the_one_in_millivolts_up_to_a_constant(model):
    mean, _ = model.encode(ECG, TABLE)
    decoded = model.decode(mean, TABLE)[:, INDEPENDENT]
    in_mv = stats.norm.logpdf(ECG[:, INDEPENDENT], decoded, model.noise_uv / 1000)
    constant = in_mv[0].size * np.log(float(model.scale))
    expected = -in_mv.sum(axis=(1, 2)).mean() - constant
    assert measured(model)["reconstruction"] == pytest.approx(expected, rel=1e-4)


def test_kl_is_the_mean_log_density_ratio_of_samples():
    z = np.random.default_rng(0).normal(-1.2, 0.4, size=200_000)
    ratio = stats.norm.logpdf(z, -1.2, 0.4) - stats.norm.logpdf(z)
    kl = float(gaussian_kl(np.float32(-1.2), np.float32(2 * np.log(0.4))))
    assert kl == pytest.approx(ratio.mean(), abs=4 * ratio.std() / np.sqrt(len(z)))


@pytest.mark.parametrize(("noise", "in_uv"), [("learned",) * 2, ("per_recording",) * 2, (0.02, 20)])
def test_microvolts_give_the_latent_and_the_objective_of_millivolts(noise, in_uv):
    model = trained(noise)
    other = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise=in_uv)
    other.mean_beat.assign(1000 * model.mean_beat)
    other.scale.assign(1000 * model.scale)
    for ours, theirs in zip(model.trainable_variables, other.trainable_variables, strict=True):
        theirs.assign(ours)
    mean, log_var = model.encode(ECG, TABLE)
    z, z_log_var = other.encode(1000 * ECG, TABLE)
    np.testing.assert_allclose(z, mean, atol=1e-3)
    np.testing.assert_allclose(z_log_var, log_var, atol=1e-3)
    objective = measured(other, 1000 * ECG)["objective"]
    assert objective == pytest.approx(measured(model)["objective"], rel=1e-3)


def loss(model, training):
    inputs = (ECG, ENCODED)
    output = model(inputs, training=training)
    return float(model.compute_loss(inputs, None, output, training=training))


def without_sampling(model):
    head = model.encoder.get_layer("log_var")
    head.set_weights([0 * head.get_weights()[0], 0 * head.get_weights()[1] - 30])
    return model


def test_training_and_inference_agree_but_for_the_sampling():
    model = without_sampling(trained())
    assert loss(model, training=True) == pytest.approx(loss(model, training=False), rel=1e-5)


def test_training_and_inference_disagree_with_the_published_normalisation():
    model = without_sampling(VAE(SHAPE, *LAYERS, Z, 5, **PUBLISHED))
    noise = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if "bias" not in weight.name:
            weight.assign_add(noise.normal(0, 0.1, weight.shape))
    reconstruction = [
        model.reconstruction_loss(output["standardised"], output["decoded"]).numpy().mean()
        for output in (model((ECG, ENCODED), training=mode) for mode in (True, False))
    ]
    assert abs(np.log(reconstruction[0] / reconstruction[1])) > 0.2


def test_free_bits_replace_the_kl_of_a_dimension_below_them():
    model = trained(free_bits=1.5)
    kl = closed_form_kl(*model.encode(ECG, TABLE)).mean(axis=0)
    assert kl.min() < 1.5 < kl.max()
    values = measured(model)
    penalty = np.maximum(kl, 1.5).sum()
    assert values["loss"] - values["reconstruction"] == pytest.approx(penalty, abs=0.05)
    assert values["objective"] - values["reconstruction"] == pytest.approx(kl.sum(), abs=0.05)


def at_kl(kl, **arguments):
    """A model of two subjects whose first has this KL in each dimension, and its loss by parts."""
    x = np.zeros((2, len(INDEPENDENT), 60), np.float32)
    mean = np.stack([np.sqrt(2 * np.array(kl)), np.zeros(len(kl))]).astype(np.float32)
    given = {"standardised": x, "decoded": x, "mean": mean, "log_var": 0 * mean}
    model = VAE(SHAPE, *LAYERS, len(kl), 0, **arguments)
    loss = model.compute_loss(None, None, given, sample_weight=np.array([1.0, 0]))
    parts = {name: float(tracker.result()) for name, tracker in model.trackers.items()}
    assert parts["loss"] == float(loss)
    return parts


def test_a_dimension_is_active_above_a_tenth_of_a_nat_in_the_weighted_mean():
    assert at_kl([0.05, 0.2, 0.4, 2.0])["active_units"] == 3


def test_free_bits_count_in_the_weighted_mean_and_leave_the_kl_that_is_told():
    parts = at_kl([0.5, 4.0], free_bits=1.5)
    assert parts["kl"] == pytest.approx(4.5)
    assert parts["loss"] - parts["reconstruction"] == pytest.approx(1.5 + 4, abs=1e-3)


def test_the_kl_weight_of_the_moment_is_in_the_loss_and_the_final_one_in_the_objective():
    model = trained(kl_weight=0.5)
    model.kl_weight.assign(0.25)
    values = measured(model)
    assert values["loss"] - values["reconstruction"] == pytest.approx(values["kl"] / 4, abs=0.05)
    assert values["objective"] - values["reconstruction"] == pytest.approx(
        values["kl"] / 2, abs=0.05
    )


def test_a_regulariser_of_a_layer_is_in_the_loss_and_not_in_the_objective():
    model = trained()
    before = measured(model)
    kernel = model.encoder.get_layer("mean").kernel
    kernel.regularizer = keras.regularizers.L2(0.5)
    after = measured(model)
    added = 0.5 * np.square(np.asarray(kernel)).sum()
    assert after["loss"] - before["loss"] == pytest.approx(added, rel=0.02)
    assert after["objective"] == before["objective"]


def test_sample_weights_weigh_the_subjects():
    model = trained()
    weights = np.repeat([1.0, 0.0], [50, 100]).astype(np.float32)
    part = measured(model, ECG[:50], ENCODED[:50])
    whole = measured(model, sample_weight=weights, batch_size=40)
    for name in ("loss", "objective", "kl", "reconstruction", "rmse_uv"):
        assert whole[name] == pytest.approx(part[name], rel=1e-4)


# --- closed-form start ----------------------------------------------------------------------------


def probabilistic_pca():
    """An adapted model without named leads; the same in plain linear algebra."""
    rng = np.random.default_rng(4)
    conditions = rng.normal(size=(300, 2)) * [1, 3] + [0, 1]
    latent = rng.normal(size=(300, 3)) * [1, 0.7, 0.4]
    ecg = conditions @ rng.normal(size=(2, 48)) + latent @ rng.normal(size=(3, 48))
    ecg = (ecg + rng.normal(0, 0.3, ecg.shape) + 5).reshape(300, 3, 16).astype(np.float32)
    model = VAE((3, 16), (2,), ((3, 5),), ("same",), 3, 2, noise="learned")
    model.adapt(ecg, conditions)

    x = (ecg - ecg.mean(axis=0)).reshape(300, 48).astype(np.float64)
    scale = x.std()
    x /= scale
    # Ridge as least squares with one pseudo-observation of 0 for each condition.
    effect = np.linalg.lstsq(
        np.concatenate([conditions, np.eye(2)]), np.concatenate([x, np.zeros((2, 48))]), rcond=None
    )[0]
    rest = x - conditions @ effect
    values, vectors = np.linalg.eigh(rest.T @ rest / 300)
    noise = values[:-3].mean()
    loadings = vectors[:, -3:] * np.sqrt(values[-3:] - noise)  # (48, 3)
    return model, ecg, conditions, scale, conditions @ effect, rest, loadings, noise


def test_adapt_is_ridge_regression_and_probabilistic_pca():
    model, ecg, conditions, scale, expected, rest, loadings, noise = probabilistic_pca()
    covariance = loadings @ loadings.T + noise * np.eye(48)
    # E[W z | x] by conditioning the joint Gaussian on x: shrunk towards what conditions predict.
    fitted = expected + rest @ np.linalg.solve(covariance, loadings @ loadings.T)
    fitted = ecg.mean(axis=0) + scale * fitted.reshape(ecg.shape)
    np.testing.assert_allclose(model.reconstruct(ecg, conditions), fitted, atol=1e-4)
    assert np.exp(2 * float(model.log_noise)) == pytest.approx(noise, rel=1e-4)
    assert float(model.scale) == pytest.approx(scale, rel=1e-5)
    _, log_var = model.encode(ecg, conditions)
    posterior = np.linalg.inv(np.eye(3) + loadings.T @ loadings / noise)
    np.testing.assert_allclose(np.sort(log_var[0]), np.sort(np.log(np.diag(posterior))), atol=1e-3)


def test_the_bound_of_the_adapted_model_is_its_exact_log_likelihood():
    model, ecg, conditions, _, _, rest, loadings, noise = probabilistic_pca()
    covariance = loadings @ loadings.T + noise * np.eye(48)
    exact = -stats.multivariate_normal.logpdf(rest, cov=covariance).mean()
    many = np.tile(ecg, (40, 1, 1)), np.tile(conditions, (40, 1)).astype(np.float32)
    bound = float(model.compute_loss(many, None, model(many, training=True)))
    assert bound == pytest.approx(exact, abs=0.05)  # 12,000 samples of the latent
    at_the_mean = float(model.compute_loss(many, None, model(many)))
    assert exact - 1.5 < at_the_mean < exact - 0.5  # Z / 2 less: see `VAE.compute_loss`


def test_generated_ecgs_have_the_covariance_of_the_model():
    model, *_, scale, _, _, loadings, _ = probabilistic_pca()
    unknown = np.zeros((5000, model.condition_dim), np.float32)
    x = model.decode(model.prior.sample(unknown, 1), unknown).reshape(-1, 48) / scale
    covariance = loadings @ loadings.T
    assert np.abs(np.cov(x.T) - covariance).max() < 0.08 * np.abs(covariance).max()


def test_recordings_that_fit_badly_do_not_rule_the_start_of_noise_per_recording():
    rng = np.random.default_rng(2)
    spoilt = ECG.copy()
    spoilt[:15] += np.cumsum(rng.normal(0, 1, (15, *SHAPE)), axis=2)
    clean = ECG[15:]
    errors = []
    for noise in ("learned", "per_recording"):
        model = VAE(SHAPE, *LAYERS, 6, 0, noise=noise).adapt(spoilt)
        errors.append(np.abs(model.reconstruct(clean) - clean).mean())
    assert errors[1] < 0.7 * errors[0]


def test_a_recording_with_a_component_to_itself_does_not_become_the_only_one_that_counts():
    odd = ECG[:30].copy()
    odd[0] += 20 * np.random.default_rng(0).normal(size=SHAPE)
    model = VAE(SHAPE, *LAYERS, 6, 0, noise="per_recording").adapt(odd)
    assert model.noise_uv == pytest.approx(30, rel=0.25)  # of the simulation


@pytest.mark.parametrize("noise", ["learned", "per_recording"])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_fewer_ecgs_than_latent_dimensions_leave_a_noise_that_is_no_illusion(n, noise):
    model = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise=noise).adapt(ECG[:n], TABLE[:n])
    assert model.noise_uv > 5
    for values in (*model.encode(ECG, TABLE), model.reconstruct(ECG, TABLE)):
        assert np.isfinite(values).all()
    assert measured(model)["objective"] < 1e6


def test_identical_ecgs_are_nothing_to_adapt_to():
    with pytest.raises(ModelError, match="All ECGs are the same"):
        VAE(SHAPE, *LAYERS, Z, 0).adapt(np.repeat(ECG[:1], 5, axis=0))


@pytest.mark.parametrize("hidden", [(), (8, 6)])
@pytest.mark.parametrize("linear_path", [True, False])
def test_a_standardised_latent_fits_the_prior_and_changes_no_ecg(hidden, linear_path):
    model = trained(hidden=hidden, linear_path=linear_path)
    before, ecg = measured(model), model.reconstruct(ECG, TABLE)
    model.standardise_latent(ECG, TABLE)
    mean, log_var = model.encode(ECG, TABLE)
    np.testing.assert_allclose(mean.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(mean.var(axis=0) + np.exp(log_var).mean(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(model.reconstruct(ECG, TABLE), ecg, atol=1e-4)
    after = measured(model)
    assert after["reconstruction"] == pytest.approx(before["reconstruction"], rel=1e-3)
    assert after["kl"] <= before["kl"]


def condition_share(model):
    """R2 of the linear regression of the latent on the conditions, per dimension."""
    mean, _ = model.encode(ECG, TABLE)
    design = np.c_[np.ones(len(mean)), ENCODED]
    rest = mean - design @ np.linalg.lstsq(design, mean, rcond=None)[0]
    return 1 - rest.var(axis=0) / mean.var(axis=0)


def test_a_standardised_latent_knows_nothing_linear_of_the_conditions():
    model = trained()
    layer = model.encoder.get_layer("linear_mean")
    kernel = layer.kernel.numpy()
    kernel[-model.condition_dim :] += np.random.default_rng(0).normal(size=Z)
    layer.kernel.assign(kernel)
    assert condition_share(model).max() > 0.2
    unknown = model.reconstruct(ECG)
    model.standardise_latent(ECG, TABLE)
    assert condition_share(model).max() < 0.01
    np.testing.assert_allclose(model.reconstruct(ECG), unknown, atol=1e-4)  # also where unknown


def test_without_a_linear_path_the_latent_keeps_what_it_knows_of_the_conditions():
    model = trained(linear_path=False)
    before = condition_share(model)
    np.testing.assert_allclose(
        condition_share(model.standardise_latent(ECG, TABLE)), before, atol=1e-4
    )


def test_a_prior_that_was_fitted_before_the_latent_is_standardised_draws_the_same_ecgs():
    model = trained().fit_prior(ECG, TABLE)
    before = model.generate(20, seed=1, age=60, sex="male")
    model.standardise_latent(ECG[::2], {name: values[::2] for name, values in TABLE.items()})
    np.testing.assert_allclose(model.generate(20, seed=1, age=60, sex="male"), before, atol=1e-5)


def test_a_latent_path_may_start_at_whole_numbers():
    model, values = trained(), [-1.5, -0.5, 0.5]
    path = model.traverse(0, values, z=[0] * Z)
    np.testing.assert_array_equal(path, model.traverse(0, values, z=np.zeros(Z)))
    assert np.abs(path[1] - path[2]).max() > 1e-3
    with pytest.raises(ModelError, match=f"z of {Z} numbers. Got: "):
        model.traverse(0, values, z=np.zeros((1, Z)))


def test_of_one_ecg_there_is_no_distribution():
    one = {name: values[:1] for name, values in TABLE.items()}
    with pytest.raises(ModelError, match="2 ECGs or more to fit a prior to. Received: 1"):
        trained().fit_prior(ECG[:1], one)


def test_generated_latents_come_from_the_fitted_prior_once_there_is_one(tmp_path):
    model = trained()
    noise = standard_normal(Z, model.condition_dim).sample(np.zeros((4, 5)), seed=3)
    first = model.generate(n=4, seed=3, age=60)
    conditions = {"age": [60] * 4}
    np.testing.assert_allclose(first, model.decode(noise, conditions), atol=1e-5)  # N(0, I)
    model.fit_prior(ECG, TABLE)
    z = model.prior.sample(SCHEMA.encode(conditions, 4), seed=3)
    ecg = model.generate(n=4, seed=3, age=60)
    np.testing.assert_array_equal(ecg, model.decode(z, conditions))
    model.save(tmp_path)
    np.testing.assert_array_equal(VAE.load(tmp_path).generate(n=4, seed=3, age=60), ecg)


def test_the_fitted_prior_has_the_moments_of_the_aggregate_posterior():
    model = trained().standardise_latent(ECG, TABLE).fit_prior(ECG, TABLE)
    mean, log_var = model.encode(ECG, TABLE)
    z = model.prior.sample(np.tile(ENCODED, (100, 1)))
    covariance = np.cov(mean.T) + np.diag(np.exp(log_var).mean(axis=0))
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.25)
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.35)


# --- use ------------------------------------------------------------------------------------------


def test_limb_leads_obey_einthoven_and_goldberger(model):
    for ecg in (model.generate(n=20, age=60, sex="male"), model.reconstruct(ECG, TABLE)):
        one, two, three, right, left, foot = ecg.astype(np.float64).transpose(1, 0, 2)[:6]
        size = np.abs(ecg[:, :6]).max()
        for residual in (
            one + three - two,
            right + (one + two) / 2,
            left - (one - three) / 2,
            foot - (two + three) / 2,
        ):
            assert np.abs(residual).max() < 1e-6 * size


def test_encoding_is_deterministic_and_a_seeded_sample_has_the_posterior_spread(model):
    mean, log_var = model.encode(ECG, TABLE)
    np.testing.assert_array_equal(model.encode(ECG, TABLE)[0], mean)
    np.testing.assert_array_equal(
        model.reconstruct(ECG, TABLE, seed=3), model.reconstruct(ECG, TABLE, seed=3)
    )
    rows = np.repeat(np.arange(5), 50)
    draws = model.reconstruct(ECG[rows], TABLE.iloc[rows], seed=4)
    z = mean[rows] + np.exp(log_var[rows] / 2) * np.random.default_rng(0).normal(size=(250, Z))
    expected = model.decode(z, TABLE.iloc[rows])
    spread, truth = (x.reshape(5, 50, -1).std(axis=1).mean() for x in (draws, expected))
    assert spread == pytest.approx(truth, rel=0.1)


def test_conditions_may_be_a_table_a_mapping_or_encoded_and_ecgs_have_a_channel_axis(model):
    expected = model.reconstruct(ECG, TABLE)
    for ecg, conditions in (
        (ECG, TABLE.assign(weight=70)),
        (ECG, {name: TABLE[name].to_numpy() for name in TABLE}),
        (ECG, ENCODED),
        (ECG[..., None], ENCODED),
        (ECG.astype(np.float64), TABLE),
    ):
        np.testing.assert_array_equal(model.reconstruct(ecg, conditions), expected)


def test_batches_of_prediction_do_not_show(model, monkeypatch):
    monkeypatch.setattr(inputs, "PREDICT_BATCH", 128)
    many = np.concatenate([ECG] * 3)
    encoded = np.concatenate([ENCODED] * 3)
    whole = model.reconstruct(many, encoded)
    assert len(whole) == 450  # more than three batches
    np.testing.assert_allclose(whole[300:], model.reconstruct(ECG, TABLE), atol=1e-5)


def test_the_same_seed_gives_the_same_latents_whatever_the_conditions():
    model = linear()  # the effect of age is then the same for every latent
    young, old, sampled = (
        model.generate(n=6, seed=seed, age=age, sex="male", bmi=25)
        for seed, age in ((0, 40), (0, 70), (1, 40))
    )
    effect = old - young
    np.testing.assert_allclose(effect, np.broadcast_to(effect[:1], effect.shape), atol=1e-5)
    assert np.abs(effect).max() > 0.1
    assert np.abs(sampled - young).min(axis=0).max() > 0.01
    np.testing.assert_array_equal(model.generate(6, 0, age=40, sex="male", bmi=25), young)
    six, three = (model.prior.sample(np.tile(ENCODED[:1], (n, 1)), seed=0) for n in (6, 3))
    np.testing.assert_array_equal(three, six[:3])
    # A product of three rows is rounded otherwise than one of six on some processors: 1e-7 mV.
    fewer = model.generate(3, 0, age=[40] * 3, sex="male", bmi=25)
    np.testing.assert_allclose(fewer, young[:3], atol=1e-6)


def test_generated_ecgs_move_with_a_condition_by_its_regression_slope():
    model = linear(noise="learned")
    young, old = (model.generate(n=1, age=age, sex="male", bmi=27) for age in (40, 70))
    design = np.stack([np.ones(150), TABLE["age"], TABLE["sex"] == "male", TABLE["bmi"]], axis=1)
    slopes = np.linalg.lstsq(design, ECG.reshape(150, -1).astype(np.float64), rcond=None)[0]
    expected = 30 * slopes[1].reshape(SHAPE)
    assert np.abs(old - young - expected).max() < 0.03 * np.abs(expected).max()


def test_a_condition_left_out_is_unknown(model):
    expected = model.generate(n=3, seed=2, age=60)
    missing = model.generate(n=3, seed=2, age=60, sex=None, bmi=float("nan"))
    np.testing.assert_array_equal(missing, expected)
    assert np.abs(model.generate(n=3, seed=2, age=60, sex="male") - expected).max() > 0.01
    assert model.generate().shape == (1, *SHAPE)
    assert model.generate(age=[40, 50]).shape == (2, *SHAPE)


def test_unknown_conditions_are_errors_and_implausible_ones_warn(model):
    with pytest.raises(ConditionError, match="Unknown condition 'Age'"):
        model.generate(n=2, Age=60)
    with pytest.raises(ConditionError, match="one of"):
        model.generate(n=2, sex="f")
    with pytest.warns(UserWarning, match=r"outside \[0, 120\]"):
        model.generate(n=2, age=150)


def test_a_counterfactual_changes_the_named_condition_and_nothing_else(model):
    np.testing.assert_array_equal(model.counterfactual(ECG, TABLE), model.reconstruct(ECG, TABLE))
    mean, _ = model.encode(ECG, TABLE)
    np.testing.assert_array_equal(
        model.counterfactual(ECG, TABLE, age=80), model.decode(mean, TABLE.assign(age=80))
    )
    np.testing.assert_array_equal(
        model.counterfactual(ECG, TABLE, sex=None), model.decode(mean, TABLE.drop(columns="sex"))
    )
    with pytest.raises(ConditionError, match="Unknown condition"):
        model.counterfactual(ECG, TABLE, weight=80)


def test_an_interpolation_runs_from_one_reconstruction_to_the_other(model):
    path = model.interpolate(ECG[:2], TABLE[:2], steps=5)
    np.testing.assert_allclose(path[[0, -1]], model.reconstruct(ECG[:2], TABLE[:2]), atol=1e-5)
    mean, _ = model.encode(ECG[:2], TABLE[:2])
    middle = model.decode(mean.mean(axis=0)[None], ENCODED[:2].mean(axis=0)[None])
    np.testing.assert_allclose(path[2], middle[0], atol=1e-5)
    with pytest.raises(ModelError, match="two ECGs"):
        model.interpolate(ECG[:3], TABLE[:3])


def test_a_traversal_moves_one_dimension(model):
    start = np.array([0.5, -1, 0, 2])
    received = model.traverse(1, [-1, 3], start, age=60)
    z = np.array([[0.5, -1, 0, 2], [0.5, 3, 0, 2]])
    np.testing.assert_array_equal(received, model.decode(z, {"age": 60}))
    assert model.traverse(0, [0, 1, 2]).shape == (3, *SHAPE)


TRAVERSED = {
    "below 0": (lambda m: m.traverse(-1, [0]), "dimension of 0 to 3. Received: -1"),
    "too high": (lambda m: m.traverse(4, [0]), "dimension of 0 to 3. Received: 4"),
    "no whole number": (lambda m: m.traverse(1.0, [0]), "dimension of 0 to 3. Received: 1.0"),
    "one value": (lambda m: m.traverse(0, 1.0), "list of values for the dimension. Received: 1.0"),
    "no steps": (lambda m: m.interpolate(ECG[:2], TABLE[:2], steps=0), "steps of 1 .*Received: 0"),
    "half a step": (lambda m: m.interpolate(ECG[:2], TABLE[:2], steps=2.5), "steps of 1 .*2.5"),
}


@pytest.mark.parametrize("case", TRAVERSED)
def test_a_path_through_the_latent_that_makes_no_sense_is_one_error(model, case):
    call, message = TRAVERSED[case]
    with pytest.raises(ModelError, match=message):
        call(model)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (TABLE.iloc[0], r"Received a Series: give a table, table.iloc\[\[0\]\]"),
        (TABLE[:1].to_dict("records"), r"Received a list: .* pandas.DataFrame\(rows\)"),
    ],
)
def test_a_row_of_a_table_is_no_table(model, conditions, message):
    with pytest.raises(ModelError, match=message):
        model.encode(ECG[:1], conditions)


def test_a_table_for_the_number_of_ecgs_is_refused_with_the_call_that_works(model):
    with pytest.raises(ModelError, match=r"Received a DataFrame: give \*\*table\[\['age', 'sex', "):
        model.generate(TABLE[:3])
    assert model.generate(**TABLE[:3][["age", "sex", "bmi"]]).shape == (3, *SHAPE)


def test_condition_dropout_hides_whole_conditions_at_its_rate_and_only_in_training():
    model = linear(condition_dropout=0.3)
    groups = [[0, 1], [2], [3, 4]]
    patterns = [[bool(number >> bit & 1) for bit in range(3)] for number in range(8)]
    means = []
    for pattern in patterns:
        encoded = ENCODED.copy()
        for hidden, columns in zip(pattern, groups, strict=True):
            encoded[:, columns] *= not hidden
        means.append(model.encode(ECG, encoded)[0])
    found = []
    for _ in range(20):
        seen = np.asarray(model((ECG, ENCODED), training=True)["mean"])
        distance = np.abs(np.stack(means) - seen).max(axis=2)  # (8, N)
        assert distance.min(axis=0).max() < 1e-4
        found.append(distance.argmin(axis=0))
    hidden = np.array(patterns)[np.concatenate(found)]  # (3000, 3)
    assert np.abs(hidden.mean(axis=0) - 0.3).max() < 4 * np.sqrt(0.3 * 0.7 / len(hidden))
    assert np.abs(np.corrcoef(hidden.T) - np.eye(3)).max() < 0.08
    inference = model((ECG, ENCODED), training=False)["mean"]
    np.testing.assert_allclose(inference, means[0], atol=1e-5)


def test_a_model_without_schema_takes_encoded_conditions_only():
    model = VAE(SHAPE, *LAYERS, Z, 2)
    encoded = np.ones((3, 2))
    assert model.reconstruct(ECG[:3], encoded).shape == (3, *SHAPE)
    with pytest.raises(ModelError, match="no schema"):
        model.generate(n=3, age=60)
    with pytest.raises(ModelError, match="schema of named conditions"):
        model.counterfactual(ECG[:3], encoded, age=60)
    with pytest.raises(ModelError, match=r"conditions of shape \(N, 2\)"):
        model.encode(ECG[:3], np.ones((3, 3)))
    for nothing in (None, {}):
        with pytest.raises(ModelError, match=r"no schema: give conditions as an encoded array"):
            model.encode(ECG[:3], nothing)
    for call in (lambda: model.generate(n=3), lambda: model.traverse(0, [0.0])):
        with pytest.raises(ModelError, match=r"\(N, 2\), to `decode` with latents"):
            call()


@pytest.mark.parametrize("schema", [None, ConditionSchema(SCHEMA.conditions, "raw").fit(TABLE)])
def test_where_0_is_a_value_the_network_is_not_called_without_conditions(schema):
    model = VAE(SHAPE, *LAYERS, Z, 3, schema=schema)
    with pytest.raises(ModelError, match=r"Expected \(ecg, conditions\).*0 is a value"):
        model(ECG[:3])
    assert model((ECG[:3], np.zeros((3, 3))))["mean"].shape == (3, Z)


def test_where_0_is_unknown_the_network_may_be_called_without_conditions(model):
    expected, _ = model.encode(ECG[:3])
    np.testing.assert_allclose(model(ECG[:3])["mean"], expected, atol=1e-5)


CALLS = {
    "encode": lambda model, ecg: model.encode(ecg, TABLE),
    "reconstruct": lambda model, ecg: model.reconstruct(ecg, TABLE),
    "counterfactual": lambda model, ecg: model.counterfactual(ecg, TABLE, age=50),
    "interpolate": lambda model, ecg: model.interpolate(ecg[:2], TABLE[:2]),
    "standardise_latent": lambda model, ecg: model.standardise_latent(ecg, TABLE),
    "adapt": lambda model, ecg: model.adapt(ecg, TABLE),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("factor", "unit"), [(1000, "microvolts"), (0.001, "volts")])
def test_ecgs_in_another_unit_are_refused(model, call, factor, unit):
    with pytest.raises(ModelError, match=f"Expected ECGs in mV.* about .*Received: .*like {unit}"):
        CALLS[call](model, factor * ECG)


def test_microvolts_as_whole_numbers_are_refused_by_a_model_that_was_not_adapted_too():
    published = VAE(SHAPE, *LAYERS, Z, 0, **PUBLISHED)
    published.scale.assign(0.001)  # as of a published model that was trained on microvolts
    published.encode(ECG)
    with pytest.raises(ModelError, match="about 2 .*microvolts"):
        published.encode((10_000 * ECG).clip(-32768, 32767).astype(np.int16))


def test_a_small_or_a_large_heart_is_no_other_unit(model):
    for factor in (0.1, 10):
        model.encode(factor * ECG, TABLE)
    few = np.where(np.arange(150)[:, None, None] < 60, 1000, 1) * ECG
    model.encode(few, TABLE)  # some recordings may be anything: what counts is the median


def test_the_unit_of_a_memory_map_is_checked_a_chunk_at_a_time(tmp_path, monkeypatch):
    model = linear()
    large = np.lib.format.open_memmap(
        tmp_path / "ecg.npy", mode="w+", dtype=np.float32, shape=(9000, *SHAPE)
    )
    large[:] = 1000 * ECG[0]
    asked = []

    class Watched(np.memmap):
        def __getitem__(self, rows):
            asked.append(rows)
            return super().__getitem__(rows)

    with pytest.raises(ModelError, match="microvolts"):
        model.encode(large.view(Watched))
    assert asked == [slice(start, start + 4096) for start in (0, 4096, 8192)]


@pytest.mark.parametrize("schema", [None, ConditionSchema([])])
def test_a_model_may_have_no_conditions(schema):
    model = VAE(SHAPE, *LAYERS, Z, 0, schema=schema).adapt(ECG, TABLE if schema else None)
    assert np.abs(model.reconstruct(ECG) - ECG).mean() < np.abs(ECG - ECG.mean(axis=0)).mean()
    assert model.generate(n=3).shape == (3, *SHAPE)
    model.compile(optimizer="adam", run_eagerly=True)
    assert np.isfinite(model.fit(ECG[:32], verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    ("ecg", "message"),
    [
        (ECG.transpose(0, 2, 1), "swapped"),
        (ECG[0], r"ecg\[None\]"),
        (ECG[:, :8], r"Expected ecg of shape \(N, 12, 60\) in mV. Received: \(150, 8, 60\)"),
        (ECG[:0], r"Received: \(0, 12, 60\)"),
        (np.where(np.arange(150)[:, None, None] == 7, np.nan, ECG), "ECG 7 has NaN"),
        (np.where(np.arange(150)[:, None, None] == 8, np.inf, ECG), "ECG 8 has NaN or infinite"),
        (
            np.where(np.arange(150)[:, None, None] == 9, 1e300, ECG.astype(float)),
            "ECG 9 has NaN or infinite",
        ),
    ],
)
def test_ecgs_that_cannot_be_read_are_named(model, ecg, message):
    with pytest.raises(ModelError, match=message):
        model.encode(ecg, TABLE)


def test_latents_and_conditions_of_another_size_are_refused(model):
    with pytest.raises(ModelError, match=r"Expected z of shape \(N, 4\)"):
        model.decode(np.zeros((3, 5)), TABLE[:3])
    with pytest.raises((ModelError, ConditionError), match="140"):
        model.encode(ECG, TABLE[:140])
    with pytest.raises((ModelError, ConditionError), match="140"):
        model.encode(ECG, ENCODED[:140])


def test_building_a_model_leaves_the_random_numbers_of_the_caller_alone():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    first, second, other = (
        VAE(SHAPE, *LAYERS, Z, 0, linear_path=False, seed=seed) for seed in (0, 0, 1)
    )
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    np.testing.assert_array_equal(first.encode(ECG)[0], second.encode(ECG)[0])
    assert np.abs(first.encode(ECG)[0] - other.encode(ECG)[0]).max() > 0.01


def test_keras_fits_the_model_from_arrays(model, capsys):
    model = trained()
    model.compile(optimizer=keras.optimizers.Adam(1e-3), run_eagerly=True)
    history = model.fit([ECG, ENCODED], batch_size=50, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert {"objective", "kl", "reconstruction", "rmse_uv", "active_units"} <= set(history)
    model.summary()
    assert "encoder" in capsys.readouterr().out


# --- files ----------------------------------------------------------------------------------------


def test_a_saved_model_is_the_same_when_it_is_loaded(model, tmp_path):
    model.save(tmp_path / "model")
    for folder in (tmp_path / "model", str(tmp_path)):  # the model, and a run that holds it
        loaded = VAE.load(folder)
        assert type(loaded) is VAE
        assert loaded.get_config() == model.get_config()
        assert loaded.schema.to_dict() == SCHEMA.to_dict()
        for one, other in zip(loaded.encode(ECG, TABLE), model.encode(ECG, TABLE), strict=True):
            np.testing.assert_array_equal(one, other)
        received = loaded.generate(n=3, age=60, sex="female")
        np.testing.assert_array_equal(received, model.generate(n=3, age=60, sex="female"))
        assert loaded.noise_uv == model.noise_uv


@pytest.mark.parametrize(
    "arguments",
    [
        {"noise": 0.02, "hidden": (), "leads": [f"v{n}" for n in range(12)]},
        {"noise": "per_recording", "sampling_rate": 250, "free_bits": 0.1, "kl_weight": 2},
        {**PUBLISHED},
    ],
)
def test_any_settings_survive_saving(arguments, tmp_path):
    model = VAE(SHAPE, *LAYERS, Z, 2, **arguments)
    model.save(tmp_path / "model")
    loaded = VAE.load(tmp_path / "model")
    assert loaded.get_config() == model.get_config()
    assert loaded.leads == model.leads
    conditions = np.ones((150, 2))
    expected = model.reconstruct(ECG, conditions)
    np.testing.assert_array_equal(loaded.reconstruct(ECG, conditions), expected)


def test_the_folder_holds_weights_and_plain_json_and_nothing_that_runs(model, tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    model.save(tmp_path / "model")
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["model.weights.h5", "parameters.json"]
    text = (tmp_path / "model" / "parameters.json").read_text(encoding="utf-8")
    description = json.loads(text, parse_constant=refuse)
    assert description["unit"] == "mV"
    assert description["config"]["leads"][:2] == ["I", "II"]
    assert description["config"]["sampling_rate"] == 500
    with pytest.raises(ModelError, match="holds a model already"):
        model.save(tmp_path / "model", overwrite=False)


def test_weights_alone_go_into_a_model_built_by_hand(model, tmp_path):
    model.save(tmp_path / "model")
    other = VAE(SHAPE, *LAYERS, Z, 5, schema=SCHEMA, noise="learned", seed=9)
    other.load_weights(tmp_path / "model" / "model.weights.h5")
    np.testing.assert_array_equal(other.reconstruct(ECG, TABLE), model.reconstruct(ECG, TABLE))


def test_a_path_ending_in_keras_is_written_in_the_format_of_keras(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.reconstruct(ECG, TABLE), model.reconstruct(ECG, TABLE))


def change(**values):
    def edit(folder):
        description = json.loads((folder / "parameters.json").read_text(encoding="utf-8"))
        description["config"] |= values
        (folder / "parameters.json").write_text(json.dumps(description), encoding="utf-8")

    return edit


def truncate(folder):
    content = (folder / "model.weights.h5").read_bytes()
    (folder / "model.weights.h5").write_bytes(content[: len(content) // 2])


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, before it refuses
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change(latent_space_dim=5), "damaged"),
        (change(nonsense=1), "damaged"),
        (change(schema={"conditions": []}), "damaged"),
        (change(conv_kernels=[[1, 900], [13, 1]]), "Convolution 1"),
        (lambda folder: (folder / "parameters.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "parameters.json").unlink(), "parameters.json is missing"),
        (lambda folder: (folder / "model.weights.h5").unlink(), "model.weights.h5"),
        (truncate, "damaged.*truncated"),
    ],
)
def test_a_damaged_folder_is_an_error_of_one_line(model, tmp_path, damage, message):
    model.save(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ModelError, match=message) as caught:
        VAE.load(tmp_path / "model")
    assert "\n" not in str(caught.value)
