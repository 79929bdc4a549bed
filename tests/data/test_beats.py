import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import signal
from scipy.signal import resample

from benchmarks.delineation import read_record, read_waves
from data.beats import BeatError, _median, _quality, _reach, _windows, median_beat, qrs_bounds
from data.cohort import INDEPENDENT_LEADS, LEADS, QRS_SAMPLE, derive_leads, einthoven_residual
from data.qrs import find_peaks
from data.strips import Strip, check_limb_leads, clean
from tests.places import ROOT, SHARED
from tests.simulated_strips import WAVES, beat, rhythm_strip

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
    onset, offset = qrs_bounds(found[[0, 1, *range(6, 12)]][:, 25:275].T)
    assert 25 + (onset + offset) / 2 == pytest.approx(QRS_SAMPLE, abs=2)
    assert 2 * (offset - onset) == pytest.approx(100 * width, abs=12 * width)


def test_a_qrs_goes_on_after_less_than_8_slow_samples_but_not_after_8():
    fast = np.zeros(60, bool)
    fast[[0, 1, 9, 18]] = True
    assert _reach(fast) == 9


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


def cut_off_beats():
    """(7, 20, 8): a common shape and noise; some begin late or end early."""
    rng = np.random.default_rng(0)
    beats = rng.normal(size=(1, 20, 8)) + 0.3 * rng.normal(size=(7, 20, 8))
    beats[0, :5] = beats[1, :2] = beats[6, 15:] = np.nan
    return beats.astype(np.float32)


def test_the_median_is_that_of_numpy_where_beats_are_cut_off():
    beats = cut_off_beats()
    np.testing.assert_allclose(_median(beats), np.nanmedian(beats, axis=0), rtol=1e-6)
    np.testing.assert_allclose(_median(beats[:4]), np.nanmedian(beats[:4], axis=0), rtol=1e-6)


def test_quality_counts_only_what_is_seen_of_a_beat():
    beats = cut_off_beats()
    median = np.nanmedian(beats, axis=0)
    correlation, variance = [], []
    for one in beats.astype(float):
        seen = np.isfinite(one)
        a, b = one[seen], median[seen].astype(float)
        correlation.append(a @ b / np.sqrt((a @ a) * (b @ b)))
        variance.append(np.mean((a - b) ** 2))
    noise = 1000 * np.sqrt(np.median(variance) * np.pi / (2 * 7))
    before = beats.copy()
    assert _quality(beats, median) == pytest.approx((np.median(correlation), noise), rel=1e-4)
    np.testing.assert_array_equal(beats, before)


def test_windows_lie_between_the_samples_and_are_unknown_beyond_the_strip():
    def wave(time):
        return np.sin(0.3 * time)[..., None] * np.ones(8)

    centres = np.array([5.25, 50.0, 96.6])
    windows = _windows(wave(np.arange(100.0)), centres, 10, 20)
    time = centres[:, None] + np.arange(-10, 20)
    outside = (np.floor(time) < 0) | (np.floor(time) > 99)
    np.testing.assert_array_equal(np.isnan(windows[:, :, 3]), outside)
    inside = (time > 4) & (time < 95)  # where no sample that counts is beyond the ends
    np.testing.assert_allclose(windows[inside], wave(time)[inside], atol=0.006)


def test_peaks_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for distance in (1, 5, 25, 60):
        values = rng.random(1000).astype(np.float32)
        expected, _ = signal.find_peaks(values, height=0.4, distance=distance)
        np.testing.assert_array_equal(find_peaks(values, 0.4, distance), expected)
    assert len(find_peaks(np.zeros(250), 0.1, 25)) == 0


def test_a_strip_stored_sample_by_sample_gives_the_same_beat():
    strip = rhythm_strip(noise=0.02).astype(np.float32)
    expected = median_beat(strip, 500).ecg
    np.testing.assert_array_equal(median_beat(np.asfortranarray(strip), 500).ecg, expected)
    np.testing.assert_array_equal(median_beat(strip[:, ::-1][:, ::-1], 500).ecg, expected)


