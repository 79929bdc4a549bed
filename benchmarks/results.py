"""Prints the tables of the README from the `metrics.json` of runs.

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

RUNS = Path("runs")
DEFAULT = tuple(f"default_seed{seed}" for seed in range(3))

EFFECTS = (
    ("QRS axis by age", "age_qrs_axis", "degrees per decade", ".1f"),
    ("QRS axis by BMI", "bmi_qrs_axis", "degrees per kg/m2", ".2f"),
    ("R in aVF by age", "age_r_avf", "mV per decade", ".3f"),
    ("S in V2 by age", "age_s_v2", "mV per decade", ".3f"),
    ("T in V2, women less men", "sex_t_v2", "mV", ".3f"),
    ("R in I by BMI", "bmi_r_i", "mV per kg/m2", ".3f"),
)

# Section, metric, what it is called, format.
GENERATOR = (
    ("realism", "mmd2", "MMD², halves", ".4f"),
    ("realism", "mmd2_p_value", "its permutation p", ".3f"),
    ("realism", "coverage", "coverage", ".2f"),
    ("realism", "recall", "recall", ".2f"),
    ("realism", "density", "density (beside coverage only)", ".2f"),
    ("realism", "frechet_distance", "Fréchet distance of 20 features", ".1f"),
    ("realism", "wasserstein", "Wasserstein distance per feature, SD", ".2f"),
    ("realism", "p_wave_missing", "beats without measurable P", ".1%"),
    ("realism", "einthoven_residual", "Einthoven residual", ".0e"),
    ("adherence", "slopes_agree", "slopes whose intervals overlap real ones", ".0%"),
    ("adherence", "slopes_recovered", "slopes whose difference from real ones may be 0", ".0%"),
    ("adherence", "slopes_recovered_clear", "of those clear in real ECGs", ".0%"),
    ("adherence", "slopes_gain", "size of the slopes beside real ones", ".2f"),
    ("adherence", "recovery_r2_age", "age read from generated ECGs, R2", ".2f"),
    ("adherence", "recovery_auc_sex", "sex read from generated ECGs, AUC", ".2f"),
    ("utility", "tstr_r2_age", "trained on generated: age, R2", ".2f"),
    ("utility", "tstr_auc_sex", "trained on generated: sex, AUC", ".2f"),
    ("privacy", "nearest_train_uv", "nearest training beat, uV", ".1f"),
    ("privacy", "membership_auc", "membership inference, AUC", ".3f"),
    ("privacy", "membership_auc_control", "its control of planted copies", ".2f"),
)


def read(run: str) -> dict[str, dict]:
    """The metrics of a run."""
    return json.loads((RUNS / run / "metrics.json").read_text("utf-8"))


def interval(section: dict, name: str, form: str = ".1f") -> str:
    """Value and 95% interval."""
    low, high = section[f"{name}_low"], section[f"{name}_high"]
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
                f"{errors['pca10_mae_uv']:.1f}",
                interval(errors, "mae_minus_pca_uv"),
                f"{errors['mean_beat_mae_uv']:.1f}",
                f"{metrics['latent']['active_units_kl']} of 10",
                f"{metrics['training']['seconds'] / 60:.1f} min",
            ]
        )
    header = ["run", "train / test", "MAE", "PCA-10", "difference", "mean beat"]
    return table([*header, "active dimensions", "time"], rows)


def null(section: dict, name: str, form: str) -> str:
    """What real ECGs get."""
    for key in (f"{name}_null", f"{name}_real", name.replace("tstr", "trtr")):
        if key in section and key != name:
            return f"{section[key]:{form}}"
    return ""


def generator() -> str:
    """Published network and default on the simulated cohort, and the default on PTB-XL."""
    paper, ptbxl, defaults = read("paper"), read("ptbxl"), [read(run) for run in DEFAULT]
    rows = []
    for section, name, label, form in GENERATOR:
        values = [run[section][name] for run in defaults]
        spread = f"{np.mean(values):{form}}"
        if form != ".0e":
            spread += f" ± {np.std(values, ddof=1):{form}}"
        row = [label, f"{paper[section][name]:{form}}", spread]
        row += [null(defaults[0][section], name, form), f"{ptbxl[section][name]:{form}}"]
        rows.append([*row, null(ptbxl[section], name, form)])
    header = ["", "published network", "default, 3 seeds", "real", "PTB-XL", "real"]
    return table(header, rows)


def effects() -> str:
    """Of the conditions on PTB-XL."""
    section = read("ptbxl")["adherence"]
    rows = []
    for label, name, unit, form in EFFECTS:
        row = [label, interval(section, f"effect_{name}", form)]
        known = f"slope_{name}_train" in section
        rows.append([*row, interval(section, f"slope_{name}_train", form) if known else "", unit])
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
        row = [label, interval(section, f"{key}_c_harrell", ".3f")]
        row += [interval(section, f"{key}_c_uno", ".3f")]
        row += [interval(section, f"{key}_calibration_slope", ".2f")]
        row += [f"{section[f'{key}_ici']:.3f}" if f"{key}_ici" in section else ""]
        known = f"{key}_log_hazard_r" in section
        rows.append([*row, interval(section, f"{key}_log_hazard_r", ".3f") if known else "1"])
    header = ["model", "Harrell's C", "Uno's C", "calibration slope", "ICI"]
    return table([*header, "correlation with the true log hazard"], rows)


def sentences() -> str:
    """Numbers that the text of the README quotes."""
    prediction, without = read("prediction"), read("prediction_without_head")
    survival, data = prediction["survival"], prediction["data"]
    return "\n".join(
        [
            f"{data['train_recordings']} / {data['test_recordings']} subjects, "
            f"{prediction['training']['seconds'] / 60:.1f} min",
            f"above conditions {interval(survival, 'model_minus_conditions_c_harrell', '.3f')}",
            f"below the oracle {interval(survival, 'oracle_minus_model_c_harrell', '.3f')}",
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
