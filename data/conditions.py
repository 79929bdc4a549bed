"""Named conditions: what a model is told of a subject beside the ECG.

A `Condition` has a name, a kind, a unit and a plausible range. A `ConditionSchema` turns a table of
conditions into the numbers that the network reads, and is saved with the model, so that a notebook
can ask for `age=63, sex="female"` without knowing how the training data were scaled.

Dims: N subjects, C encoded columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from data.look_alikes import look_alike

KINDS = ("continuous", "binary", "categorical")
ENCODINGS = ("standard", "raw")
LARGEST = 1e30  # of a value; float32 ends at 3e38


class ConditionError(ValueError):
    """A condition that is unknown, out of range, of the wrong type, or missing where it may not."""


@dataclass(frozen=True)
class Condition:
    """One named condition.

    Attributes:
        name: the column in `Cohort.subjects`, and the keyword of `VAE.generate`.
        kind: "continuous", "binary" or "categorical".
        unit: of a continuous condition, for messages and figures.
        low: smallest plausible value of a continuous condition.
        high: largest plausible value of a continuous condition.
        categories: values of a binary (exactly two) or categorical condition, in coding order.

    Raises:
        ConditionError: the fields do not fit together.
    """

    name: str
    kind: str = "continuous"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))
        if self.kind not in KINDS:
            raise ConditionError(f"{self.name}: expected a kind among {KINDS}. Got {self.kind!r}.")
        if self.kind == "continuous":
            if self.categories:
                raise ConditionError(f"{self.name}: a continuous condition has no categories.")
            if None not in (self.low, self.high) and not self.low < self.high:
                raise ConditionError(f"{self.name}: low {self.low} is not below high {self.high}.")
        else:
            if len(set(self.categories)) != len(self.categories) or len(self.categories) < 2:
                raise ConditionError(f"{self.name}: expected two or more different categories.")
            if self.kind == "binary" and len(self.categories) != 2:
                raise ConditionError(f"{self.name}: a binary condition has exactly two categories.")

    def in_words(self, value: object) -> str:
        """A value as a reader sees it: "63 years", "female", "unknown"."""
        if pd.isna(value):
            return "unknown"
        return f"{float(value):g} {self.unit}".strip() if self.kind == "continuous" else str(value)

    def out_of_range(self, values: np.ndarray) -> np.ndarray:
        """Which of (N,) numbers lie outside [low, high]; NaN lies inside."""
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        return (values < low) | (values > high)

    def codes(self, column: pd.Series, subjects: pd.DataFrame | None = None) -> np.ndarray:
        """(N,) float64: the value, or the position in `categories`; NaN where missing.

        Args:
            column: N values.
            subjects: N rows; `subject_id`, if there, names the record in the message.

        Raises:
            ConditionError: a value is no number, or none of the categories.
        """
        if self.kind == "continuous":
            numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
            wrong = np.isnan(numbers) & column.notna().to_numpy() | (np.abs(numbers) > LARGEST)
            expected = f"a number{f' of {self.unit}' if self.unit else ''}"
        else:
            position = {name: number for number, name in enumerate(self.categories)}
            numbers = column.map(position).to_numpy(np.float64)
            wrong = np.isnan(numbers) & column.notna().to_numpy()
            expected = f"one of {self.categories}"
        if wrong.any():
            row = int(np.argmax(wrong))
            [received] = column.iloc[[row]].tolist()  # 0, not np.int64(0)
            raise ConditionError(
                f"{self.name}: expected {expected}. Received {received!r} in "
                f"{_name(subjects, row)}."
            )
        return numbers


class ConditionSchema:
    """Encodes named conditions as (N, C) float32, with scaling fitted on the training subjects.

    Encoding "standard": a continuous condition takes two columns, (value - mean) / SD and 1 for
    "known"; a binary one takes one column, -1 or +1; a categorical one takes one column per
    category. A missing value is 0 in all columns of its condition.

    Encoding "raw" (the published one): a continuous condition takes its bare value, a binary one 0
    or 1; nothing may be missing.

    Args:
        conditions: in the order of the columns.
        encoding: "standard" or "raw".
        scaling: name -> (mean, SD) of each continuous condition; set by `fit`.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        encoding: str = "standard",
        scaling: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.conditions = tuple(conditions)
        if encoding not in ENCODINGS:
            raise ConditionError(f"Expected an encoding among {ENCODINGS}. Received {encoding!r}.")
        names = [condition.name for condition in self.conditions]
        if len(set(names)) != len(names):
            raise ConditionError(f"Each condition needs its own name. Received {names}.")
        self.encoding = encoding
        self.scaling = {name: (float(m), float(s)) for name, (m, s) in (scaling or {}).items()}
        for name, (mean, sd) in self.scaling.items():
            if not (np.isfinite(mean) and 0 < sd < np.inf):
                raise ConditionError(f"{name}: no scaling of mean {mean} and SD {sd} is possible.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the conditions, in order."""
        return tuple(condition.name for condition in self.conditions)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many encoded columns each condition takes."""
        return tuple(
            len(condition.categories)
            if condition.kind == "categorical"
            else 2
            if condition.kind == "continuous" and self.encoding == "standard"
            else 1
            for condition in self.conditions
        )

    @property
    def dim(self) -> int:
        """C, the number of encoded columns."""
        return sum(self.widths)

    def __getitem__(self, name: str) -> Condition:
        for condition in self.conditions:
            if condition.name == name:
                return condition
        raise ConditionError(f"Unknown condition {name!r}. This model knows {self.names}.")

    def check(self, subjects: pd.DataFrame) -> None:
        """Checks that each condition is there, of its type and in its plausible range.

        Args:
            subjects: N rows; `subject_id`, if there, names the record in the message.

        Raises:
            ConditionError: names the first record that does not fit.
        """
        for condition in self.conditions:
            if condition.name not in subjects:
                raise ConditionError(
                    f"Expected a column {condition.name!r} for the condition of that name. "
                    f"Received the columns {list(subjects.columns)}."
                )
            values = condition.codes(subjects[condition.name], subjects)
            if self.encoding == "raw" and np.isnan(values).any():
                row = int(np.argmax(np.isnan(values)))
                raise ConditionError(
                    f"{condition.name} of {_name(subjects, row)} is missing, and the raw encoding "
                    'has no place for that. Use the "standard" encoding, or leave the record out.'
                )
            if np.isnan(values).all():
                raise ConditionError(
                    f"{condition.name} is missing in every record. Leave it out of "
                    "data.conditions, or give it in the table of subjects."
                )
            if condition.kind != "continuous":
                continue
            odd = condition.out_of_range(values)
            if odd.any():
                row = int(np.argmax(odd))
                raise ConditionError(
                    f"{condition.name} of {_name(subjects, row)} is {values[row]:g} "
                    f"{condition.unit}, outside [{condition.low}, {condition.high}]. Correct it, "
                    "make it missing, or widen the range of the condition."
                )

    def fit(self, subjects: pd.DataFrame) -> ConditionSchema:
        """Checks the training subjects and takes mean and SD from them. Returns itself."""
        self.check(subjects)
        for condition in self.conditions:
            if condition.kind == "continuous":
                values = condition.codes(subjects[condition.name])
                mean, sd = float(np.nanmean(values)), float(np.nanstd(values))
                # The SD of equal numbers is rounding, not always 0.
                self.scaling[condition.name] = (mean, sd if sd > 1e-12 * abs(mean) else 1.0)
        return self

    def encode(
        self, values: pd.DataFrame | Mapping[str, object] | np.ndarray, n: int | None = None
    ) -> np.ndarray:
        """Turns conditions into what the network reads.

        Args:
            values: a table or mapping of columns or scalars; a condition left out, None or NaN is
                unknown. Other columns of a table are ignored, other keys of a mapping are an error.
                An array (N, C) is taken as encoded already; in it, nothing may be missing.
            n: number of rows, where only scalars are given.

        Returns:
            (N, C) float32.

        Raises:
            ConditionError: unknown name, wrong type, a missing value under "raw", NaN or infinity
                in an array, a column that is a condition but for capitals or spaces, or a table
                without any condition.

        Warns:
            UserWarning: a value lies outside the plausible range of its condition.
        """
        if isinstance(values, np.ndarray):
            if values.ndim != 2 or values.shape[1] != self.dim:
                raise ConditionError(
                    f"Expected encoded conditions of shape (N, {self.dim}) for {self.names}. "
                    f"Received: {values.shape}."
                )
            return finite_numbers(values, np.repeat(self.names, self.widths))
        if not isinstance(values, pd.DataFrame):
            values = self._table(values, n)
        else:
            self.refuse_lookalikes(values.columns)
            if self.names and not set(self.names) & set(values.columns):
                raise ConditionError(
                    f"Expected a table with columns among {self.names}. Received: "
                    f"{list(values.columns)}. To leave all of them unknown, give no conditions."
                )
        parts = [np.zeros((len(values), 0), np.float32)]
        for condition, width in zip(self.conditions, self.widths, strict=True):
            if condition.name in values:
                codes = condition.codes(values[condition.name], values)
            else:
                codes = np.full(len(values), np.nan)
            parts.append(self._encode_one(condition, codes, width))
        return np.concatenate(parts, axis=1)

    def refuse_lookalikes(self, columns: Iterable[object]) -> None:
        """A column `Age` is not ignored as other columns are: the age would silently be unknown.

        Args:
            columns: all that a table has.

        Raises:
            ConditionError: one is a condition but for capitals, spaces and the like.
        """
        found = look_alike(self.names, columns)
        if found is not None:
            raise ConditionError(
                f"Expected a column {found[0]!r}. Received {found[1]!r}: rename it, or take it out "
                "if it is something else."
            )

    def _table(self, values: Mapping[str, object], n: int | None) -> pd.DataFrame:
        """A mapping of scalars and equally long columns as a table."""
        for name in values:
            self[name]  # an unknown name is an error: a typing error must not mean "unknown"
        columns = {
            name: [value] if np.ndim(value) == 0 else list(value) for name, value in values.items()
        }
        lengths = {len(column) for column in columns.values()}
        rows = max(lengths, default=1) if n is None else n
        if lengths - {1, rows}:
            raise ConditionError(
                "Expected scalars or columns of one length. Received: "
                + ", ".join(f"{name} {len(column)}" for name, column in columns.items())
                + ("" if n is None else f", n = {n}")
                + "."
            )
        return pd.DataFrame(
            {
                name: pd.Series(column * rows if len(column) == 1 else column, dtype=object)
                for name, column in columns.items()
            },
            index=range(rows),
        )

    def _encode_one(self, condition: Condition, codes: np.ndarray, width: int) -> np.ndarray:
        """(N,) codes of one condition -> (N, width) float32."""
        known = ~np.isnan(codes)
        if self.encoding == "raw" and not known.all():
            raise ConditionError(
                f"{condition.name} is missing in row {int(np.argmin(known))}, and the raw encoding "
                "has no place for that."
            )
        if condition.kind == "categorical":
            return (codes[:, None] == np.arange(width)).astype(np.float32)
        if condition.kind == "binary":
            encoded = codes if self.encoding == "raw" else np.where(known, 2 * codes - 1, 0)
            return encoded[:, None].astype(np.float32)
        odd = condition.out_of_range(codes)
        if odd.any():
            warnings.warn(
                f"{condition.name} = {codes[odd][0]:g} {condition.unit} is outside "
                f"[{condition.low}, {condition.high}]: the model never saw such a value.",
                stacklevel=4,
            )
        if self.encoding == "raw":
            return codes[:, None].astype(np.float32)
        if condition.name not in self.scaling:
            raise ConditionError(f"{condition.name} has no scaling yet. Call fit(subjects) first.")
        mean, sd = self.scaling[condition.name]
        value = np.where(known, (codes - mean) / sd, 0)
        return np.stack([value, known], axis=1).astype(np.float32)

    def to_dict(self) -> dict:
        """Plain lists and numbers, for JSON."""
        return {
            "encoding": self.encoding,
            "scaling": {name: list(pair) for name, pair in self.scaling.items()},
            "conditions": [asdict(c) | {"categories": list(c.categories)} for c in self.conditions],
        }

    @classmethod
    def from_dict(cls, description: Mapping) -> ConditionSchema:
        """The inverse of `to_dict`."""
        try:
            conditions = [Condition(**fields) for fields in description["conditions"]]
            return cls(conditions, description["encoding"], description["scaling"])
        except ConditionError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConditionError(f"This is no description of conditions: {error!r}.") from error


def finite_numbers(encoded: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
    """Encoded conditions (N, C) as float32.

    Args:
        encoded: (N, C).
        names: of the C columns, for the message.

    Raises:
        ConditionError: NaN, infinity, or no numbers at all.
    """
    if encoded.dtype.kind not in "fiub":
        raise ConditionError(f"Expected encoded conditions as numbers. Received: {encoded.dtype}.")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        numbers = encoded.astype(np.float32)
    finite = np.isfinite(numbers)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        name = f"column {column}" if names is None else names[column]
        raise ConditionError(
            f"Encoded conditions: {name} is {encoded[row, column]:g} in row {row}. Give a table or "
            "names with values instead: they may have gaps."
        )
    return numbers


def _name(subjects: pd.DataFrame | None, row: int) -> str:
    """How a message calls the record in this row."""
    if subjects is None or "subject_id" not in subjects:
        return f"row {row}"
    return f"record {str(subjects['subject_id'].iloc[row])!r}"
