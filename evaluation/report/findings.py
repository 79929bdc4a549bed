"""What the metrics say in plain words: sentences for the head of the page.

Each function of `FINDINGS` reads sections of metrics without NaN and null, and says nothing where
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

FEW_PATIENTS = 100
FEW_SLOPES = 0.8  # share recovered; a perfect generator has 0.95 less the chance of its training
WEAK, STRONG = 0.8, 1.25  # gain
COLLAPSED = 0.1  # R2 or AUC above that of real ECGs, with its whole interval
USEFUL = 0.8  # skill kept
BLIND = 0.9  # AUC: an attack that tells planted copies no better proves nothing
MISSING = 0.05  # share of waves that cannot be measured, above that of real ECGs
NAMED = 4  # features that a sentence lists


class Finding(NamedTuple):
    """A sentence for the summary, and whether the model falls short there."""

    text: str
    short: bool = False


Metrics = Mapping[str, Mapping[str, float]]


def reconstructs(metrics: Metrics) -> Iterable[Finding]:
    """Against principal components and the mean beat."""
    m = metrics.get("reconstruction", {})
    name = next((key for key in m if re.fullmatch(r"pca\d+_mae_uv", key)), None)
    mean_beat = m.get("mean_beat_mae_uv", 0)
    share = m["mae_uv"] / mean_beat if "mae_uv" in m and mean_beat > 0 else None
    if name is not None and {"mae_uv", "mae_minus_pca_uv"} <= m.keys():
        pca = _pca(name)
        numbers = (
            f"mean absolute error {m['mae_uv']:.1f} µV against {m[name]:.1f} µV, difference "
            f"{m['mae_minus_pca_uv']:+.1f} µV{_interval(m, 'mae_minus_pca_uv', '+.1f')}"
        )
        if share is not None:
            numbers += f", the mean beat {mean_beat:.1f} µV"
        low, high = _ends(m, "mae_minus_pca_uv")
        if high < 0:
            yield Finding(f"The model reconstructs test ECGs better than {pca}: {numbers}.")
        elif low > 0:
            yield Finding(f"The model reconstructs test ECGs worse than {pca}: {numbers}.", True)
        else:
            yield Finding(f"No clear difference between the model and {pca}: {numbers}.", True)
    if share is not None and share > 0.9:
        yield Finding(f"The error is {share:.0%} of that of giving everyone the mean beat.", True)


def weak_parts(metrics: Metrics) -> Iterable[Finding]:
    """Leads and segments that are no better than the baselines."""
    m = metrics.get("reconstruction", {})
    name = next((key for key in m if re.fullmatch(r"pca\d+_mae_uv", key)), None)
    parts = []
    worse = [
        part.upper() if part in SEGMENTS_MS else part
        for part in (*SEGMENTS_MS, *LEADS)
        if name and m.get(f"mae_uv_{part}", 0) > m.get(f"{name}_{part}", math.inf)
    ]
    if worse:
        parts.append(f"larger than that of {_pca(name)} in {_listed(worse)}")
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


def latent_in_use(metrics: Metrics) -> Iterable[Finding]:
    """Dimensions in use, and whether the codes of test subjects are like those of training."""
    m = metrics.get("latent", {})
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
            "those of training subjects have: chance of few test subjects, or codes that fit the "
            "training ones better.",
            True,
        )


def clean_conditions(metrics: Metrics) -> Iterable[Finding]:
    """Whether the latent code gives conditions away."""
    m, told = metrics.get("latent", {}), []
    for key, low in m.items():
        match = re.fullmatch(r"probe_(r2|auc)_(.+)_low", key)
        if match and low > {"r2": 0.1, "auc": 0.6}[match[1]]:
            told.append(f"{match[2]} ({_measured(m, 'probe', match)})")
    if told:
        yield Finding(
            f"The latent code still tells {_listed(told)}: changing that alone is not a clean "
            "counterfactual.",
            True,
        )


def possible_ecgs(metrics: Metrics) -> Iterable[Finding]:
    """Einthoven's equations."""
    residual = metrics.get("reconstruction", {}).get("einthoven_residual")
    if residual is None:
        return
    if residual < 1e-4:
        yield Finding("The limb leads agree with each other as in a real recording.")
    else:
        yield Finding(
            f"The limb leads contradict each other (by up to {residual:.2g} of the largest).", True
        )


