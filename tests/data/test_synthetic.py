"""The simulated cohort against published matrices, published levels, and its own truth.

`PYTHONPATH=. python tests/test_synthetic.py` prints the simulated levels beside the published ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from scipy.integrate import simpson

from data import synthetic
from data.cohort import LEADS, QRS_SAMPLE, Cohort, einthoven_residual, independent_leads
from data.synthetic import FACTORS, HAZARDS, TIMES, simulate

# Edenbrandt L, Pahlm O, J Electrocardiol 1988;21:361-367; columns V1..V6, I, II.
INVERSE_DOWER = np.array(
    [
        [-0.172, -0.074, 0.122, 0.231, 0.239, 0.194, 0.156, -0.010],
        [0.057, -0.019, -0.106, -0.022, 0.041, 0.048, -0.227, 0.887],
        [-0.229, -0.310, -0.246, -0.063, 0.055, 0.108, 0.022, 0.102],
    ]
)[:, [6, 7, 0, 1, 2, 3, 4, 5]]  # to I, II, V1..V6
SUBJECTS = 3000


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return simulate(SUBJECTS, seed=1)


@pytest.fixture(scope="module")
def clean() -> Cohort:
    """The same subjects without noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "_noise", lambda rng, level: np.float32(0))
        return simulate(SUBJECTS, seed=1)


# Levels and effects -------------------------------------------------------------------------------


class Row(NamedTuple):
    """One published figure, and how to read it from a table of subjects and truth."""

    quantity: str
    sex: str
    published: float
    tolerance: float
    simulated: Callable[[pd.DataFrame], float]


def mean(column: str) -> Callable:
    return lambda table: table[column].mean()


def sd(column: str) -> Callable:
    return lambda table: table[column].std()


def regression(table: pd.DataFrame, values: pd.Series) -> np.ndarray:
    """Coefficients: level at 57.5 years and 27 kg/m2, per decade, per kg/m2, men minus women."""
    male = (table["sex"] == "male").to_numpy(float)
    design = np.column_stack(
        [np.ones(len(table)), (table["age"] - 57.5) / 10, table["bmi"] - 27, male - male.mean()]
    )
    return np.linalg.lstsq(design, values.to_numpy(), rcond=None)[0]


def per_decade(column: str, over: float = 0, relative: bool = False) -> Callable:
    def slope(table: pd.DataFrame) -> float:
        table = table[table["age"] > over]
        level, decade, *_ = regression(table, table[column])
        return 100 * decade / level if relative else decade

    return slope


def per_bmi(column: str, below: float = 100, relative: bool = False) -> Callable:
    def slope(table: pd.DataFrame) -> float:
        table = table[table["bmi"] < below]
        level, _, bmi, _ = regression(table, table[column])
        return 100 * bmi / level if relative else bmi

    return slope


def at_25(column: str, residual_sd: float = 0, log: bool = False) -> Callable:
    def level(table: pd.DataFrame) -> float:
        values = np.log(table[column]) if log else table[column]
        slope, level_at_0 = np.polyfit(table["age"], values, 1)
        spread = np.std(values - slope * table["age"] - level_at_0)
        value = level_at_0 + 25 * slope + residual_sd * spread
        return np.exp(value) if log else value

    return level


def young_angle(statistic: str) -> Callable:
    return lambda table: table.loc[table["age"] < 51, "qrs_t_angle"].agg(statistic)


def angle_rise(table: pd.DataFrame) -> float:
    """Degrees between those over 65 and those under 51."""
    angle = table["qrs_t_angle"]
    return angle[table["age"] > 65].mean() - angle[table["age"] < 51].mean()


def overweight_sokolow(table: pd.DataFrame) -> float:
    """Per cent by which overweight differs from normal weight."""
    bmi, sokolow = table["bmi"], table["sokolow_lyon"]
    normal, overweight = bmi.between(18.5, 25), bmi.between(25, 30)
    return 100 * (sokolow[overweight].mean() / sokolow[normal].mean() - 1)


