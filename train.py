"""Trains and judges one model: cohort -> split -> model -> fit -> save -> evaluate.

`python train.py` runs `config.CONFIG`; `python train.py --help` lists what can be changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from command_line import explained, fail, read_settings
from config import CONDITIONS, CONFIG, PRESETS, Config, to_dict

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from conditions import ConditionSchema
    from data import Cohort, Split

RUNS = Path("runs")
ELSEWHERE = "Choose another --run NAME, or --overwrite to replace it."


class RunError(RuntimeError):
    """A run folder that holds something else than this run may continue."""


def train(config: Config = CONFIG, overwrite: bool = False) -> Path:
    """Runs a configuration, or what is left of it if it was interrupted.

    Args:
        config: all settings.
        overwrite: start anew where a run of this name exists.

    Returns:
        The run folder: `config.json`, `environment.json`, `history.csv`, `model/`,
        `metrics.json`, `figures/`, `report.html`.

    Raises:
        RunError: a run of this name is finished, or was begun with other settings or data.
        CohortError, ConditionError, ModelError, TrainingError, DeviceError: data, settings or
            devices do not fit.
    """
    clock = Clock()
    folder = open_run(config, overwrite)

    with clock.phase("start"):  # here, so that --help and a wrong argument need no TensorFlow
        import keras

        from devices import open_devices
        from evaluation import evaluate
        from training import build_model, fit, samples_of, warm_start
        from vae import VAE

        keras.config.set_dtype_policy(config.training.precision)
        devices = open_devices(config.training)

    with clock.phase("data"):
        cohort, split, schema = open_data(config)
        record(folder, cohort)

    with clock.phase("training"), devices:
        model = build_model(config, schema, cohort)
        if config.training.warm_start:
            warm_start(model, config.training.warm_start, config.training.freeze)
        elif config.model.linear_path or config.model.noise != "mse":  # all but the published
            model.adapt(split.train.ecg, split.train.subjects)
        training, validation = (
            samples_of(part, model, config.model) for part in (split.train, split.validation)
        )
        if config.model.task == "regression":
            model.adapt_target(training.target)
        history = fit(model, training, validation, config, folder / "checkpoint" / "training.npz")
        write_text(folder / "history.csv", history.to_csv(index=False))
        if not config.training.freeze:
            model.standardise_latent(training.ecg, training.conditions)
            if config.model.noise != "mse":  # the published model draws from N(0, I)
                model.fit_prior(training.ecg, training.conditions)
        if config.model.task == "cox":
            model.fit_baseline(training.ecg, training.conditions, *training.target.T)
        model.save(folder / "model")

    with clock.phase("evaluation"):
        # What is judged is the file that a user would load.
        metrics, figures = evaluate(VAE.load(folder), split, config.evaluation, history)

    trained = speed(history, split, clock, config)
    with clock.phase("report"):
        metrics = {"data": counts(split, cohort), "training": trained, **metrics}
        write_results(folder, metrics, figures)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    print(f"{clock}; compiling took about {trained['compile_seconds']:.0f} of training.")
    print(f"{trained['ecgs_per_second']:.0f} ECGs/s. Results: {folder / 'report.html'}")
    return folder


def open_data(config: Config) -> tuple[Cohort, Split, ConditionSchema]:
    """The cohort of a configuration, its split by patient, and its conditions.

    Returns:
        Cohort (recordings whose target is known), split, and the schema, scaled on training.

    Raises:
        CohortError, ConditionError: the data are not there or do not fit.
    """
    from conditions import ConditionSchema
    from data import load_cohort
    from training import check_split, with_targets

    cohort = with_targets(load_cohort(config.data), config.model)
    split = cohort.split(
        config.data.validation_fraction,
        config.data.test_fraction,
        config.data.seed,
        by_fold=config.data.split == "fold",
    )
    check_split(split, config.model)
    print(f"{cohort.source}: {', '.join(f'{len(p)} {n}' for n, p in split._asdict().items())}")
    schema = ConditionSchema(
        [CONDITIONS[name] for name in config.data.conditions], config.model.condition_encoding
    )
    schema.check(cohort.subjects)
    schema.fit(split.train.subjects)
    return cohort, split, schema


def record(folder: Path, cohort: Cohort) -> None:
    """Writes what the run is made of to `environment.json`, or compares it with what is there.

    Raises:
        RunError: the run was begun with other data.
    """
    from provenance import describe

    file, now = folder / "environment.json", describe(cohort)
    if file.is_file():
        begun = _read_json(file)
        changed = differences(begun.get("data", {}), now["data"], "data.")
        if changed:
            raise RunError(f"{folder} was begun with other data: {'; '.join(changed)}. {ELSEWHERE}")
        for difference in differences(begun, now):
            print(f"Other than when the run began, so its numbers may differ: {difference}")
        return  # what it was begun with
    write_text(file, json.dumps(now, indent=2) + "\n")


class Clock:
    """Seconds of each phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what is done inside."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.0f} s: {parts}"


