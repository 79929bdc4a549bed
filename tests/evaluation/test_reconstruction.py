import numpy as np
import pytest
from scipy import stats

from data.cohort import LEADS, derive_leads
from evaluation.measures.reconstruction import fit_pca, project, reconstruction_metrics
from evaluation.measures.statistics import bootstrap_means, bootstrap_weights

rng = np.random.default_rng(5)


def low_rank_ecg(n, seed, rank=6, noise=0.01):
    """(n, 12, 400) mV: smooth random waves of falling size, exact in the limb leads."""
    modes = np.exp(-np.square((np.arange(400) - np.linspace(50, 330, rank)[:, None]) / 15))
    lead_field = np.random.default_rng(0).normal(size=(rank, 8)) / np.arange(1, rank + 1)[:, None]
    of = np.random.default_rng(seed)
    waves = np.einsum("nk,kl,kt->nlt", 1 + of.normal(size=(n, rank)), lead_field, modes)
    return derive_leads((waves + noise * of.normal(size=(n, 8, 400))).astype(np.float32))


TRAIN, TEST = low_rank_ecg(120, 1), low_rank_ecg(40, 2)
MADE = (TEST + 0.03 * rng.normal(size=TEST.shape)).astype(np.float32)
PATIENTS = np.repeat(np.arange(20), 2).astype(str)
METRICS = reconstruction_metrics(TEST, MADE, TRAIN, PATIENTS, k=4, seed=3)


def test_overall_errors_are_those_written_out_by_hand():
    error_uv = 1000 * (MADE.astype(np.float64) - TEST.astype(np.float64))
    r = [stats.pearsonr(x.ravel(), y.ravel()).statistic for x, y in zip(TEST, MADE, strict=True)]
    assert METRICS["mae_uv"] == pytest.approx(np.abs(error_uv).mean(), rel=1e-9)
    assert METRICS["rmse_uv"] == pytest.approx(np.sqrt(np.square(error_uv).mean()), rel=1e-9)
    assert METRICS["pearson_r"] == pytest.approx(np.mean(r), rel=1e-6)
    assert METRICS["recordings"] == 40
    assert METRICS["patients"] == 20


def test_errors_per_lead_are_those_of_that_lead():
    for lead in ("I", "V1", "V6"):
        x, y = TEST[:, LEADS.index(lead)], MADE[:, LEADS.index(lead)]
        r = np.mean([stats.pearsonr(a, b).statistic for a, b in zip(x, y, strict=True)])
        assert METRICS[f"mae_uv_{lead}"] == pytest.approx(1000 * np.abs(y - x).mean(), rel=1e-5)
        rmse = 1000 * np.sqrt(np.square(y - x).mean())
        assert METRICS[f"rmse_uv_{lead}"] == pytest.approx(rmse, rel=1e-5)
        assert METRICS[f"pearson_r_{lead}"] == pytest.approx(r, rel=1e-5)


@pytest.mark.parametrize(
    ("segment", "first", "last"),
    [("p", 0, 120), ("qrs", 120, 180), ("st", 180, 220), ("t", 220, 360)],
)
def test_an_error_inside_a_window_shows_in_that_segment_alone(segment, first, last):
    made = TEST.copy()
    made[:, :, first:last] += 0.05
    metrics = reconstruction_metrics(TEST, made, TRAIN, PATIENTS, k=2)
    for other in ("p", "qrs", "st", "t"):
        expected = 50 if other == segment else 0
        assert metrics[f"mae_uv_{other}"] == pytest.approx(expected, abs=1e-3)


def test_windows_follow_the_sampling_rate_and_the_place_of_the_qrs():
    made = TEST[:, :, ::2].copy()
    made[:, :, 60:90] += 0.05  # -60 .. 60 ms around sample 75 at 250 Hz
    metrics = reconstruction_metrics(
        TEST[:, :, ::2], made, TRAIN[:, :, ::2], PATIENTS, k=2, sampling_rate=250, qrs_sample=75
    )
    assert metrics["mae_uv_qrs"] == pytest.approx(50, abs=1e-3)
    assert metrics["mae_uv_st"] == pytest.approx(0, abs=1e-3)


