import numpy as np
import pandas as pd
import pytest
from scipy import signal

from benchmarks.features import errors, validation_table
from data.cohort import INDEPENDENT_LEADS, LEADS, QRS_SAMPLE, derive_leads, independent_leads
from data.synthetic import simulate
from evaluation.measures import features
from evaluation.measures.features import FEATURES, KORS, measure
from tests.places import SHARED

PTBXL, LUDB = SHARED / "ptbxl", SHARED / "ludb"
MS = (np.arange(400) - QRS_SAMPLE) * 2.0
INTERVALS = ["p_duration", "pr_interval", "qrs_duration", "qt_interval"]
# The simulator ends T where the tangent does, 2 SD after its peak, people a quarter SD later; that
# SD is 40 ms on average.
BEYOND_TANGENT = 0.25 * 40


@pytest.fixture(scope="module")
def cohort():
    return simulate(600, seed=3)


@pytest.fixture(scope="module")
def measured(cohort):
    return measure(cohort.ecg, heart_rate=cohort.subjects["heart_rate"].to_numpy())


@pytest.fixture(scope="module")
def table(cohort):
    return validation_table(cohort)


def wave(centre, sd, heights):
    """Gaussian of SD `sd` ms around `centre` ms in the 8 independent leads, mV: (8, 400)."""
    return np.multiply.outer(np.asarray(heights), np.exp(-0.5 * ((MS - centre) / sd) ** 2))


def vector_in_leads(vector):
    """Independent leads whose Kors vector is this one, and no other."""
    return np.linalg.pinv(KORS.astype(np.float64)) @ vector


def beat(*waves, noise=0.0):
    independent = np.sum(waves, axis=0)
    independent += noise * np.random.default_rng(0).standard_normal(independent.shape)
    return derive_leads(independent)[None].astype(np.float32)


def ordinary_beat(p=1.0, qrs=1.0, t=1.0, t_centre=240.0, **options):
    heights = np.array([0.6, 0.9, -0.4, 0.3, 0.8, 1.2, 1.1, 0.8])
    return beat(
        wave(-140, 20, 0.12 * p * heights),
        wave(0, 11, qrs * heights),
        wave(t_centre, 40, 0.3 * t * heights),
        **options,
    )


def test_intervals_follow_the_simulated_truth_within_5_ms_sd(table):
    assert table.loc[INTERVALS, "sd"].max() < 5
    bias = table.loc[INTERVALS, "bias"]
    bias["qt_interval"] -= BEYOND_TANGENT
    assert bias.abs().max() < 8
    assert table.loc[INTERVALS, "r"].min() > 0.95


def test_amplitudes_follow_the_simulated_truth_within_20_uv(table):
    millivolts = table[table["unit"] == "mV"].drop(index=["t_iii"])
    assert len(millivolts) == 49
    assert millivolts["sd"].max() < 0.02
    assert millivolts["bias"].abs().max() < 0.02
    # The smallest T wave, in a lead that is the difference of two noisy ones.
    assert table.loc["t_iii", "sd"] < 0.03


def test_axes_and_angles_follow_the_simulated_truth(table, cohort, measured):
    assert table.loc["qrs_axis", "sd"] < 4
    assert table.loc["p_axis", "sd"] < 7
    # A T wave small in the frontal plane has no certain axis: the median says more than the SD.
    assert errors(measured, cohort.truth)["t_axis"].abs().median() < 8
    # The simulated heart is seen through Dower's matrix, not Kors's.
    assert table.loc["qrs_t_angle", "sd"] < 9
    assert table.loc["qrs_t_angle", "r"] > 0.9


def test_nothing_fails_on_simulated_beats(measured):
    assert not measured["failed"].any()
    assert measured.notna().all(axis=None)


def test_the_t_wave_of_a_gaussian_ends_a_quarter_sd_beyond_the_tangent():
    for centre in (200, 240, 280):
        found = measure(ordinary_beat(t_centre=centre))["t_offset"][0]
        assert found == pytest.approx(centre + 2.25 * 40, abs=4)


def test_an_inverted_t_wave_ends_where_the_upright_one_does():
    upright, inverted = (measure(ordinary_beat(t=t)).iloc[0] for t in (1, -1))
    assert inverted["t_offset"] == pytest.approx(upright["t_offset"], abs=2)
    assert inverted["t_v5"] == pytest.approx(-upright["t_v5"], abs=0.01)


