"""What is drawn of a model: the subjects and conditions it is shown at, and every figure of a run.

Dims: N recordings or subjects, M choices of conditions, L leads, T samples, Z latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from config import EvaluationConfig
from data.cohort import Cohort, Split
from data.conditions import ConditionSchema
from data.rows import chunks
from data.units import UNITS
from evaluation.figures import ecg as figures
from evaluation.figures.generator import (
    plot_beside_real,
    plot_conditions,
    plot_slopes,
    plot_specificity,
)
from evaluation.measures.adherence import reference_subject, sweep_values

if TYPE_CHECKING:
    from vae import VAE

MOST = 6  # ECGs that a page can show
ALONE, CROSSED, ENDS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95), (0.05, 0.5, 0.95), (0.05, 0.95)
UNKNOWN, OTHER = 1.0, 2.0  # distance of an unknown value and of another category, in SD


def draw(
    model: VAE,
    split: Split,
    metrics: Mapping[str, Mapping],
    reconstruction: np.ndarray,
    posterior: tuple[np.ndarray, np.ndarray],
    settings: EvaluationConfig,
    history: pd.DataFrame | None = None,
) -> dict[str, Figure]:
    """Every figure but those of risk, by name.

    Args:
        model: as loaded from its folder.
        split: what it was trained on, and what it is judged on.
        metrics: sections "reconstruction", "latent" and "adherence".
        reconstruction: (N, L, T) mV of the test split, or what gives rows of that.
        posterior: mean and log variance (N, Z) of the test split.
        settings: `config.evaluation`.
        history: a row per epoch, for the loss curves.
    """
    test = split.test
    drawn = _examples(test, reconstruction, settings.examples)
    drawn |= _sweeps(model, split.train.subjects)
    drawn |= _generator_figures(model, split, metrics["adherence"], settings.seed)
    drawn["error_by_lead"] = figures.plot_error_by_lead(
        metrics["reconstruction"], test.leads, test.unit
    )
    kl = [metrics["latent"][f"kl_{z}"] for z in range(model.latent_space_dim)]
    drawn["latent_kl"] = figures.plot_latent(kl)
    if model.settings["noise"] == "per_sample":
        drawn["noise"] = figures.plot_noise(
            np.asarray(model.mean_beat),
            model.noise_sd_uv / 1000,
            model.network_leads,
            model.settings["sampling_rate"],
            model.unit,
        )
    reference = reference_subject(model.schema, split.train.subjects)
    drawn["latent_traversal"] = figures.plot_traversal(
        model,
        *posterior,
        reference,
        leads=test.leads,
        sampling_rate=test.sampling_rate,
        unit=test.unit,
    )
    if history is not None:
        drawn["history"] = figures.plot_history(history.drop(columns="seconds", errors="ignore"))
    return drawn


def draw_risk(model: VAE, split: Split, survival: dict[str, float]) -> dict[str, Figure]:
    """Kaplan-Meier by risk, calibration, survival curves, and the beat along the risk direction."""
    from evaluation.figures.survival import (  # here: lifelines takes a second to import
        plot_calibration,
        plot_kaplan_meier,
        plot_survival_curves,
    )
    from evaluation.measures.survival import risk_groups

    test, subjects = split.test, split.test.subjects
    time, event = subjects["time"].to_numpy(), subjects["event"].to_numpy()
    log_hazard = model.predict_log_hazard(test.ecg, subjects)
    train_log_hazard = model.predict_log_hazard(split.train.ecg, split.train.subjects)
    horizon = max(value for name, value in survival.items() if name.startswith("horizon_"))
    probability = 1 - model.predict_survival(test.ecg, subjects, [horizon])[:, 0]
    rank = np.round(np.array([0.05, 0.25, 0.5, 0.75, 0.95]) * (len(test) - 1)).astype(int)
    rows = np.argsort(log_hazard)[rank]
    times = np.linspace(0, horizon, 100)
    curves = model.predict_survival(test.ecg[rows], subjects.iloc[rows], times)
    labels = [f"{subjects['subject_id'][row]}: log hazard {log_hazard[row]:+.2f}" for row in rows]
    # Along the head's weights, one SD of the prior a step: what a high-risk ECG looks like at the
    # conditions of the reference subject.
    direction = model.head.get_weights()[0][: model.latent_space_dim, 0]
    direction = direction / max(np.linalg.norm(direction), 1e-9)
    steps = np.linspace(-2, 2, 5)
    reference = reference_subject(model.schema, split.train.subjects)
    ecg = model.decode(np.outer(steps, direction), reference)
    return {
        "kaplan_meier": plot_kaplan_meier(
            time,
            event,
            risk_groups(train_log_hazard, log_hazard),
            ("low", "middle", "high"),
            patients=subjects["patient_id"].to_numpy(),
        ),
        "calibration": plot_calibration(probability, time, event, horizon),
        "survival_curves": plot_survival_curves(times, curves, labels, time, event),
        "risk_direction": figures.plot_sweep(
            ecg,
            steps,
            "latent risk",
            "SD of the prior, + = earlier event",
            leads=model.leads,
            sampling_rate=model.settings["sampling_rate"],
            amplitude=model.unit,
        ),
    }


def _examples(test: Cohort, reconstruction: np.ndarray, count: int) -> dict[str, Figure]:
    """Test ECGs under their reconstructions, evenly spaced from the best to the worst."""
    errors = [
        np.abs(ecg - reconstruction[start : start + len(ecg)]).mean(axis=(1, 2))
        for start, ecg in chunks(test.ecg)
    ]
    error = np.concatenate(errors)  # (N,)
    rank = np.round(np.linspace(0.05, 0.95, count) * (len(error) - 1)).astype(int)
    rows = np.argsort(error)[rank]
    titles = [
        f"{test.subjects['subject_id'][row]}: mean error {UNITS[test.unit].small(error[row])}, "
        f"{100 * (error < error[row]).mean():.0f}% of the test ECGs are closer"
        for row in rows
    ]
    return {
        "reconstructions": figures.plot_reconstructions(
            np.asarray(test.ecg[rows]),
            reconstruction[rows],
            titles,
            leads=test.leads,
            sampling_rate=test.sampling_rate,
            unit=test.unit,
        )
    }


def _generator_figures(
    model: VAE, split: Split, adherence: dict[str, float], seed: int
) -> dict[str, Figure]:
    """Conditions, ECGs generated at some of them beside real ones, and how these are followed."""
    parts = {"training": split.train.subjects, "test": split.test.subjects}
    drawn = {"slopes": plot_slopes(adherence), "specificity": plot_specificity(adherence)}
    wanted = chosen_conditions(model.schema, split.train.subjects)
    if wanted:
        drawn["conditions"] = plot_conditions(model.schema, parts)
        drawn["generated_grid"] = _beside_real(model, split, wanted, seed)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _beside_real(model: VAE, split: Split, wanted: list[dict], seed: int) -> Figure:
    """An ECG generated at each choice of conditions beside the nearest real subject."""
    schema, test = model.schema, split.test
    both = test.subjects, split.train.subjects
    subjects = pd.DataFrame(
        {name: [*both[0][name], *both[1][name]] for name in ("subject_id", *schema.names)}
    )
    rows = nearest_subjects(schema, wanted, subjects)
    real = [test.ecg[r] if r < len(test) else split.train.ecg[r - len(test)] for r in rows]
    titles = [
        (
            f"Generated: {in_words(schema, values)}",
            f"Real, {'test' if row < len(test) else 'training'} subject "
            f"{subjects['subject_id'][row]}: {in_words(schema, subjects.loc[row])}",
        )
        for values, row in zip(wanted, rows, strict=True)
    ]
    columns = {name: [values[name] for values in wanted] for name in schema.names}
    return plot_beside_real(
        model.generate(len(wanted), seed, **columns),
        np.stack(real),
        titles,
        leads=test.leads,
        sampling_rate=test.sampling_rate,
        unit=test.unit,
    )


def _sweeps(model: VAE, subjects: pd.DataFrame) -> dict[str, Figure]:
    """The beat at the prior mean as each condition is changed."""
    reference = reference_subject(model.schema, subjects)
    drawn = {}
    for condition in model.schema.conditions:
        values = sweep_values(condition, subjects)
        if not values:
            continue
        columns = {name: [value] * len(values) for name, value in reference.items()}
        columns[condition.name] = list(values)
        z = np.zeros((len(values), model.latent_space_dim), np.float32)
        ecg = model.decode(z, pd.DataFrame(columns))
        drawn[f"sweep_{condition.name}"] = figures.plot_sweep(
            ecg,
            values,
            condition.name,
            condition.unit,
            leads=model.leads,
            sampling_rate=model.settings["sampling_rate"],
            amplitude=model.unit,
        )
    return drawn


def chosen_conditions(schema: ConditionSchema, subjects: pd.DataFrame) -> list[dict[str, object]]:
    """Up to six subjects that span the first two conditions, such as both sexes at three ages.

    The first continuous condition is taken at percentiles from the 5th to the 95th, crossed with
    the commonest categories of the first other condition (or, if there is none, with both ends of
    the second continuous one); all else is that of the reference subject.

    Args:
        schema: of the model.
        subjects: training subjects, for percentiles and reference.

    Returns:
        M mappings name -> value; empty where no condition is known of anybody.
    """
    known = [c for c in schema.conditions if subjects[c.name].notna().any()]
    if not known:
        return []
    numbers = [c.name for c in known if c.kind == "continuous"]
    categories = [c.name for c in known if c.kind != "continuous"]
    varied = {}
    if categories:
        name = categories[0]
        common = subjects[name].value_counts().index[: 2 if numbers else MOST]
        varied[name] = sorted(common, key=schema[name].categories.index)
    if numbers:
        alone = len(known) == 1
        varied[numbers[0]] = _percentiles(subjects[numbers[0]], ALONE if alone else CROSSED)
    if len(numbers) > 1 and not categories:
        varied[numbers[1]] = _percentiles(subjects[numbers[1]], ENDS)
    reference = reference_subject(schema, subjects)
    return [
        reference | dict(zip(varied, values, strict=True)) for values in product(*varied.values())
    ]


def nearest_subjects(
    schema: ConditionSchema, wanted: Sequence[Mapping[str, object]], subjects: pd.DataFrame
) -> np.ndarray:
    """The real subject nearest to each choice, none of them twice.

    The distance is Euclidean: a continuous condition counts in its SD, another category as `OTHER`
    and an unknown value as `UNKNOWN`.

    Args:
        schema: of the model.
        wanted: M mappings name -> value.
        subjects: N rows, at least M.

    Returns:
        (M,) row numbers; the first of those that are equally near.
    """
    squared = np.zeros((len(wanted), len(subjects)))
    for condition in schema.conditions:
        have = condition.codes(subjects[condition.name])
        want = condition.codes(pd.Series([each[condition.name] for each in wanted], dtype=object))
        apart = have - want[:, None]
        if condition.kind == "continuous":
            known = have[~np.isnan(have)]
            apart /= known.std() if len(known) and np.ptp(known) else 1.0
        else:
            apart = np.where(np.isnan(apart), np.nan, OTHER * (apart != 0))
        squared += np.square(np.where(np.isnan(apart), UNKNOWN, apart))
    rows = []
    for distances in squared:
        distances[rows] = np.inf
        rows.append(int(np.argmin(distances)))
    return np.array(rows, dtype=int)


def in_words(schema: ConditionSchema, values: Mapping[str, object]) -> str:
    """Conditions as a reader sees them: "age 63 years, sex female, bmi unknown"."""
    parts = []
    for condition in schema.conditions:
        value = values.get(condition.name)
        if condition.kind == "continuous" and pd.notna(value):
            value = _rounded(value)
        parts.append(f"{condition.name} {condition.in_words(value)}")
    return ", ".join(parts)


def _percentiles(column: pd.Series, shares: Sequence[float]) -> list[float]:
    """Rounded, rising, each once."""
    return sorted({_rounded(value) for value in column.quantile(list(shares))})


def _rounded(value: float) -> float:
    """To three significant digits."""
    return float(f"{float(value):.3g}")
