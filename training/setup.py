"""What a run starts from: cohort, split, conditions and targets, and the model for them.

Dims: C encoded conditions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from copy import copy
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from config import CONDITIONS, Config, ModelConfig, to_dict
from data import Cohort, CohortError, Split, load_cohort
from data.conditions import ConditionSchema
from data.outcomes import SURVIVAL, with_outcomes
from data.tasks import kind_of
from data.units import MV
from model.closed_form import forget_noise
from model.saving import DESCRIPTION
from training.batches import Samples
from training.checkpoint import TrainingError
from training.provenance import fingerprint
from vae import VAE
from vae_prediction import VAEPrediction

NAMED = 50  # equal recordings that are named one by one

# Settings in which a model may differ from the one that it takes encoder and decoder from.
NOT_OF_THE_NETWORK = (
    *("task", "head_inputs", "task_weight", "ties", "classes", "name", "seed"),
    *("kl_weight", "free_bits", "condition_dropout", "profile_power", "deviations"),
)


def open_data(config: Config) -> tuple[Cohort, Split, ConditionSchema]:
    """The cohort of a configuration, its split by patient, and its conditions.

    Returns:
        Cohort (recordings whose target is known), split, and the schema, scaled on training.

    Raises:
        CohortError, ConditionError: the data are not there or do not fit.
    """
    schema = ConditionSchema(
        [CONDITIONS[name] for name in config.data.conditions], config.model.condition_encoding
    )
    if config.training.warm_start:
        check_warm_start(config.training.warm_start)
    first_look = partial(check_tables, config, schema)
    cohort = with_targets(load_cohort(config.data, first_look), config.model)
    split = cohort.split(
        config.data.validation_fraction,
        config.data.test_fraction,
        config.data.seed,
        by_fold=config.data.split == "fold",
    )
    check_split(split, config.model)
    for line in list(_equal(cohort).items())[:NAMED]:
        print("Equal ECGs, one patient to the split: {}: {}.".format(*line))
    print(f"{cohort.source}: {', '.join(f'{len(p)} {n}' for n, p in split._asdict().items())}")
    schema.check(cohort.subjects)
    schema.fit(split.train.subjects)
    for condition in schema.conditions:
        known = {*split.train.subjects[condition.name].dropna()}
        unseen = [name for name in condition.categories if name not in known]
        if unseen:
            print(
                f"Warning: no training subject has {condition.name} {' or '.join(unseen)}: what "
                "the model makes of that is a guess. Leave the condition out of data.conditions, "
                "or do not ask for that."
            )
    return cohort, split, schema


def check_tables(
    config: Config, schema: ConditionSchema, subjects: pd.DataFrame, later: Collection[str]
) -> None:
    """Refuses before recordings are read what their table alone tells: targets, conditions, folds.

    Args:
        config: of the run.
        schema: conditions that the subjects must have.
        subjects: a row for each recording; none where nothing but the columns is known.
        later: names of columns that come with the recordings.
    """
    settings = config.model
    kind = kind_of(settings.task)
    needed = {"none": (), "survival": SURVIVAL}.get(kind, (settings.target,))
    awaited = {*needed} & {*later}
    lacking = [name for name in needed if name not in subjects and name not in later]
    if lacking:
        raise CohortError(
            f"The task {settings.task} needs the columns {lacking}. The table of subjects has: "
            f"{list(subjects.columns)}. Give data.outcomes, a table that has them."
        )
    if len(subjects):
        with redirect_stdout(StringIO()):  # what is left out is said when the recordings are there
            cohort = Cohort.unread(subjects)
            cohort = cohort if awaited else with_targets(cohort, settings)
        subjects = cohort.subjects  # a condition of those without a target is not looked at later
    ready = [one for one in schema.conditions if one.name not in later]
    ConditionSchema(ready, schema.encoding).check(subjects)
    if config.data.split != "fold":
        return
    if "fold" not in {*subjects, *later}:
        raise CohortError(
            "Expected a column `fold` to split by fold, which the table of subjects has not. Set "
            'data.split to "random", or add the column.'
        )
    if len(subjects):
        split = cohort.split(by_fold=True)
        if not awaited:
            check_split(split, settings)


def counts(split: Split, cohort: Cohort) -> dict:
    """Section `data` of the metrics."""
    section = {"recordings": len(cohort), "excluded": len(cohort.excluded)}
    if cohort.unit != MV:
        section["unit"] = cohort.unit
    for name, part in split._asdict().items():
        section[f"{name}_recordings"] = len(part)
        section[f"{name}_patients"] = part.subjects["patient_id"].nunique()
    for reason, number in cohort.excluded["reason"].value_counts().items():
        section[f"excluded: {reason}"] = int(number)
    equal = _equal(cohort)
    if equal:
        section["equal_recordings"] = len(equal)
        section["equal_recordings_named"] = dict(list(equal.items())[:NAMED])
    return section


def _equal(cohort: Cohort) -> dict[str, str]:
    """Recordings whose ECG is that of an earlier one, and which that is."""
    columns = ("subject_id", "equal_to", "patient_id", "its_patient")
    rows = cohort.equal_recordings()[list(columns)].itertuples(index=False)
    return {
        name: f"as {first} ({'same patient' if a == b else f'patients {a} and {b}'})"
        for name, first, a, b in rows
    }


def build_model(config: Config, schema: ConditionSchema, cohort: Cohort) -> VAE:
    """The network of a configuration, for ECGs, conditions and targets like these."""
    settings = to_dict(config.model)
    head = {name: settings.pop(name) for name in ("task", "head_inputs", "task_weight", "ties")}
    for name in ("condition_encoding", "target"):
        settings.pop(name)
    if head["task"] != "none":
        settings |= head
        if kind_of(head["task"]) == "multiclass":
            settings["classes"] = int(cohort.subjects["target"].nunique())
    return (VAE if head["task"] == "none" else VAEPrediction)(
        input_shape=cohort.ecg.shape[1:],
        condition_dim=schema.dim,
        schema=schema,
        leads=cohort.leads,
        **cohort.timing,
        unit=cohort.unit,
        seed=config.training.seed,
        **settings,
    )


def with_targets(cohort: Cohort, settings: ModelConfig, classes: Sequence | None = None) -> Cohort:
    """The recordings whose target is known, with classes as numbers in a column `target`.

    The others go to `excluded`, as `data.outcomes.with_outcomes` has it.

    Args:
        cohort: any.
        settings: task and target.
        classes: in the order of their numbers; those of the cohort, sorted, where left out.

    Raises:
        CohortError: the target is not there, or has no events, a single class or another one.
        ConditionError: a number is outside the range that `CONDITIONS` has for this target.
    """
    kind = kind_of(settings.task)
    if kind == "none":
        return cohort
    if kind == "survival":
        return with_outcomes(cohort)
    if settings.target not in cohort.subjects:
        raise CohortError(
            f"model.target: the cohort has no column {settings.target!r}. It has: "
            f"{list(cohort.subjects.columns)}. Give another, or a table with data.outcomes."
        )
    cohort = copy(cohort)  # the ECGs are shared
    cohort.subjects = cohort.subjects.assign(target=cohort.subjects[settings.target])
    cohort = with_outcomes(cohort, ["target"])
    values = cohort.subjects["target"]
    if kind == "regression":
        numbers = pd.to_numeric(values, errors="coerce")
        if not np.isfinite(numbers).all():
            row = int(np.argmin(np.isfinite(numbers)))
            raise CohortError(
                f"{settings.target} of record {cohort.subjects['subject_id'][row]!r} is no number: "
                f"{values.tolist()[row]!r}. Correct it, or make it missing."
            )
        known = CONDITIONS.get(settings.target)
        if known is not None and known.kind == "continuous":  # -999 may stand for "not measured"
            ConditionSchema([known]).check(cohort.subjects)
        cohort.subjects["target"] = numbers
        return cohort
    if classes is None:
        codes, classes = pd.factorize(values, sort=True)
    else:
        numbers = {name: code for code, name in enumerate(classes)}  # True is 1, as in Python
        codes = np.array([numbers.get(value, -1) for value in values.tolist()])
        if (codes < 0).any():
            raise CohortError(
                f"Expected the classes {list(classes)} in {settings.target!r} of {cohort.source}. "
                f"Received: {values.tolist()[int(codes.argmin())]!r}."
            )
    if len(classes) < 2 or (kind == "binary" and len(classes) != 2):
        raise CohortError(
            f"The task {settings.task} needs {'two' if kind == 'binary' else 'several'} "
            f"classes. {settings.target} has: {list(classes)}."
        )
    between = [one for one in classes if isinstance(one, float) and one % 1]
    if between:
        raise CohortError(
            f"The task {settings.task} needs classes. {settings.target} has {len(classes)} numbers "
            f"such as {between[0]:g}: did you mean --model.task regression?"
        )
    cohort.subjects["target"] = codes
    named = ", ".join(f"{code} is {name}" for code, name in enumerate(classes))
    print(f"Classes of {settings.target}: {named}.")
    return cohort


def check_split(split: Split, settings: ModelConfig) -> None:
    """Checks before hours of training that a model, and its head, can be trained and judged.

    Raises:
        CohortError: a single patient in training or test, or a part has no event that others
            outlive (in test: within the follow-up of training), or only one class.
    """
    for name, part in (("training", split.train), ("test", split.test)):
        if part.subjects["patient_id"].nunique() < 2:
            raise CohortError(
                f"Expected 2 patients or more in the {name} part of the split, or nothing can be "
                "compared. Received: 1. Give more recordings or a larger data.*_fraction, or set "
                "data.split."
            )
    kind = kind_of(settings.task)
    if kind == "none":
        return
    for name, part in split._asdict().items():
        if kind == "regression":
            alike = part.subjects["target"].nunique() < 2 and name != "validation"
            good, lacks = not alike, "has one value of the target only"
        elif kind == "survival":
            time, event = part.subjects["time"], part.subjects["event"] > 0
            good, lacks = time[event].min() < time.max(), "has no event that another outlives"
            if good and name == "test" and time[event].min() >= split.train.subjects["time"].max():
                good, lacks = False, "has no event within the follow-up of training"
        else:
            good, lacks = part.subjects["target"].nunique() > 1, "has only one class"
        if not good:
            raise CohortError(
                f"The {name} part of the split, {len(part)} recordings, {lacks}: a head cannot be "
                "trained and judged. Give more recordings or larger data.*_fraction, or divide "
                "with another data.seed."
            )


def samples_of(cohort: Cohort, model: VAE, settings: ModelConfig) -> Samples:
    """What a model is trained on, out of (a part of) a cohort `with_targets`."""
    conditions = model.schema.encode(cohort.subjects)
    if settings.task == "none":
        return Samples(cohort.ecg, conditions)
    columns = ["time", "event"] if kind_of(settings.task) == "survival" else "target"
    return Samples(cohort.ecg, conditions, cohort.subjects[columns].to_numpy(np.float32))


def check_warm_start(folder: Path) -> None:
    """Checks that a model lies there, before the data are read.

    Raises:
        TrainingError: none does.
    """
    if not any((folder / place / DESCRIPTION).is_file() for place in ("", "model")):
        raise TrainingError(
            f"training.warm_start: no run or model lies at {folder}. Give its folder, as runs/NAME."
        )


def compare_division(folder: Path, config: Config, cohort: Cohort) -> None:
    """Says where the patients that a warm start was trained on may be among those judged on."""
    try:
        begun = json.loads((folder / "environment.json").read_text("utf-8"))
        data = json.loads((folder / "config.json").read_text("utf-8"))["data"]
        same = fingerprint(cohort, begun["columns"]) == begun["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        data, same = {}, False
    ours = to_dict(config.data)
    names = ("seed", "split", "validation_fraction", "test_fraction")
    if not same or any(data.get(name) != ours[name] for name in names):
        print(
            f"Warning: {folder} was trained on other recordings or another division of them. If "
            "these are of the same patients, some that are judged on were trained on there, and "
            "what is said of new patients is too good."
        )


def warm_start(model: VAE, folder: Path, freeze: bool) -> None:
    """Takes encoder, decoder, noise and prior of a trained model, and freezes them if asked to.

    Raises:
        ModelError: no model lies there.
        TrainingError: its network or its conditions are not the same.
    """
    other = VAE.load(folder)
    same = {name: (value, other.settings.get(name)) for name, value in model.settings.items()}
    for name in NOT_OF_THE_NETWORK:
        same.pop(name, None)
    changed = [f"{name}: {old!r} -> {new!r}" for name, (new, old) in same.items() if new != old]
    names, other_names = (None if m.schema is None else m.schema.names for m in (model, other))
    if names != other_names:
        changed.append(f"conditions: {other_names} -> {names}")
    if changed:
        raise TrainingError(f"{folder} holds another network: {'; '.join(changed)}.")
    # A mean or SD of age that differs a little between two cohorts would shift what was learned.
    model.schema, model.prior = other.schema, other.prior
    for part in ("encoder", "decoder"):
        getattr(model, part).set_weights(getattr(other, part).get_weights())
        getattr(model, part).trainable = not freeze
    parts = ["mean_beat", "scale", "log_noise"]
    if model.settings["noise"] == "per_sample":
        parts += ["profile", "noise_shape", "noise_leads", "noise_time"]
    for part in parts:
        getattr(model, part).assign(getattr(other, part))
    if model.settings["noise"] == "per_sample" and not freeze:
        forget_noise(model)  # it would give up the QRS; it is fitted again after training
    model.log_noise.trainable = model.log_noise.trainable and not freeze
