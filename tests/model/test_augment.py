"""Augmentation of beats, taken apart with beats that only one of its changes can touch."""

import functools

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import null_space
from scipy.spatial.transform import Rotation

from data.cohort import QRS_SAMPLE, SAMPLES, derive_leads, einthoven_residual, independent_leads
from data.synthetic import DOWER
from model.augment import _rotations, augment, draw
from model.network import ModelError
from vae import VAE

# Directions in the space of the 8 independent leads that no dipole reaches: rotating the heart
# vector leaves them alone.
STEADY, TIMED = null_space(DOWER.T).T[:2]


def beats(n, seed=0):
    """Smooth random ECGs that obey the limb-lead equations."""
    noise = np.random.default_rng(seed).normal(size=(n, 8, SAMPLES))
    return derive_leads(np.cumsum(noise, axis=2).astype(np.float32) / 10)


def augmented(ecg, strength, seed):
    drawn = draw(len(ecg), strength, np.random.default_rng(seed))
    return np.asarray(augment(ecg.astype(np.float32), drawn, QRS_SAMPLE))


@functools.cache
def augmented_probe(n=2000, strength=1.0, seed=0):
    """Gain (n,), time warp (n, T) and rotated heart vector (n, 3) of n augmented probes."""
    heart = DOWER @ np.array([1.0, 0.0, 0.0])
    ramp = np.arange(SAMPLES)
    leads = (heart + STEADY)[:, None] + TIMED[:, None] * ramp
    ecg = np.tile(derive_leads(leads), (n, 1, 1))
    changed = independent_leads(augmented(ecg, strength, seed))
    changed = changed.astype(np.float64)
    gain = np.einsum("l,nlt->nt", STEADY, changed)
    np.testing.assert_allclose(gain, gain[:, :1] * np.ones(SAMPLES), rtol=1e-3)
    gain = gain.mean(axis=1)
    warp = np.einsum("l,nlt->nt", TIMED, changed) / gain[:, None]
    vector = np.einsum("vl,nlt->nvt", np.linalg.pinv(DOWER), changed).mean(axis=2)
    return gain, warp, vector / gain[:, None]


def test_strength_0_changes_nothing_up_to_the_last_sample():
    ecg = beats(5)
    np.testing.assert_array_equal(augmented(ecg, 0.0, 0), ecg)


def test_augmented_leads_obey_the_limb_lead_equations_to_float_rounding():
    changed = augmented(beats(50), 2.0, 1)
    assert changed.dtype == np.float32
    assert changed.shape == (50, 12, SAMPLES)
    assert einthoven_residual(changed).max() < 1e-6
    np.testing.assert_array_equal(changed, derive_leads(independent_leads(changed)))


