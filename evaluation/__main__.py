"""Judges a trained model again, on its own test split or on another cohort.

    python -m evaluation RUN                                           as train.py judged it
    python -m evaluation RUN --bootstrap 200 --out FOLDER              otherwise, elsewhere
    python -m evaluation RUN --data.source ptbxl --data.path FOLDER    external validation

RUN is a run or model folder, or the name of a run. Any --data field names another cohort: all of
its recordings are then test, beside baselines from the training split of the run; the results go to
RUN/external/. A model folder without config.json is judged on the test split of that cohort.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

if __name__ == "__main__" and not __package__:  # as a file, python FOLDER/evaluation/...
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from config import DataConfig, EvaluationConfig
from evaluation.again import judge_again, read_config
from training.command_line import explained, fail, read_settings
from training.run_folder import find_run

PROGRAM = "python -m evaluation"


@dataclass(frozen=True)
class Settings:
    """What is judged on what, and where the results go."""

    out: Path | None = None
    """Folder for the results, instead of the run's own or RUN/external/."""
    own_path: Path | None = None
    """Where the data that the run was trained on lie now, if they were moved."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(
        default_factory=EvaluationConfig
    )
    data: DataConfig = field(default_factory=DataConfig)


# --- the command line -----------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> tuple:
    """Command line -> arguments of `judge_again`. A mistake ends in SystemExit(2)."""
    named = bool(arguments) and not arguments[0].startswith("-")
    run, default, rest = None, Settings(), list(arguments)
    if named:
        run, rest = find_run(arguments[0]), rest[1:]
        if (run / "config.json").is_file():
            config = read_config(run)
            # The cohort of the run is no start for another one: its outcomes are of other people.
            data = DataConfig(cache=config.data.cache, conditions=config.data.conditions)
            default = Settings(evaluation=config.evaluation, data=data)
    elif not {"-h", "--help"} & set(arguments):
        fail(PROGRAM, "expected a run or model folder first. See --help.")
    settings = read_settings(Settings, rest, f"{PROGRAM} RUN", __doc__, default)
    typed = [argument.partition("=")[0] for argument in rest if argument.startswith("--data.")]
    if typed and "--data.source" not in typed:
        fail(PROGRAM, f"{typed[0]} is of another cohort: say of which kind with --data.source.")
    data = settings.data if typed else None
    return run, data, settings.evaluation, settings.out, settings.own_path


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    with explained(PROGRAM, "interrupted. Earlier results are as they were."):
        folder = judge_again(*parse(arguments))
        print(f"Results: {folder / 'report.html'}")


if __name__ == "__main__":
    main(sys.argv[1:])