ROWS = (
    Row("heart rate, 1/min", "men", 63, 1.0, mean("heart_rate")),
    Row("heart rate, 1/min", "women", 66, 1.0, mean("heart_rate")),
    Row("PR, ms", "men", 164, 3.0, mean("pr_interval")),
    Row("PR, ms", "women", 158, 3.0, mean("pr_interval")),
    Row("P duration, ms", "men", 112, 1.5, mean("p_duration")),
    Row("P duration, ms", "women", 108, 1.5, mean("p_duration")),
    Row("QRS duration, ms", "men", 92, 1.0, mean("qrs_duration")),
    Row("QRS duration, ms", "women", 85, 1.0, mean("qrs_duration")),
    Row("QRS duration, SD, ms", "men", 8, 1.0, sd("qrs_duration")),
    Row("QRS duration, SD, ms", "women", 8, 1.0, sd("qrs_duration")),
    Row("QTc, ms", "men", 410, 1.5, mean("qtc")),
    Row("QTc, ms", "women", 421, 1.5, mean("qtc")),
    Row("QTc, SD, ms", "all", 14, 1.5, lambda t: t.groupby("sex")["qtc"].std().mean()),
    Row("P axis, degrees", "men", 54, 2.0, mean("p_axis")),
    Row("P axis, degrees", "women", 57, 2.0, mean("p_axis")),
    Row("QRS axis, degrees", "men", 35, 2.5, mean("qrs_axis")),
    Row("QRS axis, degrees", "women", 39, 2.5, mean("qrs_axis")),
    Row("T axis, degrees", "men", 39, 3.0, mean("t_axis")),
    Row("T axis, degrees", "women", 45, 3.0, mean("t_axis")),
    Row("QRS-T angle under 51 y, degrees", "men", 80, 3.0, young_angle("mean")),
    Row("QRS-T angle under 51 y, degrees", "women", 66, 3.0, young_angle("mean")),
    Row("QRS-T angle under 51 y, SD", "men", 24, 4.0, young_angle("std")),
    Row("QRS-T angle under 51 y, SD", "women", 23, 3.0, young_angle("std")),
    Row("T in V5, mV", "men", 0.444, 0.03, mean("t_v5")),
    Row("T in V5, mV", "women", 0.317, 0.03, mean("t_v5")),
    Row("Sokolow-Lyon, mV", "men", 2.45, 0.15, mean("sokolow_lyon")),
    Row("Sokolow-Lyon, mV", "women", 2.05, 0.20, mean("sokolow_lyon")),
    Row("Sokolow-Lyon at 25 y, mV", "men", 3.7, 0.35, at_25("sokolow_lyon", log=True)),
    Row("Sokolow-Lyon at 25 y, mV", "women", 2.4, 0.25, at_25("sokolow_lyon", log=True)),
    Row("Cornell, mV", "men", 1.4, 0.1, mean("cornell")),
    Row("Cornell, mV", "women", 1.0, 0.1, mean("cornell")),
    Row("J point in V3 at 25 y, 97.5th percentile, mV", "men", 0.31, 0.03, at_25("j_v3", 1.96)),
    Row("J point in V3 at 25 y, 97.5th percentile, mV", "women", 0.11, 0.03, at_25("j_v3", 1.96)),
    Row("QRS axis per decade, degrees", "all", -8, 1.0, per_decade("qrs_axis")),
    Row("P duration per decade, ms", "all", 2.9, 0.5, per_decade("p_duration")),
    Row("PR per decade, ms", "all", 3, 1.0, per_decade("pr_interval")),
    Row("QTc per decade over 40 y, ms", "all", 2.5, 0.8, per_decade("qtc", over=40)),
    Row("QRS duration per decade, ms", "men", -0.75, 0.6, per_decade("qrs_duration")),
    Row("QRS duration per decade, ms", "women", 0, 0.6, per_decade("qrs_duration")),
    Row("T in V5 per decade, %", "all", -6, 2.0, per_decade("t_v5", relative=True)),
    Row("J point in V3 per decade, mV", "men", -0.033, 0.01, per_decade("j_v3")),
    Row("J point in V3 per decade, mV", "women", 0, 0.006, per_decade("j_v3")),
    Row("QRS-T angle, over 65 y less under 51 y, degrees", "all", 7, 3.0, angle_rise),
    Row("QRS axis per kg/m2, degrees", "all", -2, 0.4, per_bmi("qrs_axis")),
    Row("P duration per kg/m2, ms", "all", 0.38, 0.13, per_bmi("p_duration")),
    Row("PR per kg/m2, ms", "all", 0.48, 0.3, per_bmi("pr_interval")),
    Row("QRS duration per kg/m2 under 30, ms", "all", 0.3, 0.2, per_bmi("qrs_duration", below=30)),
    Row("QTc per kg/m2, ms", "all", 0.45, 0.2, per_bmi("qtc")),
    Row("Sokolow-Lyon, overweight against normal, %", "all", -13, 5.0, overweight_sokolow),
    Row("Cornell per kg/m2, mV", "all", 0.01, 0.009, per_bmi("cornell")),
    Row("T in V5 per kg/m2, %", "all", -5, 1.5, per_bmi("t_v5", relative=True)),
)