def test_the_second_phase_of_a_biphasic_t_wave_belongs_to_it():
    heights = np.array([0.3, 0.4, 0.1, 0.3, 0.4, 0.5, 0.5, 0.4])
    ecg = beat(wave(0, 11, 3 * heights), wave(220, 25, -heights), wave(300, 25, 0.8 * heights))
    assert measure(ecg)["t_offset"][0] == pytest.approx(350, abs=8)


def test_amplitudes_are_those_read_off_the_leads():
    table = measure(ordinary_beat(qrs=1.5)).iloc[0]
    heights = 1.5 * derive_leads(np.array([[0.6, 0.9, -0.4, 0.3, 0.8, 1.2, 1.1, 0.8]]).T)[:, 0]
    for lead, height in zip(LEADS, heights, strict=True):
        assert table[f"r_{lead.lower()}"] == pytest.approx(max(height, 0), abs=0.005)
        assert table[f"s_{lead.lower()}"] == pytest.approx(max(-height, 0), abs=0.005)
        assert table[f"t_{lead.lower()}"] == pytest.approx(0.3 * height / 1.5, abs=0.01)
        assert table[f"p_{lead.lower()}"] == pytest.approx(0.12 * height / 1.5, abs=0.012)
    assert table["sokolow_lyon"] == pytest.approx(0.6 + 1.65, abs=0.01)
    assert table["cornell"] == pytest.approx(1.5 * (0.6 - 0.45), abs=0.01)


def test_p_is_measured_from_the_line_between_its_ends():
    drift = 0.08 * np.clip(-(MS + 40) / 260, 0, None)
    level, rising = (
        measure((ordinary_beat() + one).astype(np.float32)).iloc[0] for one in (0, drift)
    )
    for lead in ("ii", "v4"):
        assert rising[f"p_{lead}"] == pytest.approx(level[f"p_{lead}"], abs=0.012)


def test_between_samples_a_lead_runs_straight_and_at_nan_it_has_no_value():
    ramp = np.arange(10.0)[None, None].repeat(3, axis=0)
    found = features._value_at(ramp, np.array([3.25, 9, np.nan]))
    np.testing.assert_allclose(found[:, 0], [3.25, 9, np.nan])


def test_the_vector_is_that_of_the_published_regression():
    """Kors et al. 1990, in hundredths."""
    published = {
        "I": (38, -7, 11),
        "II": (-7, 93, -23),
        "V1": (-13, 6, -43),
        "V2": (5, -2, -6),
        "V3": (-1, -5, -14),
        "V4": (14, 6, -20),
        "V5": (6, -17, -11),
        "V6": (54, 13, 31),
    }
    expected = np.array([published[lead] for lead in INDEPENDENT_LEADS]).T / 100
    np.testing.assert_allclose(KORS, expected, atol=1e-7)


@pytest.mark.parametrize("degrees", [-150, -60, 0, 45, 90, 170])
def test_the_frontal_axis_is_the_direction_of_the_dipole_in_einthovens_triangle(degrees):
    angle = np.radians(degrees)
    heights = np.zeros(8)
    heights[:2] = np.cos(angle), np.cos(angle - np.pi / 3)  # II lies at 60 degrees
    table = measure(
        beat(wave(-140, 20, 0.15 * heights), wave(0, 11, heights), wave(240, 40, 0.3 * heights))
    ).iloc[0]
    for axis in ("p_axis", "qrs_axis", "t_axis"):
        assert (table[axis] - degrees + 180) % 360 - 180 == pytest.approx(0, abs=1)


@pytest.mark.parametrize("degrees", [0, 40, 90, 150, 180])
def test_the_qrs_t_angle_is_the_angle_between_the_two_vectors(degrees):
    angle = np.radians(degrees)
    qrs, t = (
        np.array([1.0, 0, 0]),
        np.array([np.cos(angle), 0.6 * np.sin(angle), 0.8 * np.sin(angle)]),
    )
    ecg = beat(wave(0, 11, vector_in_leads(qrs)), wave(240, 40, 0.3 * vector_in_leads(t)))
    assert measure(ecg)["qrs_t_angle"][0] == pytest.approx(degrees, abs=1.5)


