"""A page about a folder of recordings, for people who look at their data before they train.

It holds counts, distributions, some beats, and lists of what was left out; recordings go by their
pseudonyms, unless names were kept.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from data.cohort import IDS, Cohort
from data.readers.twins import COPY
from evaluation.figures.distributions import plot_distribution
from evaluation.figures.ecg import DPI, plot_ecg
from evaluation.report.page import PAGES, Picture, Section
from evaluation.report.tables import Cell, Row, Table
from training.run_folder import write_text

BEATS = 12  # that are drawn
LISTED = 500  # rows of a table
# What is shown of the quality of the beats; other columns are shown if they are conditions.
SHOWN = ("heart_rate", "beats_used", "beat_noise_uv")
NOT_SHOWN = (*IDS, "recorded", "accession", "dx", "format", "beats_found", "beat_correlation")


def write_page(
    file: Path, cohort: Cohort, conflicts: pd.DataFrame, units: Mapping[str, str], seed: int = 0
) -> None:
    """Writes the page, whole or not at all.

    Args:
        file: where to.
        cohort: what can be used, and in `excluded` what cannot.
        conflicts: where files and table contradict each other.
        units: column -> unit, where it has one.
        seed: of the choice of beats.
    """
    subjects = cohort.subjects
    alone = subjects["patient_id"].nunique()
    looked_at = "files" if cohort.source == "recordings" else "recordings"  # some are no recording
    about = (
        f"{len(cohort)} of {len(cohort) + len(cohort.excluded)} {looked_at} can be used, of "
        f"{alone} patients; {cohort.source}, {datetime.now():%d %B %Y, %H:%M}."
    )
    sections = [
        Section("files", _counts(cohort)),
        Section(
            "conditions and heart rate", [_summary(subjects, units)], _histograms(subjects, units)
        ),
        Section("beats", [], _beats(cohort, seed)),
        Section("duplicates", _duplicates(cohort)),
        Section("conflicts", _conflicts(conflicts)),
        Section("left out", [_table("", cohort.excluded)]),
    ]
    page = PAGES.get_template("recordings.html").render(
        about=about, findings={}, sections=[one for one in sections if one.tables or one.figures]
    )
    write_text(file, page)


def _counts(cohort: Cohort) -> list[Table]:
    """Recordings by format, and those left out by reason."""
    excluded = _excluded(cohort)
    tables = []
    if "format" in cohort.subjects:
        used = cohort.subjects["format"].value_counts()
        # Files that give no beat have their format as their detail.
        lost = excluded["detail"][~excluded["reason"].str.startswith(COPY)].value_counts()
        names = dict.fromkeys([*used.index, *(name for name in lost.index if name)])
        rows = [
            Row(name, [Cell(int(used.get(name, 0))), Cell(int(lost.get(name, 0)))])
            for name in names
        ]
        tables.append(Table(["format", "used", "unusable"], rows, title="By format"))
    reasons = excluded["reason"].value_counts()
    rows = [Row(reason, [Cell(int(count))]) for reason, count in reasons.items()]
    return [*tables, *([Table(["reason", "recordings"], rows, title="Left out")] if rows else [])]


def _excluded(cohort: Cohort) -> pd.DataFrame:
    """With the details that some sources do not have."""
    return cohort.excluded.reindex(columns=["subject_id", "reason", "detail"]).fillna("")


def _shown(subjects: pd.DataFrame) -> list[str]:
    columns = [name for name in subjects if name not in (*NOT_SHOWN, *SHOWN)]
    many = [
        name
        for name in columns
        if subjects[name].notna().any()
        and (pd.api.types.is_numeric_dtype(subjects[name]) or subjects[name].nunique() <= 12)
    ]
    return [*many, *(name for name in SHOWN if name in subjects and subjects[name].notna().any())]


def _summary(subjects: pd.DataFrame, units: Mapping[str, str]) -> Table:
    rows = []
    for name in _shown(subjects):
        known = subjects[name].dropna()
        cells = [len(known), units.get(name, "")]
        if pd.api.types.is_numeric_dtype(known):
            known = known.astype(float)
            cells += [known.min(), *known.quantile([0.25, 0.5, 0.75]), known.max()]
        else:
            counts = known.value_counts().head(4)
            cells += [", ".join(f"{value}: {count}" for value, count in counts.items()), *[""] * 4]
        rows.append(Row(name, [Cell(cell) for cell in cells]))
    header = ["column", "known", "unit", "least", "lower quartile", "median"]
    header += ["upper quartile", "most"]
    return Table(header, rows)


def _histograms(subjects: pd.DataFrame, units: Mapping[str, str]) -> list[Picture]:
    return [
        _picture(name, None, plot_distribution(subjects[name], name, units.get(name, "")))
        for name in _shown(subjects)
    ]


def _beats(cohort: Cohort, seed: int) -> list[Picture]:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(cohort), min(BEATS, len(cohort)), replace=False))
    pictures = []
    for row in rows.tolist():
        one = cohort.subjects.iloc[row]
        age = "age unknown" if pd.isna(one.get("age")) else f"{one['age']:g} years"
        sex, rate = one.get("sex"), one.get("heart_rate")
        title = f"{age}, {'sex unknown' if pd.isna(sex) else sex}"
        title += "" if pd.isna(rate) else f", {rate:.0f} per minute"
        ecg = np.asarray(cohort.ecg[row])
        recorded = {"leads": cohort.leads, "sampling_rate": cohort.sampling_rate}
        figure = plot_ecg(ecg, title=title, **recorded, unit=cohort.unit)
        pictures.append(_picture(str(one["subject_id"]), "", figure, DPI // 2))
    return pictures


def _duplicates(cohort: Cohort) -> list[Table]:
    excluded = _excluded(cohort)
    copies = excluded[excluded["reason"].str.startswith(COPY)][["subject_id", "detail"]]
    copies.columns = ["left out", "is a copy of"]
    equal = cohort.equal_recordings()[["subject_id", "patient_id", "equal_to", "its_patient"]]
    tables = [("Copies of a recording", copies), ("Equal ECGs, one patient to a split", equal)]
    return [_table(title, table) for title, table in tables if len(table)]


def _conflicts(conflicts: pd.DataFrame) -> list[Table]:
    return [_table("Files against the table, which is taken", conflicts)] if len(conflicts) else []


def _table(title: str, table: pd.DataFrame) -> Table:
    """A table of a frame, its first column as row names."""
    first, *others = list(table)
    rows = [
        Row(str(one[0]), [Cell(value) for value in one[1:]])
        for one in table.head(LISTED).itertuples(index=False)
    ]
    more = len(table) - LISTED
    return Table([first, *others], rows, f"and {more} more" if more > 0 else "", title)


def _picture(name: str, caption: str | None, figure: Figure, dpi: int = 90) -> Picture:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return Picture(name, caption, base64.b64encode(content.getvalue()).decode("ascii"))
