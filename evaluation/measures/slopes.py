"""Slopes of clinical features on the conditions, all conditions at once, with intervals.

A feature is regressed on every condition jointly, so that each slope is adjusted for the others. A
few axes of a small T wave lie anywhere on the circle and would rule a least-squares fit: residuals
beyond 1.345 robust SD count less (Huber 1964, doi 10.1214/aoms/1177703732), and angles are taken
the short way round from the circular median.

Intervals come from the influence of each patient on each slope (the sandwich of White 1980 with the
leverage correction HC3 of MacKinnon and White 1985, doi 10.1016/0304-4076(85)90158-7; of several
recordings CR3, Bell and McCaffrey 2002): no constant variance is assumed, recordings of a patient
count together, and slopes of two tables of the same patients are compared pairwise.

Dims: N recordings, G patients, D columns of the design, S contrasts, F features, M = S * F slopes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from data.conditions import Condition, ConditionSchema
from evaluation.measures.features import CIRCULAR, short_way

MAD_OF_NORMAL = float(stats.norm.ppf(0.75))  # median absolute deviation of a standard normal
HUBER = 1.345  # robust SD; 95% efficient where errors are normal
ITERATIONS = 100
FEWEST = 10  # patients whose condition is known, or who are of a category; below, no slope
SOME = 4096  # patients whose influence is worked out at a time
YEARS = 10  # a slope on something in years is per decade


class Slopes(NamedTuple):
    """M slopes, one for each pair (contrast, feature), and what each patient did to them."""

    pairs: tuple[tuple[str, str], ...]
    value: np.ndarray  # (M,), NaN where there are too few recordings
    influence: np.ndarray  # (G, M): first-order change of the slope due to this patient
    freedom: np.ndarray  # (M,) patients less columns, of those in which the feature was found

    @property
    def error(self) -> np.ndarray:
        """(M,) standard errors."""
        return np.sqrt(np.square(self.influence).sum(axis=0))

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """(M,) low and (M,) high ends of the 95% intervals."""
        half = stats.t.ppf(0.975, np.maximum(self.freedom, 1)) * self.error
        return self.value - half, self.value + half

    @property
    def clear(self) -> np.ndarray:
        """(M,) bool: the interval leaves out 0."""
        low, high = self.interval
        return (low > 0) | (high < 0)

    def minus(self, other: Slopes) -> Slopes:
        """Differences of the slopes; what both owe to the same patient cancels."""
        apart, size = self.value - other.value, np.abs(self.value) + np.abs(other.value)
        return Slopes(
            self.pairs,
            np.where(np.abs(apart) <= 1e-12 * size, 0, apart),  # equal but for rounding
            self.influence - other.influence,
            np.minimum(self.freedom, other.freedom),
        )


def contrasts(
    schema: ConditionSchema, subjects: pd.DataFrame
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The conditions as columns that slopes are taken on.

    Args:
        schema: of the model.
        subjects: N rows; a column that is missing is unknown throughout.

    Returns:
        S names, (N, S) values, NaN where unknown, and the position (S,) of each one's condition: a
        continuous condition in its unit (decades if that is years), the second category of a binary
        one as 1, each category but the first of a categorical one (`name_category`) as 1.
    """
    names, columns, owners = [], [], []
    for owner, condition in enumerate(schema.conditions):
        found = _contrasts_of(condition, subjects)
        names += list(found)
        columns += list(found.values())
        owners += [owner] * len(found)
    values = np.stack(columns, axis=1) if columns else np.zeros((len(subjects), 0))
    return names, values, np.array(owners, dtype=int)


def adjusted_slopes(
    features: pd.DataFrame,
    subjects: pd.DataFrame,
    schema: ConditionSchema,
    groups: np.ndarray,
    count: int,
) -> Slopes:
    """Slope of each feature on each condition, the other conditions kept, by Huber regression.

    A condition unknown in some recordings takes part with a second column, 1 where unknown: those
    recordings tell nothing of its slope, but what they can of the others (whose slopes hold, in
    these recordings, what goes with the unknown one). There is no slope on what fewer than `FEWEST`
    patients have, of those in whom the feature was found.

    Args:
        features: N rows, F columns; NaN where a feature was not found. Angles as from `unwrapped`.
        subjects: N rows with the conditions.
        schema: of the model.
        groups: (N,) number of the patient, below `count`.
        count: G; patients may be without recordings.

    Returns:
        M slopes in the unit of the feature per decade, unit or category.
    """
    names, values, owners = contrasts(schema, subjects)
    pairs = tuple((name, feature) for name in names for feature in features)
    slopes, freedom = np.full((2, len(names), features.shape[1]), np.nan)
    influence = np.zeros((count, len(names), features.shape[1]))
    table = features.to_numpy(np.float64)
    for rows, columns in _same_rows(np.isfinite(table)):
        patients, of = np.unique(groups[rows], return_inverse=True)
        if rows.any():
            x, kept = _design(values[rows], owners, of)
        if not rows.any() or rows.sum() <= x.shape[1]:
            continue
        coefficients, of_patients = huber_regression(x, table[np.ix_(rows, columns)], of)
        slopes[np.ix_(kept, columns)] = coefficients[1 : 1 + len(kept)]
        influence[np.ix_(patients, kept, columns)] = of_patients[:, 1 : 1 + len(kept)]
        freedom[:, columns] = len(patients) - x.shape[1]
    return Slopes(pairs, slopes.ravel(), influence.reshape(count, -1), freedom.ravel())


