"""Tables of metrics: key figures with a sentence each, and grids of many metrics of one form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from evaluation.measures.features import FEATURES
from evaluation.measures.names import feature_title, interval, is_end, not_recovered
from evaluation.report.reading import (
    BESIDE,
    COLUMNS,
    GRIDS,
    OF,
    Grid,
    principal_components,
    rank,
    reading,
)

Section = Mapping[str, object]


class Cell(NamedTuple):
    """A value and, where it has one, its 95% interval."""

    value: object = ""
    interval: tuple[object, object] | None = None


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        name: first cell.
        cells: the others.
        sentence: how to read the row, below its name; None in tables without such sentences.
        lost: a slope that the model has not recovered.
    """

    name: str
    cells: list[Cell]
    sentence: str | None = None
    lost: bool = False


class Table(NamedTuple):
    """A table; a folded one shows only its title until it is opened."""

    header: list[str]
    rows: list[Row]
    caption: str = ""
    title: str = ""
    folded: bool = False


def key_tables(section: Section) -> list[Table]:
    """The metrics that stand alone, each with its sentence, interval and companions."""
    alone = [name for name in section if not is_end(name, section) and not _grid_of(name, section)]
    companions = {
        form: called
        for form, called in {**BESIDE, **principal_components(section)}.items()
        if any(form.format(name) in section for name in alone)
    }
    beside = {form.format(name) for name in alone for form in companions}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in alone:
        if name not in beside:
            has = tuple(form for form in companions if form.format(name) in section)
            groups.setdefault(has, []).append(name)
    # A metric with some of the companions of another stands in one table with it.
    largest = [has for has in groups if not any(set(has) < set(other) for other in groups)]
    together: dict[tuple[str, ...], list[str]] = {has: [] for has in largest}
    for has, names in groups.items():
        together[next(other for other in largest if set(has) <= set(other))] += names
    value = "value, 95% interval" if any(is_end(name, section) for name in section) else "value"
    return [
        Table(
            ["", value, *(companions[form] for form in forms)],
            [
                Row(
                    name,
                    _cells(section, [name, *(form.format(name) for form in forms)]),
                    reading(name),
                )
                for name in sorted(names, key=rank)
            ],
        )
        for forms, names in together.items()
    ]


def grid_tables(section: Section, shown: bool) -> list[Table]:
    """The grids of a section: those that are shown at once, or those that unfold."""
    grids: dict[str, Grid] = {}
    names: dict[str, dict[str, dict[str, str]]] = {}  # title -> row -> column -> metric
    for name in section:
        found = None if is_end(name, section) else _grid_of(name, section)
        if found and found[0].shown is shown:
            grid, title, row, column = found
            grids.setdefault(title, grid)
            names.setdefault(title, {}).setdefault(row, {})[column] = name
    return [_grid_table(section, grid, title, names[title]) for title, grid in grids.items()]


def text(value: object) -> str:
    """A value as people write it: yes / no, four significant digits."""
    if is_missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def is_missing(value: object) -> bool:
    """Whether a metric could not be had."""
    return value is None or isinstance(value, float) and math.isnan(value)


def _grid_of(name: str, section: Section) -> tuple[Grid, str, str, str] | None:
    """Grid, title, row and column of a metric; None where it stands alone."""
    for grid in GRIDS:
        match = re.fullmatch(grid.form, name)
        if match:
            groups = {"column": "", **match.groupdict()}
            if all(form.format(**groups) in section for form in grid.needs):
                return grid, grid.title.format(**groups), groups["row"], _header(**groups)
    return None


def _header(column: str, **groups) -> str:
    """What a column is called: by its name, by what it is of, or by both."""
    named = COLUMNS.get(column, column.replace("_minus_", " less "))
    if "of" not in groups:
        return named
    if not column:
        return OF[groups["of"]]
    return f"{named}, {OF[groups['of']]}" if groups["of"] else named


def _grid_table(
    section: Section, grid: Grid, title: str, names: Mapping[str, Mapping[str, str]]
) -> Table:
    columns = list(dict.fromkeys(column for found in names.values() for column in found))
    rows = []
    for row, found in names.items():
        first, label, sentence = next(iter(found.values())), row, None
        if row in FEATURES:
            label = f"{feature_title(row)} ({FEATURES[row].unit})"
        elif grid.shown:
            sentence = reading(row) or reading(first)
        cells = _cells(section, [found.get(column, "") for column in columns])
        rows.append(Row(label, cells, sentence, not_recovered(section, first)))
    said = [] if grid.shown or grid.caption else [_said_of(column, names) for column in columns]
    caption = " ".join(each for each in (grid.caption, *said) if each)
    return Table(["", *columns], rows, caption, title, folded=not grid.shown)


def _said_of(column: str, names: Mapping[str, Mapping[str, str]]) -> str:
    """The sentence of a column that holds one metric by lead, segment or dimension."""
    name = next(found[column] for found in names.values() if column in found)
    sentence = reading(column) or reading(name)
    return f"{column}: {sentence}" if sentence else ""


def _cells(section: Section, names: Iterable[str]) -> list[Cell]:
    """The cells of metrics; empty where the section has no such metric."""
    return [
        Cell(section[name], interval(name, section)) if name in section else Cell()
        for name in names
    ]
