"""What the latent space tells about risk that the conditions do not.

Three Cox models are fitted on the training split and judged on the same test split: conditions
only, latent only, and both; beside them the model's own hazard head and, for simulated data, the
true log hazard. What is better than what is read from paired bootstrap intervals.

Censoring is corrected by inverse probability weights (IPCW) from the Kaplan-Meier estimate of the
censoring distribution in the test split, since another cohort may be followed otherwise than the
one of training: it must not depend on the conditions or the ECG.

Dims: N subjects, W weightings (the sample as it is, then bootstrap draws), M times, P covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from scipy.integrate import trapezoid

from evaluation.measures.statistics import weighted_auc, weightings, with_interval
from evaluation.measures.survival_scores import (
    brier_scores,
    calibration_curve,
    censoring_survival,
    concordance,
    step_function,
    tied_share,
    weighted_cox,
)

DRAWS = 300
HORIZON_PERCENTILES = (25, 50, 90)  # of the event times in the training split
GRID = 100  # times between 0 and the last horizon over which the Brier score is integrated
COMPARED = ("c_harrell", "c_uno", "auc", "ibs")  # measures whose differences are reported


class SurvivalError(ValueError):
    """Outcomes that cannot be analysed. The message says which, and what to do."""


@dataclass(eq=False)
class SurvivalSplit:
    """What is known of the subjects of one split.

    Attributes:
        conditions: N rows of numbers, booleans or text (taken as categories); NaN is missing.
        latent: (N, Z) posterior means.
        time: (N,) until event or censoring, above 0, any unit.
        event: (N,) 0 or 1.
        log_hazard: (N,) of the model's own head, if it has one; higher = earlier event.
        true_log_hazard: (N,) of a simulated cohort.
        patients: (N,) ids; recordings of one patient are drawn together in the bootstrap.

    Raises:
        SurvivalError: lengths that differ, NaN, a time of 0 or less, or no events.
    """

    conditions: pd.DataFrame
    latent: np.ndarray
    time: np.ndarray
    event: np.ndarray
    log_hazard: np.ndarray | None = None
    true_log_hazard: np.ndarray | None = None
    patients: Sequence | np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.conditions)
        self.conditions = self.conditions.reset_index(drop=True)
        self.patients = np.arange(n) if self.patients is None else np.asarray(self.patients)
        for name in ("latent", "time", "event", "log_hazard", "true_log_hazard"):
            if getattr(self, name) is not None:
                setattr(self, name, np.asarray(getattr(self, name), np.float64))
        for name in ("latent", "time", "event", "log_hazard", "true_log_hazard", "patients"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != n or values.ndim != (2 if name == "latent" else 1):
                raise SurvivalError(
                    f"Expected {name} of {n} rows, one per row of the conditions. "
                    f"Received the shape {values.shape}."
                )
            if name != "patients" and not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0, 0])
                raise SurvivalError(
                    f"{name} is NaN or infinite in row {row}. Leave out subjects whose outcome is "
                    "unknown; a NaN prediction means that training diverged."
                )
        if not np.isin(self.event, (0, 1)).all():
            odd = self.event[~np.isin(self.event, (0, 1))][0]
            raise SurvivalError(f"Expected events of 0 (censored) or 1. Received {odd:g}.")
        if not self.event.any():
            raise SurvivalError(
                f"Expected at least one event. All {n} subjects are censored: "
                "wait for a longer follow-up, or enlarge this split."
            )
        if (self.time <= 0).any():
            row = int(np.argmax(self.time <= 0))
            raise SurvivalError(
                f"Expected times above 0. Received {self.time[row]:g} in row {row}. Leave out "
                "subjects whose event came before or with the recording."
            )
        self.event = self.event.astype(bool)

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, eq=False)
class _Risk:
    """What one model says of the test split.

    `log_hazard` (N,); `train_log_hazard` (N of training,); `baseline`: event times and cumulative
    hazard from each of them on, of a log hazard of 0. The latter two are None for the truth.
    """

    log_hazard: np.ndarray
    train_log_hazard: np.ndarray | None = None
    baseline: tuple[np.ndarray, np.ndarray] | None = None

    def survival(self, times: np.ndarray) -> np.ndarray:
        """(N, M) probabilities of no event up to these times."""
        hazard = step_function(*self.baseline, times, start=0.0)
        with np.errstate(divide="ignore", over="ignore"):
            return np.exp(-np.exp(self.log_hazard[:, None] + np.log(hazard)))


def survival_metrics(
    train: SurvivalSplit,
    test: SurvivalSplit,
    baseline: tuple[np.ndarray, np.ndarray] | None = None,
    horizons: Sequence[float] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, float]:
    """Discrimination, overall error and calibration of each model, with what they differ by.

    Models, the first part of a key: `conditions`, `latent`, `both` (`lifelines.CoxPHFitter`, each
    covariate standardised and a ridge as strong as a standard normal prior on its coefficient,
    which is about one event's worth), `model` (the head's own log hazard, if given) and `oracle`
    (the true one). A missing number counts as its mean in the training split, a missing category as
    the shares of the categories there; `conditions_imputed` counts them. `tied_share` is there if
    events share their times.

    Measures, the second part:
        c_harrell: share of comparable pairs in the right order (Harrell 1982); ties count 1/2.
        c_uno: the same without dependence on censoring, up to the last horizon (Uno 2011,
            doi 10.1002/sim.4154).
        auc_1, auc_2, ...: cumulative / dynamic AUC at `horizon_1`, ...: events up to then against
            subjects without an event until then, IPCW.
        ibs: Brier score, IPCW (Graf 1999), averaged over time up to the last horizon; 0 is
            perfect, `kaplan_meier_ibs` what a model without covariates scores.
        ibs_skill: 1 - ibs / kaplan_meier_ibs.
        calibration_slope: coefficient of the log hazard in a Cox regression on the test split;
            below 1: predictions too extreme. Ties are Efron's, as in training; where times are
            rounded coarsely, even the true log hazard has a slope below 1 (see `tied_share`).
        ici: integrated calibration index at the last horizon (Austin 2020, doi 10.1002/sim.8570):
            mean |predicted - observed| probability, see `calibration_curve`. Above 0 by chance.
        log_hazard_r: correlation with the true log hazard.
        logrank_p: of the test split in thirds of risk with the limits of the training split, see
            `logrank_p`.

    `{model}_minus_conditions_{measure}` (for `oracle`: `oracle_minus_model_...`) are paired
    differences. All but `logrank_p` and counts come with `_low` and `_high`, the percentile 95%
    interval of a bootstrap of the test patients. It does not hold the chance in training.

    Args:
        train: the split that the models were trained on.
        test: the split to judge on.
        baseline: of the model's own log hazard: event times (E,) and cumulative hazard (E,).
        horizons: rising times, in the unit of the data; by default the 25th, 50th and 90th
            percentile of the event times in training, or the first event in test if that is later;
            of those in test, if it was followed for less time.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        Plain numbers. 1,000 test subjects take 3 seconds; 20,000 with 7,000 events 2 minutes.

    Raises:
        SurvivalError: a horizon beyond the follow-up, or a head without its baseline.
    """
    horizons = _checked_horizons(train, test, horizons)
    risks, imputed = _risks(train, test, baseline)
    weights = np.concatenate(list(weightings(test.patients, seed, draws)))
    samples = _samples(risks, train, test, horizons, weights)

    metrics = {"test_subjects": len(test), "test_events": int(test.event.sum())}
    metrics["test_patients"] = len(np.unique(test.patients))
    if share := tied_share(test.time, test.event):
        metrics["tied_share"] = share
    metrics["conditions_imputed"] = imputed
    metrics |= {f"horizon_{number}": float(time) for number, time in enumerate(horizons, 1)}
    for name, values in samples.items():
        metrics |= with_interval(name, values)
    for name, risk in risks.items():
        if risk.train_log_hazard is not None:
            group = risk_groups(risk.train_log_hazard, risk.log_hazard)
            p = logrank_p(test.time, test.event, group, test.patients)
            metrics[f"{name}_logrank_p"] = p
    return metrics


def risk_groups(train_log_hazard: np.ndarray, log_hazard: np.ndarray, n: int = 3) -> np.ndarray:
    """(N,) group 0 (lowest risk) to n - 1, with the quantiles of the training split as limits."""
    limits = np.quantile(train_log_hazard, np.arange(1, n) / n)
    return np.searchsorted(limits, log_hazard, side="right")


def logrank_p(
    time: np.ndarray, event: np.ndarray, group: np.ndarray, patients: np.ndarray
) -> float:
    """P of the log-rank test between groups, of the first recording of each patient.

    Several of one patient are no independent observations: with six each, three of five tests of
    groups without any difference would find one (p < 0.05).
    """
    first = np.unique(patients, return_index=True)[1]
    return float(multivariate_logrank_test(time[first], group[first], event[first]).p_value)


def _samples(
    risks: dict[str, _Risk],
    train: SurvivalSplit,
    test: SurvivalSplit,
    horizons: np.ndarray,
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """(W,) values of each measure of each model and of each difference."""
    censoring = censoring_survival(test.time, test.event)
    grid = np.linspace(0, horizons[-1], GRID + 1)
    null = KaplanMeierFitter().fit(train.time, train.event).predict(grid).to_numpy()
    null = _integrated_brier(null, grid, test, censoring, weights)
    samples = {"kaplan_meier_ibs": null}
    for name, risk in risks.items():
        values = _discrimination(risk.log_hazard, test, censoring, horizons, weights)
        slope, _ = weighted_cox(risk.log_hazard[:, None], test.time, test.event, weights, np.inf)
        # Samples without a maximum lie beyond an end of the interval, not within: of more than it
        # leaves out at one end, that end is not known.
        if np.isnan(slope[1:]).mean() > 0.025:
            slope[1:] = np.nan
        values["calibration_slope"] = slope[:, 0]
        if risk.baseline is not None:
            brier = _integrated_brier(risk.survival(grid), grid, test, censoring, weights)
            values |= {"ibs": brier, "ibs_skill": 1 - brier / null}
            probability = 1 - risk.survival(horizons[-1:])[:, 0]
            observed = calibration_curve(probability, test.time, test.event, horizons[-1], weights)
            values["ici"] = _mean(np.abs(observed - probability), weights)
        if test.true_log_hazard is not None and name != "oracle":
            values["log_hazard_r"] = _correlation(risk.log_hazard, test.true_log_hazard, weights)
        samples |= {f"{name}_{measure}": value for measure, value in values.items()}
        reference = "model" if name == "oracle" else "conditions"
        if name != reference and reference in risks:
            samples |= {
                f"{name}_minus_{reference}_{measure}": value - samples[f"{reference}_{measure}"]
                for measure, value in values.items()
                if measure.startswith(COMPARED)
            }
    return samples


def _discrimination(
    score: np.ndarray,
    test: SurvivalSplit,
    censoring: tuple[np.ndarray, np.ndarray],
    horizons: np.ndarray,
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """(W,) values of Harrell's and Uno's C and of the AUC at each horizon."""
    with np.errstate(divide="ignore"):
        inverse = 1 / step_function(*censoring, test.time, start=1.0, side="left")
    inverse = np.where(test.event & (test.time <= horizons[-1]), inverse, 0)
    values = {
        "c_harrell": concordance(score, test.time, test.event, weights),
        "c_uno": concordance(score, test.time, test.event, weights, inverse**2),
    }
    for number, horizon in enumerate(horizons, 1):
        case = test.event & (test.time <= horizon)
        part = np.where(case, inverse, test.time > horizon)
        values[f"auc_{number}"] = weighted_auc(weights * part, score, case)
    return values


def _integrated_brier(
    survival: np.ndarray,
    grid: np.ndarray,
    test: SurvivalSplit,
    censoring: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray,
) -> np.ndarray:
    """(W,) Brier score averaged over the grid of times (M,); `survival` is (N, M) or (M,)."""
    scores = brier_scores(survival, grid, test.time, test.event, censoring)
    return _mean(trapezoid(scores, grid, axis=1) / grid[-1], weights)


def _risks(
    train: SurvivalSplit, test: SurvivalSplit, baseline: tuple[np.ndarray, np.ndarray] | None
) -> tuple[dict[str, _Risk], int]:
    """The models by name, and how many conditions were missing."""
    conditions, imputed = _covariates(train.conditions, test.conditions)
    latent, _ = _covariates(pd.DataFrame(train.latent), pd.DataFrame(test.latent))
    both = tuple(np.concatenate(pair, axis=1) for pair in zip(conditions, latent, strict=True))
    covariates = {"conditions": conditions, "latent": latent, "both": both}
    if conditions[0].shape[1] == 0:
        covariates = {"latent": latent}
    risks = {name: _fitted(*pair, train) for name, pair in covariates.items()}
    if test.log_hazard is not None:
        if baseline is None or train.log_hazard is None:
            raise SurvivalError(
                "The log hazard of the test split needs the baseline hazard and the log hazard of "
                "the training split beside it: curves and risk groups come from those."
            )
        risks["model"] = _Risk(test.log_hazard, train.log_hazard, baseline)
    if test.true_log_hazard is not None:
        risks["oracle"] = _Risk(test.true_log_hazard)
    return risks, imputed


def _fitted(x_train: np.ndarray, x_test: np.ndarray, train: SurvivalSplit) -> _Risk:
    """A Cox model of these standardised covariates, (N of training, P) and (N, P)."""
    names = [f"x{number}" for number in range(x_train.shape[1])]
    table = pd.DataFrame(x_train, columns=names).assign(time=train.time, event=train.event)
    # lifelines multiplies the penalty by the number of subjects: 1 / N is a prior N(0, 1).
    model = CoxPHFitter(penalizer=1 / len(train)).fit(table, "time", "event")
    log_hazard, train_log_hazard = (
        model.predict_log_partial_hazard(pd.DataFrame(x, columns=names)).to_numpy()
        for x in (x_test, x_train)
    )
    if tied_share(train.time, train.event):
        from model.cox import baseline_hazard  # here: --help should not wait for TensorFlow

        # lifelines fits with Efron's ties, but knows Breslow's baseline only.
        return _Risk(
            log_hazard,
            train_log_hazard,
            baseline_hazard(train_log_hazard, train.time, train.event),
        )
    hazard = model.baseline_cumulative_hazard_.iloc[:, 0]
    return _Risk(log_hazard, train_log_hazard, (hazard.index.to_numpy(), hazard.to_numpy()))


def _covariates(
    train: pd.DataFrame, test: pd.DataFrame
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Standardised numbers (N of training, P) and (N, P), and how many values were missing."""
    if set(train.columns) != set(test.columns):
        raise SurvivalError(
            "Expected the same conditions in both splits. "
            f"Received: {list(train.columns)} and {list(test.columns)}."
        )
    for name in train:
        if not pd.api.types.is_numeric_dtype(train[name]):  # what training never saw is unknown
            test = test.assign(**{name: test[name].where(test[name].isin(train[name].dropna()))})
    missing = int(train.isna().sum().sum() + test.isna().sum().sum())
    parts = []
    for name in train:
        numeric = pd.api.types.is_numeric_dtype(train[name])
        levels = [None] if numeric else sorted(train[name].dropna().unique())[1:]
        for level in levels:
            columns = (
                split[name] if numeric else _is(split[name], level) for split in (train, test)
            )
            parts.append([c.to_numpy(np.float64, na_value=np.nan) for c in columns])
    standardised = [], []
    for x_train, x_test in parts:
        known = x_train[~np.isnan(x_train)]
        if len(known) and known.std() > 1e-8 * max(1, np.abs(known).max()):
            for kept, x in zip(standardised, (x_train, x_test), strict=True):
                kept.append(np.nan_to_num((x - known.mean()) / known.std()))
    x_train, x_test = (
        np.stack(kept, axis=1) if kept else np.zeros((n, 0))
        for kept, n in zip(standardised, (len(train), len(test)), strict=True)
    )
    return (x_train, x_test), missing


