"""What the metrics say in plain words: sentences for the head of the page.

Each function of `FINDINGS` reads a section of metrics without NaN and null, and says nothing where
what it needs is not there. What says the same of several conditions or leads is one sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from data.cohort import LEADS
from evaluation.measures.names import ENDS, effects_in, feature_title, not_recovered
from evaluation.measures.reconstruction import SEGMENTS_MS
from evaluation.report.reading import BESIDE, metric, principal_components

FEW_PATIENTS = 100
FEW_SLOPES = 0.8  # share recovered; a perfect generator has 0.95 less the chance of its training
WEAK, STRONG = 0.8, 1.25  # gain
COLLAPSED = 0.1  # R2 or AUC above that of real ECGs, with its whole interval
USEFUL = 0.8  # skill kept
BLIND = 0.9  # AUC: an attack that tells planted copies no better proves nothing
MISSING = 0.05  # share of waves that cannot be measured, above that of real ECGs
TIED = 0.05  # share of those at risk who have the event at one time; see `tied_share`
NAMED = 4  # features that a sentence lists


class Finding(NamedTuple):
    """A sentence for the summary, and whether the model falls short there."""

    text: str
    short: bool = False


Section = Mapping[str, float]  # of the metrics


def reconstructs(m: Section) -> Iterable[Finding]:
    """Against principal components and the mean beat."""
    mean_beat = m.get("mean_beat_mae_uv", 0)
    share = m["mae_uv"] / mean_beat if "mae_uv" in m and mean_beat > 0 else None
    pca, name = _pca(m)
    if {name, "mae_uv", "mae_minus_pca_uv"} <= m.keys():
        numbers = (
            f"mean absolute error {_value(m, 'mae_uv')} against {_value(m, name)}, difference "
            f"{_value(m, 'mae_minus_pca_uv', '+')}{_interval(m, 'mae_minus_pca_uv', '+')}"
        )
        if share is not None:
            numbers += f", the {BESIDE['mean_beat_{}']} {_value(m, 'mean_beat_mae_uv')}"
        low, high = _ends(m, "mae_minus_pca_uv")
        if high < 0:
            yield Finding(f"The model reconstructs test ECGs better than {pca}: {numbers}.")
        elif low > 0:
            yield Finding(f"The model reconstructs test ECGs worse than {pca}: {numbers}.", True)
        else:
            yield Finding(f"No clear difference between the model and {pca}: {numbers}.", True)
    if share is not None and share > 0.9:
        yield Finding(f"The error is {share:.0%} of that of giving everyone the mean beat.", True)


def weak_parts(m: Section) -> Iterable[Finding]:
    """Leads and segments that are no better than the baselines."""
    pca, name = _pca(m)
    parts = []
    worse = [
        part.upper() if part in SEGMENTS_MS else part
        for part in (*SEGMENTS_MS, *LEADS)
        if m.get(f"mae_uv_{part}", 0) > m.get(f"{name}_{part}", math.inf)
    ]
    if worse:
        parts.append(f"larger than that of {pca} in {_listed(worse)}")
    flat = [
        part.upper()
        for part in SEGMENTS_MS
        if m.get("mae_uv", 0) <= 0.9 * m.get("mean_beat_mae_uv", 0)
        and m.get(f"mae_uv_{part}", 0) > 0.9 * m.get(f"mean_beat_mae_uv_{part}", math.inf)
    ]
    if flat:
        parts.append(f"hardly below that of the mean beat in {_listed(flat)}")
    if parts:
        yield Finding(f"The error is {', and '.join(parts)}.", True)


def latent_in_use(m: Section) -> Iterable[Finding]:
    """Dimensions in use, and whether the codes of test subjects are like those of training."""
    if not {"active_units_kl", "dimensions"} <= m.keys():
        return
    used, total = m["active_units_kl"], m["dimensions"]
    if m.get("collapsed"):
        yield Finding(
            f"The latent space has collapsed: {used} of {total} dimensions are in use, the decoder "
            "learns little or nothing of the ECG.",
            True,
        )
    elif used < total:
        yield Finding(f"{used} of {total} latent dimensions are in use.", True)
    else:
        yield Finding(f"All {total} latent dimensions are in use.")
    distant = [
        f"z{number}"
        for number in range(total)
        if abs(m.get(f"aggregate_mean_{number}", 0)) > 0.3
        or not 0.7 < m.get(f"aggregate_sd_{number}", 1) < 1.4
    ]
    if distant:
        yield Finding(
            f"The codes of test subjects do not have mean 0 and SD 1 in {_listed(distant)}, as "
            "those of training subjects have: chance of few test subjects, codes that fit the "
            "training ones better, or test subjects of another kind.",
            True,
        )


def clean_conditions(m: Section) -> Iterable[Finding]:
    """Whether the latent code gives conditions away."""
    told = []
    for key, low in m.items():
        match = re.fullmatch(r"probe_(r2|auc)_(.+)_low", key)
        if match and low > {"r2": 0.1, "auc": 0.6}[match[1]]:
            told.append(f"{match[2]} ({_skill(m, 'probe', match)})")
    if told:
        yield Finding(
            f"The latent code still tells {_listed(told)}: changing that alone is not a clean "
            "counterfactual.",
            True,
        )


def possible_ecgs(m: Section) -> Iterable[Finding]:
    """Einthoven's equations."""
    name = "einthoven_residual"
    if m.get(name, math.inf) < 1e-4:
        yield Finding("The limb leads agree with each other as in a real recording.")
    elif name in m:
        numbers = f"by up to {_value(m, name)} of the largest"
        yield Finding(f"The limb leads contradict each other ({numbers}).", True)


