"""Prints the tables of the README from the `metrics.json` of runs.

What the metrics are called and how many digits they have is said in `evaluation/report/reading.py`.

The runs, made with the commands in the README:

    for SEED in 0 1 2: python train.py --run default_seed$SEED --data.seed $SEED
        --training.seed $SEED --evaluation.seed $SEED
    python train.py --preset paper
    python train.py --preset ptbxl --data.path FOLDER
    python train.py --preset prediction
    python train.py --preset prediction --run prediction_without_head --model.task none

Usage: python -m benchmarks.results
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from evaluation.measures.features import FEATURES
from evaluation.measures.names import feature_title
from evaluation.measures.names import interval as ends_of
from evaluation.report.reading import BESIDE, REAL, metric, principal_components

RUNS = Path("runs")
DEFAULT = tuple(f"default_seed{seed}" for seed in range(3))

# Feature, condition, format.
EFFECTS = (
    ("qrs_axis", "age", ".1f"),
    ("qrs_axis", "bmi", ".2f"),
    ("r_avf", "age", ".3f"),
    ("s_v2", "age", ".3f"),
    ("t_v2", "sex", ".3f"),
    ("r_i", "bmi", ".3f"),
)
# Condition -> what follows the name of a feature, and its unit.
CONDITIONS = {
    "age": (" by age", " per decade"),
    "bmi": (" by BMI", " per kg/m2"),
    "sex": (", women less men", ""),
}

# The rows of the table of generators, by section.
GENERATOR = {
    "realism": (
        *("mmd2", "mmd2_p_value", "coverage", "recall", "density", "frechet_distance"),
        *("wasserstein", "p_wave_missing", "einthoven_residual"),
    ),
    "adherence": (
        *("slopes_agree", "slopes_recovered", "slopes_recovered_clear", "slopes_gain"),
        *("recovery_r2_age", "recovery_auc_sex"),
    ),
    "utility": ("tstr_r2_age", "tstr_auc_sex"),
    "privacy": ("nearest_train_uv", "membership_auc", "membership_auc_control"),
}

MEASURES_OF_RISK = ("c_harrell", "c_uno", "calibration_slope", "ici", "log_hazard_r")


def read(run: str) -> dict[str, dict]:
    """The metrics of a run."""
    return json.loads((RUNS / run / "metrics.json").read_text("utf-8"))


def number(section: dict, name: str) -> str:
    """A value."""
    return f"{section[name]:{metric(name).number}}"


def interval(section: dict, name: str, form: str = "") -> str:
    """Value and 95% interval."""
    form = form or metric(name).number
    low, high = ends_of(name, section)
    return f"{section[name]:{form}} ({low:{form}} to {high:{form}})"


def table(header: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def reconstruction() -> str:
    """A row per run."""
    rows = []
    for label, run in (
        ("simulated, `python train.py`", DEFAULT[0]),
        ("PTB-XL, 350 records, `--preset ptbxl`", "ptbxl"),
        ("simulated, `--preset paper`", "paper"),
    ):
        metrics = read(run)
        data, errors = metrics["data"], metrics["reconstruction"]
        rows.append(
            [
                label,
                f"{data['train_recordings']} / {data['test_recordings']}",
                interval(errors, "mae_uv"),
                number(errors, "pca10_mae_uv"),
                interval(errors, "mae_minus_pca_uv"),
                number(errors, "mean_beat_mae_uv"),
                f"{metrics['latent']['active_units_kl']} of 10",
                f"{metrics['training']['seconds'] / 60:.1f} min",
            ]
        )
    header = ["run", "train / test", metric("mae_uv").label, *principal_components(errors).values()]
    header += [metric("mae_minus_pca_uv").label, BESIDE["mean_beat_{}"]]
    return table([*header, metric("active_units_kl").label, metric("seconds").label], rows)


def real(section: dict, name: str) -> str:
    """What real ECGs get."""
    names = [*(form.format(name) for form in REAL), name.replace("tstr", "trtr")]
    return next((number(section, each) for each in names if each in section and each != name), "")


def generator() -> str:
    """Published network and default on the simulated cohort, and the default on PTB-XL."""
    paper, ptbxl, defaults = read("paper"), read("ptbxl"), [read(run) for run in DEFAULT]
    rows = []
    for section, name in ((section, name) for section, all in GENERATOR.items() for name in all):
        form = metric(name).number
        values = [run[section][name] for run in defaults]
        spread = f"{np.mean(values):{form}}"
        if form != ".0e":
            spread += f" ± {np.std(values, ddof=1):{form}}"
        row = [metric(name).label, number(paper[section], name), spread]
        row += [real(defaults[0][section], name), number(ptbxl[section], name)]
        rows.append([*row, real(ptbxl[section], name)])
    header = ["", "published network", "default, 3 seeds", "real", "PTB-XL", "real"]
    return table(header, rows)


def effects() -> str:
    """Of the conditions on PTB-XL."""
    section = read("ptbxl")["adherence"]
    rows = []
    for feature, condition, form in EFFECTS:
        of, per = CONDITIONS[condition]
        row = [
            feature_title(feature) + of,
            interval(section, f"effect_{condition}_{feature}", form),
        ]
        slope = f"slope_{condition}_{feature}_train"
        row += [interval(section, slope, form) if slope in section else ""]
        rows.append([*row, FEATURES[feature].unit + per])
    return table(["", "generated", "real training records", ""], rows)


def risk() -> str:
    """Every model of the prediction run on the same test subjects."""
    section = read("prediction")["survival"]
    rows = []
    for key, label in (
        ("conditions", "age, sex, BMI"),
        ("latent", "latent"),
        ("both", "both, refitted"),
        ("model", "the head"),
        ("oracle", "true hazard"),
    ):
        row = [label, *(interval(section, f"{key}_{name}") for name in MEASURES_OF_RISK[:3])]
        ici, correlation = (f"{key}_{name}" for name in MEASURES_OF_RISK[3:])
        row += [number(section, ici) if ici in section else ""]
        rows.append([*row, interval(section, correlation) if correlation in section else "1"])
    return table(["model", *(metric(name).label for name in MEASURES_OF_RISK)], rows)


def sentences() -> str:
    """Numbers that the text of the README quotes."""
    prediction, without = read("prediction"), read("prediction_without_head")
    survival, data = prediction["survival"], prediction["data"]
    return "\n".join(
        [
            f"{data['train_recordings']} / {data['test_recordings']} subjects, "
            f"{prediction['training']['seconds'] / 60:.1f} min",
            f"above conditions {interval(survival, 'model_minus_conditions_c_harrell')}",
            f"below the oracle {interval(survival, 'oracle_minus_model_c_harrell')}",
            f"MAE {prediction['reconstruction']['mae_uv']:.2f} uV, without a head "
            f"{without['reconstruction']['mae_uv']:.2f} uV",
        ]
    )


def main() -> None:
    """Prints every table whose runs are there."""
    for part in (reconstruction, generator, effects, risk, sentences):
        print(f"\n## {part.__name__}\n")
        try:
            print(part())
        except FileNotFoundError as error:
            print(f"{error.filename} is missing: see the commands at the top of this file.")


if __name__ == "__main__":
    main()