def test_the_same_generator_gives_the_same_beats_and_another_others():
    ecg = beats(4)
    first, again, other = (augmented(ecg, 1.0, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_the_given_ecgs_stay_as_they_were():
    ecg = beats(3)
    ecg.flags.writeable = False
    before = ecg.copy()
    augmented(ecg, 1.0, 0)
    np.testing.assert_array_equal(ecg, before)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_gain_is_log_normal_with_a_standard_deviation_of_6_percent(strength):
    gain, _, _ = augmented_probe(strength=strength)
    assert stats.kstest(np.log(gain), stats.norm(0, 0.06 * strength).cdf).pvalue > 0.01


def test_position_and_duration_vary_by_one_sample_and_3_percent_on_each_side_of_the_qrs():
    _, warp, _ = augmented_probe()
    at_qrs = warp[:, QRS_SAMPLE] - QRS_SAMPLE
    before = (warp[:, QRS_SAMPLE] - warp[:, QRS_SAMPLE - 100]) / 100
    after = (warp[:, QRS_SAMPLE + 200] - warp[:, QRS_SAMPLE]) / 200
    # 2,000 beats: the standard error of a standard deviation is 1.6% of it.
    assert np.std(at_qrs) == pytest.approx(1.0, rel=0.06)
    assert np.std(np.log(before)) == pytest.approx(0.03, rel=0.06)
    assert np.std(np.log(after)) == pytest.approx(0.03, rel=0.06)
    for values in (at_qrs, np.log(before), np.log(after)):
        assert stats.ttest_1samp(values, 0).pvalue > 0.01
    assert abs(np.corrcoef(before, after)[0, 1]) < 0.05


def test_time_runs_forward_and_stays_inside_the_beat():
    _, warp, _ = augmented_probe(n=200, strength=2.0)
    assert np.diff(warp, axis=1).min() > -1e-2
    assert warp.min() > -1e-2
    assert warp.max() < SAMPLES - 1 + 1e-2


def test_the_heart_vector_is_rotated_by_about_5_degrees_and_keeps_its_length():
    _, _, vector = augmented_probe()
    np.testing.assert_allclose(np.linalg.norm(vector, axis=1), 1, atol=2e-4)
    # A vector along x moves by the rotation about z in y, and about y in -z.
    assert np.rad2deg(np.std(vector[:, 1])) == pytest.approx(5, rel=0.06)
    assert np.rad2deg(np.std(vector[:, 2])) == pytest.approx(5, rel=0.06)


def test_rotations_are_those_of_scipy():
    angles = np.random.default_rng(0).normal(size=(20, 3))
    expected = Rotation.from_euler("xyz", angles).as_matrix()
    # Three roundings of float32.
    np.testing.assert_allclose(_rotations(angles.astype(np.float32)), expected, atol=3e-7)


def test_each_beat_is_changed_as_its_numbers_say():
    """Against rotations of scipy and interpolation of NumPy, in float64."""
    ecg, drawn = beats(6), draw(6, 3.0, np.random.default_rng(5))
    offset = np.arange(SAMPLES) - QRS_SAMPLE
    for beat, changed, (*angles, gain, early, late, shift) in zip(
        independent_leads(ecg),
        np.asarray(augment(ecg, drawn, QRS_SAMPLE)),
        drawn.astype(float),
        strict=True,
    ):
        rotation = Rotation.from_euler("xyz", angles).as_matrix()
        vector = np.linalg.lstsq(DOWER, beat, rcond=None)[0]
        turned = np.exp(gain) * (beat + DOWER @ (rotation @ vector - vector))
        times = QRS_SAMPLE + shift + offset * np.exp(np.where(offset < 0, early, late))
        expected = [np.interp(times, np.arange(SAMPLES), lead) for lead in turned]
        np.testing.assert_allclose(changed, derive_leads(np.array(expected)), atol=1e-4)


@pytest.mark.parametrize("more", [[(2,)], [(2, 3)], [(2, 8)], [(2, 7), (2, 7)]])
def test_a_third_input_that_is_no_augmentation_is_refused(more):
    model = VAE((12, 400), (2,), ((1, 10),), ("same",), 2, 0)
    others = [np.zeros(shape, np.float32) for shape in more]
    with pytest.raises(ModelError, match=r"numbers of model.augment.draw. Received besides"):
        model((beats(2), np.zeros((2, 0), np.float32), *others), training=True)


def test_leads_that_cannot_be_rotated_are_refused():
    model = VAE((12, 400), (2,), ((1, 10),), ("same",), 2, 0, leads=[f"l{n}" for n in range(12)])
    given = beats(2), np.zeros((2, 0), np.float32), np.zeros((2, 7), np.float32)
    with pytest.raises(ModelError, match=r"standard 12 leads. Received: \('l0', 'l1'"):
        model(given, training=True)


def test_timing_changes_around_the_qrs_wherever_it_lies():
    ecg = np.pad(beats(8), ((0, 0), (0, 0), (100, 100)), mode="edge")
    drawn = draw(8, 1.0, np.random.default_rng(5))
    here, there = (
        np.asarray(augment(part, drawn, qrs_sample))
        for part, qrs_sample in ((ecg[:, :, :550], 250), (ecg[:, :, 50:], 200))
    )
    np.testing.assert_allclose(there[:, :, 100:400], here[:, :, 150:450], atol=1e-3)