def distributed_as_real(metrics: Metrics) -> Iterable[Finding]:
    """The distance of the distributions."""
    m = metrics.get("realism", {})
    if not {"mmd2", "mmd2_null_p95", "mmd2_p_value"} <= m.keys():
        return
    numbers = (
        f"MMD² {m['mmd2']:.2g}, up to {m['mmd2_null_p95']:.2g} between 95% of halves of the real "
        f"patients, permutation p {m['mmd2_p_value']:.3f}"
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


def varied_as_real(metrics: Metrics) -> Iterable[Finding]:
    """Coverage and recall."""
    m = metrics.get("realism", {})
    needed = {"coverage", "coverage_null", "coverage_null_p05", "recall"}
    if not needed | {"recall_null", "recall_null_low"} <= m.keys():
        return
    short = m["coverage"] < m["coverage_null_p05"] or m["recall"] < m["recall_null_low"]
    yield Finding(
        f"Generated ECGs are {'less' if short else 'as'} varied {'than' if short else 'as'} real "
        f"ones: coverage {m['coverage']:.2f} (real halves {m['coverage_null']:.2f}), recall "
        f"{m['recall']:.2f} (real halves {m['recall_null']:.2f}).",
        short,
    )


def features_as_real(metrics: Metrics) -> Iterable[Finding]:
    """Clinical features that are distributed otherwise, or cannot be measured."""
    m = metrics.get("realism", {})
    off = {
        name.removeprefix("wasserstein_"): value
        for name, value in m.items()
        if name.startswith("wasserstein_") and value > m.get(f"{name}_null_high", math.inf)
    }
    parts = []
    if off:
        worst = sorted(off, key=off.__getitem__, reverse=True)
        shown = [f"{feature_title(name)} ({off[name]:.2f} SD)" for name in worst]
        parts.append(f"{_listed(shown)} distributed otherwise")
    for name, what in (("features_failed", "a QRS or T wave"), ("p_wave_missing", "a P wave")):
        if m.get(name, 0) > m.get(f"{name}_null", math.inf) + MISSING:
            parts.append(
                f"no {what.removeprefix('a ')} that can be measured in {m[name]:.0%} "
                f"({m[f'{name}_null']:.0%} of real ones)"
            )
    if parts:
        yield Finding(f"Clinical features of generated ECGs: {'; '.join(parts)}.", True)
    elif "wasserstein" in m:
        yield Finding("The clinical features of generated ECGs are distributed as real ones.")


def slopes_recovered(metrics: Metrics) -> Iterable[Finding]:
    """Whether features depend on conditions as in real ECGs."""
    m = metrics.get("adherence", {})
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
        f"{m['slopes_recovered']:.0%} of {m['slopes']} slopes of features on conditions are those "
        f"of real test ECGs"
    )
    if "slopes_recovered_clear" in m:
        text += f", {m['slopes_recovered_clear']:.0%} of the {m['slopes_clear']} clear ones"
    if "slopes_recovered_null" in m:
        text += f" (halves of these agree in {m['slopes_recovered_null']:.0%}, a generator without "
        text += f"conditions in {m['mean_beat_slopes_recovered']:.0%})"
    gain = m.get("slopes_gain_train", m.get("slopes_gain"))
    off = gain is not None and not WEAK <= gain <= STRONG
    if off:
        how = "too weakly" if gain < WEAK else "too strongly"
        text += f"; conditions act {how}, {gain:.2f} times as in real ECGs"
    if lost:
        worst = sorted(lost, key=lost.__getitem__, reverse=True)
        text += f"; furthest off: {_listed(worst)}"
    yield Finding(f"{text}.", off or m.get("slopes_recovered_clear", 1) < FEW_SLOPES)


def conditions_recovered(metrics: Metrics) -> Iterable[Finding]:
    """Whether a regressor reads conditions from generated ECGs as from real ones."""
    m = metrics.get("adherence", {})
    overstated, lost, alike = [], [], []
    for key in m:
        match = re.fullmatch(r"recovery_(r2|auc)_(.+)_difference", key)
        if match:
            low, high = _ends(m, key)
            real = m.get(key.replace("_difference", "_real"), math.nan)
            text = f"{match[2]} ({_measured(m, 'recovery', match)}, real {real:.2f})"
            kind = overstated if low > COLLAPSED else lost if high < -COLLAPSED / 2 else alike
            kind.append(text)
    if overstated:
        yield Finding(
            "A regressor reads from generated ECGs far better than from real ones: "
            f"{_listed(overstated)}. The generator overstates it.",
            True,
        )
    if lost:
        yield Finding(
            f"A regressor reads from generated ECGs worse than from real ones: {_listed(lost)}.",
            True,
        )
    if alike and not (overstated or lost):
        yield Finding(
            f"A regressor reads conditions from generated ECGs as from real ones: {_listed(alike)}."
        )


def useful(metrics: Metrics) -> Iterable[Finding]:
    """What generated ECGs are worth in training."""
    m = metrics.get("utility", {})
    kept: dict[bool, list[str]] = {False: [], True: []}
    for key, value in m.items():
        match = re.fullmatch(r"tstr_over_trtr_(r2|auc)_(.+)(?<!_low)(?<!_high)", key)
        if match:
            low, high = _ends(m, key)
            kept[value < USEFUL].append(f"{match[2]} {value:.0%} ({low:.0%} to {high:.0%})")
    for short, shown in kept.items():
        if shown:
            yield Finding(
                "Trained on generated instead of real ECGs, a regressor keeps "
                f"{'only part' if short else 'most'} of its skill: {_listed(shown)}.",
                short,
            )


