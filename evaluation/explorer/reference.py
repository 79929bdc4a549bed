"""What stands beside an ECG in the page: conditions and features of the subjects, in summary.

Only percentiles and coefficients come out of here, nothing of a single subject.

Dims: N subjects, D columns of a design, F features, L leads, T samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import layers
from scipy.stats import norm, truncnorm

from data.conditions import Condition, ConditionSchema
from data.leads import LEADS
from data.units import MV, UNITS
from evaluation.measures.features import FEATURES, measure
from evaluation.measures.names import feature_title
from evaluation.measures.slopes import circular_medians, unwrapped

if TYPE_CHECKING:
    from data.cohort import Cohort
    from vae import VAE

SUBJECTS = 1000  # that ranges are fitted to: their ends are then known to a tenth of an SD
# Of the quantile regression, whose ends are then 0.004 SD from where they go (0.13 at most): little
# beside what chance does to them.
ROUNDS = 60
MIDDLE = (0.05, 0.95)
ACRONYMS = {"bmi": "BMI", "lvef": "LVEF", "lvedv": "LVEDV", "lv_mass": "LV mass"}
FEWEST = 100  # subjects with a feature or a condition, for its percentiles
# What is shown: durations and axes, then amplitudes lead by lead.
WHOLE = (
    *("p_duration", "pr_interval", "qrs_duration", "qt_interval"),
    *("qrs_axis", "t_axis", "qrs_t_angle", "sokolow_lyon", "cornell"),
)
SHOWN = (*WHOLE, *(f"{wave}_{lead.lower()}" for lead in LEADS for wave in "prsjt"))
SIGNED = ("qrs_axis", "t_axis", *(one for one in SHOWN[len(WHOLE) :] if one[0] in "pjt"))
ANGLE = "qrs_t_angle"  # of two directions in space: 180 degrees at most


class Reference(NamedTuple):
    """Subjects that the ECGs of the page are seen beside.

    Attributes:
        subjects: N rows, a column per condition.
        ecg: (N, L, T) mV, of the same rows.
        source: "training", or "generated" where no subjects are at hand.
    """

    subjects: pd.DataFrame
    ecg: np.ndarray
    source: str


def of_training(train: Cohort) -> Reference:
    """An even selection of the training subjects."""
    part = train.thinned(SUBJECTS)
    return Reference(part.subjects, np.asarray(part.ecg), "training")


def of_model(model: VAE, schema: ConditionSchema, seed: int = 0) -> Reference:
    """ECGs that the model generates, for a model that comes without its subjects.

    A continuous condition is drawn from the normal distribution of its mean and SD in training, cut
    off at its plausible range; a category as often as any other.
    """
    random = np.random.default_rng(seed)
    columns: dict[str, object] = {}
    for condition in schema.conditions:
        if condition.kind == "continuous":
            mean, sd = schema.scaling[condition.name]
            low, high = (
                (infinite if end is None else end)
                for end, infinite in ((condition.low, -np.inf), (condition.high, np.inf))
            )
            ends = (low - mean) / sd, (high - mean) / sd
            drawn = truncnorm.rvs(*ends, mean, sd, size=SUBJECTS, random_state=random)
            columns[condition.name] = drawn
        else:
            categories = np.array(condition.categories, object)
            columns[condition.name] = random.choice(categories, SUBJECTS)
    subjects = pd.DataFrame(columns, index=range(SUBJECTS))
    encoded = schema.encode(subjects)
    ecg = model.decode(model.prior.sample(encoded, seed), encoded)
    return Reference(subjects, ecg, "generated")


def schema_of(model: VAE) -> ConditionSchema:
    """The conditions of a model, each with a mean and SD; those without names are numbered.

    Where the schema has none, they are those that the batch normalisation before the decoder keeps
    of all that it was shown; without that, 0 and 1.
    """
    schema = model.schema
    if schema is None:
        numbered = [Condition(f"condition {n + 1}") for n in range(model.condition_dim)]
        schema = ConditionSchema(numbered, "raw")
    scaling = dict(schema.scaling)
    missing = [
        c.name for c in schema.conditions if c.kind == "continuous" and c.name not in scaling
    ]
    if missing:
        first = next(one for one in model.decoder.layers if not _passes_on(one))
        mean, sd = np.zeros(model.condition_dim), np.ones(model.condition_dim)
        if isinstance(first, layers.BatchNormalization):
            numpy = keras.ops.convert_to_numpy
            mean = numpy(first.moving_mean)[model.latent_space_dim :]
            sd = np.sqrt(numpy(first.moving_variance)[model.latent_space_dim :])
        at = np.cumsum([0, *schema.widths])
        for number, condition in enumerate(schema.conditions):
            if condition.name in missing:
                scaling[condition.name] = float(mean[at[number]]), float(sd[at[number]]) or 1.0
    return ConditionSchema(schema.conditions, schema.encoding, scaling)


def _passes_on(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, (layers.InputLayer, layers.Concatenate))


# --- conditions -----------------------------------------------------------------------------------


def conditions(schema: ConditionSchema, reference: Reference) -> list[dict]:
    """Each condition as a slider or buttons show it, with the middle 90% of the subjects.

    A slider goes `from` ... `to`; a link may name any value of the plausible `low` to `high`.
    """
    described = []
    for condition in schema.conditions:
        one = {
            "name": condition.name,
            "title": ACRONYMS.get(condition.name, condition.name.replace("_", " ")),
            "kind": condition.kind,
            "unit": condition.unit.replace("m2", "m²"),
            "categories": [str(category) for category in condition.categories],
        }
        if condition.kind == "continuous":
            mean, sd = schema.scaling[condition.name]
            low, high = _middle(condition, (mean, sd), reference)
            width = (high - low) or 1.0
            step = 10.0 ** np.floor(np.log10(width / 20))
            # As far beyond the middle as that is wide: limits may be far from where subjects are.
            reach = [np.floor((low - width) / step) * step, np.ceil((high + width) / step) * step]
            limits = [
                end if limit is None else limit
                for end, limit in zip(reach, (condition.low, condition.high), strict=True)
            ]
            # A slider counts its steps from its begin: from half a step on it would stand still.
            first = np.ceil(limits[0] / step - 1e-9) * step
            one |= {
                "mean": mean,
                "sd": sd,
                "p5": low,
                "p95": high,
                "low": float(limits[0]),
                "high": float(limits[1]),
                "from": float(np.round(max(reach[0], first), 10)),
                "to": float(np.round(min(reach[1], limits[1]), 10)),
                "step": float(step),
                "typical": float(np.round(np.round(mean / step) * step, 10)),
            }
        else:
            codes = condition.codes(reference.subjects[condition.name])
            known = codes[~np.isnan(codes)].astype(int)
            counts = np.bincount(known, minlength=len(condition.categories))
            one["typical"] = one["categories"][counts.argmax()]
        described.append(one)
    return described


def typical_of(condition: Condition, described: dict) -> object:
    """The typical value as the schema has it, whose categories need not be texts."""
    if condition.kind == "continuous":
        return described["typical"]
    return condition.categories[described["categories"].index(described["typical"])]


def _middle(
    condition: Condition, scaling: tuple[float, float], reference: Reference
) -> tuple[float, float]:
    """5th and 95th percentile of a continuous condition; of few or no subjects by mean and SD."""
    values = pd.to_numeric(reference.subjects[condition.name])
    if reference.source == "training" and values.count() >= FEWEST:
        return tuple(float(end) for end in values.quantile(list(MIDDLE)))
    ends = norm.ppf(MIDDLE, *scaling)
    low, high = (np.nan if end is None else end for end in (condition.low, condition.high))
    return float(np.fmax(ends[0], low)), float(np.fmin(ends[1], high))


# --- the middle 90% of each feature ---------------------------------------------------------------


def features_of(model: VAE, ecg: np.ndarray) -> pd.DataFrame | None:
    """N rows of features of ECGs (N, L, T), if these are the standard twelve leads of a QRS."""
    if tuple(model.leads) != LEADS or model.timing["qrs_sample"] >= ecg.shape[2]:
        return None
    return measure(ecg, **model.timing, unit=model.unit)


def ranges(
    schema: ConditionSchema, subjects: pd.DataFrame, features: pd.DataFrame, unit: str = MV
) -> dict:
    """The middle 90% of each feature of subjects of like conditions, as coefficients.

    By linear quantile regression (Koenker and Bassett, Econometrica 1978;46:33-50) of the 5th and
    95th percentile on the conditions. Where the model takes unknown conditions, each subject counts
    with what is known of it, with each condition hidden, and with all hidden: the range is then
    wider where a condition is unknown.

    Args:
        schema: of the model.
        subjects: N rows.
        features: N rows, from `features_of`.
        unit: of the ECGs; see `data.units`.

    Returns:
        Feature -> `title`, `unit`, `low` and `high` (D,) (see `design`; null where too few have the
        feature), `centre`: of an axis the direction around which it lies, else null, and what it is
        at `least` and at `most`, beyond which lines go; null where nothing bounds it.
    """
    centres = circular_medians(features[list(SHOWN)])
    tables = [subjects]
    if schema.encoding == "standard" and schema.names:
        hidden = [*([name] for name in schema.names), list(schema.names)]
        tables += [subjects.assign(**dict.fromkeys(names, np.nan)) for names in hidden]
    x = np.concatenate([design(schema, table) for table in tables])
    y = unwrapped(features[list(SHOWN)], centres).to_numpy()
    low, high = (quantile_regression(x, np.tile(y, (len(tables), 1)), share) for share in MIDDLE)
    enough = np.isfinite(y).sum(axis=0) >= FEWEST
    return {
        name: {
            "title": feature_title(name),
            "unit": UNITS[unit].words(FEATURES[name].unit),
            "low": low[:, number].tolist() if enough[number] else None,
            "high": high[:, number].tolist() if enough[number] else None,
            "centre": centres.get(name),
            "least": None if name in SIGNED else 0,
            "most": 180 if name == ANGLE else None,
        }
        for number, name in enumerate(SHOWN)
    }


def design(schema: ConditionSchema, subjects: pd.DataFrame) -> np.ndarray:
    """(N, D): a constant, and for each condition its value in SD (or its categories but the first),
    0 where that is unknown, and 1 if it is. `readouts.js` makes the same.
    """
    columns = [np.ones(len(subjects))]
    for condition in schema.conditions:
        codes = condition.codes(subjects[condition.name])
        if condition.kind == "continuous":
            mean, sd = schema.scaling[condition.name]
            columns.append(np.nan_to_num((codes - mean) / sd))
        else:
            columns += [codes == number for number in range(1, len(condition.categories))]
        columns.append(np.isnan(codes))
    return np.stack(columns, axis=1).astype(np.float64)


def quantile_regression(x: np.ndarray, y: np.ndarray, share: float) -> np.ndarray:
    """Coefficients (D, F) of a quantile of each column of y (N, F) on x (N, D); NaN is left out.

    Each round minimises a parabola that touches the loss from above (Hunter and Lange, J Comput
    Graph Stat 2000;9:60-77), for all F at once.
    """
    known = np.isfinite(y)
    y, count = np.where(known, y, 0), np.maximum(known.sum(axis=0), 1)
    spread = np.sqrt((known * (y - y.sum(axis=0) / count) ** 2).sum(axis=0) / count)
    unit = np.where(spread > 1e-9, spread, 1.0)
    y = y / unit
    pairs = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)  # (N, D x D)
    pull = (2 * share - 1) * x.T @ known  # (D, F)
    weight, columns = known.astype(np.float64), x.shape[1]
    for _ in range(ROUNDS):
        matrix = (weight.T @ pairs).reshape(-1, columns, columns)  # (F, D, D)
        right = x.T @ (weight * y) + pull
        # The ridge is for columns that are constant or follow from others.
        matrix = matrix + 1e-9 * len(x) * np.eye(columns)
        solved = np.linalg.solve(matrix, right.T[:, :, None])[:, :, 0].T  # (D, F)
        weight = known / (np.abs(y - x @ solved) + 1e-4)
    return solved * unit