def test_corrected_qt_is_fridericias():
    table = measure(np.repeat(ordinary_beat(), 3, axis=0), heart_rate=np.array([60, 80, np.nan]))
    np.testing.assert_allclose(table["qtc"][0], table["qt_interval"][0])
    np.testing.assert_allclose(table["qtc"][1], table["qt_interval"][1] / (60 / 80) ** (1 / 3))
    assert np.isnan(table["qtc"][2])
    assert measure(ordinary_beat())["qtc"].isna().all()


def test_intervals_do_not_depend_on_amplitude_or_baseline(cohort, measured):
    offset = np.linspace(-0.4, 0.4, 12, dtype=np.float32)[:, None]
    other = measure(cohort.ecg[:100] * 1.3 + offset)
    columns = [*INTERVALS, "qrs_t_angle"]
    np.testing.assert_allclose(other[columns], measured.loc[:99, columns], atol=0.1)
    np.testing.assert_allclose(other["r_v5"], 1.3 * measured.loc[:99, "r_v5"], atol=0.001)


def test_a_shifted_beat_has_shifted_times_and_the_same_intervals(cohort, measured):
    shifted = measure(np.roll(cohort.ecg[:100], 3, axis=2))
    np.testing.assert_allclose(shifted["qrs_onset"] - measured.loc[:99, "qrs_onset"], 6, atol=0.01)
    np.testing.assert_allclose(
        shifted["qrs_duration"], measured.loc[:99, "qrs_duration"], atol=0.01
    )


def test_another_sampling_rate_gives_the_same_features(cohort, measured):
    # A resampled beat is read as periodic: a margin keeps its ends from ringing into P and T.
    double = signal.resample_poly(cohort.ecg[:100], 2, 1, axis=2, padtype="line")
    other = measure(double.astype(np.float32), sampling_rate=1000, qrs_sample=2 * QRS_SAMPLE)
    for name in INTERVALS:
        assert (other[name] - measured.loc[:99, name]).abs().median() < 1.5
    assert (other["r_v5"] - measured.loc[:99, "r_v5"]).abs().max() < 0.02


def test_a_broad_r_prime_is_part_of_the_qrs():
    # Right bundle branch block: in V1 the top of R' stands still while no other lead moves.
    qrs = wave(-40, 9, [0.6, 0.9, 0.3, 0.3, 0.8, 1.2, 1.1, 0.8])
    r_prime = wave(30, 18, [0, 0, 1.0, 0.6, 0, 0, 0, 0])
    t = wave(270, 40, [0.2, 0.3, -0.2, 0.1, 0.3, 0.3, 0.3, 0.2])
    table = measure(beat(qrs, r_prime, t)).iloc[0]
    assert table["qrs_offset"] == pytest.approx(30 + 2.4 * 18, abs=10)
    assert table["qrs_duration"] > 120


def test_the_t_wave_of_the_beat_before_is_not_taken_for_p():
    heights = np.array([0.6, 0.9, -0.4, 0.3, 0.8, 1.2, 1.1, 0.8])
    before = wave(-300, 25, 0.4 * heights)
    with_it = measure(ordinary_beat(noise=0.003) + beat(before)).iloc[0]
    without = measure(ordinary_beat(noise=0.003)).iloc[0]
    assert with_it["p_onset"] == pytest.approx(without["p_onset"], abs=8)


@pytest.mark.parametrize(("p", "noise"), [(0, 0.003), (0.05, 0.0)])
def test_a_beat_without_p_wave_has_no_p_features_but_did_not_fail(p, noise):
    table = measure(ordinary_beat(p=p, noise=noise)).iloc[0]
    missing = [name for name in FEATURES if name.startswith("p_") or name == "pr_interval"]
    assert table[missing].isna().all()
    assert not table["failed"]
    assert table[["qrs_duration", "qt_interval", "qrs_axis"]].notna().all()


def test_a_beat_without_t_wave_failed_and_keeps_its_qrs():
    table = measure(ordinary_beat(t=0, noise=0.003)).iloc[0]
    assert table["failed"]
    assert np.isnan(table["qt_interval"])
    assert table["qrs_duration"] > 0


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_flat_line_failed_without_a_warning(level):
    table = measure(np.full((2, 12, 400), level, dtype=np.float32))
    assert table["failed"].all()
    assert table[list(FEATURES)].isna().all(axis=None)


