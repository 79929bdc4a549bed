"""Names of columns, as people and their programs write them."""

from __future__ import annotations

import re
from collections.abc import Iterable


def look_alike(expected: Iterable[str], columns: Iterable[object]) -> tuple[str, object] | None:
    """The first expected name that is not there, but stands there written otherwise.

    Capitals, spaces, dashes, underscores and byte-order marks make no other name: `PatientID` is
    `patient_id`.

    Args:
        expected: names that mean something; those that `columns` hold are found already.
        columns: that are there.

    Returns:
        The expected name and the column, or None.
    """
    columns = list(columns)
    wanted = {_plain(name): name for name in expected if name not in columns}
    for column in columns:
        if _plain(column) in wanted:
            return wanted[_plain(column)], column
    return None


def _plain(name: object) -> str:
    return re.sub(r"[\s_\ufeff-]+", "", str(name)).casefold()
