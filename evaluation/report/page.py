"""One self-contained page about a run, for a reader who was not there.

The page is the sum of `SECTIONS`, each a function from a run to HTML ("" where the run has nothing
of it). What it says lies beside: `reading.py` has the sentences and captions, `findings.py` the
summary, `tables.py` the tables. Metrics and figures that those do not know are shown all the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from evaluation.figures.ecg import save
from evaluation.report.findings import FINDINGS, Finding
from evaluation.report.reading import (
    FIGURES,
    ORDER,
)
from evaluation.report.tables import cell, grid_tables, is_missing, key_tables, table
from training.run_folder import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1040px; margin: auto;
       padding: 0 1rem 3rem; }
h1 { line-height: 1.2; margin-bottom: 0; }
h2 { border-bottom: 2px solid #0072b2; margin-top: 2em; }
h3 { margin: 1.2em 0 0.3em; }
nav a { margin-right: 1em; color: #0072b2; white-space: nowrap; }
.about, figcaption, caption, .reading, .interval { color: #555; font-size: 0.875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; }
caption { text-align: left; }
th, td { text-align: left; padding: 0.25em 1.25em 0.25em 0; border-bottom: 1px solid #ddd;
         vertical-align: top; font-variant-numeric: tabular-nums; }
th { font-weight: 600; }
.reading { font-weight: normal; }
.interval { white-space: nowrap; }
details { margin: 0.4em 0; }
summary { cursor: pointer; font-weight: 600; color: #0072b2; }
details table { font-size: 0.875rem; min-width: 60%; }
figure { margin: 1em 0 2em; }
img { max-width: 100%; height: auto; }
.short { color: #8a3500; }
@media print { body { font-size: 10pt; } .scroll { overflow: visible; } nav { display: none; }
               details::details-content { content-visibility: visible; block-size: auto; }
               figure, tr, li { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""

MOST = 12  # sentences in the summary
FEWEST_GOOD = 3  # of them on what works, however much falls short


@dataclass
class Run:
    """What a run folder holds; empty where a file is missing."""

    name: str
    finished: datetime | None
    config: dict
    environment: dict
    metrics: dict[str, dict]
    history: pd.DataFrame
    figures: list[Path]

    @property
    def known(self) -> dict[str, dict]:
        """The metrics without those that came out as NaN or null."""
        return {
            name: {key: value for key, value in section.items() if not is_missing(value)}
            for name, section in self.metrics.items()
        }


def write_report(folder: str | Path) -> Path:
    """Writes `report.html` from the files of a run folder.

    Reads `config.json`, `environment.json`, `metrics.json`, `history.csv` and `figures/*.png`, as
    far as they are there. The page embeds its images and refers to nothing outside itself.

    Args:
        folder: of the run.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: the folder holds nothing to report.
        ValueError: a file cannot be read; the message names it.
    """
    folder = Path(folder)
    run = _read(folder)
    body = "\n".join(section(run) for section in SECTIONS)
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Run {escape(run.name)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
    path = folder / "report.html"
    partial = folder / "report.html.partial"
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)  # a reader never sees half a page
    return path


def _read(folder: Path) -> Run:
    metrics, history = folder / "metrics.json", folder / "history.csv"
    figures = sorted((folder / "figures").glob("*.png"))
    if not (metrics.is_file() or history.is_file() or figures):
        raise FileNotFoundError(
            f"{folder} holds neither metrics.json nor history.csv nor figures/*.png: is it the "
            "folder of a run?"
        )
    finished = datetime.fromtimestamp(metrics.stat().st_mtime) if metrics.is_file() else None
    try:
        epochs = pd.read_csv(history) if history.is_file() else pd.DataFrame()
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{history} is no table of epochs ({error}).") from error
    sections = {
        name: section if isinstance(section, dict) else {name: section}
        for name, section in _json(metrics).items()
    }
    config, environment = (_json(folder / f"{name}.json") for name in ("config", "environment"))
    return Run(folder.resolve().name, finished, config, environment, sections, epochs, figures)


def _json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected {path} to hold named sections. Received: {type(content)}.")
    return content


# ---- the page ------------------------------------------------------------------------------------


def _heading(run: Run) -> str:
    training = run.known.get("training", {})
    about = [
        "A conditional variational autoencoder for 12-lead ECGs",
        f"finished {run.finished:%d %B %Y, %H:%M}" if run.finished else "",
        f"training took {_duration(training['seconds'])}" if "seconds" in training else "",
        f"on {training['device']}" if "device" in training else "",
    ]
    return (
        f"<h1>Run {escape(run.name)}</h1>\n"
        f'<p class="about">{escape(", ".join(part for part in about if part))}.</p>'
    )


def _summary(run: Run) -> str:
    findings = [finding for find in FINDINGS for finding in find(run.known)]
    if not findings:
        return ""
    bad = [finding for finding in findings if finding.short][: MOST - FEWEST_GOOD]
    good = [finding for finding in findings if not finding.short][: MOST - len(bad)]
    return (
        "<h2>In short</h2>\n"
        + _sentences("What works", good)
        + _sentences("Where it falls short", bad, ' class="short"')
    )


def _sentences(title: str, findings: list[Finding], mark: str = "") -> str:
    if not findings:
        return ""
    listed = "".join(f"<li{mark}>{escape(finding.text)}</li>" for finding in findings)
    return f"<h3>{title}</h3>\n<ul>{listed}</ul>\n"


def _contents(run: Run) -> str:
    """Links to the sections that the page has."""
    extra = {"configuration": run.config, "environment": run.environment}
    names = [*_names(run), *(name for name, content in extra.items() if content)]
    links = [f'<a href="#{_anchor(name)}">{escape(_title(name))}</a>' for name in names]
    return f"<nav>{' '.join(links)}</nav>" if len(links) > 1 else ""


def _results(run: Run) -> str:
    return "\n".join(_section(run, name) for name in _names(run))


def _configuration(run: Run) -> str:
    if not run.config:
        return ""
    parts = [_h2("configuration")]
    whole = {name: fields for name, fields in run.config.items() if isinstance(fields, dict)}
    alone = {name: value for name, value in run.config.items() if name not in whole}
    for name, fields in {"": alone, **whole}.items():
        rows = [[escape(field), cell(value)] for field, value in fields.items()]
        content = table([name or "setting", "value"], rows) if rows else ""
        parts.append(_folded(name, content) if name else content)
    return "\n".join(parts)


def _environment(run: Run) -> str:
    if not run.environment:
        return ""
    rows = [[escape(name), cell(value)] for name, value in run.environment.items()]
    return _h2("environment") + table(["what it was made with", ""], rows)


SECTIONS = (_heading, _summary, _contents, _results, _configuration, _environment)


def _names(run: Run) -> list[str]:
    """The sections in order: known ones, unknown ones, and figures that belong to none."""
    there = [name for name, section in run.metrics.items() if section]
    there += [_place(path)[0] for path in run.figures]
    there += [] if run.history.empty else ["training"]
    other = [name for name in dict.fromkeys(there) if name not in (*ORDER, "other figures")]
    return [name for name in (*ORDER, *other, "other figures") if name in there]


def _section(run: Run, name: str) -> str:
    """Heading, key figures, pictures and unfolding tables of one section."""
    metrics = run.metrics.get(name, {})
    return (
        f"{_h2(name)}\n"
        + key_tables(metrics)
        + grid_tables(metrics, shown=True)
        + (_last_epoch(run) if name == "training" else "")
        + _figures_of(run, name)
        + grid_tables(metrics, shown=False)
    )


def _last_epoch(run: Run) -> str:
    if run.history.empty:
        return ""
    last = run.history.iloc[-1].to_dict()
    rows = [
        [escape(name), cell(last.get(name)), cell(last.get(f"val_{name}"))]
        for name in dict.fromkeys(column.removeprefix("val_") for column in last)
    ]
    return _folded("The last epoch", table(["", "training", "validation"], rows))


def _figures_of(run: Run, section: str) -> str:
    order = list(FIGURES)
    chosen = [path for path in run.figures if _place(path)[0] == section]
    chosen.sort(key=lambda path: (order.index(start) if (start := _start(path)) else 0, path.stem))
    parts = []
    for path in chosen:
        name = path.stem.replace("_", " ")
        image = base64.b64encode(path.read_bytes()).decode("ascii")
        parts.append(
            f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{image}">'
            f"<figcaption><b>{escape(name)}</b> {escape(_place(path)[1])}</figcaption></figure>"
        )
    return "\n".join(parts)


def _start(path: Path) -> str | None:
    """The line of `FIGURES` that a figure belongs to."""
    return next((start for start in FIGURES if path.stem.startswith(start)), None)


def _place(path: Path) -> tuple[str, str]:
    """Section and caption of a figure."""
    return FIGURES.get(_start(path), ("other figures", ""))


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n{content}</details>\n"


def _h2(name: str) -> str:
    return f'<h2 id="{_anchor(name)}">{escape(_title(name))}</h2>'


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _anchor(name: str) -> str:
    """An id without spaces or markup."""
    return "section-" + "".join(letter if letter.isalnum() else "-" for letter in name)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def write_results(folder: Path, metrics: dict, figures: Mapping[str, Figure]) -> None:
    """Writes figures, `metrics.json` and, last, `report.html`: then a run is finished."""
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        save(figure, folder / "figures" / f"{name}.png")
    # NaN is no JSON: a number that cannot be had is null.
    plain = {
        section: {name: None if value != value else value for name, value in values.items()}
        for section, values in metrics.items()
    }
    write_text(folder / "metrics.json", json.dumps(plain, indent=2, allow_nan=False) + "\n")
    write_report(folder)
