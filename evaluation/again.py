"""Judges a trained model again: on its own test split, or on another cohort.

`python -m evaluation` is the command.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from config import (
    Config,
    ConfigError,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    from_dict,
    to_dict,
)
from data import Cohort, Split, load_cohort
from data.ownership import owned
from data.tasks import kind_of
from evaluation.external import external_split, fitting
from evaluation.report.page import EXPLORER, write_results
from training.provenance import fingerprint
from training.quiet import import_keras
from training.run_folder import (
    RUNS,
    TRAINED,
    RunError,
    differences,
    find_run,
    write_text,
)

if TYPE_CHECKING:
    from vae import VAE


# Sections of the metrics, and files, that say how the model was made.
KEPT, KEPT_FILES = ("training",), ("environment.json", "history.csv")


def judge_again(
    run: str | Path,
    data: DataConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    out: str | Path | None = None,
    own_path: Path | None = None,
) -> Path:
    """Measures and draws anew all that a run reports; nothing is replaced before all is there.

    Args:
        run: a run or model folder, or the name of a run.
        data: another cohort, all of whose recordings are then test, beside baselines from the
            training split of the run; its own test split where left out. A model folder without
            `config.json` needs one, and is judged on the test split of it.
        evaluation: instead of the settings of the run.
        out: folder of the results, by default the run, or `external/<cohort>` in it.
        own_path: where the data that the run was trained on lie now, if they were moved.

    Returns:
        The folder of `metrics.json`, `figures/`, `explorer.html` and `report.html`.

    Raises:
        RunError: the run or its data are not there, or the results would replace something else.
        InUseError: another process is training or judging there.
        CohortError, ConditionError, ModelError: the data do not fit the model.
    """
    run = find_run(run)
    if out is None and data is not None and run.parent == TRAINED:
        out = RUNS / f"{run.name}_on_{_name(data)}"  # not among the code
    if out is None:
        out = run if data is None else run / "external" / _name(data)
    out = Path(out)
    in_place = out.resolve() == run.resolve()
    # A run that is read must not be overwritten in the middle.
    with contextlib.nullcontext() if in_place else owned(run, shared=True), owned(out):
        return _judge_run(run, data, evaluation, out, own_path)


def _judge_run(
    run: Path,
    data: DataConfig | None,
    evaluation: EvaluationConfig | None,
    out: Path,
    own_path: Path | None,
) -> Path:
    import_keras()
    import keras  # here, so that --help and a wrong argument need no TensorFlow

    from evaluation.judge import SAME_SOURCE
    from training.setup import counts
    from vae import VAE

    title = run.resolve().name if data is None else f"{run.resolve().name} on {_name(data)}"
    if not (run / "config.json").is_file():
        return _judge_bare(run, data, evaluation or EvaluationConfig(), out, title)
    config = read_config(run)
    evaluation, in_place = evaluation or config.evaluation, out.resolve() == run.resolve()
    keras.config.set_dtype_policy(config.training.precision)  # as it was judged before
    recorded = _recorded(run)
    model = VAE.load(run)
    cohort, split, schema = own_data(run, config, own_path)
    section = counts(split, cohort)
    changed = _changes(recorded.get("data", {}), section, model, schema, config)
    changed = changed or other_fingerprint(run, cohort)
    if changed:
        text = f"The data are not those that {run} was trained on: {'; '.join(changed)}."
        if in_place:
            raise RunError(
                f"{text} Its test split may hold training patients. --own-path FOLDER says where "
                "the others lie; --out FOLDER judges on these all the same."
            )
        print(f"Warning: {text}", file=sys.stderr)
    elif data is None:
        section = recorded.get("data", section)
    described = json.loads((run / "config.json").read_text("utf-8"))
    if data is not None:
        config = replace(config, data=data)
        described["data"] = to_dict(data)
        trained_on = cohort.source
        cohort, split = external_split(model, config, split)
        section = {"trained_on": trained_on, "tested_on": cohort.source} | counts(split, cohort)
    described["evaluation"] = to_dict(evaluation)
    if not in_place:
        _check_free(out, described)
    sections = {"data": section} | {name: recorded[name] for name in KEPT if name in recorded}
    without = () if data is None else SAME_SOURCE
    return _judge(model, split, evaluation, sections, described, out, title, run, without)


def _judge_bare(
    folder: Path, data: DataConfig | None, evaluation: EvaluationConfig, out: Path, title: str
) -> Path:
    """A model without its run, on the test split of a cohort."""
    from training.setup import check_split, counts, with_targets
    from vae import VAE

    if data is None:
        raise RunError(
            f"{folder} has no config.json, which says what it was trained on. Give the run folder, "
            "or a cohort: --data.source prepared --data.path FOLDER."
        )
    if folder.parent == TRAINED and data.source == "ptbxl" and data.split != "fold":
        raise RunError(
            f"{folder.name} was trained on folds 1 to 8 of PTB-XL. --data.split fold judges it on "
            "the tenth."
        )
    model = VAE.load(folder)
    task = getattr(model, "task", "none")
    if kind_of(task) not in ("none", "survival"):
        raise RunError(
            f"{folder} has no config.json, which says what the column is called that its head "
            f"({task}) predicts. Give the run folder."
        )
    needs = ModelConfig(task=task)
    cohort = fitting(model, with_targets(load_cohort(data), needs))
    split = cohort.split(
        data.validation_fraction, data.test_fraction, data.seed, by_fold=data.split == "fold"
    )
    check_split(split, needs)
    print(
        f"{folder} has no config.json: judged on the test split of {cohort.source}, "
        f"{len(split.test)} recordings. Whether it was trained on some of them is not known."
    )
    described = {"data": to_dict(data), "evaluation": to_dict(evaluation)}
    _check_free(out, described)
    sections = {"data": {"tested_on": cohort.source} | counts(split, cohort)}
    # The shipped models were trained on the folds that are training here; of others it isn't known.
    without = () if folder.parent == TRAINED and data.source == "ptbxl" else ("privacy",)
    return _judge(model, split, evaluation, sections, described, out, title, without=without)


def _judge(
    model: VAE,
    split: Split,
    evaluation: EvaluationConfig,
    sections: dict,
    described: dict,
    out: Path,
    title: str,
    run: Path | None = None,
    without: Collection[str] = (),
) -> Path:
    """Measures, draws and writes. `sections` come first in the metrics."""
    from evaluation import evaluate
    from evaluation.explorer.page import write_explorer
    from evaluation.explorer.reference import of_training

    kept = [] if run is None else [path for name in KEPT_FILES if (path := run / name).is_file()]
    history = [pd.read_csv(path) for path in kept if path.name == "history.csv"]
    metrics, figures = evaluate(model, split, evaluation, *history, without=without)
    # Whether a model without its run was trained on these is not known.
    reference = None if run is None else of_training(split.train)
    write_page = partial(write_explorer, model=model, title=title, reference=reference)
    _replace_results(out, title, described, {**sections, **metrics}, figures, kept, write_page)
    return out


# --- what is there --------------------------------------------------------------------------------


def read_config(run: Path) -> Config:
    """The settings of a run.

    Raises:
        RunError: they cannot be read.
    """
    try:
        return from_dict(Config, json.loads((run / "config.json").read_text("utf-8")))
    except ConfigError as error:
        raise RunError(f"{run / 'config.json'} does not fit this version: {error}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{run / 'config.json'} is damaged ({error}).") from error


def _recorded(run: Path) -> dict:
    """The metrics of a run."""
    file = run / "metrics.json"
    if not file.is_file():
        raise RunError(f"{run} is not finished: the train.py command that began it goes on.")
    try:
        metrics = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}).") from error
    if not isinstance(metrics, dict):
        raise RunError(f"{file} holds no metrics.")
    return metrics


def own_data(run: Path, config: Config, own_path: Path | None) -> tuple:
    """Cohort, split and schema of the run."""
    if own_path is not None:
        if config.data.source == "synthetic":
            raise RunError(f"{run} was trained on simulated ECGs: it has no data to be moved.")
        config = replace(config, data=replace(config.data, path=own_path))
    path, outcomes = config.data.path, config.data.outcomes
    if config.data.source != "synthetic" and not path.exists():
        raise RunError(
            f"The data that {run} was trained on are not at {path}. Its own test split, and its "
            "training ECGs for the baselines, are read from there. Say where they lie now: "
            "--own-path FOLDER."
        )
    if outcomes is not None and not outcomes.is_file():
        raise RunError(
            f"The outcomes that {run} was trained on are not at {outcomes}. Correct data.outcomes "
            f"in {run / 'config.json'}."
        )
    from training.setup import open_data

    return open_data(config)


def _changes(recorded: Mapping, found: Mapping, model: VAE, schema, config: Config) -> list[str]:
    """How the cohort differs from the one that was trained on, as far as the run kept that."""
    known = {name: value for name, value in found.items() if name in recorded}
    changed = differences({name: recorded[name] for name in known}, known)
    if changed or config.training.warm_start:  # after a warm start the scaling is of another run
        return changed
    for name, (mean, sd) in schema.scaling.items():
        old = model.schema.scaling.get(name, (np.nan, np.nan))
        if not np.allclose(old, (mean, sd), rtol=1e-6):
            changed.append(
                f"{name} of the training subjects: {old[0]:.6g} (SD {old[1]:.6g}) -> "
                f"{mean:.6g} (SD {sd:.6g})"
            )
    return changed


# --- results --------------------------------------------------------------------------------------


def other_fingerprint(run: Path, cohort: Cohort) -> list[str]:
    """Whether the ECGs or subjects are not those that `environment.json` tells of.

    A column that the table of subjects did not have then is no change.
    """
    try:
        environment = json.loads((run / "environment.json").read_text("utf-8"))
        begun = environment["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # an older run, or damaged: not known
    columns = environment.get("columns", [])
    gone = [name for name in columns if name not in cohort.subjects]
    if gone:
        return [f"columns that are gone: {', '.join(gone)}"]
    now = fingerprint(cohort, columns or None)
    return [] if now == begun else [f"fingerprint: {begun[:12]} -> {now[:12]}"]


def _name(data: DataConfig) -> str:
    """How the results on a cohort are called."""
    return data.source if data.source == "synthetic" else data.path.resolve().stem


def _check_free(folder: Path, described: Mapping) -> None:
    """Refuses a folder of something else than earlier results of the same model and cohort."""
    if not folder.exists() or (
        folder.is_dir() and all(path.suffix == ".partial" for path in folder.iterdir())
    ):
        return
    try:
        there = json.loads((folder / "config.json").read_text("utf-8"))
        described = json.loads(json.dumps(described))  # lists, not tuples, as in the file
        changed = differences({**there, "evaluation": 0}, {**described, "evaluation": 0})
    except (OSError, ValueError, TypeError):
        changed = ["no results of this model"]
    if changed:
        raise RunError(
            f"{folder} holds something else: {'; '.join(changed)}. Choose another --out FOLDER."
        )


def _replace_results(
    folder: Path,
    title: str,
    described: dict,
    metrics: dict,
    figures: dict,
    kept: list[Path],
    write_page: Callable[[Path], object],
) -> None:
    """Writes all results beside those that are there, then moves them over, file by file."""
    staging = folder / "judging.partial"
    shutil.rmtree(staging, ignore_errors=True)
    stage = staging / title  # the page is called by the name of its folder
    try:
        stage.mkdir(parents=True)
        write_text(stage / "config.json", json.dumps(described, indent=2) + "\n")
        for path in kept:
            shutil.copyfile(path, stage / path.name)
        write_results(stage, metrics, figures, write_page)
        # First what says whose results these are: killed after it, the same command may go on.
        (stage / "config.json").replace(folder / "config.json")
        (folder / "figures").mkdir(exist_ok=True)
        last = (*KEPT_FILES, EXPLORER, "metrics.json", "report.html")
        names = [path.relative_to(stage) for path in (stage / "figures").iterdir()]
        for name in [*names, *(Path(file) for file in last)]:
            if (stage / name).is_file():
                (stage / name).replace(folder / name)
        for old in (folder / "figures").glob("*.png"):
            if old.stem not in figures:
                old.unlink()
    finally:
        shutil.rmtree(staging, ignore_errors=True)