def huber_regression(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None, tuning: float = HUBER
) -> tuple[np.ndarray, np.ndarray]:
    """Linear regressions in which large residuals count less.

    Args:
        x: (N, D) of full rank.
        y: (N, F).
        groups: (N,) number of the patient, all of 0 to G - 1; each row its own where left out.
        tuning: residual, in robust SD (1.48 times the median absolute one), from which on a
            recording counts less; infinite for least squares.

    Returns:
        (D, F) coefficients and (G, D, F) influence of each patient on them, with the correction
        HC3 or CR3.
    """
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    pairs = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)  # (N, D * D)
    smallest = 1e-9 * np.ptp(y, axis=0) + 1e-30  # where most residuals are 0
    limit, active = np.empty(y.shape[1]), np.arange(y.shape[1])
    for _ in range(ITERATIONS):
        before = coefficients[:, active]
        residual = np.abs(y[:, active] - x @ before)
        limit[active] = tuning * np.maximum(
            np.median(residual, axis=0) / MAD_OF_NORMAL, smallest[active]
        )
        weight = np.where(
            residual > limit[active],
            limit[active] / np.maximum(residual, smallest[active]),
            1.0,
        )
        matrix = (weight.T @ pairs).reshape(-1, *2 * x.shape[1:])  # (F, D, D)
        right = (weight * y[:, active]).T @ x  # (F, D)
        after = np.linalg.solve(matrix, right[:, :, None])[:, :, 0].T
        coefficients[:, active] = after
        moves = np.abs(before - after).max(axis=0) > 1e-6 * np.abs(after).max(axis=0)
        active = active[moves]
        if not len(active):
            break
    residual = y - x @ coefficients
    inside = (np.abs(residual) <= limit).astype(np.float64)
    inverse = np.linalg.pinv((inside.T @ pairs).reshape(-1, *2 * x.shape[1:]))  # (F, D, D)
    groups = np.arange(len(x)) if groups is None else groups
    score = np.clip(residual, -limit, limit)
    return coefficients, _influence(x, score, groups, inverse)


def _influence(
    x: np.ndarray, score: np.ndarray, groups: np.ndarray, inverse: np.ndarray
) -> np.ndarray:
    """(G, D, F) of the groups 0 to G - 1 of the rows of x (N, D) and score (N, F).

    A patient draws the fit to itself: its scores are made those of a fit without it. What hangs on
    one patient alone cannot be known without it, and gets a very wide interval.
    """
    order = np.argsort(groups, kind="stable")
    x, score = x[order], score[order]
    whole, count = x.T @ x, int(groups.max()) + 1
    starts = np.searchsorted(groups[order], np.arange(count + 1))
    found = np.empty((count, x.shape[1], score.shape[1]))
    for first in range(0, count, SOME):  # all at once take much memory where there are many
        some = slice(starts[first], starts[min(first + SOME, count)])
        within = starts[first : min(first + SOME, count)] - starts[first]
        pairs = np.add.reduceat(x[some, :, None] * x[some, None, :], within, axis=0)
        of_groups = np.add.reduceat(x[some, :, None] * score[some, None, :], within, axis=0)
        without = np.linalg.solve(whole - (1 - 1e-9) * pairs, of_groups)
        found[first : first + SOME] = np.einsum("fde,gef->gdf", inverse, whole @ without)
    return found


def robust_means(values: np.ndarray, groups: np.ndarray, count: int) -> Slopes:
    """Huber's mean of each column of (N, M) values over patients; NaN values are left out."""
    means, freedom = np.full((2, values.shape[1]), np.nan)
    influence = np.zeros((count, values.shape[1]))
    for rows, columns in _same_rows(np.isfinite(values)):
        patients, of = np.unique(groups[rows], return_inverse=True)
        if len(patients) >= FEWEST:
            some = values[np.ix_(rows, columns)]
            [means[columns]], of_patients = huber_regression(np.ones((len(some), 1)), some, of)
            influence[np.ix_(patients, columns)] = of_patients[:, 0]
            freedom[columns] = len(patients) - 1
    return Slopes((), means, influence, freedom)


