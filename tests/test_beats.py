import numpy as np
import pytest
from scipy.signal import resample
from simulated_strips import WAVES, beat, rhythm_strip

from data.beats import BeatError, _median, _qrs_bounds, median_beat
from data.cohort import INDEPENDENT_LEADS, LEADS, QRS_SAMPLE, derive_leads, einthoven_residual

ONSET = QRS_SAMPLE - 27  # 54 ms before the middle: outside of Q, R and S by 3 widths


def truth(shift_ms=0.0, waves=WAVES):
    """The known beat as the pipeline should give it: PR segment at 0 mV."""
    known = beat((np.arange(400) - QRS_SAMPLE) / 500 + shift_ms / 1000, waves)
    return known - known[:, ONSET - 8 : ONSET].mean(axis=1, keepdims=True)


def error_uv(found, waves=WAVES):
    """(root mean square in uV, offset of the QRS centre in ms), at the best time shift."""
    shifts = np.arange(-8, 8.1, 0.1)
    errors = [1000 * np.sqrt(np.mean((found - truth(s, waves)) ** 2)) for s in shifts]
    return min(errors), shifts[int(np.argmin(errors))]


def test_a_clean_strip_gives_back_its_beat():
    error, shift = error_uv(median_beat(rhythm_strip(), 500).ecg)
    assert error < 3
    assert abs(shift) < 6


@pytest.mark.parametrize(
    ("disturbance", "limit_uv"),
    [
        ({"wander": 0.4}, 6),
        ({"mains": 0.2}, 4),
        ({"noise": 0.03}, 12),
        ({"heart_rate": 45, "wander": 0.3, "noise": 0.02}, 12),
        ({"ectopic": (2, 6)}, 4),
        ({"jitter": 0.12}, 4),
    ],
)
def test_the_beat_is_recovered_from_a_disturbed_strip(disturbance, limit_uv):
    errors = [error_uv(median_beat(rhythm_strip(seed=s, **disturbance), 500).ecg) for s in range(3)]
    assert np.mean([error for error, _ in errors]) < limit_uv
    assert max(abs(shift) for _, shift in errors) < 8


def test_alignment_to_a_fraction_of_a_sample_keeps_a_narrow_r_wave():
    narrow = [(c / 2, w / 2, a) if abs(c) < 0.1 else (c, w, a) for c, w, a in WAVES]
    height = beat(np.arange(-0.1, 0.1, 1e-4), narrow)[9].max()
    peaks = [median_beat(rhythm_strip(waves=narrow, seed=s), 500).ecg[9].max() for s in range(5)]
    assert np.mean(peaks) == pytest.approx(height, rel=0.007)  # whole samples: 0.0104


def test_premature_beats_are_found_but_not_used():
    found = median_beat(rhythm_strip(heart_rate=60, premature=(2, 5, 8), jitter=0), 500)
    regular = median_beat(rhythm_strip(heart_rate=60, jitter=0), 500)
    assert found.beats_found == regular.beats_found
    assert found.beats_used == regular.beats_used - 3


def test_the_st_segment_is_not_distorted_at_slow_rates():
    found = median_beat(rhythm_strip(heart_rate=45), 500).ecg
    _, shift = error_uv(found)
    st = slice(QRS_SAMPLE + 35, QRS_SAMPLE + 55)
    assert np.abs(found - truth(shift))[:, st].max() < 0.015


@pytest.mark.parametrize("width", [1.0, 1.5, 2.0])
def test_the_middle_of_the_qrs_lies_on_its_sample_whatever_its_width(width):
    waves = [(c * width, w * width, a) if abs(c) < 0.1 else (c, w, a) for c, w, a in WAVES]
    found = median_beat(rhythm_strip(noise=0.01, waves=waves), 500).ecg
    onset, offset = _qrs_bounds(found[[0, 1, *range(6, 12)]][:, 25:275])
    assert 25 + (onset + offset) / 2 == pytest.approx(QRS_SAMPLE, abs=2)
    assert 2 * (offset - onset) == pytest.approx(100 * width, abs=12 * width)


@pytest.mark.parametrize("rate", [240, 400, 1000])
def test_any_sampling_rate_gives_the_same_beat(rate):
    strip = rhythm_strip(sampling_rate=1000, seed=4)
    at_rate = resample(strip, strip.shape[1] * rate // 1000, axis=1)
    expected = median_beat(strip[:, ::2], 500).ecg
    assert np.abs(median_beat(at_rate, rate).ecg - expected).mean() < 0.004


def test_leads_are_taken_by_name_in_any_order_and_case():
    strip = rhythm_strip(noise=0.01)
    order = np.random.default_rng(0).permutation(12)
    names = [{"I": "DI", "II": "dii"}.get(LEADS[k], LEADS[k].upper()) for k in order]
    expected = median_beat(strip, 500)
    np.testing.assert_array_equal(median_beat(strip[order], 500, names).ecg, expected.ecg)
    eight = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]
    np.testing.assert_array_equal(
        median_beat(strip[eight], 500, INDEPENDENT_LEADS).ecg, expected.ecg
    )