def marginals_table(cohort: Cohort) -> pd.DataFrame:
    """Published and simulated figures; where only a direction is published, the wanted size."""
    own = [name for name in cohort.subjects if name not in cohort.truth]
    table = cohort.truth.join(cohort.subjects[own])
    of_sex = {
        "men": table[table["sex"] == "male"],
        "women": table[table["sex"] == "female"],
        "all": table,
    }
    return pd.DataFrame(
        [(*row[:4], row.simulated(of_sex[row.sex])) for row in ROWS],
        columns=["quantity", "sex", "published", "tolerance", "simulated"],
    )


@pytest.fixture(scope="module")
def marginals(clean: Cohort) -> pd.DataFrame:
    return marginals_table(clean)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[f"{r.quantity}, {r.sex}" for r in ROWS])
def test_the_population_has_the_published_levels_and_effects(
    marginals: pd.DataFrame, number: int
) -> None:
    row = marginals.iloc[number]
    assert row["simulated"] == pytest.approx(row["published"], abs=row["tolerance"])


def test_latent_factors_are_standard_normal_and_independent_of_the_conditions(
    cohort: Cohort,
) -> None:
    factors = cohort.truth.filter(like="factor_").to_numpy()
    known = np.column_stack(
        [cohort.subjects["age"], cohort.subjects["sex"] == "male", cohort.subjects["bmi"]]
    ).astype(float)
    standard_error = 1 / np.sqrt(SUBJECTS)
    assert factors.shape == (SUBJECTS, len(FACTORS))
    assert len(FACTORS) >= 12
    np.testing.assert_allclose(factors.mean(axis=0), 0, atol=4 * standard_error)
    np.testing.assert_allclose(factors.std(axis=0), 1, atol=4 * standard_error)
    correlation = np.corrcoef(factors.T, known.T)[: len(FACTORS), len(FACTORS) :]
    np.testing.assert_allclose(correlation, 0, atol=4.5 * standard_error)


def test_lv_mass_tells_something_of_the_ecg_that_age_sex_and_bmi_do_not(clean: Cohort) -> None:
    def residual(values: pd.Series) -> np.ndarray:
        level, decade, bmi, male = regression(clean.subjects, values)
        subjects = clean.subjects
        is_male = (subjects["sex"] == "male").astype(float)
        return (
            values
            - level
            - decade * (subjects["age"] - 57.5) / 10
            - bmi * (subjects["bmi"] - 27)
            - male * (is_male - is_male.mean())
        )

    mass = residual(np.log(clean.subjects["lv_mass"]))
    assert np.corrcoef(mass, residual(clean.truth["sokolow_lyon"]))[0, 1] > 0.3
    function = residual(clean.subjects["lvef"])
    assert np.corrcoef(function, residual(clean.truth["qrs_t_angle"]))[0, 1] < -0.08


# The beat -----------------------------------------------------------------------------------------


def test_the_lead_field_inverts_to_the_published_inverse_dower_matrix() -> None:
    np.testing.assert_allclose(np.linalg.pinv(synthetic.DOWER), INVERSE_DOWER, atol=1.5e-3)


def test_the_cohort_keeps_the_contract(cohort: Cohort) -> None:
    assert cohort.ecg.shape == (SUBJECTS, 12, 400)
    assert cohort.ecg.dtype == np.float32
    assert einthoven_residual(cohort.ecg).max() < 1e-6
    assert cohort.subjects["subject_id"].iloc[[0, -1]].tolist() == ["sim-000001", "sim-003000"]
    assert cohort.subjects["age"].between(30, 85).all()
    assert set(cohort.subjects["sex"]) == {"female", "male"}
    assert not cohort.subjects.isna().any().any()
    assert not cohort.truth.isna().any().any()
    assert "simulated" in cohort.source


