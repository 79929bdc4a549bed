"""Rows of a table that make no sense: each is left out with its reason, unless there are many.

One damaged cell must not cost a cohort; but where many rows are wrong it is the table that is, or
what is taken for it, and what would be left is not what anybody wanted.

Dims: N rows of a table.
"""

from __future__ import annotations

import pandas as pd

from data.cohort import CohortError

MAX_SHARE = 0.05  # of the rows; one bad row in fewer than 20 is too many


def refusal(
    wrong: pd.Series, column: pd.Series, ids: pd.Series, expected: str, remedy: str = ""
) -> str:
    """What is said of the first wrong value; arguments as of `data.outcomes.refuse`."""
    row = wrong.idxmax()
    received = column.loc[[row]].tolist()[0]  # 2.0, not np.float64(2.0)
    return f"Expected {expected} as {column.name} of {ids[row]!r}. Received: {received!r}.{remedy}"


class BadRows:
    """Which rows of a table are left out, and why.

    Args:
        ids: N names of what the rows are of, for messages.
        table: name of the table.

    Attributes:
        reasons: (N,) "" for a good row; the first reason counts.
    """

    def __init__(self, ids: pd.Series, table: str) -> None:
        self.ids, self._table, self._message = ids, table, ""
        self.reasons = pd.Series("", index=ids.index, dtype=object)

    def refuse(
        self,
        wrong: pd.Series,
        column: pd.Series,
        ids: pd.Series,
        expected: str,
        remedy: str = "",
    ) -> None:
        """As `data.outcomes.numbers` refuses values, row by row."""
        if wrong.any():
            message = refusal(wrong, column, ids, expected, remedy)
            self.mark(wrong, f"{column.name} is not {expected}", message)

    def mark(self, wrong: pd.Series, reason: str, message: str) -> None:
        """Leaves rows out.

        Args:
            wrong: (N,) which.
            reason: short enough to count.
            message: about the first of them, if the table is refused for it.
        """
        if wrong.any():
            self.reasons = self.reasons.mask(wrong & (self.reasons == ""), reason)
            self._message = self._message or message

    def mark_ids(self, column: pd.Series) -> pd.Series:
        """Leaves rows out whose id is missing or stands twice.

        Returns:
            (N,) the ids, those rows named by their line so that no name stands twice.
        """
        missing = column.isna() | (column.astype(str).str.strip() == "")
        twice = column.duplicated(keep=False) & ~missing
        # Counted as a text editor does: from 1, with the header.
        if missing.any():
            line = int(missing.idxmax()) + 2
            message = f"{self._table} has no {column.name} in line {line}."
            self.mark(missing, f"no {column.name}", message)
        if twice.any():
            [received] = column.loc[[twice.idxmax()]].tolist()
            again = int(column.duplicated().to_numpy().argmax())
            message = (
                f"{column.name} {received!r} stands twice in {self._table}, again in row {again}."
            )
            self.mark(twice, f"{column.name} stands twice", message)
        odd = missing | twice
        if not odd.any():
            return column
        lines = pd.Series(column.index + 2, index=column.index).astype(str)
        named = column.astype(object).where(column.notna(), "none").map(_plain).astype(str)
        self.ids = self.ids.astype(object).mask(odd, "line " + lines)
        return named.where(~odd, named + " (line " + lines + ")")

    def mark_missing(self, column: pd.Series) -> None:
        """Leaves rows out that lack a value."""
        missing = column.isna() | (column.astype(str).str.strip() == "")
        if missing.any():
            self.mark(
                missing,
                f"no {column.name}",
                f"{self._table} has no {column.name} for {self.ids[missing.idxmax()]!r}.",
            )

    def settle(self) -> pd.Series:
        """Says how many rows are left out.

        Returns:
            (N,) reasons.

        Raises:
            CohortError: they are more than `MAX_SHARE`.
        """
        bad = self.reasons != ""
        if bad.sum() > MAX_SHARE * len(bad):
            raise CohortError(
                self._message
                + f" {bad.sum()} of {len(bad)} rows of {self._table} cannot be understood;"
                f" up to {MAX_SHARE:.0%} would be left out." * (len(bad) > 1)
            )
        if bad.any():
            row = bad.idxmax()
            print(
                f"{self._table}: {bad.sum()} of {len(bad)} rows are left out, first "
                f"{self.ids[row]!r}: {self.reasons[row]}."
            )
        return self.reasons


def _plain(value: object) -> object:
    """17.0, which a missing value beside it made of 17, as 17."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