def open_run(config: Config, overwrite: bool = False) -> Path:
    """The folder of a run that may start or go on, with `config.json` in it.

    Raises:
        RunError: it is finished, or was begun with other settings.
    """
    folder = RUNS / config.run
    settings = json.loads(json.dumps(to_dict(config)))
    # Away as a whole, then deleted: killed while deleting, half a run would block its own name.
    old = folder.with_name(f".{folder.name}.overwritten")
    shutil.rmtree(old, ignore_errors=True)
    if overwrite and (folder / "config.json").is_file():
        folder.rename(old)
        shutil.rmtree(old)
    if (folder / "config.json").is_file():
        changed = differences(_read_json(folder / "config.json"), settings)
        if changed:
            raise RunError(f"{folder} has other settings: {'; '.join(changed)}. {ELSEWHERE}")
        if (folder / "report.html").is_file():
            # Still there if the run was killed at its very end.
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            raise RunError(f"{folder} is finished. {ELSEWHERE}")
    elif folder.exists() and any(path.suffix != ".partial" for path in folder.iterdir()):
        raise RunError(f"{folder} holds something else than a run. Choose another --run NAME.")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", json.dumps(settings, indent=2) + "\n")
    return folder


def find_run(name: str | Path) -> Path:
    """A run or model folder by its path, or a run by its name.

    Raises:
        RunError: there is none.
    """
    kept = ("config.json", "parameters.json", "model/parameters.json")
    for folder in (Path(name), RUNS / name):
        if any((folder / file).is_file() for file in kept):
            return folder
    there = sorted(path.parent.name for path in RUNS.glob("*/config.json"))
    raise RunError(
        f"{name} is neither a run nor a model folder. "
        + (f"Runs in {RUNS}: {', '.join(there)}." if there else f"There is no run in {RUNS} yet.")
    )


def _read_json(file: Path) -> dict:
    """What a run wrote about itself."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged ({error}). {ELSEWHERE}") from error
    if not isinstance(found, dict):
        raise RunError(f"{file} does not describe a run. {ELSEWHERE}")
    return found


def differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """Fields of two nested configurations that differ, as `section.field: old -> new`."""
    found = []
    for name in {**old, **new}:
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before!r} -> {after!r}")
    return found


def counts(split: Split, cohort: Cohort) -> dict:
    """Section `data` of the metrics."""
    section = {"recordings": len(cohort), "excluded": len(cohort.excluded)}
    for name, part in split._asdict().items():
        section[f"{name}_recordings"] = len(part)
        section[f"{name}_patients"] = part.subjects["patient_id"].nunique()
    for reason, number in cohort.excluded["reason"].value_counts().items():
        section[f"excluded: {reason}"] = int(number)
    return section


def speed(history: pd.DataFrame, split: Split, clock: Clock, config: Config) -> dict:
    """Section `training` of the metrics."""
    import keras

    from training import best_epoch

    epoch = float(history["seconds"].median())
    return {
        "epochs": len(history),
        "best_epoch": best_epoch(history.to_dict("records"), f"val_{config.training.watch}") + 1,
        # The median epoch, with its validation and checkpoint.
        "ecgs_per_second": len(split.train) / epoch,
        "compile_seconds": max(0.0, float(history["seconds"].iloc[0]) - epoch),
        **{f"{name}_seconds": seconds for name, seconds in clock.seconds.items()},
        "seconds": sum(clock.seconds.values()),
        "device": ", ".join(keras.distribution.list_devices()),
        "backend": f"{keras.backend.backend()}, Keras {keras.__version__}",
    }


def write_results(folder: Path, metrics: dict, figures: Mapping[str, Figure]) -> None:
    """Writes figures, `metrics.json` and, last, `report.html`: then a run is finished."""
    from evaluation.figures import save
    from evaluation.report import write_report

    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        save(figure, folder / "figures" / f"{name}.png")
    # NaN is no JSON: a number that cannot be had is null.
    plain = {
        section: {name: None if value != value else value for name, value in values.items()}
        for section, values in metrics.items()
    }
    write_text(folder / "metrics.json", json.dumps(plain, indent=2, allow_nan=False) + "\n")
    write_report(folder)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def parse(arguments: Sequence[str]) -> tuple[Config, bool]:
    """Command line -> configuration, and whether to overwrite. A mistake ends in SystemExit(2)."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=PRESETS, default=None)
    first.add_argument("--overwrite", action="store_true")
    first.error = partial(fail, "train.py")
    chosen, rest = first.parse_known_args(arguments)
    description = (
        f"{__doc__}\n\n--preset {{{','.join(PRESETS)}}} starts from another entry of "
        "config.PRESETS; --overwrite replaces a run of the same name."
    )
    default = PRESETS[chosen.preset] if chosen.preset else CONFIG
    return read_settings(Config, rest, "train.py", description, default), chosen.overwrite


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notes
    config, overwrite = parse(arguments)
    with explained(
        "train.py", "interrupted. The same command goes on after the last finished epoch."
    ):
        train(config, overwrite)


if __name__ == "__main__":
    main(sys.argv[1:])
