"""Tables of metrics as HTML: key figures with a sentence each, and grids of many of one form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from html import escape

from evaluation.measures.features import FEATURES
from evaluation.measures.names import ENDS, feature_title, not_recovered
from evaluation.report.reading import (
    COLUMNS,
    COMPANIONS,
    GRIDS,
    OF,
    Grid,
    is_end,
    rank,
    reading,
)

Section = Mapping[str, object]
Cells = dict[str, dict[str, str]]  # row -> column -> name of the metric


def key_tables(section: Section) -> str:
    """The metrics that stand alone, each with its sentence, interval and companions."""
    alone = [name for name in section if not is_end(name, section) and not _grid_of(name, section)]
    companions = _companions(section, alone)
    beside = {form.format(name) for name in alone for form in companions}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in alone:
        if name not in beside:
            has = tuple(form for form in companions if form.format(name) in section)
            groups.setdefault(has, []).append(name)
    tables = []
    # A metric with some of the companions of another stands in one table with it.
    largest = [has for has in groups if not any(set(has) < set(other) for other in groups)]
    for columns in largest:
        names = [
            name
            for has, found in groups.items()
            if next(other for other in largest if set(has) <= set(other)) == columns
            for name in found
        ]
        names.sort(key=rank)
        tables.append(_key_table(section, names, {form: companions[form] for form in columns}))
    return "".join(tables)


def grid_tables(section: Section, shown: bool) -> str:
    """The grids of a section: those that are shown at once, or those that unfold."""
    tables: dict[str, tuple[Grid, Cells]] = {}
    for name in section:
        found = None if is_end(name, section) else _grid_of(name, section)
        if found and found[0].shown is shown:
            grid, title, row, column = found
            rows = tables.setdefault(title, (grid, {}))[1]
            rows.setdefault(row, {})[column] = name
    parts = []
    for title, (grid, rows) in tables.items():
        content = _grid_table(section, grid, rows)
        parts.append(
            f"<h3>{escape(title)}</h3>\n{content}"
            if shown
            else f"<details><summary>{escape(title)}</summary>\n{content}</details>\n"
        )
    return "".join(parts)


def table(header: Iterable[str], rows: Iterable[Iterable[str]], caption: str = "") -> str:
    """A table of cells that are HTML already; the header and caption are escaped here."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in header)
    body = []
    for first, *cells in rows:
        tail = "".join(f"<td>{each}</td>" for each in cells)
        body.append(f'<tr><th scope="row">{first}</th>{tail}</tr>')
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    rows_html = "\n".join(body)
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows_html}</tbody></table></div>\n"
    )


def cell(value: object) -> str:
    """A value as escaped text: yes / no, four significant digits, lists and counts in words."""
    if is_missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return "<br>".join(f"{escape(str(key))}: {cell(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(each) for each in value) or "none"
    return escape(str(value))


def is_missing(value: object) -> bool:
    """Whether a metric could not be had."""
    return value is None or isinstance(value, float) and math.isnan(value)


def _key_table(section: Section, names: Iterable[str], companions: Mapping[str, str]) -> str:
    rows = []
    for name in names:
        others = (_with_interval(section, form.format(name)) for form in companions)
        rows.append([_explained(name, reading(name)), _with_interval(section, name), *others])
    intervals = any(is_end(name, section) for name in section)
    value = "value, 95% interval" if intervals else "value"
    return table(["", value, *companions.values()], rows)


def _companions(section: Section, names: Iterable[str]) -> dict[str, str]:
    """Forms of the names of what stands beside a value -> header of the column."""
    forms = dict(COMPANIONS)
    for number in sorted({m[1] for name in section if (m := re.match(r"pca(\d+)_", name))}):
        forms[f"pca{number}_{{}}"] = f"PCA-{number}"
    return {
        form: header
        for form, header in forms.items()
        if any(form.format(name) in section for name in names)
    }


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


def _grid_table(section: Section, grid: Grid, rows: Cells) -> str:
    columns = list(dict.fromkeys(column for found in rows.values() for column in found))
    cells = []
    for row, found in rows.items():
        first = next(iter(found.values()))
        label = escape(row)
        if row in FEATURES:
            label = escape(f"{feature_title(row)} ({FEATURES[row].unit})")
        elif grid.shown:
            label = _explained(row, reading(row) or reading(first))
        if not_recovered(section, first):
            label = f'<span class="short">{label}: not recovered</span>'
        cells.append([label, *(_with_interval(section, found.get(name, "")) for name in columns)])
    said = [] if grid.shown or grid.caption else [_said_of(column, rows) for column in columns]
    return table(["", *columns], cells, " ".join(text for text in (grid.caption, *said) if text))


def _said_of(column: str, rows: Cells) -> str:
    """The sentence of a column that holds one metric by lead, segment or dimension."""
    name = next(found[column] for found in rows.values() if column in found)
    text = reading(column) or reading(name)
    return f"{column}: {text}" if text else ""


def _explained(name: str, text: str) -> str:
    return f'{escape(name)}<br><span class="reading">{escape(text)}</span>'


def _with_interval(section: Section, name: str) -> str:
    """The cell of a metric: its value, and its 95% interval below; empty without such a metric."""
    if name not in section:
        return ""
    low, high = (section.get(f"{name}{end}") for end in ENDS)
    value = cell(section[name])
    if low is None or high is None:
        return value
    return f'{value}<br><span class="interval">{cell(low)} to {cell(high)}</span>'
