"""How many records of PTB-XL lie in the ranges that the explorer shows: nominally 90%.

    python -m benchmarks.explorer_ranges FOLDER

Ranges are fitted to the training folds, or to ECGs that the shipped model generates, and judged on
the other two folds, which the model was not trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from data.readers.ptbxl import load_ptbxl
from evaluation.explorer.reference import (
    SHOWN,
    WHOLE,
    design,
    features_of,
    of_model,
    of_training,
    ranges,
    schema_of,
)
from evaluation.measures.slopes import unwrapped
from training.run_folder import TRAINED
from vae import VAE


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder of PTB-XL")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    given = parser.parse_args()
    model = VAE.load(TRAINED / "ptbxl")
    schema = schema_of(model)
    split = load_ptbxl(given.data, cache=given.cache).split(by_fold=True)
    others = [split.validation, split.test]
    x = np.concatenate([design(schema, part.subjects) for part in others])
    measured = pd.concat([features_of(model, part.ecg) for part in others], ignore_index=True)
    found = {}
    for name, reference in (
        ("fitted to training records", of_training(split.train)),
        ("fitted to generated ECGs", of_model(model, schema)),
    ):
        fitted = ranges(schema, reference.subjects, features_of(model, reference.ecg))
        fitted = {feature: one for feature, one in fitted.items() if one["low"]}
        centres = {f: one["centre"] for f, one in fitted.items() if one["centre"] is not None}
        values = unwrapped(measured[list(SHOWN)], centres)
        found[name] = {}
        for feature, one in fitted.items():
            inside = values[feature].between(x @ np.array(one["low"]), x @ np.array(one["high"]))
            found[name][feature] = inside[values[feature].notna()].mean()
    table = pd.DataFrame(found)
    print(table.loc[list(WHOLE)].round(2).to_string())
    print(table.mean().round(3).rename(f"mean of {len(table)}").to_string())


if __name__ == "__main__":
    main()