def distributed_as_real(m: Section) -> Iterable[Finding]:
    """The distance of the distributions."""
    if not {"mmd2", "mmd2_null_p95", "mmd2_p_value"} <= m.keys():
        return
    numbers = (
        f"MMD² {_value(m, 'mmd2')}, up to {_value(m, 'mmd2_null_p95')} between 95% of halves of "
        f"the real patients, permutation p {_value(m, 'mmd2_p_value')}"
    )
    if m["mmd2_p_value"] >= 0.05:
        yield Finding(f"Generated ECGs cannot be told from real ones as samples: {numbers}.")
    elif m["mmd2"] <= m["mmd2_null_p95"]:
        yield Finding(
            "Generated ECGs can be told from real ones, but differ no more than halves of the real "
            f"patients do: {numbers}.",
            True,
        )
    else:
        yield Finding(f"Generated ECGs are distributed otherwise than real ones: {numbers}.", True)


def varied_as_real(m: Section) -> Iterable[Finding]:
    """Coverage and recall."""
    needed = {"coverage", "coverage_null", "coverage_null_p05", "recall"}
    if not needed | {"recall_null", "recall_null_low"} <= m.keys():
        return
    short = m["coverage"] < m["coverage_null_p05"] or m["recall"] < m["recall_null_low"]
    yield Finding(
        f"Generated ECGs are {'less' if short else 'as'} varied {'than' if short else 'as'} real "
        f"ones: coverage {_value(m, 'coverage')} (real halves {_value(m, 'coverage_null')}), "
        f"recall {_value(m, 'recall')} (real halves {_value(m, 'recall_null')}).",
        short,
    )


def features_as_real(m: Section) -> Iterable[Finding]:
    """Clinical features that are distributed otherwise, or cannot be measured."""
    off = {
        name.removeprefix("wasserstein_"): value
        for name, value in m.items()
        if name.startswith("wasserstein_") and value > m.get(f"{name}_null_high", math.inf)
    }
    parts = []
    if off:
        worst = sorted(off, key=off.__getitem__, reverse=True)
        shown = [
            f"{feature_title(name)} ({_written('wasserstein', off[name])} SD)" for name in worst
        ]
        parts.append(f"{_listed(shown)} distributed otherwise")
    for name, what in (("features_failed", "QRS or T wave"), ("p_wave_missing", "P wave")):
        if m.get(name, 0) > m.get(f"{name}_null", math.inf) + MISSING:
            parts.append(
                f"no {what} that can be measured in {_value(m, name)} "
                f"({_value(m, f'{name}_null')} of real ones)"
            )
    if parts:
        yield Finding(f"Clinical features of generated ECGs: {'; '.join(parts)}.", True)
    elif "wasserstein" in m:
        yield Finding("The clinical features of generated ECGs are distributed as real ones.")