def private(metrics: Metrics) -> Iterable[Finding]:
    """Whether training patients can be told from others."""
    m = metrics.get("privacy", {})
    needed = {"membership_auc", "membership_auc_low", "membership_auc_control"}
    if not needed | {"nearest_ratio", "nearest_ratio_high"} <= m.keys():
        return
    if m["membership_auc_control"] <= BLIND:
        yield Finding("The privacy attack misses planted copies: it proves nothing here.", True)
        return
    attack = max(
        (name for name in ("membership_auc", "membership_auc_calibrated") if f"{name}_low" in m),
        key=lambda name: m[f"{name}_low"],
    )
    numbers = (
        f"membership inference AUC {m[attack]:.2f}{_interval(m, attack, '.2f')}, distance ratio "
        f"{m['nearest_ratio']:.3f}{_interval(m, 'nearest_ratio', '.3f')}"
    )
    if m[f"{attack}_low"] > 0.5 or m["nearest_ratio_high"] < 1:
        yield Finding(f"Generated ECGs give away something of training patients: {numbers}.", True)
    else:
        yield Finding(f"No sign that generated ECGs give training patients away: {numbers}.")
    if m.get("reconstruction_auc_low", 0) > 0.5:
        yield Finding(
            "Whoever has the model itself can tell training patients from others better than by "
            f"chance (AUC {m['reconstruction_auc']:.2f}): share its ECGs rather than the model, or "
            "train on more patients.",
            True,
        )


def tells_risk(metrics: Metrics) -> Iterable[Finding]:
    """What the head adds to the conditions, and whether its risks are calibrated."""
    m = metrics.get("survival", {})
    more = "model_minus_conditions_c_harrell"
    if not {"model_c_harrell", "conditions_c_harrell", more, f"{more}_low"} <= m.keys():
        return
    numbers = (
        f"Harrell's C {m['model_c_harrell']:.3f} against {m['conditions_c_harrell']:.3f} of the "
        f"conditions alone, difference {m[more]:+.3f}{_interval(m, more, '+.3f')}"
    )
    low, high = _ends(m, more)
    if low > 0:
        yield Finding(f"The ECG tells risk that the conditions do not: {numbers}.")
    elif high < 0:
        yield Finding(f"The head tells risk worse than the conditions alone: {numbers}.", True)
    else:
        yield Finding(f"The head tells no more of the risk than the conditions: {numbers}.", True)
    low, high = _ends(m, "model_calibration_slope")
    if low > 1 or high < 1:
        yield Finding(
            f"Predicted risks are too {'moderate' if low > 1 else 'extreme'}: calibration slope "
            f"{m['model_calibration_slope']:.2f}{_interval(m, 'model_calibration_slope', '.2f')}.",
            True,
        )


def predicts(metrics: Metrics) -> Iterable[Finding]:
    """Whether a head for a class or a number beats knowing nothing."""
    m = metrics.get("prediction", {})
    for name, null in (("auc", 0.5), ("accuracy", m.get("accuracy_null")), ("r2", 0.0)):
        if null is None or not {name, f"{name}_low"} <= m.keys():
            continue
        what = f"{name.upper() if name != 'accuracy' else name} {m[name]:.2f}"
        numbers = f"{what}{_interval(m, name, '.2f')}, knowing nothing {null:.2f}"
        if m[f"{name}_low"] > null:
            yield Finding(f"The head predicts better than chance: {numbers}.")
        else:
            yield Finding(f"The head predicts no better than chance: {numbers}.", True)


def enough_patients(metrics: Metrics) -> Iterable[Finding]:
    """Whether there is enough to judge by."""
    patients = metrics.get("reconstruction", {}).get("patients", FEW_PATIENTS)
    if patients < FEW_PATIENTS:
        yield Finding(f"Only {patients} test patients: every figure here is rough.", True)


FINDINGS = (
    enough_patients,
    reconstructs,
    weak_parts,
    latent_in_use,
    clean_conditions,
    possible_ecgs,
    distributed_as_real,
    varied_as_real,
    features_as_real,
    slopes_recovered,
    conditions_recovered,
    useful,
    private,
    tells_risk,
    predicts,
)


def _pca(name: str) -> str:
    return name.removesuffix("_mae_uv").replace("pca", "PCA-")


def _measured(m: Mapping[str, float], kind: str, match: re.Match) -> str:
    """The value of a metric by measure and condition: "R² 0.31"."""
    value = m.get(f"{kind}_{match[1]}_{match[2]}", math.nan)
    return f"{ {'r2': 'R²', 'auc': 'AUC'}[match[1]] } {value:.2f}"


def _ends(m: Mapping[str, float], name: str) -> tuple[float, float]:
    low, high = (m.get(f"{name}{end}", math.nan) for end in ENDS)
    return low, high


def _interval(m: Mapping[str, float], name: str, form: str) -> str:
    low, high = _ends(m, name)
    return "" if math.isnan(low + high) else f" (95% interval {low:{form}} to {high:{form}})"


def _listed(names: list[str]) -> str:
    """Names as in a sentence; of many, the first, and how many more."""
    shown, more = names[: NAMED + 1], len(names) - NAMED
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {more} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