def test_no_time_is_lost_in_threads_of_the_linear_algebra_library():
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import time\n"
        "from tests.simulated_strips import rhythm_strip\n"
        "from data.beats import median_beat\n"
        "strip = rhythm_strip(heart_rate=120, seconds=20, noise=0.02)\n"
        "median_beat(strip, 500)\n"
        "time.sleep(1)\n"  # threads that the library has from its start spin for a while
        "process, thread = time.process_time(), time.thread_time()\n"
        "for _ in range(10): median_beat(strip, 500)\n"
        "print((time.process_time() - process) / (time.thread_time() - thread))\n"
    )
    threads = os.environ | {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
    done = subprocess.run([sys.executable, "-c", script], env=threads, capture_output=True)
    assert float(done.stdout) < 1.1, done.stderr.decode()


def with_lead(lead, values):
    strip = rhythm_strip(noise=0.01)
    strip[LEADS.index(lead)] = values(strip[LEADS.index(lead)])
    return strip


def gap(values):
    return np.where(np.arange(len(values)) == 70, np.nan, values)


def infinite(values):
    return np.where(np.arange(len(values)) == 70, np.inf, values)


def resting(*starts):
    def at_the_top(values):
        values = values.copy()
        for start in starts:
            values[start : start + 3] = 3.0
        return values

    return at_the_top


def half_lost(values):
    return np.where(np.arange(len(values)) < 2500, values, 0.1)


def contradictory():
    strip = rhythm_strip(noise=0.01)
    return strip[[6, 7, 2, 3, 4, 5, 0, 1, 8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("strip", "reason"),
    [
        (lambda: with_lead("V3", gap), "lead V3 has missing samples"),
        (lambda: with_lead("V3", infinite), "lead V3 has missing samples"),
        (lambda: with_lead("V4", resting(0, 1000, 2000)), "lead V4 is saturated"),
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


def test_two_rests_at_the_same_value_are_no_saturation():
    median_beat(with_lead("V4", resting(0, 1000)), 500)


@pytest.mark.parametrize(("misfit", "refused"), [(0.25, False), (0.35, True)])
def test_limb_leads_may_contradict_each_other_by_three_tenths(misfit, refused):
    strip = rhythm_strip()
    noise = np.random.default_rng(0).standard_normal(strip.shape[1])
    strip[2] += misfit * strip[:6].std(axis=1).max() * noise
    if refused:
        with pytest.raises(BeatError, match="lead III contradicts leads I and II"):
            median_beat(strip, 500)
    else:
        median_beat(strip, 500)


def test_an_offset_of_each_lead_changes_nothing():
    strip = rhythm_strip(noise=0.01)
    offset = np.random.default_rng(0).uniform(-3, 3, (12, 1))
    expected = median_beat(strip, 500).ecg
    np.testing.assert_allclose(median_beat(strip + offset, 500).ecg, expected, atol=1e-5)


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


@pytest.mark.parametrize("rate", [0, 1.0, -500, np.nan, np.inf])
def test_an_impossible_sampling_rate_is_refused(rate):
    with pytest.raises(BeatError, match="sampling rate"):
        median_beat(rhythm_strip(), rate)


# --- what is no QRS complex -----------------------------------------------------------------------


def scaled_waves(qrs, t):
    return [
        (
            centre,
            width,
            tuple(a * (t if centre > 0.1 else qrs if centre > -0.1 else 1) for a in size),
        )
        for centre, width, size in WAVES
    ]


@pytest.mark.parametrize("heart_rate", [50, 60, 75, 90])
@pytest.mark.parametrize(("qrs", "t"), [(0.25, 2), (0.25, 3), (0.15, 2)])
def test_tall_t_waves_beside_small_qrs_complexes_do_not_count(heart_rate, qrs, t):
    waves = scaled_waves(qrs, t)
    strip = rhythm_strip(heart_rate=heart_rate, waves=waves, noise=0.01, jitter=0)
    found = median_beat(strip, 500)
    assert found.heart_rate == pytest.approx(heart_rate, rel=0.01)
    v5, known = (ecg[LEADS.index("V5")] for ecg in (found.ecg, truth(waves=waves)))
    qrs, after = slice(QRS_SAMPLE - 30, QRS_SAMPLE + 30), slice(QRS_SAMPLE + 60, QRS_SAMPLE + 160)
    assert abs(np.argmax(v5[qrs]) - np.argmax(known[qrs])) <= 4
    assert v5[qrs].max() == pytest.approx(known[qrs].max(), rel=0.1)
    assert v5[after].max() == pytest.approx(known[after].max(), rel=0.1)


def spikes(height, heart_rate, before, seed, seconds=10, samples=2):
    """(12, T) mV: a pacemaker that fires `before` s ahead of each beat of `rhythm_strip`."""
    first = 0.2 + 0.3 * np.random.default_rng(seed).random() - before
    times = np.arange(first, seconds, 60 / heart_rate)
    strip = np.zeros((8, seconds * 500))
    for number in np.round(times[times > 0] * 500).astype(int):
        strip[:, number : number + samples] += height * np.linspace(0.4, 1, 8)[:, None]
    return derive_leads(strip)


@pytest.mark.parametrize("before", [0.085, 0.06])
@pytest.mark.parametrize("height", [2, 5, 20])
def test_spikes_of_a_pacemaker_are_not_taken_for_the_qrs(height, before):
    strip = rhythm_strip(heart_rate=75, jitter=0, noise=0.01, seed=2)
    without = median_beat(strip, 500)
    found = median_beat(strip + spikes(height, 75, before, seed=2), 500)
    # A spike that is no higher than the QRS and right before it may be taken for a part of it.
    most = 10 if before < 0.08 else 2
    after = np.arange(QRS_SAMPLE - 10, 380)  # the filter lets the spike ring for 20 ms
    errors = [
        np.abs(found.ecg[:, after + shift] - without.ecg[:, after]).max()
        for shift in range(-most, most + 1)
    ]
    assert min(errors) < 0.05  # samples may lie half a step apart
    assert found.ecg[:, : QRS_SAMPLE - 20].max() > 0.3 * height  # as it was recorded
    assert found.heart_rate == pytest.approx(75, abs=0.3)


def test_few_disturbances_like_spikes_change_nothing():
    spiked = rhythm_strip(noise=0.01)
    spiked[6:, [700, 2500, 4200]] += 1.0
    assert clean(Strip(spiked, 500)).unpaced is None


@pytest.mark.parametrize(("every", "heart_rate"), [(2, 80), (3, 70), (4, 60)])
def test_the_heart_rate_is_that_of_all_beats(every, heart_rate):
    for seed in range(4):
        ectopic = range(1, 40, every)
        strip = rhythm_strip(heart_rate=heart_rate, jitter=0, ectopic=ectopic, seed=seed)
        found = median_beat(strip, 500)
        assert found.heart_rate == pytest.approx(heart_rate, rel=0.04)
        assert found.beats_found == pytest.approx(10 * heart_rate / 60, abs=1)
        assert found.beats_used < found.beats_found * (1 - 0.8 / every)


# --- the steps of a recorder ----------------------------------------------------------------------


@pytest.mark.parametrize("rate", [250, 500, 1000])
@pytest.mark.parametrize("step", [0.0125, 0.025, 0.039, 0.05])
def test_rounded_tops_of_a_recorder_with_coarse_steps_are_not_saturated(rate, step):
    for seed in range(8):  # of a heart that beats like a clock: each top is rounded alike
        strip = rhythm_strip(sampling_rate=rate, noise=0.002, jitter=0, seed=seed)
        clean(Strip(np.round(strip / step) * step, rate))


@pytest.mark.parametrize("rate", [250, 500, 1000])
@pytest.mark.parametrize("step", [0.001, 0.0125, 0.05])
def test_a_converter_at_its_limit_is_noticed_whatever_its_step(rate, step):
    strip = 3 * rhythm_strip(sampling_rate=rate, noise=0.002)
    strip = np.round(strip / step) * step
    strip[LEADS.index("V3")] = np.maximum(strip[LEADS.index("V3")], -round(1.5 / step) * step)
    with pytest.raises(BeatError, match="lead V3 is saturated"):
        clean(Strip(strip, rate))


def test_low_limb_leads_of_coarse_steps_do_not_contradict_each_other():
    strip = 0.2 * rhythm_strip(noise=0.02)
    check_limb_leads(np.round(strip / 0.05) * 0.05, LEADS)
    with pytest.raises(BeatError, match="contradicts"):
        check_limb_leads(np.round(contradictory() / 0.05) * 0.05, LEADS)


def test_leads_are_known_as_recorders_and_formats_call_them():
    strip = rhythm_strip(noise=0.01)
    expected = median_beat(strip, 500).ecg
    for names in (
        [f"Lead {lead}" for lead in LEADS],
        [f"ECG {lead}" for lead in LEADS],
        [f"MDC_ECG_LEAD_{lead.upper()}" for lead in LEADS],
        [*LEADS[:6], *(f"C{number}" for number in range(1, 7))],
        [f" {lead.lower()} " for lead in LEADS],
    ):
        np.testing.assert_array_equal(median_beat(strip, 500, names).ecg, expected)
    frank = np.vstack([strip[:4], strip[7:8], strip[4:], strip[9:11]])
    names = [*LEADS[:4], "vx", *LEADS[4:], "VY", "vz"]
    np.testing.assert_array_equal(median_beat(frank, 500, names).ecg, expected)
    with pytest.raises(BeatError, match="unknown lead '-aVR'"):
        median_beat(strip, 500, [*LEADS[:3], "-aVR", *LEADS[4:]])


@pytest.mark.skipif(not (SHARED / "ludb").is_dir(), reason="LUDB is not here")
@pytest.mark.parametrize("record", [8, 34, 45, 74, 95])
def test_paced_beats_have_their_qrs_where_cardiologists_marked_it(record):
    name = SHARED / "ludb" / "data" / str(record)
    marked = read_record(name, "paced")
    onset, offset = np.nanmedian(marked.marks[:, 2:4], axis=0)  # ms from the middle
    assert abs(onset + offset) / 2 < 12
    waves = read_waves(name, "ii")["qrs"][:, 1]
    rate = 60 * 500 / np.diff(waves).mean()
    assert marked.beat.heart_rate == pytest.approx(rate, abs=5)