def test_noise_alone_has_no_waves():
    noise = np.random.default_rng(1).standard_normal((50, 8, 400)) * 0.02
    table = measure(derive_leads(noise).astype(np.float32))
    assert table["failed"].mean() > 0.8


def test_chunks_make_no_difference(cohort, measured, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 37)
    table = measure(cohort.ecg[:100], heart_rate=cohort.subjects["heart_rate"].to_numpy()[:100])
    pd.testing.assert_frame_equal(table, measured.head(100), rtol=1e-4, atol=1e-4)


def test_the_table_has_every_feature_and_every_feature_is_defined(cohort, measured):
    assert list(measured) == [*FEATURES, "failed"]
    assert measured["failed"].dtype == bool
    assert all(feature.unit and feature.definition for feature in FEATURES.values())
    truth = {name for name in cohort.truth if not name.startswith(("factor_", "true_"))}
    assert truth - set(FEATURES) <= {"heart_rate", "noise", "log_hazard"}


def test_no_beats_give_an_empty_table():
    table = measure(np.zeros((0, 12, 400), dtype=np.float32))
    assert len(table) == 0
    assert list(table) == [*FEATURES, "failed"]


def test_eight_leads_beside_einthovens_equations_decide_on_the_times(cohort):
    ecg = cohort.ecg[:50].copy()
    ecg[:, 2:6] = np.random.default_rng(0).standard_normal((50, 4, 400))
    np.testing.assert_array_equal(independent_leads(ecg), independent_leads(cohort.ecg[:50]))
    kept = [*INTERVALS, "t_offset", "qrs_t_angle", "r_v5", "s_v1"]
    pd.testing.assert_frame_equal(measure(ecg)[kept], measure(cohort.ecg[:50])[kept])


@pytest.mark.parametrize(
    ("ecg", "options", "message"),
    [
        (
            np.zeros((2, 400, 12)),
            {},
            r"Expected ecg of shape \(N, 12, T\). Received: \(2, 400, 12\)",
        ),
        (np.zeros((2, 12, 400, 1)), {}, r"Drop the last axis"),
        (np.full((2, 12, 400), np.nan), {}, r"Expected finite ECGs"),
        (np.zeros((2, 12, 400)), {"qrs_sample": 400}, r"qrs_sample in 0\.\.399"),
        (np.zeros((2, 12, 400)), {"heart_rate": np.ones(3)}, r"one for each of 2 beats"),
        (np.zeros((2, 12, 400)), {"heart_rate": 0}, r"positive heart_rate"),
    ],
)
def test_bad_input_is_named(ecg, options, message):
    with pytest.raises(ValueError, match=message):
        measure(ecg, **options)


@pytest.mark.parametrize("p_sd", [14, 20, 26])
def test_noise_changes_neither_the_durations_nor_whether_there_is_a_p_wave(p_sd):
    heights = np.array([0.6, 0.9, -0.4, 0.3, 0.8, 1.2, 1.1, 0.8])
    clean = beat(
        wave(-150, p_sd, 0.15 * heights), wave(0, 11, heights), wave(240, 40, 0.3 * heights)
    )
    noise = np.random.default_rng(0).standard_normal((100, 8, 400))
    noisy = measure(clean + derive_leads(0.01 * noise).astype(np.float32))
    smooth = measure(clean).iloc[0]
    assert noisy["p_duration"].notna().all()
    for name in INTERVALS:
        assert noisy[name].mean() == pytest.approx(smooth[name], abs=2.5)
        assert noisy[name].std() < 6


def test_p_and_t_end_where_most_leads_do():
    heights = np.array([0.6, 0.9, -0.4, 0.3, 0.8, 1.2, 1.1, 0.8])
    p, t = wave(-160, 18, 0.15 * heights), wave(240, 40, 0.3 * heights)
    late = (heights == 0.3)[:, None]  # one lead
    for moved in (p, t):
        moved[:] = np.where(late, np.roll(moved, 10, axis=1), moved)
    one_late = measure(beat(p, wave(0, 11, heights), t)).iloc[0]
    none_late = measure(
        beat(wave(-160, 18, 0.15 * heights), wave(0, 11, heights), wave(240, 40, 0.3 * heights))
    ).iloc[0]
    for name in ("p_onset", "p_offset", "t_offset"):
        assert one_late[name] == pytest.approx(none_late[name], abs=3)


