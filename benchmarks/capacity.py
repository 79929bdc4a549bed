"""How many latent dimensions and how wide a network real ECGs ask for: a table, judged on fold 9.

    python -m benchmarks.capacity FOLDER [--dims 10 16 24 32 48] [--hidden 256 256x256] [--seeds 0]
        [--left 7 8] [--set section.setting=value ...]

Trains the preset `ptbxl` on folds 1 to 8 of the PTB-XL in FOLDER for each combination, and judges
on fold 9, which also stops the training; fold 10 is not read. With `--left` the model is trained
without these folds and judged on them, for an estimate on more patients. 256x256 are two hidden
layers. What follows `--set` is set in all of them, as `training.augmentation=1.0`. A combination
that was measured is kept in `runs/capacity/` and not trained again.

Columns: MAE in uV, and beside that of PCA with as many dimensions; MAE in the P segment beside that
of the mean beat, and in QRS beside PCA; generated beats without measurable P above real ones, in
points; Wasserstein distance of P duration in SD; of 10 features, over its null; p of MMD^2;
coverage; recall over its null; slopes as in the training records; sex AUC read from generated
beats, above real; TSTR over TRTR of age, sex and BMI; AUC of the reconstruction attack; bound in
nats per ECG; seconds of training.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from config import CONDITIONS, PRESETS, Config, EvaluationConfig
from data import Split, load_cohort
from data.conditions import ConditionSchema
from evaluation.judge import Reconstruction, measured
from training.fit import fit
from training.setup import build_model, samples_of

KEPT = Path("runs/capacity")
COLUMNS = (
    *("MAE", "/ PCA", "P / mean", "QRS / PCA", "P missing", "W of P", "W / null", "MMD p"),
    *("coverage", "recall", "slopes", "sex", "age", "sex", "BMI", "attack", "bound", "s"),
)


def judged(config: Config, left: Sequence[int] = ()) -> dict[str, dict]:
    """Metrics on fold 9 of a model trained on folds 1 to 8, or on some of these left out."""
    cohort = load_cohort(config.data)
    parts = cohort.split(by_fold=True)
    split = Split(parts.train, parts.validation, parts.validation)
    if left:
        out = parts.train.subjects["fold"].isin(left)
        train, test = (parts.train.take(np.flatnonzero(rows)) for rows in (~out, out))
        split = Split(train, parts.validation, test)
    schema = ConditionSchema([CONDITIONS[name] for name in config.data.conditions])
    schema.fit(split.train.subjects)
    started = time.perf_counter()
    model = build_model(config, schema, cohort)
    model.adapt(split.train.ecg, split.train.subjects)
    train, validation = (
        samples_of(part, model, config.model) for part in (split.train, split.validation)
    )
    checkpoint = KEPT / f"{config.run}.npz"
    checkpoint.unlink(missing_ok=True)
    fit(model, train, validation, config, checkpoint)
    checkpoint.unlink(missing_ok=True)
    model.standardise_latent(train.ecg, train.conditions)
    model.fit_noise(train.ecg, train.conditions, tuple(validation[:2]))
    model.fit_prior(train.ecg, train.conditions)
    seconds = time.perf_counter() - started
    posterior = model.encode(split.test.ecg, split.test.subjects)
    reconstruction = Reconstruction(model, posterior[0], split.test.subjects)
    metrics = measured(model, split, EvaluationConfig(bootstrap=100), posterior, reconstruction)
    return {**metrics, "training": {"seconds": seconds}}


def row(metrics: dict[str, dict]) -> list[str]:
    """The values of `COLUMNS`."""
    parts = ("reconstruction", "latent", "realism", "adherence", "utility", "privacy")
    error, latent, real, follows, use, private = (metrics[part] for part in parts)
    pca = f"pca{latent['dimensions']}_mae_uv"
    kept = [f"{use[f'tstr_over_trtr_{name}']:.2f}" for name in ("r2_age", "auc_sex", "r2_bmi")]
    return [
        f"{error['mae_uv']:.1f}",
        f"{error['mae_uv'] / error[pca]:.2f}",
        f"{error['mae_uv_p'] / error['mean_beat_mae_uv_p']:.2f}",
        f"{error['mae_uv_qrs'] / error[f'{pca}_qrs']:.2f}",
        f"{100 * (real['p_wave_missing'] - real['p_wave_missing_null']):+.1f}",
        f"{real['wasserstein_p_duration']:.2f}",
        f"{real['wasserstein'] / real['wasserstein_null']:.2f}",
        f"{real['mmd2_p_value']:.2f}",
        f"{real['coverage']:.2f} ({real['coverage_null_p05']:.2f})",
        f"{real['recall'] / real['recall_null']:.2f}",
        f"{follows['slopes_agree_train']:.0%}",
        f"{follows['recovery_auc_sex'] - follows['recovery_auc_sex_real']:+.2f}",
        *kept,
        f"{private['reconstruction_auc']:.2f}",
        f"{latent['bound']:.0f}",
        f"{metrics['training']['seconds']:.0f}",
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dims", type=int, nargs="+", default=[10, 16, 24, 32, 48])
    parser.add_argument("--hidden", nargs="+", default=["256"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--left", type=int, nargs="+", default=[], choices=range(1, 9))
    parser.add_argument("--set", nargs="+", default=[], metavar="section.setting=value")
    given = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    base = PRESETS["ptbxl"]
    base = replace(base, data=replace(base.data, path=given.folder))
    for setting in given.set:
        name, _, value = setting.partition("=")
        section, _, field = name.partition(".")
        part = replace(getattr(base, section), **{field: ast.literal_eval(value)})
        base = replace(base, **{section: part})
    print("| dims | hidden | seed |", " | ".join(COLUMNS), "|")
    print("|", " | ".join(["---"] * (3 + len(COLUMNS))), "|")
    for dims in given.dims:
        for widths in given.hidden:
            for seed in given.seeds:
                folds = [f"left {fold}" for fold in given.left]
                own = "-".join([str(dims), widths, str(seed), *folds, *given.set])
                name = "".join(sign if sign.isalnum() else "-" for sign in own)
                file = KEPT / f"{name}.json"
                if not file.exists():
                    hidden = tuple(int(width) for width in widths.split("x"))
                    model = replace(base.model, latent_space_dim=dims, hidden=hidden)
                    training = replace(base.training, seed=seed)
                    config = replace(base, run=name, model=model, training=training)
                    metrics = judged(config, given.left)
                    file.write_text(json.dumps(metrics, default=float))
                values = row(json.loads(file.read_text()))
                print(f"| {dims} | {widths} | {seed} |", " | ".join(values), "|", flush=True)


if __name__ == "__main__":
    main()
