"""Judges a model on its test split: every section of `metrics.json`, and every figure.

Dims: N recordings, L leads, T samples, Z latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from config import EvaluationConfig
from evaluation import figures
from evaluation.adherence import condition_effects, reference_subject, sweep_values
from evaluation.latent import latent_metrics, probe_targets
from evaluation.reconstruction import reconstruction_metrics

if TYPE_CHECKING:
    from data.cohort import Cohort, Split
    from vae import VAE


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
    reconstruction = model.decode(mean, test.subjects)
    targets, names = probe_targets(model.schema, test.subjects)
    metrics = {
        "reconstruction": reconstruction_metrics(
            test.ecg,
            reconstruction,
            split.train.ecg,
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
        "adherence": condition_effects(
            model, split.train.subjects, settings.generated, settings.seed
        ),
    }
    metrics["latent"]["noise_uv"] = model.noise_uv
    drawn = _examples(test, reconstruction, settings.examples)
    drawn |= _sweeps(model, split.train.subjects)
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
        drawn["history"] = figures.plot_history(history.drop(columns="seconds"))
    return metrics, drawn


def _examples(test: Cohort, reconstruction: np.ndarray, count: int) -> dict[str, Figure]:
    """Test ECGs under their reconstructions, evenly spaced from the best to the worst."""
    error = np.abs(np.asarray(test.ecg) - reconstruction).mean(axis=(1, 2))  # mV
    rank = np.round(np.linspace(0.05, 0.95, count) * (len(error) - 1)).astype(int)
    rows = np.argsort(error)[rank]
    titles = [
        f"{test.subjects['subject_id'][row]}: mean error {1000 * error[row]:.0f} uV, "
        f"{100 * (error < error[row]).mean():.0f}% of the test ECGs are closer"
        for row in rows
    ]
    return {
        "reconstructions": figures.plot_reconstructions(
            np.asarray(test.ecg)[rows],
            reconstruction[rows],
            titles,
            leads=test.leads,
            sampling_rate=test.sampling_rate,
        )
    }


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
