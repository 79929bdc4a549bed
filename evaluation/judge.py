"""Judges a model on its test split: every section of `metrics.json`, and every figure.

Dims: N recordings, L leads, T samples, Z latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from config import EvaluationConfig
from data.cohort import Cohort, Split
from evaluation import figures
from evaluation.adherence import (
    GENERATED,
    condition_effects,
    generate_like,
    reference_subject,
    references_of,
    slope_metrics,
    sweep_values,
)
from evaluation.counterfactuals import specificity_metrics
from evaluation.examples import chosen_conditions, in_words, nearest_subjects
from evaluation.features import measure
from evaluation.generator_figures import (
    plot_beside_real,
    plot_conditions,
    plot_slopes,
    plot_specificity,
)
from evaluation.latent import latent_metrics, probe_targets
from evaluation.prediction import prediction_metrics
from evaluation.privacy import privacy_metrics
from evaluation.realism import realism_metrics
from evaluation.reconstruction import reconstruction_metrics
from evaluation.regressor import ConditionRegressor, recovery_metrics, training_rows
from evaluation.survival import SurvivalSplit, risk_groups, survival_metrics
from evaluation.survival_figures import (
    plot_calibration,
    plot_kaplan_meier,
    plot_survival_curves,
)
from evaluation.utility import utility_metrics
from leads import LEADS
from rows import chunks

if TYPE_CHECKING:
    from vae import VAE

# What is used of larger splits: time and memory of the figures below do not grow beyond.
PCA_RECORDINGS = 50_000  # training; the baseline is then 0.02% of its error from all of them
COX_RECORDINGS = 50_000  # training, of the regressions that a head is compared with
SURVIVAL_RECORDINGS = 20_000  # test: pairs of events and subjects, in each bootstrap sample


def evaluate(
    model: VAE, split: Split, settings: EvaluationConfig, history: pd.DataFrame | None = None
) -> tuple[dict[str, dict], dict[str, Figure]]:
    """Measures and draws everything that can be said of a model.

    Args:
        model: as loaded from its folder.
        split: what it was trained on, and what it is judged on.
        settings: `config.evaluation`.
        history: a row per epoch, for the loss curves.

    Returns:
        Sections of plain numbers, and figures by name.
    """
    test, patients = split.test, split.test.subjects["patient_id"].to_numpy()
    mean, log_var = model.encode(test.ecg, test.subjects)
    reconstruction = Reconstruction(model, mean, test.subjects)
    targets, names = probe_targets(model.schema, test.subjects)
    metrics = {
        "reconstruction": reconstruction_metrics(
            test.ecg,
            reconstruction,
            _some(split.train, PCA_RECORDINGS).ecg,
            patients,
            model.latent_space_dim,
            settings.seed,
            draws=settings.bootstrap,
            leads=test.leads,
            sampling_rate=test.sampling_rate,
        ),
        "latent": latent_metrics(
            mean,
            log_var,
            targets,
            names,
            settings.seed,
            patients=patients,
            draws=settings.bootstrap,
        ),
        **_generator_metrics(model, split, mean, settings),
    }
    metrics["latent"]["noise_uv"] = model.noise_uv
    task = getattr(model, "task", None)
    if task == "cox":
        followed = Split(
            _some(split.train, COX_RECORDINGS), split.validation, _some(test, SURVIVAL_RECORDINGS)
        )
        metrics["survival"] = survival_metrics(
            _survival(model, followed.train),
            _survival(model, followed.test),
            tuple(np.asarray(part) for part in model.baseline.values()),
            draws=settings.bootstrap,
            seed=settings.seed,
        )
    elif task is not None:
        metrics["prediction"] = prediction_metrics(
            task,
            model.predict_head(test.ecg, test.subjects),
            test.subjects["target"].to_numpy(),
            patients,
            settings.seed,
            settings.bootstrap,
        )
    drawn = _examples(test, reconstruction, settings.examples)
    drawn |= _sweeps(model, split.train.subjects)
    drawn |= _generator_figures(model, split, metrics["adherence"], settings.seed)
    if task == "cox":
        drawn |= _risk_figures(model, followed, metrics["survival"])
    drawn["error_by_lead"] = figures.plot_error_by_lead(metrics["reconstruction"], test.leads)
    kl = [metrics["latent"][f"kl_{z}"] for z in range(model.latent_space_dim)]
    drawn["latent_kl"] = figures.plot_latent(kl)
    drawn["latent_traversal"] = figures.plot_traversal(
        model,
        mean,
        log_var,
        reference_subject(model.schema, split.train.subjects),
        leads=test.leads,
    )
    if history is not None:
        drawn["history"] = figures.plot_history(history.drop(columns="seconds", errors="ignore"))
    return metrics, drawn


class Reconstruction:
    """What a model gives back of N recordings, decoded when asked for: 75,000 would take 1.4 GB."""

    def __init__(self, model: VAE, latent: np.ndarray, subjects: pd.DataFrame) -> None:
        self.model, self.latent, self.subjects = model, latent, subjects
        self.shape = (len(latent), *model.ecg_shape)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.model.decode(self.latent[rows], self.subjects.iloc[rows])


def _some(part: Cohort, most: int | None = None) -> Cohort:
    """An even selection of at most so many recordings; see `training_rows`."""
    rows = training_rows(len(part), most)
    return part if len(rows) == len(part) else part.take(rows)


def _generator_metrics(
    model: VAE, split: Split, mean: np.ndarray, settings: EvaluationConfig
) -> dict[str, dict]:
    """Realism, adherence, utility and privacy of ECGs generated at the conditions of real subjects.

    Of a large cohort an even selection is used: more than `regressor.MOST` recordings cost
    time and add little.
    """
    schema, draws, seed = model.schema, settings.bootstrap, settings.seed
    train, validation = _some(split.train), _some(split.validation)
    rows = training_rows(len(split.test))
    test, mean = split.test.take(rows), mean[rows]
    patients = test.subjects["patient_id"].to_numpy()
    copies = -(-GENERATED // len(test))  # of few test subjects several, so that chance shows less
    for_test = generate_like(model, test.subjects, copies, seed)
    for_train = generate_like(model, train.subjects, 1, seed + 1)

    adherence = condition_effects(model, train.subjects, settings.generated, seed)
    if tuple(model.leads) == LEADS:
        real = measure(test.ecg)
        slopes, of_real_slopes = slope_metrics(
            schema, test.subjects, real, measure(for_test), references_of(split), seed
        )
        adherence |= slopes | specificity_metrics(
            model, test.subjects, train.subjects, mean, real, of_real_slopes
        )
    of_real = ConditionRegressor(schema, train.ecg, train.subjects, validation)
    of_generated = ConditionRegressor(schema, for_train, train.subjects, validation)
    adherence |= recovery_metrics(schema, of_real, test, for_test, seed, draws)
    realism = realism_metrics(
        test.ecg,
        for_test,
        train.ecg,
        patients,
        seed,
        leads=test.leads,
        sampling_rate=test.sampling_rate,
    )
    del for_test  # 190 MB of 10,000; what follows needs as much twice
    return {
        "realism": realism,
        "adherence": adherence,
        "utility": utility_metrics(schema, of_generated, of_real, test, seed, draws),
        "privacy": privacy_metrics(
            train.ecg,
            test.ecg,
            for_train,
            seed,
            train_patients=train.subjects["patient_id"],
            holdout_patients=patients,
            reconstructions=(
                model.reconstruct(train.ecg, train.subjects),
                model.decode(mean, test.subjects),
            ),
            draws=draws,
        ),
    }


def _survival(model: VAE, part: Cohort) -> SurvivalSplit:
    """A split as the survival metrics read it."""
    subjects = part.subjects
    return SurvivalSplit(
        conditions=subjects[list(model.schema.names)],
        latent=model.encode(part.ecg, subjects)[0],
        time=subjects["time"],
        event=subjects["event"],
        log_hazard=model.predict_log_hazard(part.ecg, subjects),
        true_log_hazard=None if part.truth is None else part.truth.get("log_hazard"),
        patients=subjects["patient_id"],
    )


def _risk_figures(model: VAE, split: Split, survival: dict[str, float]) -> dict[str, Figure]:
    """Kaplan-Meier by risk, calibration, survival curves, and the beat along the risk direction."""
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
        "kaplan_meier": plot_kaplan_meier(time, event, risk_groups(train_log_hazard, log_hazard)),
        "calibration": plot_calibration(probability, time, event, horizon),
        "survival_curves": plot_survival_curves(times, curves, labels, time, event),
        "risk_direction": figures.plot_sweep(
            ecg, steps, "latent risk", "SD of the prior, + = earlier event", leads=model.leads
        ),
    }


def _examples(test: Cohort, reconstruction: Reconstruction, count: int) -> dict[str, Figure]:
    """Test ECGs under their reconstructions, evenly spaced from the best to the worst."""
    errors = [
        np.abs(ecg - reconstruction[start : start + len(ecg)]).mean(axis=(1, 2))
        for start, ecg in chunks(test.ecg)
    ]
    error = np.concatenate(errors)  # (N,) mV
    rank = np.round(np.linspace(0.05, 0.95, count) * (len(error) - 1)).astype(int)
    rows = np.argsort(error)[rank]
    titles = [
        f"{test.subjects['subject_id'][row]}: mean error {1000 * error[row]:.0f} uV, "
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
    )


def _sweeps(model: VAE, subjects: pd.DataFrame) -> dict[str, Figure]:
    """The beat at the prior mean as each condition is changed."""
    reference = reference_subject(model.schema, subjects)
    drawn = {}
    for condition in model.schema.conditions:
        values = sweep_values(condition, subjects)
        columns = {name: [value] * len(values) for name, value in reference.items()}
        columns[condition.name] = list(values)
        z = np.zeros((len(values), model.latent_space_dim), np.float32)
        ecg = model.decode(z, pd.DataFrame(columns))
        drawn[f"sweep_{condition.name}"] = figures.plot_sweep(
            ecg, values, condition.name, condition.unit, leads=model.leads
        )
    return drawn
