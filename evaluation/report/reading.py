"""How the metrics and figures of a run are to be read: names -> places, headers and sentences.

`report.py` and `tables.py` lay out what is said here. A metric or figure without a line is shown
all the same, without a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from data.cohort import LEADS
from evaluation.measures.features import FEATURES
from evaluation.measures.names import ENDS
from evaluation.measures.reconstruction import SEGMENTS_MS

# The sections of the metrics in the order of the page; any other one comes after them.
ORDER = (
    *("data", "training", "reconstruction", "latent", "realism", "adherence", "utility"),
    *("privacy", "survival", "prediction"),
)

# Start of a figure's name -> the section of the metrics that it belongs to, and its caption; in the
# order of the page.
FIGURES = {
    "conditions": (
        "data",
        "What the model is told: the distribution of each condition in the training and test "
        "recordings where it is known, and in how many it is not.",
    ),
    "history": ("training", "Loss curves: training (solid) and validation (dashed)."),
    "reconstructions": (
        "reconstruction",
        "Test ECGs (black) and what the model gives back of them (vermilion), on ECG paper.",
    ),
    "error_by_lead": (
        "reconstruction",
        "Mean absolute error with 95% intervals, per lead and per segment of the beat.",
    ),
    "latent_kl": ("latent", "KL of each latent dimension; grey: a dimension that is not used."),
    "latent_traversal": (
        "latent",
        "What each dimension does: the beat as that dimension moves from -2 to +2 SD and the "
        "others stay at their average.",
    ),
    "generated_grid": (
        "realism",
        "Generated ECGs (left, one random latent each, no noise added) beside the real subject "
        "whose conditions are nearest (right). They are different people: alike in kind is all "
        "that can be asked for.",
    ),
    "slopes": (
        "adherence",
        "How features depend on each condition in generated against real test ECGs, with 95% "
        "intervals, in SD of the feature per 10 years, 5 kg/m2, other category, or 1 SD of "
        "anything else. On the dashed line they are alike; flatter than it, the condition acts too "
        "weakly. Named: slopes that are clearly different.",
    ),
    "specificity": (
        "adherence",
        "What moves when one condition of the same subjects is changed and their latent is kept "
        "(left of each pair), beside what the slopes of real ECGs ask for (right). Red rises, blue "
        "falls.",
    ),
    "sweep": (
        "adherence",
        "Generated beats as one condition changes and everything else is kept.",
    ),
    "kaplan_meier": (
        "survival",
        "Observed survival of the test subjects in thirds of predicted risk, with 95% bands and "
        "the numbers still at risk. The further apart, the better the risk is told.",
    ),
    "calibration": (
        "survival",
        "Predicted against observed probability of an event; on the dashed line the model promises "
        "what happens.",
    ),
    "survival_curves": ("survival", "Predicted survival of five test subjects, low to high risk."),
    "risk_direction": (
        "survival",
        "What a higher risk looks like: the beat of a reference subject as its latent code moves "
        "along the weights of the hazard head.",
    ),
}

# Columns beside the value of a metric: form of the name under which the metrics hold it -> header.
COMPANIONS = {
    "{}_null": "real against real",
    "{}_real": "real",
    "{}_difference": "generated less real",
    "{}_train": "training",
    "{}_true": "truth",
    "{}_control": "planted copies",
    "mean_beat_{}": "mean beat",
}
OF = {
    None: "generated",
    "_real": "real",
    "_difference": "generated less real",
    "_train": "training",
    "_true": "truth",
    "_null": "real against real",
}

# Name of a metric, as a pattern -> one sentence on how to read it. The first that fits counts; the
# rows of a table stand in this order.
READING = {
    # reconstruction
    r"mae_uv": "Mean absolute error of reconstructed test ECGs in µV; median beats carry 5-15 µV "
    "of noise themselves.",
    r"rmse_uv": "Root mean squared error in µV; larger than the MAE where a few samples, mostly in "
    "the QRS, are far off.",
    r"pearson_r": "Correlation of shape between real and reconstructed ECG; high for almost any "
    "beat, so small differences count.",
    r"mae_minus_pca_uv": "Error of the model minus that of a principal component analysis with as "
    "many components as the model has latent dimensions, fitted on the same training ECGs and "
    "judged on the same test ECGs; below 0 the model is better, clearly so if the whole interval "
    "is.",
    # latent
    r"kl_total": "Information per ECG in the latent code, in nats; near 0 the code is empty.",
    r"kl_\d+": "Information in this dimension, in nats; below 0.1 it is not used.",
    r"mean_variance_\d+": "Spread of the posterior mean over subjects.",
    r"aggregate_(mean|sd)_\d+": "Of the codes of all subjects together; 0 and 1 if samples from "
    "the prior resemble them.",
    r"active_units": "Dimensions whose posterior mean varies over subjects by more than 0.01.",
    r"active_units_kl": "Those of them with more than 0.1 nat each: the dimensions in use.",
    r"noise_uv": "Noise of the decoder in µV: what the model takes to be no property of the ECG.",
    r"dimensions": "Latent dimensions of the model.",
    r"collapsed": "Whether fewer than half of the dimensions are in use.",
    r"probe_r2_.+": "Share of the variance of this condition that the latent code gives away; "
    "near 0 (or below) a change of the condition alone is a clean counterfactual.",
    r"probe_auc_.+": "How well the latent code tells the two values of this condition apart; "
    "near 0.5 a change of the condition alone is a clean counterfactual.",
    # data and training
    r"(trained|tested)_on": "The cohort.",
    r"epochs": "Passes over the training split.",
    r"best_epoch": "The epoch with the best validation, whose weights are kept.",
    r"seconds": "Wall time.",
    r"ecgs_per_second": "Training throughput.",
    r"device|backend": "What it was trained on.",
    # realism
    r"mmd2": "Squared distance between the distributions of generated and real beats; 0 on average "
    "if they are the same. Intervals of this section are over random halves of the test patients; "
    "the column real against real is the other half of the patients instead of generated beats.",
    r"mmd2_null_p95": "Of halves of real patients 95% differ by less than this.",
    r"mmd2_all": "The same of all test beats against as many generated ones; the least noisy.",
    r"mmd2_p_value": "How often chance alone gives an MMD² as large; with many test beats small "
    "differences are found too, so read it beside the size of mmd2.",
    r"density": "How crowded the neighbourhoods of real beats are with generated ones: above the "
    "real value the generated beats keep to the middle.",
    r"coverage": "Share of real beats that have a generated one in their neighbourhood; low where "
    "kinds of ECG are missing.",
    r"coverage_null_p05": "Of halves of real patients 95% cover each other better than this.",
    r"precision": "Share of generated beats that lie among real ones; the mean beat has 1.",
    r"recall": "Share of real beats that lie among generated ones; the mean beat has 0.",
    r"lead_correlation_error": "Mean absolute difference of the correlations between leads within "
    "a beat.",
    r"frechet_distance": "Distance of mean and covariance of 20 clinical features, squared, in SD; "
    "large for small samples of real beats too, and below the real value where the generated ones "
    "lack the extremes that real halves differ by.",
    r"wasserstein": "How far the features of generated beats must be moved to be distributed as "
    "the real ones, in SD of that feature, averaged over features.",
    r"features_failed": "Share of generated beats whose QRS or T wave cannot be measured; as null "
    "that of the real ones.",
    r"p_wave_missing": "Share of generated beats without a P wave that can be measured; as null "
    "that of the real ones.",
    # adherence
    r"slopes": "Pairs of a feature and a condition that can be compared.",
    r"slopes_clear": "Those of them whose slope the real test ECGs tell from 0.",
    r"slopes_agree": "Share of the slopes whose 95% interval overlaps that of the real test ECGs "
    "(training ECGs, simulated truth): more lenient than the next.",
    r"slopes_recovered": "Share of the slopes that generated and real test ECGs (training ECGs, "
    "the simulated truth) agree in; about 0.95 for two samples of the same. The mean beat, which "
    "ignores every condition, gets the share in its column.",
    r"slopes_recovered_clear": "The same share of the slopes that are clear in the real ECGs: here "
    "a generator that ignores the conditions gets next to nothing.",
    r"slopes_correlation": "Correlation of generated with real slopes over all pairs; blind to "
    "effects that are all too small.",
    r"slopes_gain": "How large the generated slopes are beside the real ones: 1 as large, below 1 "
    "the conditions act too weakly, above 1 too strongly, 0 not at all.",
    r"specificity_correlation": "Changes of a condition of the same subjects against those that "
    "the slopes of real ECGs ask for: how alike.",
    r"specificity_gain": "The same: how large beside them (1 as large).",
    r"recovery_(r2|auc)_.+": "How well a regressor trained on real ECGs reads this condition from "
    "generated ones; much above real ECGs the generator has collapsed onto the condition, much "
    "below it does not follow it.",
    r"recovery_mae_.+": "Error, in the unit of this condition, of a regressor trained on real ECGs "
    "that reads it from generated ones; much below real ECGs the generator has collapsed onto it.",
    # utility
    r"tstr_over_trtr_.+": "Skill kept when generated ECGs replace real ones in training: 1 as "
    "useful as real ECGs, 0 of no use.",
    r"(tstr|trtr)_(r2|auc)_.+": "How well a regressor tells this condition of real test ECGs after "
    "training on ECGs generated for the training subjects, or on their real ones.",
    r"(tstr|trtr)_mae_.+": "The mean absolute error of the same, in the unit of the condition.",
    # privacy
    r"nearest_train_uv(_p5)?": "Distance of generated beats to the nearest training beat in µV per "
    "sample: the median, and the 5th percentile (p5), where copies would show. Beside held-out "
    "real beats (real); generated beats lack the noise of real ones and may lie somewhat closer.",
    r"nearest_ratio": "Distance of generated beats to the nearest training beat over that to the "
    "nearest held-out beat, among equally many patients: 1 without memory, below 1 where training "
    "beats are copied. With planted copies of training beats it must be clearly lower, or the test "
    "is blind.",
    r"membership_auc": "How well the distance to the nearest generated beat tells training from "
    "other patients: 0.5 is guessing, 1 gives everyone away. Of planted copies it must exceed 0.9, "
    "or the test is blind.",
    r"membership_auc_calibrated": "The same relative to how rare the beat is: the stronger attack "
    "on blurred copies.",
    r"reconstruction_auc": "How well the model's own error tells training patients from others: "
    "what somebody can do who has the model, not only its ECGs.",
    r"members|non_members|generated": "ECGs that these figures rest on.",
    # survival
    r"test_subjects|test_events": "What the figures of this section rest on.",
    r"tied_share": "Share of those at risk who have the event at one time, averaged over the test "
    "events, because times were rounded. At 0.11, 0.20 and 0.35 even the true risk has a "
    "calibration slope of about 0.97, 0.94 and 0.85 (SD of the log hazard 1).",
    r"conditions_imputed": "Values of conditions that were unknown and replaced by the average.",
    r"horizon_\d+": "Time (years) up to which events are judged.",
    r"kaplan_meier_ibs": "Brier score of knowing nothing of a subject: the null of ibs.",
    r"c_harrell": "Share of pairs of subjects that are put in the right order; 0.5 is guessing.",
    r"c_uno": "The same without dependence on who was censored when.",
    r"auc_\d+": "How well those with an event up to this horizon are told from those without.",
    r"ibs": "Squared error of predicted survival over time (Brier score); lower is better.",
    r"ibs_skill": "How much of the Brier score of knowing nothing is saved; 0 is no better.",
    r"calibration_slope": "1 if risks are spread as they should be; below 1 they are too extreme, "
    "or times were rounded coarsely (see tied_share, if it is there).",
    r"ici": "Mean difference of predicted and observed probability at the last horizon; above 0 by "
    "chance alone.",
    r"log_hazard_r": "Correlation with the true log hazard of a simulated cohort.",
    r"logrank_p": "How often chance separates thirds of risk as well; large: the risk tells "
    "nothing.",
    # prediction
    r"auc": "How well the head tells the two classes apart; 0.5 is guessing, 1 without error.",
    r"brier": "Squared error of the predicted probability; the null is predicting the share.",
    r"accuracy": "Share of right classes; the null is always saying the commonest.",
    r"log_loss": "Surprise at the true class, in nats; the null is predicting the shares.",
    r"mae|rmse": "Error of the predicted number in its unit; the null is predicting the mean.",
    r"r2": "Share of the variance that is explained; 0 is predicting the mean.",
    # in several sections
    r"einthoven_residual": "Largest violation of the limb-lead equations, relative to the largest "
    "limb-lead amplitude; 0 for a possible ECG, about 1e-7 from rounding.",
    r"recordings|patients": "What the figures of this section rest on.",
    r"equal_recordings": "Recordings whose ECG is that of an earlier one, to the last bit: their "
    "patients are one to the split.",
    r"equal_recordings_named": "The first of them, by subject_id.",
    r"excluded": "Recordings that were left out, by reason below; not among the recordings.",
}


class Grid(NamedTuple):
    """Metrics of one form that make a table of their own, in a part of the page that unfolds.

    Attributes:
        form: pattern of their names, with groups `row`, and `column`, `of` (see `OF`), or both.
        title: of the table; "{table}" stands for the group of that name.
        caption: how to read it; where it is empty, what `READING` says of each column.
        needs: metrics that are there if this is really such a name.
        shown: unfolded, and with the sentence of each row in its first cell.
    """

    form: str
    title: str
    caption: str = ""
    needs: tuple[str, ...] = ()
    shown: bool = False


_FEATURE = "|".join(FEATURES)
_MODEL = "conditions|latent|both|model|oracle"
_MEASURE = "c_harrell|c_uno|auc_\\d+|ibs|ibs_skill|calibration_slope|ici|log_hazard_r|logrank_p"
GRIDS = (
    Grid(r"(?P<row>train|validation|test)_(?P<column>recordings|patients)", "Splits", shown=True),
    Grid(r"(?P<row>start|data|training|evaluation)_(?P<column>seconds)", "Time by phase"),
    Grid(r"excluded: (?P<row>.+)(?P<column>)", "Excluded recordings, by reason", shown=True),
    Grid(
        rf"slope_(?P<table>.+)_(?P<row>{_FEATURE})(?P<of>_real|_difference|_train|_true)?",
        "Slopes on {table}",
        "Change of each feature per decade, unit or category (sex: women less men), the other "
        "conditions adjusted for: in ECGs generated for the test subjects, in their real ECGs, in "
        "the training ECGs, and the simulated truth. Recovered if the interval of generated less "
        "real holds 0.",
    ),
    Grid(
        rf"specificity_(?P<column>.+)_(?P<row>{_FEATURE})(?P<of>_real)?",
        "Changes of one condition of the same subject",
        "Mean change of each feature when only this condition of the test subjects changes and "
        "their latent is kept (10 years, 5 kg/m², the other sex, 1 SD of anything else), in SD of "
        "the feature among real ECGs; real: the change that the slope of real ECGs asks for.",
    ),
    Grid(
        rf"effect_(?P<column>.+)_(?P<row>{_FEATURE})",
        "Effects at the reference subject",
        "Change of each feature in generated ECGs along the range of a condition, everything else "
        "kept: per decade, unit or category (sex: women less men), with the interval of the mean "
        "over latents.",
    ),
    Grid(
        rf"wasserstein_(?P<row>{_FEATURE})(?P<of>_null)?",
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


def reading(name: str) -> str:
    """The sentence on how to read a metric; "" where there is none."""
    return next((text for form, text in READING.items() if re.fullmatch(form, name)), "")


def rank(name: str) -> int:
    """The place of a metric among others: that of its sentence, last without one."""
    fits = (number for number, form in enumerate(READING) if re.fullmatch(form, name))
    return next(fits, len(READING))


def is_end(name: str, section: Mapping[str, object]) -> bool:
    """Whether this is one end of another metric's interval."""
    return any(name.endswith(end) and name.removesuffix(end) in section for end in ENDS)
