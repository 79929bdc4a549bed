"""Another cohort than the one that a model was trained on, checked and made ready to judge it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from config import Config
from data import Cohort, CohortError, Split, load_cohort
from data.conditions import ConditionSchema
from data.tasks import kind_of

if TYPE_CHECKING:
    from vae import VAE

NAMED = 50  # ECGs that are named one by one
TRAINED_ON = "training or validation ECG of this run"


def external_split(model: VAE, config: Config, own: Split) -> tuple[Cohort, Split]:
    """Another cohort, and a split with all of it as test but what the model was trained on.

    Raises:
        CohortError: it does not fit the model, or all of it was trained on.
    """
    from training.setup import check_split, with_targets

    cohort = load_cohort(config.data, partial(_check_tables, model, config))
    cohort = fitting(model, with_targets(cohort, config.model, _classes(config, own)))
    before = len(cohort)
    cohort = _never_trained_on(cohort, own)
    left_out = len(cohort) < before
    cohort = _other_persons(cohort, own)
    split = Split(own.train, own.validation, cohort)
    check_split(split, config.model)
    print(f"{cohort.source}: all {len(cohort)} recordings{' left' * left_out} are test.")
    return cohort, split


def _classes(config: Config, own: Split) -> list | None:
    """The classes of the run in the order of their numbers, if its task has classes."""
    if kind_of(config.model.task) not in ("binary", "multiclass"):
        return None
    tables = [part.subjects[[config.model.target, "target"]] for part in own]
    numbered = pd.concat(tables).drop_duplicates("target").sort_values("target")
    return numbered[config.model.target].tolist()


def _check_tables(
    model: VAE, config: Config, subjects: pd.DataFrame, later: Collection[str]
) -> None:
    """Before recordings are read; see `training.setup.check_tables`."""
    from training.setup import check_tables

    schema = model.schema or ConditionSchema([])
    schema.refuse_lookalikes(subjects.columns)
    columns = subjects.reindex(columns=list(schema.names))
    known = [one for one in schema.conditions if columns[one.name].notna().any()]
    config = replace(config, data=replace(config.data, split="random"))  # all of it is test
    check_tables(config, ConditionSchema(known, schema.encoding), subjects, later)


def _never_trained_on(cohort: Cohort, own: Split) -> Cohort:
    """The cohort without ECGs of training or validation and their patients, who are named."""
    same = cohort.holds_ecgs_of(own.train, own.validation)
    if not same.any():
        return cohort
    subjects = cohort.subjects
    patient = subjects["patient_id"].isin(subjects["patient_id"][same]).to_numpy()
    if patient.all():
        raise CohortError(
            f"All {len(cohort)} ECGs of {cohort.source} are of patients that this run was trained "
            "or validated on. Without --data, its own test split is judged."
        )
    names = subjects["subject_id"][same].tolist()
    more = f" and {len(names) - NAMED} more" * (len(names) > NAMED)
    print(
        f"{len(names)} ECGs of {cohort.source} are training or validation ECGs of this run and "
        f"left out, with {patient.sum() - len(names)} others of the same patients: "
        f"{', '.join(names[:NAMED])}{more}."
    )
    reasons = np.where(same, TRAINED_ON, f"patient of a {TRAINED_ON}")[patient]
    left_out = pd.DataFrame({"subject_id": subjects["subject_id"][patient], "reason": reasons})
    part = cohort.take(~patient)
    part.excluded = pd.concat([cohort.excluded, left_out], ignore_index=True).fillna("")
    return part


def _other_persons(cohort: Cohort, own: Split) -> Cohort:
    """Two hospitals may both have a patient 1: then the ids of the other cohort get a prefix."""
    ids = cohort.subjects["patient_id"]
    both = ids[
        ids.isin([*own.train.subjects["patient_id"], *own.validation.subjects["patient_id"]])
    ]
    if len(both):
        print(
            f"{both.nunique()} patient ids, such as {both.iloc[0]!r}, stand in both cohorts and "
            "are taken as different persons. If they are the same ones, leave them out."
        )
        cohort.subjects = cohort.subjects.assign(patient_id="other " + ids)
    return cohort


def fitting(model: VAE, cohort: Cohort) -> Cohort:
    """The cohort, with a column for each condition, if the model can read it.

    Raises:
        CohortError, ConditionError: it cannot.
    """
    expected = model.leads, *model.timing.values(), model.ecg_shape[1], model.unit
    received = tuple(cohort.leads), *cohort.timing.values(), cohort.ecg.shape[2], cohort.unit
    if expected != received:
        names = "leads", "sampling rate", "sample of the QRS", "samples", "unit"
        wrong = "; ".join(
            f"{name} {want}, received {have}"
            for name, want, have in zip(names, expected, received, strict=True)
            if want != have
        )
        raise CohortError(f"{cohort.source} does not fit the model. Expected {wrong}.")
    schema = model.schema or ConditionSchema([])
    schema.refuse_lookalikes(cohort.subjects.columns)
    columns = cohort.subjects.reindex(columns=list(schema.names))
    unknown = [name for name in schema.names if columns[name].isna().all()]
    if unknown and (
        schema.encoding == "raw" or kind_of(getattr(model, "task", None)) == "survival"
    ):
        raise CohortError(
            f"{cohort.source} has no {', '.join(unknown)}, which this model has to be told."
        )
    if unknown:
        print(f"{cohort.source} has no {', '.join(unknown)}: unknown to the model.")
        cohort.subjects = cohort.subjects.assign(**dict.fromkeys(unknown, np.nan))
    known = [one for one in schema.conditions if one.name not in unknown]
    ConditionSchema(known, schema.encoding).check(cohort.subjects)
    return cohort