def test_the_mean_beat_and_pca_are_fitted_on_the_training_recordings():
    mean = TRAIN.mean(axis=0, dtype=np.float64)
    flat = (TRAIN - mean).reshape(len(TRAIN), -1)
    components = np.linalg.svd(flat, full_matrices=False)[2][:4]
    test = (TEST - mean).reshape(len(TEST), -1)
    residual = test - test @ components.T @ components
    assert METRICS["mean_beat_mae_uv"] == pytest.approx(1000 * np.abs(test).mean(), rel=1e-9)
    rmse = 1000 * np.sqrt(np.square(test).mean())
    assert METRICS["mean_beat_rmse_uv"] == pytest.approx(rmse, rel=1e-9)
    assert METRICS["pca4_mae_uv"] == pytest.approx(1000 * np.abs(residual).mean(), rel=1e-7)


@pytest.mark.parametrize("n", [3, 8, 120])
def test_principal_components_span_what_the_singular_value_decomposition_finds(n):
    ecg = low_rank_ecg(n, 7, rank=12, noise=0.05)[:, :, ::4]
    mean, components = fit_pca(ecg, k=10)
    exact = np.linalg.svd((ecg - mean).reshape(n, -1), full_matrices=False)[2][: min(10, n - 1)]
    found = components.reshape(len(components), -1)
    assert found.shape == exact.shape
    assert np.linalg.svd(exact @ found.T)[1] == pytest.approx(1, abs=1e-6)
    assert found @ found.T == pytest.approx(np.eye(len(found)), abs=1e-9)


def test_principal_components_of_one_recording_or_none_asked_for_are_the_mean_beat_alone():
    for ecg, k in ((TRAIN[:1], 10), (TRAIN, 0)):
        mean, components = fit_pca(ecg, k)
        assert components.shape == (0, 12, 400)
        np.testing.assert_array_equal(project(TEST, mean, components)[0], mean)


def test_the_paired_difference_to_pca_is_narrower_than_its_two_sides():
    pca = project(TEST, *fit_pca(TRAIN, 4)).astype(np.float32)
    made = pca + 0.01 * np.sign(pca - TEST)  # the errors of PCA, each 10 uV larger
    metrics = reconstruction_metrics(TEST, made, TRAIN, PATIENTS, k=4)
    assert metrics["mae_minus_pca_uv"] == pytest.approx(10, abs=0.01)
    assert metrics["mae_minus_pca_uv_low"] == pytest.approx(10, abs=0.02)
    assert metrics["mae_minus_pca_uv_high"] == pytest.approx(10, abs=0.02)
    assert metrics["mae_uv_high"] - metrics["mae_uv_low"] > 1


def test_bootstrap_draws_whole_patients():
    patients = np.array(["b", "a", "b", "c"])
    weights = np.concatenate(list(bootstrap_weights(patients, seed=0, draws=200)))
    assert weights.shape == (200, 4)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)


def test_intervals_match_those_of_scipy_when_each_patient_has_one_recording():
    values = rng.gamma(2, size=(150, 1))
    _, samples = bootstrap_means(values, np.arange(150), seed=0)
    reference = stats.bootstrap(
        (values[:, 0],), np.mean, method="percentile", n_resamples=4000, rng=rng
    ).confidence_interval
    low, high = np.percentile(samples, (2.5, 97.5))
    width = reference.high - reference.low
    assert low == pytest.approx(reference.low, abs=0.1 * width)
    assert high == pytest.approx(reference.high, abs=0.1 * width)


def test_intervals_over_patients_hold_the_truth_where_recordings_of_a_patient_are_alike():
    covered = 0
    for trial in range(120):
        of = np.random.default_rng(trial)
        values = np.repeat(of.normal(size=60), 5)[:, None] + 0.1 * of.normal(size=(300, 1))
        _, samples = bootstrap_means(values, np.repeat(np.arange(60), 5), seed=trial)
        low, high = np.percentile(samples, (2.5, 97.5))
        covered += low < 0 < high
    assert 0.90 <= covered / 120 <= 0.99  # recordings drawn one by one would reach about 0.6