def test_the_limb_leads_obey_einthoven_exactly():
    found = median_beat(rhythm_strip(noise=0.05), 500)
    assert einthoven_residual(found.ecg[None])[0] < 1e-6


def test_quality_counts_beats_rate_and_noise():
    found = median_beat(rhythm_strip(heart_rate=72, jitter=0, noise=0.02, ectopic=(5,)), 500)
    assert found.heart_rate == pytest.approx(72, abs=1)
    assert found.beats_used < found.beats_found
    assert 0.97 < found.correlation < 1
    # Noise of 20 uV up to 150 of 250 Hz, in 10 or 11 beats.
    assert found.noise_uv == pytest.approx(1.2533 * 20 * np.sqrt(0.6 / 10.5), rel=0.3)


def test_bigeminy_gives_the_beat_of_one_shape_not_a_blend():
    found = median_beat(rhythm_strip(heart_rate=60, ectopic=range(1, 20, 4)), 500)
    assert error_uv(found.ecg)[0] < 8


def test_a_short_strip_is_enough():
    assert error_uv(median_beat(rhythm_strip(seconds=2.5, heart_rate=70), 500).ecg)[0] < 15


def test_the_median_is_that_of_numpy_where_beats_are_cut_off():
    beats = np.random.default_rng(0).normal(size=(7, 8, 20)).astype(np.float32)
    beats[0, :, :5] = beats[1, :, :2] = beats[6, :, 15:] = np.nan
    np.testing.assert_allclose(_median(beats), np.nanmedian(beats, axis=0), rtol=1e-6)


def with_lead(lead, values):
    strip = rhythm_strip(noise=0.01)
    strip[LEADS.index(lead)] = values(strip[LEADS.index(lead)])
    return strip


def gap(values):
    return np.where(np.arange(len(values)) == 70, np.nan, values)


def half_lost(values):
    return np.where(np.arange(len(values)) < 2500, values, 0.1)


def contradictory():
    strip = rhythm_strip(noise=0.01)
    return strip[[6, 7, 2, 3, 4, 5, 0, 1, 8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("strip", "reason"),
    [
        (lambda: with_lead("V3", gap), "lead V3 has missing samples"),
        (lambda: with_lead("V2", lambda v: 0 * v), "lead V2 is flat"),
        (lambda: with_lead("V2", half_lost), "lead V2 is flat"),
        (lambda: with_lead("V4", lambda v: np.minimum(v, 0.9)), "lead V4 is saturated"),
        (lambda: rhythm_strip(seconds=2), "shorter than 2.5 s"),
        (lambda: 1000 * rhythm_strip(), "amplitude is not in mV"),
        (lambda: rhythm_strip() / 1000, "amplitude is not in mV"),
        (lambda: np.zeros((12, 5000)), "all leads are flat"),
        (lambda: np.random.default_rng(0).normal(0, 0.1, (12, 5000)), "contradicts leads I and II"),
        (contradictory, "contradicts leads I and II"),
        (lambda: rhythm_strip()[:8], "expected 12 leads"),
        (lambda: rhythm_strip().T, "expected 12 leads"),
        (lambda: rhythm_strip(heart_rate=5, noise=0.01), "too few beats"),
        (
            lambda: derive_leads(np.random.default_rng(0).normal(0, 0.1, (8, 5000))),
            "too few beats that look alike",
        ),
    ],
)
def test_an_unusable_strip_is_refused_with_its_reason(strip, reason):
    with pytest.raises(BeatError, match=reason):
        median_beat(strip(), 500)


@pytest.mark.parametrize(
    ("leads", "reason"),
    [
        (("X", *LEADS[1:]), "unknown lead 'X'"),
        (("II", *LEADS[1:]), "lead II is there twice"),
        (LEADS[:11], "lead V6 is not there"),
    ],
)
def test_wrong_lead_names_are_refused(leads, reason):
    with pytest.raises(BeatError, match=reason):
        median_beat(rhythm_strip(), 500, leads)


@pytest.mark.parametrize("rate", [0, -500, np.nan, np.inf])
def test_an_impossible_sampling_rate_is_refused(rate):
    with pytest.raises(BeatError, match="sampling rate"):
        median_beat(rhythm_strip(), rate)