def test_an_ordinary_subject_has_an_ordinary_ecg(clean: Cohort) -> None:
    truth, ecg = clean.truth, clean.ecg
    r, s, t = ({lead: truth[f"{k}_{lead.lower()}"].median() for lead in LEADS} for k in "rst")
    onset, offset = (truth[name].to_numpy()[:, None] for name in ("p_onset", "p_offset"))
    p_area = (ecg * ((onset <= TIMES) & (offset >= TIMES))[:, None]).sum(axis=2)
    p = dict(zip(LEADS, np.median(p_area, axis=0), strict=True))
    assert p["I"] > 0
    assert p["II"] > 0
    assert p["aVR"] < 0
    assert r["V1"] < r["V2"] < r["V3"] < r["V4"]
    assert r["V5"] > r["V6"]
    assert s["V2"] > s["V3"] > s["V4"] > s["V5"] > s["V6"]
    assert r["V2"] < s["V2"]  # the transition lies at V3-V4
    assert r["V4"] > s["V4"]
    assert s["aVR"] > 3 * r["aVR"]
    assert all(t[lead] > 0.1 for lead in ("I", "II", "V2", "V3", "V4", "V5", "V6"))
    assert t["aVR"] < -0.1
    early = ecg[:, LEADS.index("V6"), QRS_SAMPLE - 25 : QRS_SAMPLE - 8].min(axis=1)
    assert -0.2 < np.median(early) < -0.03  # a small q


# Wide ranges for the mean of healthy adults, mV: common knowledge, not one published table.
@pytest.mark.parametrize(
    ("amplitude", "low", "high"),
    [
        ("r_i", 0.4, 0.8),
        ("r_ii", 0.6, 1.2),
        ("r_avl", 0.2, 0.5),
        ("r_v1", 0.15, 0.40),
        ("s_v1", 0.7, 1.3),
        ("s_v2", 0.8, 1.6),
        ("r_v3", 0.5, 1.1),
        ("r_v4", 1.0, 1.8),
        ("r_v5", 1.0, 1.8),
        ("r_v6", 0.8, 1.4),
        ("t_ii", 0.15, 0.4),
        ("t_v3", 0.35, 0.8),
    ],
)
def test_mean_amplitudes_are_those_of_healthy_adults(
    clean: Cohort, amplitude: str, low: float, high: float
) -> None:
    assert low < clean.truth[amplitude].mean() < high


def test_threshold_delineation_of_the_noiseless_beat_finds_the_stated_qrs(clean: Cohort) -> None:
    heart = INVERSE_DOWER @ independent_leads(clean.ecg)  # (N, 3, T)
    speed = 1000 * np.linalg.norm(np.gradient(heart, 2.0, axis=2), axis=1)  # uV/ms
    truth = clean.truth
    middle = ((truth["p_offset"] + truth["qrs_onset"]) / 2).to_numpy()[:, None]
    fast = (speed > 5) & (middle <= TIMES) & (TIMES <= 90)
    onset = TIMES[fast.argmax(axis=1)]
    offset = TIMES[len(TIMES) - 1 - fast[:, ::-1].argmax(axis=1)]
    for found, true in ((onset, truth["qrs_onset"]), (offset, truth["qrs_offset"])):
        assert abs(np.mean(found - true)) < 3
        assert np.std(found - true) < 4
    assert abs(np.mean(onset + offset) / 2) < 2  # the centre of the QRS lies at QRS_SAMPLE


def test_threshold_delineation_of_the_noiseless_beat_finds_the_stated_p(clean: Cohort) -> None:
    truth = clean.truth
    middle = ((truth["p_offset"] + truth["qrs_onset"]) / 2).to_numpy()[:, None]
    high = (np.abs(clean.ecg).max(axis=1) > 0.015) & (middle >= TIMES)
    onset = TIMES[high.argmax(axis=1)]
    offset = TIMES[len(TIMES) - 1 - high[:, ::-1].argmax(axis=1)]
    for found, true in ((onset, truth["p_onset"]), (offset, truth["p_offset"])):
        assert abs(np.median(found - true)) < 5
        assert np.std(found - true) < 5


def test_the_tangent_at_the_steepest_descent_of_t_gives_the_stated_end(clean: Cohort) -> None:
    for row in range(0, SUBJECTS, 30):
        end = clean.truth["t_offset"][row]
        late = (TIMES > end - 70) & (TIMES < end + 40)
        lead = np.argmax(np.abs(clean.ecg[row][:, late]).max(axis=1))
        wave = clean.ecg[row, lead].astype(float)
        slope = np.gradient(wave, TIMES)
        steepest = np.flatnonzero(late)[np.argmax(np.abs(slope[late]))]
        assert TIMES[steepest] - wave[steepest] / slope[steepest] == pytest.approx(end, abs=3)


