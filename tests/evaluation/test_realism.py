from math import comb

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats
from scipy.spatial.distance import cdist, pdist

from data.cohort import LEADS, derive_leads, independent_leads
from data.synthetic import simulate
from evaluation.measures import realism
from evaluation.measures.features import measure
from evaluation.measures.halves import (
    correlation_errors,
    frechet_of_halves,
    mmd2_of_halves,
    neighbours_of_halves,
    wasserstein_of_halves,
)
from evaluation.measures.realism import (
    PRINCIPAL_FEATURES,
    RealismError,
    lead_correlations,
    median_distance,
    realism_metrics,
)
from evaluation.measures.two_samples import (
    NEIGHBOURS,
    SWAPS,
    frechet_distance,
    mmd2,
    mmd2_p_value,
    nearest_neighbours,
    squared_distances,
)

rng = np.random.default_rng(11)
REAL, MADE, TRAIN = (simulate(n, seed).ecg for n, seed in ((100, 1), (100, 2), (150, 3)))
PATIENTS = np.arange(100).astype(str)
NULL = realism_metrics(REAL, MADE, TRAIN, PATIENTS, draws=60)
WITH_NULL = [name.removesuffix("_null") for name in NULL if name.endswith("_null")]


def normal(n, dim, of=rng):
    """(n, 1, dim), an ECG of one lead and independent samples."""
    return of.normal(size=(n, 1, dim)).astype(np.float32)


def compare(real, made, train=None, patients=None, **settings):
    """`realism_metrics` of beats of one lead, which have no clinical features."""
    patients = np.arange(len(real)) if patients is None else patients
    train = real if train is None else train
    return realism_metrics(real, made, train, patients, **{"draws": 20, "leads": ["x"], **settings})


# ---- distances and MMD ---------------------------------------------------------------------------


def test_squared_distances_are_those_of_scipy_far_from_the_origin_too():
    beats = 50 + rng.normal(size=(40, 3, 5)).astype(np.float32)
    flat = beats.reshape(40, -1).astype(np.float64)
    np.testing.assert_allclose(squared_distances(beats), cdist(flat, flat) ** 2, atol=1e-4)
    assert (np.diag(squared_distances(beats)) == 0).all()


def test_the_bandwidth_is_the_median_distance_between_different_beats():
    beats = rng.normal(size=(31, 2, 4))
    assert median_distance(beats) == pytest.approx(np.median(pdist(beats.reshape(31, -1))))


def test_mmd_is_that_of_double_loops_over_different_beats():
    x, y, h = rng.normal(size=(7, 2, 3)), rng.normal(size=(9, 2, 3)) + 0.5, 1.7

    def mean_kernel(a, b):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if a is not b or i != j]
        return np.mean([np.exp(-((a[i] - b[j]) ** 2).sum() / (2 * h**2)) for i, j in pairs])

    expected = mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
    assert mmd2(x, y, h) == pytest.approx(expected, abs=1e-6)


def test_mmd_of_two_gaussians_is_the_closed_form():
    n, dim, h, sd, shift = 3000, 2, 1.3, 1.5, np.array([0.8, -0.4])
    x = rng.normal(size=(n, dim))
    y = shift + sd * rng.normal(size=(n, dim))

    def mean_kernel(variance, distance2=0.0):  # of the difference, N(distance, variance I)
        scale = h**2 / (h**2 + variance)
        return scale ** (dim / 2) * np.exp(-distance2 / (2 * (h**2 + variance)))

    between = mean_kernel(1 + sd**2, shift @ shift)
    expected = mean_kernel(2) + mean_kernel(2 * sd**2) - 2 * between
    assert mmd2(x, y, h) == pytest.approx(expected, rel=0.1)


def test_mmd_of_one_distribution_is_zero_on_average_however_small_the_samples():
    values = [mmd2(rng.normal(size=(4, 2)), rng.normal(size=(6, 2)), 1.0) for _ in range(3000)]
    assert abs(np.mean(values)) < 4 * stats.sem(values)
    assert min(values) < 0


