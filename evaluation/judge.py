"""Judges a model on its test split: every section of `metrics.json`, and every figure.

Dims: N recordings, L leads, T samples, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from config import EvaluationConfig
from data.cohort import RECORDINGS, Cohort, Split
from data.leads import LEADS
from data.rows import even_rows
from data.tasks import kind_of
from evaluation.draw import draw, draw_risk
from evaluation.figures.wording import call_simulated
from evaluation.measures.adherence import (
    GENERATED,
    condition_effects,
    generate_like,
    references_of,
    slope_metrics,
)
from evaluation.measures.counterfactuals import specificity_metrics
from evaluation.measures.features import measure
from evaluation.measures.latent import latent_metrics, probe_targets
from evaluation.measures.prediction import prediction_metrics
from evaluation.measures.privacy import privacy_metrics
from evaluation.measures.realism import realism_metrics
from evaluation.measures.reconstruction import reconstruction_metrics
from evaluation.measures.regressor import MOST, ConditionRegressor, recovery_metrics
from evaluation.measures.statistics import bootstrap_means, with_interval
from evaluation.measures.utility import utility_metrics

if TYPE_CHECKING:
    from evaluation.measures.survival import SurvivalSplit
    from vae import VAE

PARTS = 7  # that `evaluate` begins
KEPT = 5000  # reconstructions in memory: 96 MB
# What is used of larger splits: time and memory of the figures below do not grow beyond.
PCA_RECORDINGS = 50_000  # training; the baseline is then 0.02% of its error from all of them
COX_RECORDINGS = 50_000  # training, of the regressions that a head is compared with
SURVIVAL_RECORDINGS = 20_000  # test: pairs of events and subjects, in each bootstrap sample


# What compares training patients with test patients of the same source, or generated with real ECGs
# by regressors of training. Beside another cohort it would tell how the cohorts differ.
SAME_SOURCE = ("privacy", "utility", "recovery")


def evaluate(
    model: VAE,
    split: Split,
    settings: EvaluationConfig,
    history: pd.DataFrame | None = None,
    without: Collection[str] = (),
) -> tuple[dict[str, dict], dict[str, Figure]]:
    """Measures and draws everything that can be said of a model.

    Args:
        model: as loaded from its folder.
        split: what it was trained on, and what it is judged on.
        settings: `config.evaluation`.
        history: a row per epoch, for the loss curves.
        without: which of `SAME_SOURCE` are left out.

    Returns:
        Sections of plain numbers, and figures by name.
    """
    split = in_order(split)
    posterior = model.encode(split.test.ecg, split.test.subjects)
    with tqdm(total=PARTS, desc="Judging", unit="part", disable=None) as bar:  # on a terminal only

        def begin(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        reconstruction = Reconstruction(model, posterior[0], split.test.subjects)
        metrics = measured(model, split, settings, posterior, reconstruction, begin, without)
        begin("figures")
        drawn = draw(model, split, metrics, reconstruction, posterior, settings, history)
        if "survival" in metrics:
            drawn |= draw_risk(model, _followed(split), metrics["survival"])
    if split.test.truth is not None:
        call_simulated(drawn.values())
    return metrics, drawn


def in_order(split: Split) -> Split:
    """Patients who are called by keyed hashes get the names 000000000, 000000001, ...

    What is drawn at random goes by the order of the names: by that of the hashes, intervals would
    be others under another key. Patients are numbered as their recordings come.
    """
    if all(part.source != RECORDINGS for part in split):
        return split
    parts = [copy(part) for part in split]
    number, _ = pd.factorize(pd.concat([part.subjects["patient_id"] for part in parts]))
    for part in parts:
        names = [f"{n:09d}" for n in number[: len(part)]]
        part.subjects, number = part.subjects.assign(patient_id=names), number[len(part) :]
    return Split(*parts)


def measured(
    model: VAE,
    split: Split,
    settings: EvaluationConfig,
    posterior: tuple[np.ndarray, np.ndarray],
    reconstruction: Reconstruction,
    begin: Callable[[str], object] = str,
    without: Collection[str] = (),
) -> dict[str, dict]:
    """The numbers of `evaluate`.

    Args:
        model: as in `evaluate`.
        split: likewise.
        settings: likewise.
        posterior: mean and log variance (N, Z) of the test split.
        reconstruction: of the test split.
        begin: told of each part as it begins.
        without: as in `evaluate`.
    """
    begin("reconstruction")
    test, patients = split.test, split.test.subjects["patient_id"].to_numpy()
    mean, log_var = posterior
    targets, names = probe_targets(model.schema, test.subjects)
    bound = model.bound(test.ecg, test.subjects)
    metrics = {
        "reconstruction": reconstruction_metrics(
            test.ecg,
            reconstruction,
            split.train.thinned(PCA_RECORDINGS).ecg,
            patients,
            model.latent_space_dim,
            settings.seed,
            draws=settings.bootstrap,
            leads=test.leads,
            **test.timing,
        ),
        "latent": latent_metrics(
            mean,
            log_var,
            targets,
            names,
            settings.seed,
            patients=patients,
            draws=settings.bootstrap,
        )
        | noise_metrics(model, bound, patients, settings),
        **_generator_metrics(model, split, mean, reconstruction, settings, begin, without),
    }
    begin("outcomes")
    task = getattr(model, "task", None)
    if kind_of(task) == "survival":
        from evaluation.measures.survival import survival_metrics  # here: it imports lifelines

        followed = _followed(split)
        metrics["survival"] = survival_metrics(
            _survival(model, followed.train),
            _survival(model, followed.test),
            tuple(np.asarray(part) for part in model.baseline.values()),
            draws=settings.bootstrap,
            seed=settings.seed,
        )
    elif kind_of(task) != "none":
        metrics["prediction"] = prediction_metrics(
            task,
            model.predict_head(test.ecg, test.subjects),
            test.subjects["target"].to_numpy(),
            patients,
            settings.seed,
            settings.bootstrap,
        )
    return metrics


def _followed(split: Split) -> Split:
    """What risk is judged on."""
    train = split.train.thinned(COX_RECORDINGS)
    return Split(train, split.validation, split.test.thinned(SURVIVAL_RECORDINGS))


def noise_metrics(
    model: VAE, bound: np.ndarray, patients: np.ndarray, settings: EvaluationConfig
) -> dict[str, float]:
    """Noise of the decoder, and the likelihood bound (N,) with its interval, where there is one."""
    metrics = {"noise_uv": model.noise_uv}
    if np.isfinite(bound).all():
        mean, draws = bootstrap_means(bound[:, None], patients, settings.seed, settings.bootstrap)
        metrics |= with_interval("bound", np.append(mean, draws))
    return metrics


class Reconstruction:
    """What a model gives back of N recordings.

    Decoded once if these are few, else each time rows are asked for: 75,000 would take 1.4 GB.
    """

    def __init__(self, model: VAE, latent: np.ndarray, subjects: pd.DataFrame) -> None:
        self.model, self.latent, self.subjects = model, latent, subjects
        self.shape = (len(latent), *model.ecg_shape)
        self._whole: np.ndarray | None = None

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if len(self.latent) > KEPT:
            return self.model.decode(self.latent[rows], self.subjects.iloc[rows])
        if self._whole is None:
            self._whole = self.model.decode(self.latent, self.subjects)
        return self._whole[rows]


def _generator_metrics(
    model: VAE,
    split: Split,
    mean: np.ndarray,
    reconstruction: Reconstruction,
    settings: EvaluationConfig,
    begin: Callable[[str], object],
    without: Collection[str],
) -> dict[str, dict]:
    """Realism, adherence, utility and privacy of ECGs generated at the conditions of real subjects.

    Of a large cohort an even selection is used: more than `MOST` recordings cost time and
    add little.
    """
    begin("conditions")
    schema, draws, seed = model.schema, settings.bootstrap, settings.seed
    train, test = (part.thinned(MOST) for part in (split.train, split.test))
    validation = split.validation.thinned(MOST, 0)  # gone through in chunks, twice
    mean = mean[even_rows(len(split.test), MOST)]
    if len(test) < len(split.test):
        reconstruction = Reconstruction(model, mean, test.subjects)
    patients = test.subjects["patient_id"].to_numpy()
    copies = -(-GENERATED // len(test))  # of few test subjects several, so that chance shows less
    for_test = generate_like(model, test.subjects, copies, seed)

    adherence = condition_effects(model, train.subjects, settings.generated, seed)
    features = None
    if tuple(model.leads) == LEADS:
        real, made, of_train = features = (
            measure(test.ecg, **test.timing, unit=test.unit),
            measure(for_test, **model.timing, unit=model.unit),
            measure(train.ecg, **train.timing, unit=train.unit),
        )
        references = references_of(split, of_train, train.subjects)
        slopes, of_real_slopes = slope_metrics(schema, test.subjects, real, made, references, seed)
        adherence |= slopes | specificity_metrics(
            model, test.subjects, train.subjects, mean, real, of_real_slopes
        )
    begin("conditions read back")
    if not {"recovery", "utility"} <= set(without):
        of_real = ConditionRegressor(schema, train.ecg, train.subjects, validation)
    if "recovery" not in without:
        adherence |= recovery_metrics(schema, of_real, test, for_test, seed, draws)
    begin("realism")
    realism = realism_metrics(
        test.ecg,
        for_test,
        train.ecg,
        patients,
        seed,
        leads=test.leads,
        **test.timing,
        unit=test.unit,
        features=features,
    )
    del for_test  # 190 MB of 10,000; what follows needs as much
    begin("privacy")
    found = {"realism": realism, "adherence": adherence}
    if {"utility", "privacy"} <= set(without):
        return found
    for_train = generate_like(model, train.subjects, 1, seed + 1)
    if "utility" not in without:
        of_generated = ConditionRegressor(schema, for_train, train.subjects, validation)
        found["utility"] = utility_metrics(schema, of_generated, of_real, test, seed, draws)
    if "privacy" not in without:
        of_train = model.encode(train.ecg, train.subjects)[0]
        found["privacy"] = privacy_metrics(
            train.ecg,
            test.ecg,
            for_train,
            seed,
            train_patients=train.subjects["patient_id"],
            holdout_patients=patients,
            reconstructions=(Reconstruction(model, of_train, train.subjects), reconstruction),
            draws=draws,
            leads=train.leads,
        )
    return found


def _survival(model: VAE, part: Cohort) -> SurvivalSplit:
    """A split as the survival metrics read it."""
    from evaluation.measures.survival import SurvivalSplit

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