def test_qt_and_rate_give_qtc_by_fridericia(cohort: Cohort) -> None:
    rr = 60 / cohort.truth["heart_rate"]
    np.testing.assert_allclose(
        cohort.truth["qtc"], cohort.truth["qt_interval"] / rr ** (1 / 3), rtol=1e-9
    )


def test_p_and_t_fit_into_the_window(cohort: Cohort) -> None:
    assert cohort.truth["p_onset"].min() >= -286
    assert cohort.truth["pr_interval"].max() <= 260
    assert cohort.truth["t_offset"].max() < 490
    assert np.abs(cohort.ecg[:, :, [0, -1]]).max() < 0.2


def test_amplitudes_and_axes_are_those_of_the_noiseless_beat(clean: Cohort) -> None:
    truth = clean.truth
    for row in range(0, SUBJECTS, 50):
        ecg, ends = clean.ecg[row].astype(float), truth.loc[row]
        baseline_time = (ends["p_offset"] + ends["qrs_onset"]) / 2
        ecg = ecg - np.array([[np.interp(baseline_time, TIMES, lead)] for lead in ecg])
        qrs = (ends["qrs_onset"] <= TIMES) & (ends["qrs_offset"] >= TIMES)
        lead = dict(zip(LEADS, ecg, strict=True))
        tolerance = {"abs": 1e-5}
        assert ends["r_v5"] == pytest.approx(lead["V5"][qrs].max(), **tolerance)
        assert ends["s_v1"] == pytest.approx(-lead["V1"][qrs].min(), **tolerance)
        assert ends["cornell"] == pytest.approx(
            lead["aVL"][qrs].max() - lead["V3"][qrs].min(), **tolerance
        )
        j_point = np.interp(ends["qrs_offset"], TIMES, lead["V3"])
        assert ends["j_v3"] == pytest.approx(j_point, **tolerance)
        late = (TIMES > ends["t_offset"] - 150) & (ends["t_offset"] > TIMES)
        t_wave = lead["V4"][late]
        if np.abs(t_wave).max() > 0.2:
            assert ends["t_v4"] == pytest.approx(t_wave[np.abs(t_wave).argmax()], abs=0.001)
        if np.hypot(ends["r_i"], ends["r_avf"]) > 0.4:
            i, ii = (simpson(lead[name][qrs]) for name in ("I", "II"))
            axis = np.degrees(np.arctan2(2 * ii - i, np.sqrt(3) * i))  # Einthoven's triangle
            assert ends["qrs_axis"] == pytest.approx(axis, abs=4)


def test_the_qrs_t_angle_is_that_of_the_inverse_dower_vectorcardiogram(clean: Cohort) -> None:
    heart = INVERSE_DOWER @ independent_leads(clean.ecg)
    truth = {name: clean.truth[name].to_numpy()[:, None, None] for name in clean.truth}
    qrs, st_t = (
        (heart * ((truth[start] <= TIMES) & (truth[end] >= TIMES))).sum(axis=2)
        for start, end in (("qrs_onset", "qrs_offset"), ("qrs_offset", "t_offset"))
    )
    cosine = (qrs * st_t).sum(axis=1) / np.linalg.norm(qrs, axis=1) / np.linalg.norm(st_t, axis=1)
    angle = np.degrees(np.arccos(cosine))
    error = angle - clean.truth["qrs_t_angle"]  # electrodes misplaced, chest walls of all kinds
    assert np.corrcoef(angle, clean.truth["qrs_t_angle"])[0, 1] > 0.95
    assert abs(error.median()) < 3
    assert error.abs().median() < 5


def test_noise_has_the_stated_level_in_each_subject(cohort: Cohort, clean: Cohort) -> None:
    noise = 1000 * independent_leads(cohort.ecg - clean.ecg)
    level = np.sqrt((noise**2).mean(axis=(1, 2)))
    np.testing.assert_allclose(level / cohort.truth["noise"], 1, atol=0.45)
    assert np.mean(level / cohort.truth["noise"]) == pytest.approx(1, abs=0.02)
    assert cohort.truth["noise"].between(5, 15).all()
    white = np.sqrt((np.diff(noise, axis=2) ** 2).mean() / 2)  # differencing removes slow noise
    assert white == pytest.approx(np.sqrt((noise**2).mean() / 2), rel=0.05)


