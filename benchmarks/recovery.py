"""How well conditions are read from real and from generated ECGs, over many more than a test fold.

    python -m benchmarks.recovery FOLDER [--draws 5]

A test fold of PTB-XL in FOLDER holds few records: by chance sex is easier to read from one than
from another. Here each of the training folds 1 to 8 is read in turn by regressors that were trained
on the other seven (fold 9 chooses their penalty), and so are ECGs generated for its records by
`trained/ptbxl`. A regressor trained on the fold's own records would read it too well.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from config import PRESETS
from data import load_cohort
from evaluation.measures.adherence import generate_like
from evaluation.measures.regressor import ConditionRegressor, recovery_metrics
from vae import VAE

MODEL = Path(__file__).resolve().parents[1] / "trained" / "ptbxl"


def main(folder: tyro.conf.Positional[Path], draws: int = 5) -> None:
    """Prints scores by fold, and their mean with its standard error.

    Args:
        folder: with PTB-XL or a part of it.
        draws: ECGs generated for each record.
    """
    cohort = load_cohort(replace(PRESETS["ptbxl"].data, path=folder))
    split, model = cohort.split(by_fold=True), VAE.load(MODEL)
    folds, rows = split.train.subjects["fold"].to_numpy(), []
    for fold in np.unique(folds):
        others, own = (
            split.train.take(np.flatnonzero(part)) for part in (folds != fold, folds == fold)
        )
        regressor = ConditionRegressor(model.schema, others.ecg, others.subjects, split.validation)
        made = generate_like(model, own.subjects, draws, int(fold))
        found = recovery_metrics(model.schema, regressor, own, made, draws=2)
        rows.append({"fold": fold, "records": len(own)} | found)
    table = pd.DataFrame(rows).set_index("fold")
    columns = ["records"]
    for score in ("auc_sex", "r2_age", "r2_bmi"):
        columns += [f"recovery_{score}_real", f"recovery_{score}", f"recovery_{score}_difference"]
    table = table[columns].rename(columns=lambda name: name.removeprefix("recovery_"))
    print(table.round(3).to_string())
    summary = {"mean": table.mean(), "standard error": table.sem()}
    print(pd.DataFrame(summary).T.drop(columns="records").round(3).to_string())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
