"""Trains and judges one model: cohort -> split -> model -> fit -> save -> evaluate.

`python train.py` runs `config.CONFIG`; `python train.py --help` lists what can be changed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

try:
    from config import CONFIG, PRESETS, Config
except (TypeError, ValueError) as error:  # a mistake of who edited it: no traceback
    if __name__ != "__main__":
        raise
    print(f"train.py: config.py: {error}", file=sys.stderr)
    sys.exit(2)
from data.ownership import owned
from data.tasks import kind_of
from training import processes
from training.command_line import explained, fail, read_settings
from training.provenance import Clock
from training.quiet import import_keras
from training.run_folder import RUNS, begun_by, open_run, record, write_text


def train(config: Config = CONFIG, overwrite: bool = False) -> Path:
    """Runs a configuration, or what is left of it if it was interrupted.

    Args:
        config: all settings.
        overwrite: start anew where a run of this name exists.

    Returns:
        The run folder: `config.json`, `environment.json`, `history.csv`, `model/`, `metrics.json`,
        `figures/`, `explorer.html`, `report.html`; `excluded.csv` if recordings were left out.

    Raises:
        RunError: a run of this name is finished, or was begun with other settings or data.
        InUseError: another process has it.
        ProcessError: another process of this run did not come, has gone, or has other data.
        CohortError, ConditionError, ModelError, TrainingError, DeviceError: data, settings or
            devices do not fit.
    """
    if processes.rank():
        return _help(config)
    with owned(RUNS / config.run):
        return _run(config, overwrite)


def _help(config: Config) -> Path:
    """What another process than the first does: it trains on its share, and writes nothing."""
    import_keras()
    import keras

    keras.config.set_dtype_policy(config.training.precision)
    processes.join()

    from training.devices import open_devices
    from training.setup import open_data

    with processes.quietly():
        devices = open_devices(config.training)
        cohort, split, schema = open_data(config)
        with devices, processes.connected():
            _fitted(config, cohort, split, schema, RUNS / config.run)
        processes.leave()
    return RUNS / config.run


def _fitted(config: Config, cohort, split, schema, folder: Path, begin=lambda: None):
    """The trained model, what it was trained on, and the history.

    `begin` is called once nothing is left to be refused, before anything is trained.
    """
    from evaluation.tensorboard import boards
    from training.fit import fit
    from training.provenance import what_is_trained
    from training.setup import build_model, compare_division, samples_of, warm_start

    if processes.number() > 1:
        processes.check_alike(what_is_trained(config, cohort))
    model = build_model(config, schema, cohort)
    if config.training.warm_start:
        compare_division(config.training.warm_start, config, cohort)
        warm_start(model, config.training.warm_start, config.training.freeze)
    elif config.model.linear_path or config.model.noise != "mse":  # all but the published
        model.adapt(split.train.ecg, split.train.subjects)
    training, validation = (
        samples_of(part, model, config.model) for part in (split.train, split.validation)
    )
    if kind_of(config.model.task) == "regression":
        model.adapt_target(training.target)
    watchers = []
    if config.training.tensorboard and processes.rank() == 0:
        watchers = boards(folder / "tensorboard", validation)
    checkpoint = folder / "checkpoint" / "training.npz"
    begin()
    history = fit(model, training, validation, config, checkpoint, watchers)
    return model, training, validation, history


def _run(config: Config, overwrite: bool) -> Path:
    clock = Clock()
    folder = open_run(config, overwrite)

    with clock.phase("start"), begun_by(folder):
        import_keras()  # here, so that --help and a wrong argument need no TensorFlow
        import keras

        keras.config.set_dtype_policy(config.training.precision)
        processes.join()

        from evaluation import evaluate
        from evaluation.explorer.page import write_explorer
        from evaluation.explorer.reference import of_training
        from evaluation.report.page import write_results
        from training.devices import open_devices
        from training.provenance import speed
        from training.setup import build_model, counts, open_data
        from vae import VAE

        devices = open_devices(config.training)

    with clock.phase("data"), begun_by(folder):
        cohort, split, schema = open_data(config)

    def begin() -> None:  # a network that cannot be costs neither the name nor an earlier run
        record(folder, cohort, config.training.warm_start)
        if len(cohort.excluded):
            write_text(folder / "excluded.csv", cohort.excluded.to_csv(index=False))

    with clock.phase("training"), begun_by(folder), devices:
        with processes.connected():
            parts = cohort, split, schema
            model, training, validation, history = _fitted(config, *parts, folder, begin)
        write_text(folder / "history.csv", history.to_csv(index=False))
        model = processes.on_this(model, partial(build_model, config, schema, cohort))
        if not config.training.freeze:
            model.standardise_latent(training.ecg, training.conditions)
            model.fit_noise(training.ecg, training.conditions, tuple(validation[:2]))
            if config.model.noise != "mse":  # the published model draws from N(0, I)
                model.fit_prior(training.ecg, training.conditions)
        if kind_of(config.model.task) == "survival":
            model.fit_baseline(training.ecg, training.conditions, *training.target.T)
        model.save(folder / "model")

    with clock.phase("evaluation"):
        # What is judged is the file that a user would load.
        model = VAE.load(folder)
        metrics, figures = evaluate(model, split, config.evaluation, history)

    trained = speed(history, len(split.train), clock, config.training.watch)
    with clock.phase("report"):
        metrics = {"data": counts(split, cohort), "training": trained, **metrics}
        of_subjects = {"model": model, "title": config.run, "reference": of_training(split.train)}
        write_results(folder, metrics, figures, partial(write_explorer, **of_subjects))
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    print(f"{clock}; compiling took about {trained['compile_seconds']:.0f} of training.")
    print(f"{trained['ecgs_per_second']:.0f} ECGs/s. Results: {folder / 'report.html'}")
    return folder


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
    config, overwrite = parse(arguments)
    with explained(
        "train.py", "interrupted. The same command goes on after the last finished epoch."
    ):
        train(config, overwrite)


if __name__ == "__main__":
    main(sys.argv[1:])