def slopes_recovered(m: Section) -> Iterable[Finding]:
    """Whether features depend on conditions as in real ECGs."""
    if not {"slopes", "slopes_recovered", "mean_beat_slopes_recovered"} <= m.keys():
        return
    lost = {}
    for condition, features in effects_in(m, "slope").items():
        for feature in features:
            key = f"slope_{condition}_{feature}"
            if not_recovered(m, key):
                low, high = _ends(m, f"{key}_difference")
                lost[f"{feature_title(feature)} by {condition}"] = abs(low + high) / (high - low)
    text = (
        f"{_value(m, 'slopes_recovered')} of {m['slopes']} slopes of features on conditions are "
        f"those of real test ECGs"
    )
    if {"slopes_recovered_clear", "slopes_clear"} <= m.keys():
        text += f", {_value(m, 'slopes_recovered_clear')} of the {m['slopes_clear']} clear ones"
    if "slopes_recovered_null" in m:
        text += f" (halves of these agree in {_value(m, 'slopes_recovered_null')}, a generator "
        text += f"without conditions in {_value(m, 'mean_beat_slopes_recovered')})"
    gain = "slopes_gain_train" if "slopes_gain_train" in m else "slopes_gain"
    off = gain in m and not WEAK <= m[gain] <= STRONG
    if off:
        how = "too weakly" if m[gain] < WEAK else "too strongly"
        text += f"; conditions act {how}, {_value(m, gain)} times as in real ECGs"
    if lost:
        worst = sorted(lost, key=lost.__getitem__, reverse=True)
        text += f"; furthest off: {_listed(worst)}"
    yield Finding(f"{text}.", off or m.get("slopes_recovered_clear", 1) < FEW_SLOPES)


def conditions_recovered(m: Section) -> Iterable[Finding]:
    """Whether a regressor reads conditions from generated ECGs as from real ones."""
    better, worse, alike = [], [], []
    for key in m:
        match = re.fullmatch(r"recovery_(r2|auc)_(.+)_difference", key)
        if match:
            low, high = _ends(m, key)
            real = _value(m, key.replace("_difference", "_real"))
            kind = better if low > COLLAPSED else worse if high < -COLLAPSED / 2 else alike
            kind.append(f"{match[2]} ({_skill(m, 'recovery', match)}, real {real})")
    reads = "A regressor reads from generated ECGs"
    if better:
        found = f"{reads} far better than from real ones: {_listed(better)}."
        yield Finding(f"{found} The generator overstates it.", True)
    if worse:
        yield Finding(f"{reads} worse than from real ones: {_listed(worse)}.", True)
    if alike and not (better or worse):
        yield Finding(
            "A regressor reads conditions from generated ECGs about as well as from real ones: "
            f"{_listed(alike)}."
        )


def useful(m: Section) -> Iterable[Finding]:
    """What generated ECGs are worth in training."""
    kept: dict[bool, list[str]] = {False: [], True: []}
    for key, value in m.items():
        match = re.fullmatch(r"tstr_over_trtr_(r2|auc)_(.+)(?<!_low)(?<!_high)", key)
        if match:
            low, high = _ends(m, key)
            ends = f"{_written(key, low)} to {_written(key, high)}"
            kept[value < USEFUL].append(f"{match[2]} {_value(m, key)} ({ends})")
    for short, shown in kept.items():
        if shown:
            yield Finding(
                "Trained on generated instead of real ECGs, a regressor keeps "
                f"{'only part' if short else 'most'} of its skill: {_listed(shown)}.",
                short,
            )


def private(m: Section) -> Iterable[Finding]:
    """Whether training patients can be told from others."""
    needed = {"membership_auc", "membership_auc_low", "membership_auc_control"}
    if not needed | {"nearest_ratio", "nearest_ratio_high"} <= m.keys():
        return
    if m["membership_auc_control"] <= BLIND:
        yield Finding("The privacy attack misses planted copies: it proves nothing here.", True)
        return
    attack = max(
        (name for name in ("membership_auc", "membership_auc_calibrated") if name in m),
        key=lambda name: m.get(f"{name}_low", 0),
    )
    numbers = (
        f"membership inference AUC {_value(m, attack)}{_interval(m, attack)}, "
        f"distance ratio {_value(m, 'nearest_ratio')}{_interval(m, 'nearest_ratio')}"
    )
    if m[f"{attack}_low"] > 0.5 or m["nearest_ratio_high"] < 1:
        yield Finding(f"Generated ECGs give away something of training patients: {numbers}.", True)
    else:
        yield Finding(f"No sign that generated ECGs give training patients away: {numbers}.")
    if "reconstruction_auc" in m and m.get("reconstruction_auc_low", 0) > 0.5:
        yield Finding(
            "Whoever has the model itself can tell training patients from others better than by "
            f"chance (AUC {_value(m, 'reconstruction_auc')}): share its ECGs rather than the "
            "model, or train on more patients.",
            True,
        )


