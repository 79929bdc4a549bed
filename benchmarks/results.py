"""Prints the tables of `docs/results.md` and `docs/real.md` from the `metrics.json` of runs.

    python -m benchmarks.results

The commands that make the runs are there. What the metrics are called and how many digits they have
is said in `evaluation/report/reading.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.measures.features import FEATURES
from evaluation.measures.names import feature_title
from evaluation.measures.names import interval as ends_of
from evaluation.report.reading import BESIDE, REAL, metric, principal_components

RUNS = Path("runs")
DEFAULT = tuple(f"default_seed{seed}" for seed in range(3))
PTBXL = tuple(f"ptbxl_seed{seed}" for seed in range(3))
PREDICTION = ("prediction", "prediction_seed1", "prediction_seed2")

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
        ("PTB-XL, 2,359 records, `--preset ptbxl`", PTBXL[0]),
        ("simulated, `--preset paper`", "paper"),
    ):
        metrics = read(run)
        data, errors = metrics["data"], metrics["reconstruction"]
        rows.append(
            [
                label,
                f"{data['train_recordings']} / {data['test_recordings']}",
                interval(errors, "mae_uv"),
                number(errors, f"pca{metrics['latent']['dimensions']}_mae_uv"),
                interval(errors, "mae_minus_pca_uv"),
                number(errors, "mean_beat_mae_uv"),
                f"{metrics['latent']['active_units_kl']} of {metrics['latent']['dimensions']}",
                f"{metrics['training']['seconds'] / 60:.1f} min",
            ]
        )
    header = ["run", "train / test", metric("mae_uv").label, *principal_components(errors).values()]
    header[-1] = "PCA of that size"
    header += [metric("mae_minus_pca_uv").label, BESIDE["mean_beat_{}"]]
    return table([*header, metric("active_units_kl").label, metric("seconds").label], rows)


def real(section: dict, name: str) -> str:
    """What real ECGs get."""
    names = [*(form.format(name) for form in REAL), name.replace("tstr", "trtr")]
    return next((number(section, each) for each in names if each in section and each != name), "")


def generator() -> str:
    """Published network and default on the simulated cohort, and the preset of PTB-XL."""
    paper, ptbxl, defaults = read("paper"), read(PTBXL[0]), [read(run) for run in DEFAULT]
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


# Of models of real ECGs: label, section.metric, format, what it stands beside ("{0}" is the number
# of dimensions), that metric in the same section ("{1}" is the first one), and whether to divide.
REAL_ROWS = (
    ("MAE, uV", "reconstruction.mae_uv", ".1f", "PCA-{0}", "pca{0}_mae_uv", True),
    ("in P, uV", "reconstruction.mae_uv_p", ".1f", "mean beat", "mean_beat_mae_uv_p", True),
    ("in QRS, uV", "reconstruction.mae_uv_qrs", ".1f", "PCA-{0}", "pca{0}_mae_uv_qrs", True),
    ("likelihood bound, nats per ECG", "latent.bound", ".0f", "", "", False),
    ("beats without measurable P", "realism.p_wave_missing", ".1%", "real", "{1}_null", False),
    ("Wasserstein of P duration, SD", "realism.wasserstein_p_duration", ".2f", "real")
    + ("{1}_null", False),
    ("Wasserstein of 10 features, SD", "realism.wasserstein", ".2f", "real", "{1}_null", True),
    ("p of MMD²", "realism.mmd2_p_value", ".2f", "", "", False),
    ("coverage", "realism.coverage", ".2f", "real, 5th percentile", "{1}_null_p05", False),
    ("recall", "realism.recall", ".2f", "real", "{1}_null", True),
    ("slopes as in the training records", "adherence.slopes_agree_train", ".0%", "", "", False),
    (
        "sex read from generated, AUC",
        "adherence.recovery_auc_sex",
        ".2f",
        "real",
        "{1}_real",
        False,
    ),
    ("trained on generated: age, R2", "utility.tstr_r2_age", ".2f", "real", "trtr_r2_age", True),
    ("the same: sex, AUC", "utility.tstr_auc_sex", ".2f", "real", "trtr_auc_sex", False),
    ("the same: BMI, R2", "utility.tstr_r2_bmi", ".2f", "real", "trtr_r2_bmi", True),
    ("reconstruction attack, AUC", "privacy.reconstruction_auc", ".2f", "", "", False),
    ("skill kept for sex (AUC above one half)", "utility.tstr_over_trtr_auc_sex", ".2f")
    + ("", "", False),
)


def real_table(names: Sequence[str] = PTBXL) -> str:
    """What models of real ECGs are judged by: mean and range over seeds, and what is beside it."""
    runs = [read(run) for run in names]

    def cell(values: Sequence[float], form: str) -> str:
        middle, *ends = (f"{x:{form}}" for x in (np.mean(values), min(values), max(values)))
        return middle if {*ends} == {middle} else f"{middle} ({' to '.join(ends)})"

    rows = []
    dims = runs[0]["latent"]["dimensions"]
    for label, place, form, beside, other, divided in REAL_ROWS:
        section, name = place.split(".")
        values = [run[section][name] for run in runs]
        row = [label, cell(values, form), "", ""]
        if other:
            others = [run[section][other.format(dims, name)] for run in runs]
            row[2] = f"{beside.format(dims)} {cell(others, form)}"
            if divided:
                row[3] = cell(np.divide(values, others), ".2f")
        rows.append(row)
    return table(["", f"{len(runs)} seeds", "beside", "quotient"], rows)


def effects() -> str:
    """Of the conditions on PTB-XL."""
    section = read(PTBXL[0])["adherence"]
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
    section = read(PREDICTION[0])["survival"]
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
    """Numbers that the text below the table of risk quotes."""
    prediction, *_ = runs = [read(run) for run in PREDICTION]
    survival, data = prediction["survival"], prediction["data"]

    def of_cohorts(name: str) -> str:
        values = [run["survival"][name] for run in runs]
        form = metric(name).number
        return f"{', '.join(f'{x:{form}}' for x in values)}; mean {np.mean(values):{form}}"

    return "\n".join(
        [
            f"{data['train_recordings']} / {data['test_recordings']} subjects, "
            f"{prediction['training']['seconds'] / 60:.1f} min",
            f"above conditions {interval(survival, 'model_minus_conditions_c_harrell')}",
            f"below the oracle {interval(survival, 'oracle_minus_model_c_harrell')}",
            f"the same of each cohort: {of_cohorts('oracle_minus_model_c_harrell')}",
            f"calibration slope of the head: {of_cohorts('model_calibration_slope')}",
            f"MAE {prediction['reconstruction']['mae_uv']:.2f} uV",
        ]
    )


def main() -> None:
    """Prints every table whose runs are there."""
    for part in (reconstruction, generator, real_table, effects, risk, sentences):
        print(f"\n## {part.__name__}\n")
        try:
            print(part())
        except FileNotFoundError as error:
            print(f"{error.filename} is missing: docs/results.md has the command that makes it.")


if __name__ == "__main__":
    main()