def test_beats_vary_in_ways_that_no_sum_of_as_many_components_holds(clean: Cohort) -> None:
    ecg = independent_leads(clean.ecg[:1000, :, ::2]).reshape(1000, -1)
    singular = np.linalg.svd(ecg - ecg.mean(axis=0), compute_uv=False)
    dimensions = len(FACTORS) + 3  # and age, sex, BMI
    left = (singular[dimensions:] ** 2).sum() / (singular**2).sum()
    assert left > 0.005  # 0 if every factor added a wave of its own


# Outcomes -----------------------------------------------------------------------------------------


def cox_table(cohort: Cohort, columns: list[str]) -> pd.DataFrame:
    table = cohort.truth.join(cohort.subjects[["age", "bmi", "time", "event"]])
    table["male"] = (cohort.subjects["sex"] == "male").astype(float)
    return table[[*columns, "time", "event"]]


def test_outcomes_are_censored_at_random_and_at_ten_years(cohort: Cohort) -> None:
    time_, event = cohort.subjects["time"], cohort.subjects["event"]
    assert set(event) == {0, 1}
    assert 0.2 < event.mean() < 0.32
    assert time_.min() > 0
    assert time_.max() == 10
    assert (event[time_ == 10] == 0).all()
    assert 0.05 < ((event == 0) & (time_ < 10)).mean() < 0.25


def test_cox_regression_recovers_the_stated_hazards(cohort: Cohort) -> None:
    fitted = CoxPHFitter().fit(cox_table(cohort, list(HAZARDS)), "time", "event")
    for name, (weight, _) in HAZARDS.items():
        error = fitted.params_[name] - weight
        assert abs(error) < 3.5 * fitted.standard_errors_[name], name
    fitted = CoxPHFitter().fit(cox_table(cohort, ["log_hazard"]), "time", "event")
    assert fitted.params_["log_hazard"] == pytest.approx(1, abs=0.12)
    assert abs(cohort.truth["log_hazard"].mean()) < 0.12


def test_age_male_sex_weight_and_what_is_abnormal_in_the_ecg_raise_the_risk() -> None:
    assert {"age", "male", "bmi", "qrs_duration", "qtc", "qrs_t_angle"} < set(HAZARDS)
    assert all(weight > 0 for weight, _ in HAZARDS.values())


def test_the_ecg_adds_to_the_conditions_by_as_much_as_stated(cohort: Cohort) -> None:
    subjects = cohort.subjects
    oracle = concordance_index(subjects["time"], -cohort.truth["log_hazard"], subjects["event"])
    conditions = CoxPHFitter().fit(cox_table(cohort, ["age", "male", "bmi"]), "time", "event")
    assert oracle == pytest.approx(0.80, abs=0.025)
    assert conditions.concordance_index_ == pytest.approx(0.70, abs=0.03)


# The function -------------------------------------------------------------------------------------


def test_the_seed_decides_on_everything() -> None:
    first, again, other = simulate(40, seed=3), simulate(40, seed=3), simulate(40, seed=4)
    np.testing.assert_array_equal(first.ecg, again.ecg)
    pd.testing.assert_frame_equal(first.subjects, again.subjects)
    pd.testing.assert_frame_equal(first.truth, again.truth)
    assert not np.array_equal(first.ecg, other.ecg)


def test_chunks_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_noise", lambda rng, level: np.float32(0))
    whole = simulate(50)
    monkeypatch.setattr(synthetic, "CHUNK", 7)
    parts = simulate(50)
    np.testing.assert_allclose(parts.ecg, whole.ecg, atol=1e-5)
    np.testing.assert_allclose(parts.truth, whole.truth, atol=1e-3)


@pytest.mark.parametrize("n_subjects", [0, -1])
def test_no_subjects_is_an_error(n_subjects: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1. Received: {n_subjects}"):
        simulate(n_subjects)


def test_a_single_subject_is_possible() -> None:
    assert len(simulate(1)) == 1


def test_ten_thousand_subjects_take_seconds() -> None:
    start = time.process_time()
    simulate(1000)
    assert time.process_time() - start < 3  # 30 s of two cores for 10,000


if __name__ == "__main__":
    print(marginals_table(simulate(10_000)).round(3).to_string(index=False))