def test_leads_without_the_wave_have_no_say_in_its_ends():
    every = np.ones(8)
    two = np.where(np.arange(8) < 2, 1.0, 0.05)
    late = wave(-130, 20, 0.15 * (every - two) * 0.1)
    few, all_eight = (
        measure(
            beat(wave(-150, 20, 0.15 * shown), wave(0, 11, every), wave(240, 40, 0.3 * every), more)
        ).iloc[0]
        for shown, more in ((two, late), (every, 0 * late))
    )
    for name in ("p_duration", "pr_interval"):
        assert few[name] == pytest.approx(all_eight[name], abs=2)


def test_the_spike_of_a_pacemaker_is_no_part_of_the_qrs():
    heights = np.array([0.6, 0.9, -0.4, 0.3, 0.8, 1.2, 1.1, 0.8])
    qrs, t = wave(0, 22, heights), wave(280, 45, -0.3 * heights)
    spike = wave(-78, 2, 0.5 * heights[::-1])
    paced, unpaced = (measure(beat(qrs, t, *more)).iloc[0] for more in ([spike], []))
    assert paced["qrs_onset"] == pytest.approx(unpaced["qrs_onset"], abs=8)
    q_wave = wave(-30, 7, -0.3 * heights[::-1])  # is part of it, since the vector turns
    with_q = measure(beat(wave(0, 9, heights), q_wave, t)).iloc[0]
    assert with_q["qrs_onset"] == pytest.approx(-30 - 2.4 * 7, abs=8)


def test_the_next_qrs_is_not_taken_for_a_t_wave():
    heights = np.array([0.6, 0.9, -0.4, 0.3, 0.8, 1.2, 1.1, 0.8])
    waves = [wave(0, 11, heights), wave(180, 30, 0.2 * heights)]
    fast = measure(beat(*waves, wave(400, 11, heights))).iloc[0]
    slow = measure(beat(*waves)).iloc[0]
    assert fast["t_offset"] == pytest.approx(slow["t_offset"], abs=4)


@pytest.mark.skipif(not LUDB.is_dir(), reason="LUDB is not beside the checkout")
def test_ends_of_waves_agree_with_marks_by_hand_within_the_cse_tolerances():
    from benchmarks.delineation import TOLERANCES, by_this_project, read_ludb, references

    marked = read_ludb(LUDB)
    found, marks = by_this_project(marked), references(marked)["lead median"]
    for name, tolerance in TOLERANCES.items():
        error = found[name] - marks[name]
        assert abs(error.mean()) < 5
        assert error.std() < tolerance
    has_p = np.array([record.p_share > 0.5 for record in marked])
    seen = found["p_onset"].notna()
    assert seen[has_p].mean() > 0.96
    assert seen[~has_p].mean() < 0.2


@pytest.mark.skipif(not PTBXL.is_dir(), reason="PTB-XL is not beside the checkout")
def test_real_beats_have_physiological_features_and_block_a_wide_qrs(tmp_path):
    from data.readers.ptbxl import load_ptbxl

    cohort = load_ptbxl(PTBXL, cache=tmp_path, workers=1, progress=False, limit=200)
    table = measure(cohort.ecg, heart_rate=cohort.subjects["heart_rate"].to_numpy())
    codes = pd.read_csv(PTBXL / "ptbxl_database.csv", dtype={"ecg_id": str}).set_index("ecg_id")
    codes = codes["scp_codes"].reindex(cohort.subjects["subject_id"]).to_numpy()
    normal = np.array(["'NORM'" in row for row in codes])
    block = np.array(["'CLBBB'" in row or "'CRBBB'" in row for row in codes])
    assert table["failed"].mean() < 0.03
    assert not table.loc[normal, "failed"].any()
    medians = table[normal].median(numeric_only=True)
    for name, low, high in [
        ("p_duration", 95, 120),
        ("pr_interval", 140, 170),
        ("qrs_duration", 80, 98),
        ("qtc", 375, 425),
        ("qrs_axis", 20, 70),
        ("sokolow_lyon", 1.8, 2.8),
    ]:
        assert low < medians[name] < high
    assert block.sum() >= 3
    assert table.loc[block, "qrs_duration"].min() > 120
    axis = cohort.subjects["heart_axis"]
    assert table.loc[axis == "ALAD", "qrs_axis"].between(-130, -25).all()
    assert table.loc[axis == "MID", "qrs_axis"].between(-15, 95).all()