def _same_rows(known: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Columns of (N, F) that are known in the same rows: those rows (N,) bool, and the columns."""
    columns: dict[bytes, list[int]] = {}
    for number, rows in enumerate(known.T):
        columns.setdefault(rows.tobytes(), []).append(number)
    return [(known[:, numbers[0]], np.array(numbers)) for numbers in columns.values()]


def correlation_and_gain(
    ours: np.ndarray, theirs: np.ndarray, error: np.ndarray
) -> dict[str, float]:
    """How alike two sets of slopes are, and how large ours are beside theirs.

    Args:
        ours: (M,).
        theirs: (M,).
        error: (M,) standard errors of theirs. Their squares are taken off the squares of theirs:
            noise adds to these, and would make our slopes look small.

    Returns:
        `correlation`, and `gain`: ours regressed on theirs without intercept, 1 where they are as
        large. Without a few slopes that differ, one or both are left out.
    """
    found = {}
    if len(ours) > 2 and np.ptp(ours) > 0 and np.ptp(theirs) > 0:
        found["correlation"] = float(np.corrcoef(ours, theirs)[0, 1])
    size = np.square(theirs).sum() - np.square(error).sum()
    if size > 0:
        found["gain"] = float((ours * theirs).sum() / size)
    return found


def unwrapped(features: pd.DataFrame, centre: dict[str, float]) -> pd.DataFrame:
    """The features with each angle within 180 degrees of its centre, so that slopes make sense."""
    turned = {
        name: short_way(features[name] - middle) + middle
        for name, middle in centre.items()
        if name in features
    }
    return features.assign(**turned)


def circular_medians(features: pd.DataFrame) -> dict[str, float]:
    """Direction, to the degree, that the known angles of each axis are closest to on average."""
    grid = np.arange(-180.0, 180.0)
    medians = {}
    for name in features.columns.intersection(CIRCULAR):
        angle = features[name].dropna().to_numpy()
        distance = [np.abs(short_way(angle - middle)).sum() for middle in grid]
        medians[name] = float(grid[np.argmin(distance)])
    return medians


def robust_sd(values: np.ndarray) -> np.ndarray:
    """1.48 times the median absolute deviation of each column of (N, F), NaN left out."""
    return stats.median_abs_deviation(values, scale="normal", nan_policy="omit")


def _contrasts_of(condition: Condition, subjects: pd.DataFrame) -> dict[str, np.ndarray]:
    if condition.name not in subjects:
        codes = np.full(len(subjects), np.nan)
    else:
        codes = condition.codes(subjects[condition.name])
    if condition.kind == "continuous":
        return {condition.name: codes / (YEARS if condition.unit == "years" else 1)}
    if condition.kind == "binary":
        return {condition.name: codes}
    return {
        f"{condition.name}_{category}": np.where(np.isnan(codes), np.nan, codes == position)
        for position, category in enumerate(condition.categories)
        if position
    }


def _design(
    values: np.ndarray, owners: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """(N, D): intercept, the contrasts that can be judged, and others; and which the former are.

    A category of few patients counts as unknown; where it is the one that the others are compared
    with, these are kept as adjustment only.
    """
    values = values.copy()
    for owner in np.unique(owners):
        of_owner = np.flatnonzero(owners == owner)
        for number in of_owner if len(of_owner) > 1 else ():
            rows = values[:, number] == 1
            if len(np.unique(groups[rows])) < FEWEST:
                values[np.ix_(rows, of_owner)] = np.nan
    columns, kept, others = [np.ones(len(values))], [], []
    known = ~np.isnan(values)
    for number, (value, there) in enumerate(zip(values.T, known.T, strict=True)):
        levels = np.unique(value[there])
        sides = [there & (value == level) for level in levels] if len(levels) == 2 else [there]
        few = min(len(np.unique(groups[side])) for side in sides) < FEWEST
        if len(levels) < 2 or few:
            continue
        column = np.where(there, value - value[there].mean(), 0)
        first = there & (values[:, owners == owners[number]] == 0).all(axis=1)
        if (owners == owners[number]).sum() > 1 and len(np.unique(groups[first])) < FEWEST:
            others.append(column)
        elif _adds(columns, column):
            columns.append(column)
            kept.append(number)
    # Last: where two conditions are unknown in the same recordings, one column says so for both.
    others += [1.0 - known[:, owners == owner][:, 0] for owner in np.unique(owners)]
    for column in others:
        if _adds(columns, column):
            columns.append(column)
    return np.stack(columns, axis=1), kept


def _adds(columns: list[np.ndarray], column: np.ndarray) -> bool:
    """Whether a column is no combination of the others."""
    return bool(np.linalg.matrix_rank(np.stack([*columns, column], axis=1)) > len(columns))