def tells_risk(m: Section) -> Iterable[Finding]:
    """What the head adds to the conditions, and whether its risks are calibrated."""
    more = "model_minus_conditions_c_harrell"
    if not {"model_c_harrell", "conditions_c_harrell", more, f"{more}_low"} <= m.keys():
        return
    numbers = (
        f"{metric(more).label} {_value(m, 'model_c_harrell')} against "
        f"{_value(m, 'conditions_c_harrell')} of the conditions alone, difference "
        f"{_value(m, more, '+')}{_interval(m, more, '+')}"
    )
    low, high = _ends(m, more)
    if low > 0:
        yield Finding(f"The ECG tells risk that the conditions do not: {numbers}.")
    elif high < 0:
        yield Finding(f"The head tells risk worse than the conditions alone: {numbers}.", True)
    else:
        yield Finding(f"The head tells no more of the risk than the conditions: {numbers}.", True)
    low, high = _ends(m, "model_calibration_slope")
    if "model_calibration_slope" in m and (low > 1 or high < 1):
        how = "moderate" if low > 1 else "extreme"
        slope = _called(m, "model_calibration_slope")
        if low < 1 and m.get("tied_share", 0) >= TIED:
            yield Finding(
                "Times are so coarsely rounded that even true risks look too extreme, so that "
                f"nothing is said of these: {slope}.",
                True,
            )
        else:
            yield Finding(f"Predicted risks are too {how}: {slope}.", True)


def predicts(m: Section) -> Iterable[Finding]:
    """Whether a head for a class or a number beats knowing nothing."""
    for name, null in (("auc", 0.5), ("accuracy", m.get("accuracy_null")), ("r2", 0.0)):
        if null is None or not {name, f"{name}_low"} <= m.keys():
            continue
        numbers = f"{_called(m, name)}, knowing nothing {_written(name, null)}"
        better = m[f"{name}_low"] > null
        how = "better" if better else "no better"
        yield Finding(f"The head predicts {how} than chance: {numbers}.", not better)


def enough_patients(m: Section) -> Iterable[Finding]:
    """Whether there is enough to judge by."""
    patients = m.get("patients", FEW_PATIENTS)
    if patients < FEW_PATIENTS:
        yield Finding(f"Only {patients} test patients: every figure here is rough.", True)


FINDINGS = (
    ("reconstruction", enough_patients),
    ("reconstruction", reconstructs),
    ("reconstruction", weak_parts),
    ("latent", latent_in_use),
    ("latent", clean_conditions),
    ("reconstruction", possible_ecgs),
    ("realism", distributed_as_real),
    ("realism", varied_as_real),
    ("realism", features_as_real),
    ("adherence", slopes_recovered),
    ("adherence", conditions_recovered),
    ("utility", useful),
    ("privacy", private),
    ("survival", tells_risk),
    ("prediction", predicts),
)


def _pca(m: Section) -> tuple[str, str]:
    """What the principal components are called, and the name of their error; "" without them."""
    for form, called in principal_components(m).items():
        if form.format("mae_uv") in m:
            return called, form.format("mae_uv")
    return "", ""


def _skill(m: Section, kind: str, match: re.Match) -> str:
    """The value of a metric by measure and condition: "R² 0.31"."""
    measure = metric(match[1]).label.replace("R2", "R²")
    return f"{measure} {_value(m, f'{kind}_{match[1]}_{match[2]}')}"


def _called(m: Section, name: str) -> str:
    return f"{metric(name).label} {_value(m, name)}{_interval(m, name)}"


def _value(m: Section, name: str, sign: str = "") -> str:
    return f"{_written(name, m.get(name, math.nan), sign)} {metric(name).unit}".strip()


def _interval(m: Section, name: str, sign: str = "") -> str:
    low, high = _ends(m, name)
    ends = f"{_written(name, low, sign)} to {_written(name, high, sign)}"
    return "" if math.isnan(low + high) else f" (95% interval {ends})"


def _written(name: str, value: float, sign: str = "") -> str:
    """A number in the format of the metric."""
    known = metric(name)
    return f"{value:{sign}{known.said or known.number}}"


def _ends(m: Section, name: str) -> tuple[float, float]:
    low, high = (m.get(f"{name}{end}", math.nan) for end in ENDS)
    return low, high


def _listed(names: list[str]) -> str:
    """Names as in a sentence; of many, the first, and how many more."""
    shown, more = names[: NAMED + 1], len(names) - NAMED
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {more} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