def test_intervals_of_a_metric_are_the_middle_95_percent_of_its_bootstrap_means():
    mae = 1000 * np.abs(MADE.astype(np.float64) - TEST).mean(axis=(1, 2))
    _, samples = bootstrap_means(mae[:, None], PATIENTS, seed=3)
    assert METRICS["mae_uv_low"] == pytest.approx(np.quantile(samples, 0.025))
    assert METRICS["mae_uv_high"] == pytest.approx(np.quantile(samples, 0.975))


def test_a_bootstrap_in_many_chunks_gives_the_same_draws(monkeypatch):
    patients = np.arange(50)
    whole = np.concatenate(list(bootstrap_weights(patients, seed=1, draws=30)))
    monkeypatch.setattr("evaluation.measures.statistics.WEIGHTS_PER_CHUNK", 200)
    chunks = list(bootstrap_weights(patients, seed=1, draws=30))
    assert len(chunks) > 1
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_recordings_in_many_chunks_give_the_same_numbers(monkeypatch):
    monkeypatch.setattr("evaluation.measures.reconstruction.RECORDINGS_PER_CHUNK", 7)
    again = reconstruction_metrics(TEST, MADE, TRAIN, PATIENTS, k=4, seed=3)
    assert again == pytest.approx(METRICS, rel=1e-6)


def test_a_broken_limb_lead_shows_as_einthoven_residual_and_an_exact_one_does_not():
    broken = TEST.copy()
    broken[7, LEADS.index("III")] += 0.2
    assert reconstruction_metrics(TEST, broken, TRAIN, PATIENTS, 2)["einthoven_residual"] > 0.05
    assert reconstruction_metrics(TEST, TEST, TRAIN, PATIENTS, 2)["einthoven_residual"] < 1e-5


def test_more_draws_change_the_interval_and_not_the_value():
    few = reconstruction_metrics(TEST, MADE, TRAIN, PATIENTS, k=4, seed=3, draws=100)
    assert few["mae_uv"] == METRICS["mae_uv"]
    assert few["mae_uv_low"] != METRICS["mae_uv_low"]
    assert few["mae_uv_low"] == pytest.approx(METRICS["mae_uv_low"], rel=0.02)


def test_a_flat_lead_is_left_out_of_the_correlation_without_a_warning():
    flat = TEST.copy()
    flat[:, LEADS.index("V1")] = 0
    metrics = reconstruction_metrics(flat, MADE, TRAIN, PATIENTS, k=2)
    assert np.isnan(metrics["pearson_r_V1"])
    assert metrics["pearson_r_V2"] == pytest.approx(METRICS["pearson_r_V2"])


def test_every_metric_is_a_plain_number_and_the_same_seed_gives_the_same():
    assert {type(value) for value in METRICS.values()} == {float, int}
    assert reconstruction_metrics(TEST, MADE, TRAIN, PATIENTS, k=4, seed=3) == METRICS


def test_eight_leads_of_another_length_are_judged_without_limb_lead_equations():
    leads = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    metrics = reconstruction_metrics(
        TEST[:, :8, :200], MADE[:, :8, :200], TRAIN[:, :8, :200], PATIENTS, 2, leads=leads
    )
    assert "einthoven_residual" not in metrics
    assert "mae_uv_t" not in metrics  # the window begins at sample 220
    assert "mae_uv_st" in metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ecg": TEST.swapaxes(1, 2)}, r"Expected ecg of shape \(N, 12, T\)"),
        ({"reconstruction": MADE[:5]}, "Expected a reconstruction of shape"),
        ({"train_ecg": TRAIN[:, :, :300]}, "Expected training ECGs"),
        ({"patients": PATIENTS[:3]}, "one patient id for each of 40 recordings. Received: 3"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    given = {"ecg": TEST, "reconstruction": MADE, "train_ecg": TRAIN, "patients": PATIENTS, "k": 2}
    with pytest.raises(ValueError, match=message):
        reconstruction_metrics(**(given | change))
