"""Conditions to show a generator at, and the real subjects who are nearest to them.

Dims: N subjects, M choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from conditions import ConditionSchema
from evaluation.adherence import reference_subject

MOST = 6  # ECGs that a page can show
ALONE, CROSSED, ENDS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95), (0.05, 0.5, 0.95), (0.05, 0.95)
UNKNOWN, OTHER = 1.0, 2.0  # distance of an unknown value and of another category, in SD


def chosen_conditions(schema: ConditionSchema, subjects: pd.DataFrame) -> list[dict[str, object]]:
    """Up to six subjects that span the first two conditions, such as both sexes at three ages.

    The first continuous condition is taken at percentiles from the 5th to the 95th, crossed with
    the commonest categories of the first other condition (or, if there is none, with both ends of
    the second continuous one); all else is that of the reference subject.

    Args:
        schema: of the model.
        subjects: training subjects, for percentiles and reference.

    Returns:
        M mappings name -> value; empty where there are no conditions.
    """
    if not schema.conditions:
        return []
    numbers = [c.name for c in schema.conditions if c.kind == "continuous"]
    categories = [c.name for c in schema.conditions if c.kind != "continuous"]
    varied = {}
    if categories:
        name = categories[0]
        common = subjects[name].value_counts().index[: 2 if numbers else MOST]
        varied[name] = sorted(common, key=schema[name].categories.index)
    if numbers:
        alone = len(schema.conditions) == 1
        varied[numbers[0]] = _percentiles(subjects[numbers[0]], ALONE if alone else CROSSED)
    if len(numbers) > 1 and not categories:
        varied[numbers[1]] = _percentiles(subjects[numbers[1]], ENDS)
    reference = reference_subject(schema, subjects)
    return [
        reference | dict(zip(varied, values, strict=True)) for values in product(*varied.values())
    ]


def nearest_subjects(
    schema: ConditionSchema, wanted: Sequence[Mapping[str, object]], subjects: pd.DataFrame
) -> np.ndarray:
    """The real subject nearest to each choice, none of them twice.

    The distance is Euclidean: a continuous condition counts in its SD, another category as `OTHER`
    and an unknown value as `UNKNOWN`.

    Args:
        schema: of the model.
        wanted: M mappings name -> value.
        subjects: N rows, at least M.

    Returns:
        (M,) row numbers; the first of those that are equally near.
    """
    squared = np.zeros((len(wanted), len(subjects)))
    for condition in schema.conditions:
        have = condition.codes(subjects[condition.name])
        want = condition.codes(pd.Series([each[condition.name] for each in wanted], dtype=object))
        apart = have - want[:, None]
        if condition.kind == "continuous":
            apart /= np.nanstd(have) or 1.0
        else:
            apart = np.where(np.isnan(apart), np.nan, OTHER * (apart != 0))
        squared += np.square(np.where(np.isnan(apart), UNKNOWN, apart))
    rows = []
    for distances in squared:
        distances[rows] = np.inf
        rows.append(int(np.argmin(distances)))
    return np.array(rows, dtype=int)


def in_words(schema: ConditionSchema, values: Mapping[str, object]) -> str:
    """Conditions as a reader sees them: "age 63 years, sex female, bmi unknown"."""
    parts = []
    for condition in schema.conditions:
        value = values.get(condition.name)
        if condition.kind == "continuous" and pd.notna(value):
            value = _rounded(value)
        parts.append(f"{condition.name} {condition.in_words(value)}")
    return ", ".join(parts)


def _percentiles(column: pd.Series, shares: Sequence[float]) -> list[float]:
    """Rounded, rising, each once."""
    return sorted({_rounded(value) for value in column.quantile(list(shares))})


def _rounded(value: float) -> float:
    """To three significant digits."""
    return float(f"{float(value):.3g}")
