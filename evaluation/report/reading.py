"""What the metrics and figures of a run are called and how they are to be read, by their names.

The page of a run, its summary and the tables of the docs say what is said here. A metric or
figure without a line is shown all the same, without a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from data.cohort import LEADS
from evaluation.measures.names import FEATURE
from evaluation.measures.reconstruction import SEGMENTS_MS

# The sections of the metrics in the order of the page (any other one comes after them) -> their
# figures in order: the start of a figure's name -> its caption.
SECTIONS = {
    "data": {
        "conditions": "What the model is told: the distribution of each condition in the training "
        "and test recordings where it is known, and in how many it is not.",
    },
    "training": {
        "history": "Loss curves: training (solid) and validation (dashed); the first epochs may "
        "lie above a panel. The loss of a Cox head, and with it the objective, is larger in the "
        "larger batches of validation: a gap there says nothing of overfitting."
    },
    "reconstruction": {
        "reconstructions": "Test ECGs (black) and what the model gives back of them (vermilion), "
        "on ECG paper.",
        "error_by_lead": "Mean absolute error with 95% intervals, per lead and per segment of the "
        "beat.",
    },
    "latent": {
        "noise": "The noise that the model expects at each lead and sample (SD, blue) under the "
        "mean beat: where ECGs are hard to tell.",
        "latent_kl": "KL of each latent dimension; grey: a dimension that is not used.",
        "latent_traversal": "What each dimension does: the beat as that dimension moves from -2 "
        "to +2 SD and the others stay at their average.",
    },
    "realism": {
        "generated_grid": "Generated ECGs (left, one random latent each, no noise added) beside "
        "the real subject whose conditions are nearest (right). They are different people: alike "
        "in kind is all that can be asked for.",
    },
    "adherence": {
        "slopes": "How features depend on each condition in generated against real test ECGs, "
        "with 95% intervals, in SD of the feature per 10 years, 5 kg/m2, second category less the "
        "first (sex: women less men), or 1 SD of anything else. On the dashed line they are "
        "alike; flatter than it, the condition acts too weakly. Named: slopes that are clearly "
        "different.",
        "specificity": "What moves when one condition of the same subjects is changed and their "
        "latent is kept (left of each pair), beside what the slopes of real ECGs ask for (right). "
        "Red rises, blue falls.",
        "sweep": "Generated beats as one condition changes and everything else is kept.",
    },
    "utility": {},
    "privacy": {},
    "survival": {
        "kaplan_meier": "Observed survival of the test subjects by predicted risk, divided where "
        "thirds of the training subjects are, with 95% bands and the numbers still at risk. The "
        "further apart, the better the risk is told.",
        "calibration": "Predicted against observed probability of an event; on the dashed line "
        "the model promises what happens.",
        "survival_curves": "Predicted survival of five test subjects, low to high risk.",
        "risk_direction": "What a higher risk looks like: the beat of a reference subject as its "
        "latent code moves along the weights of the hazard head.",
    },
    "prediction": {},
}


class Metric(NamedTuple):
    """The metrics of one form, and how their values are written outside the page.

    Attributes:
        form: pattern of their names.
        label: what the docs and the summary call them; "{0}" stands for what the first group
            of the form is called.
        number: format in the docs.
        said: format in the summary, if another one.
        unit: in the summary.
    """

    form: str
    label: str = ""
    number: str = ""
    said: str = ""
    unit: str = ""


OF_MV = "; median beats carry 5-15 µV of noise themselves"  # a number that is true of mV only
_BASIS = "What the figures of this section rest on."
# Metrics -> one sentence on how to read them. The first whose form fits a name counts; the rows of
# a table stand in this order.
METRICS = {
    # reconstruction
    Metric(r"mae_uv", "MAE", ".1f", unit="µV"): "Mean absolute error of reconstructed test ECGs "
    f"in µV{OF_MV}.",
    Metric(r"rmse_uv"): "Root mean squared error in µV; larger than the MAE where a few samples, "
    "mostly in the QRS, are far off.",
    Metric(r"pearson_r"): "Correlation of shape between real and reconstructed ECG; high for "
    "almost any beat, so small differences count.",
    Metric(r"mae_minus_pca_uv", "difference", ".1f", unit="µV"): "Error of the model minus that "
    "of a principal component analysis with as many components as the model has latent "
    "dimensions, fitted on the same training ECGs and judged on the same test ECGs; below 0 the "
    "model is better, clearly so if the whole interval is.",
    # latent
    Metric(r"kl_total"): "Information per ECG in the latent code, in nats; near 0 the code is "
    "empty. Not that of the last epoch: after training the latents are scaled to an SD of 1.",
    Metric(r"kl_\d+"): "Information in this dimension, in nats; below 0.1 it is not used.",
    Metric(r"mean_variance_\d+"): "Spread of the posterior mean over subjects.",
    Metric(r"aggregate_(mean|sd)_\d+"): "Of the codes of all subjects together; 0 and 1 if "
    "samples from the prior resemble them.",
    Metric(r"active_units"): "Dimensions whose posterior mean varies over subjects by more than "
    "0.01.",
    Metric(r"active_units_kl", "active dimensions"): "Those of them with more than 0.1 nat each: "
    "the dimensions in use.",
    Metric(r"noise_uv"): "Noise of the decoder in µV: what the model takes to be no property of "
    "the ECG.",
    Metric(r"bound", "likelihood bound, nats per ECG", ".0f"): "Evidence lower bound of a test ECG "
    "in nats: how well model and noise foretell ECGs never seen. Higher is better; it compares "
    "models of the same training ECGs (amplitudes are in units of their SD).",
    Metric(r"dimensions"): "Latent dimensions of the model.",
    Metric(r"collapsed"): "Whether fewer than half of the dimensions are in use.",
    Metric(r"probe_r2_.+", number=".2f"): "Share of the variance of this condition that the "
    "latent code gives away; near 0 (or below) a change of the condition alone is a clean "
    "counterfactual.",
    Metric(r"probe_auc_.+", number=".2f"): "How well the latent code tells the two values of this "
    "condition apart; near 0.5 a change of the condition alone is a clean counterfactual.",
    # data and training
    Metric(r"(trained|tested)_on"): "The cohort.",
    Metric(r"unit"): "What the ECGs are in. How many millivolts one is, nobody knows: "
    "amplitudes are in standardised units, and metrics with uv in their names in thousandths of "
    "one. None of them compares with those of ECGs in millivolts.",
    Metric(r"epochs"): "Passes over the training split.",
    Metric(r"best_epoch"): "The epoch with the best validation, whose weights are kept.",
    Metric(r"seconds", "time"): "Wall time of the run, evaluation included, report not.",
    Metric(r"compile_seconds"): "Of these, about what the first epoch took longer than the others "
    "(XLA compiles in it); not part of the throughput.",
    Metric(r"ecgs_per_second"): "Training throughput.",
    Metric(r"device|backend"): "What it was trained on.",
    # realism
    Metric(r"mmd2", "MMD², halves", ".4f", said=".2g"): "Squared distance between the "
    "distributions of generated and real beats; 0 on average if they are the same. Intervals of "
    "this section are over random halves of the test patients; the column real against real is "
    "the other half of the patients instead of generated beats.",
    Metric(r"mmd2_null_p95", number=".4f", said=".2g"): "Of halves of real patients 95% differ by "
    "less than this.",
    Metric(r"mmd2_all"): "The same of all test beats against as many generated ones; the least "
    "noisy.",
    Metric(r"mmd2_p_value", "its permutation p", ".3f"): "How often chance alone gives an MMD² as "
    "large; with many test beats small differences are found too, so read it beside the size of "
    "mmd2.",
    Metric(r"density", "density (beside coverage only)", ".2f"): "How crowded the neighbourhoods "
    "of real beats are with generated ones: above the real value the generated beats keep to the "
    "middle.",
    Metric(r"coverage", "coverage", ".2f"): "Share of real beats that have a generated one in "
    "their neighbourhood; low where kinds of ECG are missing.",
    Metric(r"coverage_null_p05"): "Of halves of real patients 95% cover each other better than "
    "this.",
    Metric(r"precision"): "Share of generated beats that lie among real ones; the mean beat has 1.",
    Metric(r"recall", "recall", ".2f"): "Share of real beats that lie among generated ones; the "
    "mean beat has 0.",
    Metric(r"lead_correlation_error"): "Mean absolute difference of the correlations between "
    "leads within a beat.",
    Metric(r"frechet_distance", "Fréchet distance of 20 features", ".1f"): "Distance of mean and "
    "covariance of 20 clinical features, squared, in SD; large for small samples of real beats "
    "too, and below the real value where the generated ones lack the extremes that real halves "
    "differ by.",
    Metric(r"wasserstein", "Wasserstein distance per feature, SD", ".2f"): "How far "
    "the features of generated beats must be moved to be distributed as the real ones, in SD of "
    "that feature, averaged over features.",
    Metric(r"features_failed", number=".1%", said=".0%"): "Share of generated beats whose QRS or "
    "T wave cannot be measured, beside that of the real ones.",
    Metric(r"p_wave_missing", "beats without measurable P", ".1%", said=".0%"): "Share of "
    "generated beats without a P wave that can be measured, beside that of the real ones.",
    # adherence
    Metric(r"slopes"): "Pairs of a feature and a condition that can be compared.",
    Metric(r"slopes_clear"): "Those of them whose slope the real test ECGs tell from 0.",
    Metric(r"slopes_agree", "slopes whose intervals overlap real ones", ".0%"): "Share of the "
    "slopes whose 95% interval overlaps that of the real test ECGs (training ECGs, simulated "
    "truth): more lenient than the next.",
    Metric(r"slopes_recovered", "slopes whose difference from real ones may be 0", ".0%"): "Share "
    "of the slopes that generated and real test ECGs (training ECGs, the simulated truth) agree "
    "in; about 0.95 for two samples of the same. The mean beat, which ignores every condition, "
    "gets the share in its column.",
    Metric(r"slopes_recovered_clear", "of those clear in real ECGs", ".0%"): "The same share of "
    "the slopes that are clear in the real ECGs: here a generator that ignores the conditions "
    "gets next to nothing.",
    Metric(r"slopes_correlation"): "Correlation of generated with real slopes over all pairs; "
    "blind to effects that are all too small.",
    Metric(r"slopes_gain", "size of the slopes beside real ones", ".2f"): "How large the "
    "generated slopes are beside the real ones: 1 as large, below 1 the conditions act too "
    "weakly, above 1 too strongly, 0 not at all.",
    Metric(r"specificity_correlation"): "Changes of a condition of the same subjects against "
    "those that the slopes of real ECGs ask for: how alike.",
    Metric(r"specificity_gain"): "The same: how large beside them (1 as large).",
    Metric(r"recovery_(r2|auc)_(.+)", "{1} read from generated ECGs, {0}", ".2f"): "How well a "
    "regressor trained on real ECGs reads this condition from generated ones; much above real "
    "ECGs the generator has collapsed onto the condition, much below it does not follow it.",
    Metric(r"recovery_mae_.+"): "Error, in the unit of this condition, of a regressor trained on "
    "real ECGs that reads it from generated ones; much below real ECGs the generator has "
    "collapsed onto it.",
    # utility
    Metric(r"tstr_over_trtr_.+", number=".0%"): "Skill kept when generated ECGs replace real ones "
    "in training: 1 as useful as real ECGs, 0 of no use.",
    Metric(r"(tstr|trtr)_(r2|auc)_(.+)", "{0}: {2}, {1}", ".2f"): "How well a regressor tells "
    "this condition of real test ECGs after training on ECGs generated for the training subjects, "
    "or on their real ones.",
    Metric(r"(tstr|trtr)_mae_.+"): "The mean absolute error of the same, in the unit of the "
    "condition.",
    # privacy
    Metric(
        r"nearest_train_uv(?:_p5)?", "nearest training beat, uV", ".1f"
    ): "Distance of generated "
    "beats to the nearest training beat in µV per sample: the median, and the 5th percentile "
    "(p5), where copies would show. Beside held-out real beats (real); generated beats lack the "
    "noise of real ones and may lie somewhat closer.",
    Metric(r"nearest_ratio", number=".3f"): "Distance of generated beats to the "
    "nearest training beat over that to the nearest held-out beat, among equally many patients: 1 "
    "without memory, below 1 where training beats are copied. With planted copies of training "
    "beats it must be clearly lower, or the test is blind.",
    Metric(r"membership_auc", "membership inference, AUC", ".3f", said=".2f"): "How well the "
    "distance to the nearest generated beat tells training from other patients: 0.5 is guessing, "
    "1 gives everyone away. Of planted copies it must exceed 0.9, or the test is blind.",
    Metric(r"membership_auc_control", "its control of planted copies", ".2f"): "",
    Metric(r"membership_auc_calibrated", number=".3f", said=".2f"): "The same relative to how "
    "rare the beat is: the stronger attack on blurred copies.",
    Metric(r"reconstruction_auc", number=".3f", said=".2f"): "How well the model's own error "
    "tells training patients from others: what somebody can do who has the model, not only its "
    "ECGs.",
    Metric(r"members|non_members|generated"): "ECGs that these figures rest on.",
    # survival
    Metric(r"test_subjects|test_events"): _BASIS,
    Metric(r"tied_share"): "Share of those at risk who have the event at one time, averaged over "
    "the test events, because times were rounded. At 0.11, 0.20 and 0.35 even the true risk has a "
    "calibration slope of about 0.97, 0.94 and 0.85 (SD of the log hazard 1).",
    Metric(r"conditions_imputed"): "Values of conditions that were unknown and replaced by the "
    "average.",
    Metric(r"horizon_\d+"): "Time (years) up to which events are judged.",
    Metric(r"kaplan_meier_ibs"): "Brier score of knowing nothing of a subject: the null of ibs.",
    Metric(r"c_harrell", "Harrell's C", ".3f"): "Share of pairs of subjects that are put in the "
    "right order; 0.5 is guessing.",
    Metric(r"c_uno", "Uno's C", ".3f"): "The same without dependence on who was censored when.",
    Metric(r"auc_\d+"): "How well those with an event up to this horizon are told from those "
    "without.",
    Metric(r"ibs"): "Squared error of predicted survival over time (Brier score); lower is better.",
    Metric(r"ibs_skill"): "How much of the Brier score of knowing nothing is saved; 0 is no "
    "better.",
    Metric(r"calibration_slope", "calibration slope", ".2f"): "1 if risks are spread as they "
    "should be; below 1 they are too extreme, or times were rounded coarsely (see tied_share, if "
    "it is there).",
    Metric(r"ici", "ICI", ".3f"): "Mean difference of predicted and observed probability at the "
    "last horizon; above 0 by chance alone.",
    Metric(r"log_hazard_r", "correlation with the true log hazard", ".3f"): "Correlation with the "
    "true log hazard of a simulated cohort.",
    Metric(r"logrank_p"): "How often chance separates these groups of risk as well; large: the "
    "risk tells nothing.",
    # prediction
    Metric(r"auc", "AUC", ".2f"): "How well the head tells the two classes apart; 0.5 is "
    "guessing, 1 without error.",
    Metric(r"brier"): "Squared error of the predicted probability; the null is predicting the "
    "share.",
    Metric(r"accuracy", "accuracy", ".2f"): "Share of right classes; the null is always saying "
    "the commonest.",
    Metric(r"log_loss"): "Surprise at the true class, in nats; the null is predicting the shares.",
    Metric(r"mae|rmse"): "Error of the predicted number in its unit; the null is predicting the "
    "mean.",
    Metric(r"r2", "R2", ".2f"): "Share of the variance that is explained; 0 is predicting the "
    "mean.",
    # in several sections
    Metric(r"einthoven_residual", "Einthoven residual", ".0e", said=".2g"): "Largest violation of "
    "the limb-lead equations, relative to the largest limb-lead amplitude; 0 for a possible ECG, "
    "about 1e-7 from rounding.",
    Metric(r"recordings|patients"): _BASIS,
    Metric(r"equal_recordings"): "Recordings whose ECG is that of an earlier one, to the last bit: "
    "their patients are one to the split.",
    Metric(r"equal_recordings_named"): "The first of them, by subject_id.",
    Metric(r"excluded"): "Recordings that were left out, by reason below; not among the "
    "recordings.",
}

# What stands beside the value of a metric: form of the name under which the metrics hold it -> what
# it is called. In slopes and their like only the end of the name is told.
BESIDE = {
    "{}_null": "real against real",
    "{}_real": "real",
    "{}_difference": "generated less real",
    "{}_train": "training",
    "{}_true": "truth",
    "{}_control": "planted copies",
    "mean_beat_{}": "mean beat",
}
REAL = ("{}_null", "{}_real")  # those of real ECGs
OF = {None: "generated"} | {form[2:]: called for form, called in BESIDE.items() if form[:2] == "{}"}


class Grid(NamedTuple):
    """Metrics of one form that make a table of their own, in a part of the page that unfolds.

    Attributes:
        form: pattern of their names, with groups `row`, and `column`, `of` (see `OF`), or both.
        title: of the table; "{table}" stands for the group of that name.
        caption: how to read it; where it is empty, what `METRICS` says of each column.
        needs: metrics that are there if this is really such a name.
        shown: unfolded, and with the sentence of each row in its first cell.
    """

    form: str
    title: str
    caption: str = ""
    needs: tuple[str, ...] = ()
    shown: bool = False


_MODEL = "conditions|latent|both|model|oracle"
_MEASURE = "c_harrell|c_uno|auc_\\d+|ibs|ibs_skill|calibration_slope|ici|log_hazard_r|logrank_p"
GRIDS = (
    Grid(r"(?P<row>train|validation|test)_(?P<column>recordings|patients)", "Splits", shown=True),
    Grid(r"(?P<row>start|data|training|evaluation)_(?P<column>seconds)", "Time by phase"),
    Grid(r"excluded: (?P<row>.+)(?P<column>)", "Excluded recordings, by reason", shown=True),
    Grid(
        rf"slope_(?P<table>.+)_(?P<row>{FEATURE})(?P<of>_real|_difference|_train|_true)?",
        "Slopes on {table}",
        "Change of each feature per decade, unit or category (sex: women less men), the other "
        "conditions adjusted for: in ECGs generated for the test subjects, in their real ECGs, in "
        "the training ECGs, and the simulated truth. Recovered if the interval of generated less "
        "real holds 0.",
    ),
    Grid(
        rf"specificity_(?P<column>.+)_(?P<row>{FEATURE})(?P<of>_real)?",
        "Changes of one condition of the same subject",
        "Mean change of each feature when only this condition of the test subjects changes and "
        "their latent is kept (10 years, 5 kg/m², the other sex, 1 SD of anything else), in SD of "
        "the feature among real ECGs; real: the change that the slope of real ECGs asks for.",
    ),
    Grid(
        rf"effect_(?P<column>.+)_(?P<row>{FEATURE})",
        "Effects at the reference subject",
        "Change of each feature in generated ECGs along the range of a condition, everything else "
        "kept: per decade, unit or category (sex: women less men), with the interval of the mean "
        "over latents.",
    ),
    Grid(
        rf"wasserstein_(?P<row>{FEATURE})(?P<of>_null)?",
        "Distance of each feature to its real distribution",
        "How far it must be moved to be distributed as in real beats, in SD of the feature; beyond "
        "the interval of real against real it is clearly off.",
    ),
    Grid(
        r"(?P<column>tstr|trtr)_(?P<row>(?:r2|mae|auc)_.+)",
        "Trained on generated or on real ECGs, tested on real ones",
        shown=True,
    ),
    Grid(
        rf"(?P<column>{_MODEL})_(?P<row>{_MEASURE})",
        "Models of risk",
        "Cox models on the conditions, the latent, or both; the head of this model; and the true "
        "hazard (oracle) where it is simulated.",
        shown=True,
    ),
    Grid(
        rf"(?P<column>(?:{_MODEL})_minus_(?:{_MODEL}))_(?P<row>{_MEASURE})",
        "Differences between models of risk",
        "On the same subjects. Clear where the interval leaves out 0.",
    ),
    Grid(rf"(?P<column>.+)_(?P<row>{'|'.join(LEADS)})", "By lead"),
    Grid(rf"(?P<column>.+)_(?P<row>{'|'.join(SEGMENTS_MS)})", "By segment", needs=("{column}",)),
    Grid(r"(?P<column>.+)_(?P<row>\d+)", "By dimension", needs=("{column}_0", "{column}_1")),
)
# What a column of a grid is called where its name does not say it.
COLUMNS = {"": "recordings", "tstr": "trained on generated", "trtr": "trained on real"}

# What makes the name of a metric out of that of another, whose number it has.
_AROUND = rf"^(?:mean_beat|pca\d+|(?:{_MODEL})(?:_minus_(?:{_MODEL}))?)_|(?:{'|'.join([*OF][1:])})$"


def reading(name: str) -> str:
    """The sentence on how to read a metric; "" where there is none."""
    return METRICS.get(_fitting(name), "")


def rank(name: str) -> int:
    """The place of a metric among others: that of its sentence, last without one."""
    fitting = _fitting(name)
    return list(METRICS).index(fitting) if METRICS.get(fitting) else len(METRICS)


def metric(name: str) -> Metric:
    """How to write a metric, or a value beside it: that of real ECGs, of another model."""
    bare = name if _fitting(name) else re.sub(_AROUND, "", name)
    known = _fitting(bare) or Metric(".*")
    parts = re.fullmatch(known.form, bare, re.DOTALL).groups()
    called = (COLUMNS.get(part) or metric(part).label or part for part in parts)
    return known._replace(label=known.label.format(*called))


def principal_components(section: Mapping[str, object]) -> dict[str, str]:
    """What stands beside values as `BESIDE` does, of a principal component analysis."""
    numbers = sorted({m[1] for name in section if (m := re.match(r"pca(\d+)_", name))})
    return {f"pca{number}_{{}}": f"PCA-{number}" for number in numbers}


def place(figure: str) -> tuple[str, int, str]:
    """Section of a figure, place among its figures, and caption."""
    for section, captions in SECTIONS.items():
        for number, (start, caption) in enumerate(captions.items()):
            if figure.startswith(start):
                return section, number, caption
    return "other figures", 0, ""


def _fitting(name: str) -> Metric | None:
    return next((known for known in METRICS if re.fullmatch(known.form, name)), None)