def test_p_is_uniform_if_the_distributions_are_the_same_and_small_if_not():
    patients = np.arange(15)
    p = [
        mmd2_p_value(rng.normal(size=(15, 3)), rng.normal(size=(15, 3)), 2.0, patients, seed)
        for seed in range(300)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.001
    shifted = rng.normal(size=(15, 3)) + 2
    assert mmd2_p_value(rng.normal(size=(15, 3)), shifted, 2.0, patients) < 0.01


def test_the_smallest_p_counts_the_order_observed():
    far = rng.normal(size=(30, 3)) + 50
    p = mmd2_p_value(rng.normal(size=(30, 3)), far, 2.0, np.arange(30))
    assert p == pytest.approx(1 / (SWAPS + 1))


def test_recordings_of_one_patient_are_swapped_together():
    def rejected(of_patients):
        p = []
        for seed in range(60):
            persons = np.repeat(rng.normal(size=(8, 3)), 4, axis=0)
            real = persons + 0.05 * rng.normal(size=(32, 3))
            p.append(mmd2_p_value(real, rng.normal(size=(32, 3)), 2.0, of_patients, seed))
        return np.mean(np.array(p) < 0.05)

    assert rejected(np.repeat(np.arange(8), 4)) < 0.2
    # As if they were 32 patients, their likeness is taken for a difference.
    assert rejected(np.arange(32)) > 0.4


# ---- nearest neighbours --------------------------------------------------------------------------


def test_density_coverage_precision_and_recall_are_those_of_double_loops():
    of = np.random.default_rng(3)
    x, y, k = of.normal(size=(12, 2)), 0.7 * of.normal(size=(9, 2)) + 1, 3

    def radius(sample, i):
        return sorted(np.linalg.norm(sample - sample[i], axis=1))[k]  # place 0: the beat itself

    def inside(point, sample, i):
        return np.linalg.norm(point - sample[i]) <= radius(sample, i)

    found = nearest_neighbours(x, y, k)
    balls = [[inside(point, x, i) for i in range(12)] for point in y]  # (9, 12)
    reverse = [[inside(point, y, j) for j in range(9)] for point in x]  # (12, 9)
    assert found.density == pytest.approx(np.sum(balls) / (k * 9))
    assert found.coverage == pytest.approx(np.mean(np.any(balls, axis=0)))
    assert found.precision == pytest.approx(np.mean(np.any(balls, axis=1)))
    assert found.recall == pytest.approx(np.mean(np.any(reverse, axis=1)))
    assert len({*found}) == 4  # or the test could not tell them apart


def test_one_distribution_has_density_one_and_the_coverage_of_naeem():
    n, k = 40, 5
    found = [
        nearest_neighbours(rng.normal(size=(n, 3)), rng.normal(size=(n, 3))) for _ in range(400)
    ]
    density, coverage, precision, recall = np.mean(found, axis=0)
    # The nearest k of 2N - 1 others are all of the ball's own sample.
    expected = 1 - comb(n - 1, k) / comb(2 * n - 1, k)
    assert coverage == pytest.approx(expected, abs=0.005)
    assert density == pytest.approx(1, abs=0.02)
    assert precision == pytest.approx(recall, abs=0.01)


def test_the_mean_beat_is_precise_and_dense_but_covers_and_recalls_nobody():
    mean = np.broadcast_to(TRAIN.mean(axis=0), REAL.shape)
    metrics = realism_metrics(REAL, mean, TRAIN, PATIENTS, draws=20)
    assert metrics["precision"] == 1
    assert metrics["density"] > 2 * metrics["density_null_high"]
    assert metrics["recall"] == 0
    assert metrics["coverage"] < 0.7 < metrics["coverage_null_p05"]
    assert metrics["mmd2"] > 3 * metrics["mmd2_null_high"]
    assert metrics["mmd2_p_value"] == pytest.approx(0.001)


# ---- features and leads --------------------------------------------------------------------------


def sample_of(mean, covariance, n=50):
    """(n, F) with exactly this mean and covariance."""
    x = rng.normal(size=(n, len(mean)))
    x = (x - x.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + x @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_independent_features_is_that_of_their_means_and_sds():
    mean, a, b = np.array([1.0, -2, 0.5]), np.array([1.0, 4, 9]), np.array([4.0, 1, 0.25])
    x, y = sample_of(np.zeros(3), np.diag(a)), sample_of(mean, np.diag(b), n=80)
    expected = (mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(x[:, :1], y[:, :1]) == pytest.approx(mean[0] ** 2 + 1)


def test_frechet_distance_of_correlated_features_is_that_by_the_matrix_root():
    a, b = (np.cov(rng.normal(size=(9, 4)), rowvar=False) for _ in range(2))
    root = linalg.sqrtm(a @ b).real
    expected = np.trace(a + b - 2 * root) + 4
    assert frechet_distance(sample_of(np.zeros(4), a), sample_of(np.ones(4), b)) == pytest.approx(
        expected
    )


def test_frechet_distance_works_with_fewer_beats_than_features():
    x = rng.normal(size=(6, 20))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + 0.5) == pytest.approx(20 * 0.25)


def test_lead_correlations_are_those_of_numpy_between_the_independent_leads():
    found = lead_correlations(MADE[:3])
    for beat, of_beat in zip(independent_leads(MADE[:3]), found, strict=True):
        expected = np.corrcoef(beat)[np.triu_indices(8, 1)]
        np.testing.assert_allclose(of_beat, expected, atol=1e-5)


def test_a_flat_lead_goes_with_no_other():
    ecg = MADE[:1].copy()
    ecg[:, [LEADS.index("V5"), LEADS.index("V6")]] = 0.3
    found = np.zeros((8, 8))
    found[np.triu_indices(8, 1)] = lead_correlations(ecg)[0]
    assert (found[:, 6:] == 0).all()
    assert (found[np.triu_indices(6, 1)] != 0).all()


def test_leads_of_different_beats_put_together_show_as_a_correlation_error():
    leads = independent_leads(MADE)
    mixed = np.stack([np.roll(leads[:, lead], 7 * lead, axis=0) for lead in range(8)], axis=1)
    mixed[:, ::2] *= -1
    metrics = realism_metrics(REAL, derive_leads(mixed), TRAIN, PATIENTS, draws=20)
    assert metrics["lead_correlation_error"] > 5 * metrics["lead_correlation_error_null_high"]
    a, b = (lead_correlations(part).mean(axis=0) for part in (REAL, derive_leads(mixed)))
    assert metrics["lead_correlation_error"] == pytest.approx(np.abs(a - b).mean(), rel=0.05)


def test_wasserstein_is_the_shift_of_a_feature_in_sds_of_the_training_beats():
    metrics = realism_metrics(REAL, 3 * REAL, TRAIN, PATIENTS, draws=40)
    for name in ("r_v5", "sokolow_lyon"):
        real, train = measure(REAL)[name], measure(TRAIN)[name]
        assert 3 * real.min() > real.median()  # hardly any overlap: all move the same way
        expected = 2 * real.mean() / train.std()
        assert metrics[f"wasserstein_{name}"] == pytest.approx(expected, rel=0.05)
    assert metrics["wasserstein_qrs_duration"] == pytest.approx(
        metrics["wasserstein_qrs_duration_null"], rel=0.02
    )
    assert metrics["wasserstein"] > metrics["wasserstein_null_high"]
    assert metrics["frechet_distance"] > metrics["frechet_distance_null_high"]


def test_axes_around_180_degrees_are_compared_as_those_around_0():
    def turned(ecg):  # limb leads upside down
        return np.concatenate([-ecg[:, :6], ecg[:, 6:]], axis=1)

    metrics = realism_metrics(turned(REAL), turned(MADE), turned(TRAIN), PATIENTS, draws=60)
    for end in ("", "_null"):
        name = f"wasserstein_qrs_axis{end}"
        assert metrics[name] == pytest.approx(NULL[name], rel=1e-4)


def test_axes_on_both_sides_of_180_degrees_are_near_each_other():
    table = measure(TRAIN, 500, 150)
    around = realism._standardised(table, table)["qrs_axis"]
    moved = table.assign(qrs_axis=(table["qrs_axis"] - table["qrs_axis"].mean()) % 360 - 180)
    assert moved["qrs_axis"].min() < -170
    assert moved["qrs_axis"].max() > 170
    found = realism._standardised(moved, moved)["qrs_axis"]
    np.testing.assert_allclose(found - found.mean(), around - around.mean(), atol=1e-9)


# ---- halves of a pool ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool():
    """40 beats and two samples of as many, features with gaps and ties, random halves, samples."""
    of = np.random.default_rng(5)
    beats = of.normal(size=(120, 6)) + 0.3 * (np.arange(120) // 40)[:, None]
    features = np.round(of.normal(size=(120, 3)), 1)
    features[of.random((120, 3)) < 0.2] = np.nan
    features[:, 2] = np.where(np.arange(120) < 39, np.nan, features[:, 2])
    halves = np.stack([of.permutation(40) < 20 for _ in range(9)])
    return beats, features, halves, np.arange(9) % 3


def sides(values, halves, sample):
    """The two sides that are compared in each draw."""
    for first, number in zip(halves, sample, strict=True):
        yield values[:40][first], values[40 * number :][:40][~first]


def test_the_figures_of_halves_are_those_of_the_two_sides_by_themselves(pool, monkeypatch):
    beats, features, halves, sample = pool
    squared, how = squared_distances(beats), (halves, sample)
    pairs = list(sides(beats, *how))
    # float32 holds the digits of the kernel, of which the rest is a difference
    expected = [mmd2(x, y, 2.0) for x, y in pairs]
    np.testing.assert_allclose(mmd2_of_halves(squared, *how, 2.0), expected, atol=1e-6)
    for listed in (64, 8):  # so few that the k-th is often not among them
        monkeypatch.setattr("evaluation.measures.halves.LISTED", listed)
        found = neighbours_of_halves(squared, *how)
        expected = np.transpose([nearest_neighbours(x, y) for x, y in pairs])
        np.testing.assert_allclose(list(found.values()), expected)
    expected = [np.abs(x.mean(axis=0) - y.mean(axis=0)).mean() for x, y in pairs]
    np.testing.assert_allclose(correlation_errors(beats, *how), expected)
    known = [
        [[column[~np.isnan(column)] for column in side.T] for side in pair]
        for pair in sides(features, *how)
    ]
    expected = [
        [
            stats.wasserstein_distance(*pair) if min(map(len, pair)) > 1 else np.nan
            for pair in zip(*both, strict=True)
        ]
        for both in known
    ]
    assert np.isnan(expected).any()
    np.testing.assert_allclose(wasserstein_of_halves(features, *how), expected, atol=1e-12)
    expected = [
        frechet_distance(*(side[~np.isnan(side).any(axis=1)] for side in pair))
        for pair in sides(features[:, :2], *how)
    ]
    np.testing.assert_allclose(frechet_of_halves(features[:, :2], *how), expected)


def test_beats_without_a_p_wave_count_in_the_frechet_distance():
    names = list(realism.COMPARED_FEATURES)
    drawn = np.random.default_rng(0).normal(size=(40, len(names)))
    features = pd.DataFrame(drawn, columns=names)
    how = np.arange(20) % 2 == [[0], [1]], np.array([0, 1])
    expected = realism._feature_figures(features, *how)["frechet_distance"]
    found = realism._feature_figures(features.assign(p_duration=np.nan), *how)
    np.testing.assert_array_equal(found["frechet_distance"], expected)


def test_one_beat_has_neither_spread_nor_distance():
    features = np.random.default_rng(0).normal(size=(12, 2))
    features[1:3] = np.nan
    how = np.arange(6)[None] < 3, np.array([1])
    assert np.isnan(frechet_of_halves(features, *how)).all()
    assert np.isnan(wasserstein_of_halves(features, *how)).all()


def test_features_that_are_known_are_not_measured_again(monkeypatch):
    features = [measure(ecg) for ecg in (REAL, MADE, TRAIN)]
    monkeypatch.delattr(realism, "measure")
    given = realism_metrics(REAL, MADE, TRAIN, PATIENTS, draws=60, features=features)
    assert given == NULL


# ---- together ------------------------------------------------------------------------------------


def test_every_figure_of_one_distribution_lies_among_real_halves():
    for name in WITH_NULL:
        if f"{name}_null_low" in NULL:
            low, high = NULL[f"{name}_null_low"], NULL[f"{name}_null_high"]
            assert low <= NULL[name] <= high, name
    assert NULL["mmd2_p_value"] > 0.01
    assert abs(NULL["mmd2_null"]) < NULL["mmd2_null_p95"]


def test_every_figure_has_a_null_and_percentiles_in_order():
    for name in ("mmd2", "density", "coverage", "precision", "recall", "frechet_distance"):
        assert NULL[f"{name}_low"] < NULL[name] < NULL[f"{name}_high"]
        assert NULL[f"{name}_null_low"] < NULL[f"{name}_null"] < NULL[f"{name}_null_high"]
    assert {f"wasserstein_{name}" for name in PRINCIPAL_FEATURES} <= set(WITH_NULL)
    assert NULL["mmd2_null"] < NULL["mmd2_null_p95"] < NULL["mmd2_null_high"]
    assert NULL["coverage_null_low"] < NULL["coverage_null_p05"] < NULL["coverage_null"]
    assert all(isinstance(value, int | float) for value in NULL.values())


def test_percentiles_are_those_over_the_halves_that_have_a_value(monkeypatch):
    values = np.random.default_rng(0).permutation(202) * 1.0
    values[values > 198] = np.nan
    made, null = np.split(values, 2)
    draws = iter((made, null))
    monkeypatch.setattr(
        realism, "_figures", lambda *_: {"mmd2": (value := next(draws)), "coverage": value}
    )
    metrics = compare(*[normal(30, 4)] * 2, draws=101)
    assert metrics["mmd2"] == pytest.approx(np.nanmean(made))
    ends = (metrics["mmd2_low"], metrics["mmd2_high"])
    assert ends == pytest.approx(np.nanpercentile(made, [2.5, 97.5]))
    assert metrics["mmd2_null_high"] == pytest.approx(np.nanpercentile(null, 97.5))
    assert metrics["mmd2_null_p95"] == pytest.approx(np.nanpercentile(null, 95))
    assert metrics["coverage_null_p05"] == pytest.approx(np.nanpercentile(null, 5))


@pytest.mark.parametrize("copies", [1, 3])
def test_a_model_that_gives_back_the_test_beats_gets_exactly_the_null(copies):
    metrics = realism_metrics(REAL, np.concatenate([REAL] * copies), TRAIN, PATIENTS, draws=10)
    for name in WITH_NULL:
        assert metrics[name] == pytest.approx(metrics[f"{name}_null"], rel=1e-9, abs=1e-9), name


def test_of_several_samples_the_halves_take_turns():
    x, y = normal(40, 4), normal(40, 4)
    near, far = (compare(x, part, draws=40)["precision"] for part in (y, y + 100))
    both = compare(x, np.concatenate([y, y + 100]), draws=40)["precision"]
    assert far == 0
    assert both == pytest.approx(near / 2, rel=0.05)


def test_all_recordings_of_a_patient_are_in_one_half():
    patients = np.repeat(np.arange(24), NEIGHBOURS + 1)
    real = normal(24, 50)[patients] + 1e-3 * normal(len(patients), 50)
    metrics = compare(real, real, patients=patients)
    # Every neighbour is of the same patient: no ball reaches into the other half.
    assert metrics["precision_null_high"] == metrics["coverage_null_high"] == 0
    assert metrics["patients"] == 24
    assert metrics["recordings"] == len(patients)


def test_the_halves_are_as_large_as_each_other(monkeypatch):
    sizes = []

    def record(_, halves, *__):
        sizes.extend(halves.sum(axis=1))
        return {}

    monkeypatch.setattr(realism, "_figures", record)
    x = normal(41, 4)
    compare(x, x)
    assert set(sizes) == {20}  # the other half are the other 21
    assert len(sizes) == 2 * 20  # with the null


def test_all_test_beats_together_have_the_mmd_of_the_training_bandwidth():
    h = median_distance(TRAIN)
    assert NULL["mmd2_all"] == pytest.approx(mmd2(REAL, MADE, h), abs=1e-6)
    x, train = normal(30, 4), 5 * normal(40, 4)
    y = x + 1
    metrics = compare(x, np.concatenate([y, 9 * y]), train)
    assert metrics["mmd2_all"] == pytest.approx(mmd2(x, y, median_distance(train)), abs=1e-6)


def test_beats_that_cannot_be_measured_are_counted_and_left_out():
    made = MADE.copy()
    made[:25] = 0
    made[25:35, :, :90] = 0  # no P wave
    metrics = realism_metrics(REAL, made, TRAIN, PATIENTS, draws=5)
    assert metrics["features_failed"] == pytest.approx(0.25 + NULL["features_failed"], abs=0.01)
    assert metrics["p_wave_missing"] == pytest.approx(0.35 + NULL["p_wave_missing"], abs=0.02)
    assert metrics["features_failed_null"] == measure(REAL)["failed"].mean()
    assert metrics["frechet_distance"] < 2 * NULL["frechet_distance_null_high"]
    nothing = realism_metrics(REAL, 0 * MADE, TRAIN, PATIENTS, draws=5)
    assert nothing["features_failed"] == 1
    assert np.isnan(nothing["frechet_distance"])
    assert np.isnan(nothing["wasserstein"])
    assert nothing["wasserstein_null"] > 0


def test_the_einthoven_residual_is_the_largest_of_the_generated():
    made = MADE.copy()
    made[7, LEADS.index("aVR"), 150] += 2 * np.abs(made[7, :6]).max()
    metrics = realism_metrics(REAL, made, TRAIN, PATIENTS, draws=2)
    assert metrics["einthoven_residual"] > 0.5
    assert metrics["einthoven_residual_null"] < 1e-6


def test_other_leads_have_no_clinical_features_but_all_else():
    of = independent_leads
    metrics = realism_metrics(
        of(REAL), of(MADE), of(TRAIN), PATIENTS, draws=5, leads=list("abcdefgh")
    )
    assert not any("wasserstein" in name or "einthoven" in name for name in metrics)
    assert {"mmd2", "coverage_null", "lead_correlation_error", "mmd2_p_value"} <= set(metrics)
    assert "lead_correlation_error" not in compare(normal(30, 4), normal(30, 4))


def test_a_small_test_set_is_judged_and_a_tiny_one_only_by_what_needs_no_halves():
    few = realism_metrics(REAL[:20], MADE[:20], TRAIN, PATIENTS[:20], draws=10)
    assert not any(np.isnan(value) for value in few.values())
    assert few.keys() == NULL.keys()
    for n in (1, 19):
        tiny = realism_metrics(REAL[:n], MADE[:n], TRAIN, PATIENTS[:n])
        assert {name.removesuffix("_null") for name in tiny} == {
            *("einthoven_residual", "features_failed", "p_wave_missing", "recordings", "patients")
        }
    one_person = realism_metrics(REAL, MADE, TRAIN, ["A"] * 100)
    assert "mmd2" not in one_person


def test_of_a_large_test_set_a_part_is_used_and_rows_stay_together(monkeypatch):
    monkeypatch.setattr(realism, "REAL_BEATS", 50)
    monkeypatch.setattr(realism, "POOLED_BEATS", 150)
    made = np.concatenate([REAL, REAL, REAL + 9])  # two samples fill the pool
    metrics = realism_metrics(REAL, made, TRAIN, PATIENTS, draws=6)
    assert metrics["recordings"] == metrics["patients"] == 50
    for name in WITH_NULL:
        assert metrics[name] == pytest.approx(metrics[f"{name}_null"], rel=1e-9, abs=1e-9), name


def test_of_a_large_test_set_beats_are_drawn_at_random_with_their_patients(monkeypatch):
    monkeypatch.setattr(realism, "REAL_BEATS", 50)
    ecg = normal(100, 4, np.random.default_rng(0))
    metrics = compare(ecg, ecg, patients=np.minimum(np.arange(100), 49))
    assert metrics["recordings"] == 50
    assert 20 <= metrics["patients"] < 40


def test_the_seed_decides_and_a_memory_map_serves(tmp_path):
    np.save(tmp_path / "real.npy", REAL)
    mapped = np.lib.format.open_memmap(tmp_path / "real.npy", mode="r")
    first, again, other = (
        realism_metrics(ecg, MADE, TRAIN, PATIENTS, seed, draws=3)
        for ecg, seed in ((REAL, 0), (mapped, 0), (REAL, 1))
    )
    assert again == first
    assert other["mmd2"] != first["mmd2"]
    assert other["mmd2_all"] == first["mmd2_all"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_generated_values_that_are_not_finite_are_named(bad):
    made = MADE.copy()
    made[37, 3, 200] = bad
    with pytest.raises(RealismError, match=r"number 37\. The model is broken"):
        realism_metrics(REAL, made, TRAIN, PATIENTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"real": REAL[:, :8]}, r"real ECGs of shape \(N, 12, T\).*\(100, 8, 400\)"),
        ({"generated": MADE[:99]}, r"generated.*\(100, 12, 400\).*\(99, 12, 400\)"),
        ({"generated": MADE[:0]}, r"generated.*\(0, 12, 400\)"),
        ({"generated": MADE[:, :, :399]}, r"generated.*\(100, 12, 399\)"),
        ({"train": TRAIN[:, :, 1:]}, r"training ECGs.*\(150, 12, 399\)"),
        ({"train": TRAIN[:1]}, r"two or more training ECGs.*\(1, 12, 400\)"),
        ({"train": TRAIN[:1].repeat(5, 0)}, r"training ECGs that differ.*median distance of 0"),
        ({"patients": PATIENTS[:5]}, r"patient id for each of 100.*Received: 5"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message):
    arrays = {"real": REAL, "generated": MADE, "train": TRAIN, "patients": PATIENTS}
    with pytest.raises(RealismError, match=message):
        realism_metrics(**arrays | change)