def _is(column: pd.Series, level: object) -> pd.Series:
    """1 where the column has this category, 0 where another, NaN where it is missing."""
    return (column == level).astype(np.float64).where(column.notna())


def _checked_horizons(
    train: SurvivalSplit, test: SurvivalSplit, horizons: Sequence[float] | None
) -> np.ndarray:
    """The horizons, once each of them has events before and subjects under observation after it."""
    first = test.time[test.event].min()
    end = min(train.time.max(), test.time.max())
    if horizons is None:  # moved to where a small test split can be judged
        usual = np.percentile(train.time[train.event], HORIZON_PERCENTILES)
        horizons = np.unique(np.maximum(usual, first))
        horizons = horizons[horizons < end]
        early = test.time[test.event & (test.time < end)]
        if len(horizons) == 0 and len(early):  # followed for less time than in training
            horizons = np.unique(np.percentile(early, HORIZON_PERCENTILES))
    horizons = np.asarray(horizons, np.float64)
    if len(horizons) == 0 or (np.diff(horizons) <= 0).any() or not first <= horizons[0]:
        raise SurvivalError(
            f"Expected rising horizons from the first event in the test split ({first:g}) on. "
            f"Received: {horizons.tolist()}."
        )
    if horizons[-1] >= end:
        raise SurvivalError(
            f"Expected horizons below {end:g}, the end of follow-up in training or test: nobody is "
            f"known to be without an event beyond it. Received: {horizons.tolist()}."
        )
    return horizons


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) or (W, N) values and (W, N) weights -> (W,)."""
    return (values * weights).sum(axis=1) / weights.sum(axis=1)


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(W,) Pearson correlation of (N,) values under each weighting."""
    x, y = (values - _mean(values, weights)[:, None] for values in (x, y))
    with np.errstate(invalid="ignore"):
        return _mean(x * y, weights) / np.sqrt(_mean(x * x, weights) * _mean(y * y, weights))
