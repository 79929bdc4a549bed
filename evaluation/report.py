"""One self-contained page about a run, for a reader who was not there.

The page is the sum of `SECTIONS`, each a function from a run to HTML ("" where the run has nothing
of it). To say more, add a function there, a line to `FIGURES` or `READING`, or a function to
`FINDINGS`. Metrics and figures without such a line are shown all the same.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from data.cohort import LEADS
from evaluation.reconstruction import SEGMENTS_MS

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1040px; margin: auto;
       padding: 0 1rem 3rem; }
h1 { line-height: 1.2; margin-bottom: 0; }
h2 { border-bottom: 2px solid #0072b2; margin-top: 2em; }
.about, figcaption, caption, .reading, .interval { color: #555; font-size: 0.875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5em 0 1.5em; }
caption { text-align: left; }
th, td { text-align: left; padding: 0.25em 1.25em 0.25em 0; border-bottom: 1px solid #ddd;
         vertical-align: top; font-variant-numeric: tabular-nums; }
.reading { font-weight: normal; }
.interval { white-space: nowrap; }
figure { margin: 1em 0 2em; }
img { max-width: 100%; height: auto; }
.short { color: #8a3500; }
@media print { body { font-size: 10pt; } .scroll { overflow: visible; }
               figure, tr, li { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""

# Start of a figure's name -> the section of the metrics that it belongs to, and its caption.
FIGURES = {
    "history": ("training", "Loss curves: training (solid) and validation (dashed)."),
    "reconstructions": (
        "reconstruction",
        "Test ECGs (black) and what the model gives back of them (vermilion), on ECG paper.",
    ),
    "error_by_lead": (
        "reconstruction",
        "Mean absolute error with 95% intervals, per lead and per segment of the beat.",
    ),
    "latent_kl": ("latent", "KL of each latent dimension; grey: a dimension that is not used."),
    "latent_traversal": (
        "latent",
        "What each dimension does: the beat as that dimension moves from -2 to +2 SD and the "
        "others stay at their average.",
    ),
    "sweep": (
        "adherence",
        "Generated beats as one condition changes and everything else is kept.",
    ),
}

# Name of a metric, as a pattern -> one sentence on how to read it. The first that fits counts.
READING = {
    r"mae_uv": "Mean absolute error of reconstructed test ECGs in µV; median beats carry 5-15 µV "
    "of noise themselves.",
    r"rmse_uv": "Root mean squared error in µV; larger than the MAE where a few samples, mostly in "
    "the QRS, are far off.",
    r"pearson_r": "Correlation of shape between real and reconstructed ECG; high for almost any "
    "beat, so small differences count.",
    r"mae_minus_pca_uv": "Error of the model minus that of a principal component analysis with as "
    "many components as the model has latent dimensions, fitted on the same training ECGs and "
    "judged on the same test ECGs; below 0 the model is better, clearly so if the whole interval "
    "is.",
    r"einthoven_residual": "Largest violation of the limb-lead equations, relative to the largest "
    "limb-lead amplitude; 0 for a possible ECG, about 1e-7 from rounding.",
    r"recordings|patients": "What the figures of this section rest on.",
    r"kl_total": "Information per ECG in the latent code, in nats; near 0 the code is empty.",
    r"kl_\d+": "Information in this dimension, in nats; below 0.1 it is not used.",
    r"mean_variance_\d+": "Spread of the posterior mean over subjects.",
    r"aggregate_(mean|sd)_\d+": "Of the codes of all subjects together; 0 and 1 if samples from "
    "the prior resemble them.",
    r"active_units": "Dimensions whose posterior mean varies over subjects by more than 0.01.",
    r"active_units_kl": "Those of them with more than 0.1 nat each: the dimensions in use.",
    r"noise_uv": "Noise of the decoder in µV: what the model takes to be no property of the ECG.",
    r"dimensions": "Latent dimensions of the model.",
    r"collapsed": "Whether fewer than half of the dimensions are in use.",
    r"probe_r2_.+": "Share of the variance of this condition that the latent code gives away; "
    "near 0 (or below) a change of the condition alone is a clean counterfactual.",
    r"probe_auc_.+": "How well the latent code tells the two values of this condition apart; "
    "near 0.5 a change of the condition alone is a clean counterfactual.",
    r"seconds": "Wall time.",
    r"ecgs_per_second": "Training throughput.",
}

FEW_PATIENTS = 100
ENDS = ("_low", "_high")


class Finding(NamedTuple):
    """A sentence for the summary, and whether the model falls short there."""

    text: str
    short: bool = False


@dataclass
class Run:
    """What a run folder holds; empty where a file is missing."""

    name: str
    finished: datetime | None
    config: dict
    metrics: dict[str, dict]
    history: pd.DataFrame
    figures: list[Path]

    @property
    def known(self) -> dict[str, dict]:
        """The metrics without those that came out as NaN or null."""
        return {
            name: {key: value for key, value in section.items() if not _is_missing(value)}
            for name, section in self.metrics.items()
        }


def write_report(folder: str | Path) -> Path:
    """Writes `report.html` from the files of a run folder.

    Reads `config.json`, `metrics.json`, `history.csv` and `figures/*.png`, as far as they are
    there. The page embeds its images and refers to nothing outside itself.

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
        table = pd.read_csv(history) if history.is_file() else pd.DataFrame()
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{history} is no table of epochs ({error}).") from error
    sections = {
        name: section if isinstance(section, dict) else {name: section}
        for name, section in _json(metrics).items()
    }
    config = _json(folder / "config.json")
    return Run(folder.resolve().name, finished, config, sections, table, figures)


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


# ---- what the numbers say ------------------------------------------------------------------------


def _against_pca(metrics: Mapping[str, dict]) -> Iterable[Finding]:
    m = metrics.get("reconstruction", {})
    name = next((key for key in m if re.fullmatch(r"pca\d+_mae_uv", key)), None)
    if name is None or not {"mae_uv", "mae_minus_pca_uv"} <= m.keys():
        return
    pca = name.removesuffix("_mae_uv").replace("pca", "PCA-")
    low, high = (m.get(f"mae_minus_pca_uv{end}", math.nan) for end in ENDS)
    numbers = (
        f"mean absolute error {m['mae_uv']:.1f} µV against {m[name]:.1f} µV, difference "
        f"{m['mae_minus_pca_uv']:+.1f} µV (95% interval {low:+.1f} to {high:+.1f})"
    )
    if high < 0:
        yield Finding(f"The model reconstructs test ECGs better than {pca}: {numbers}.")
    elif low > 0:
        yield Finding(f"The model reconstructs test ECGs worse than {pca}: {numbers}.", True)
    else:
        yield Finding(f"No clear difference between the model and {pca}: {numbers}.", True)
    worse = [
        part.upper() if part in SEGMENTS_MS else part
        for part in (*SEGMENTS_MS, *LEADS)
        if m.get(f"mae_uv_{part}", 0) > m.get(f"{name}_{part}", math.inf)
    ]
    if worse:
        yield Finding(f"The error is larger than that of {pca} in {', '.join(worse)}.", True)


def _against_mean_beat(metrics: Mapping[str, dict]) -> Iterable[Finding]:
    m = metrics.get("reconstruction", {})
    if not {"mae_uv", "mean_beat_mae_uv"} <= m.keys() or not m["mean_beat_mae_uv"] > 0:
        return
    share = m["mae_uv"] / m["mean_beat_mae_uv"]
    text = f"The error is {share:.0%} of that of giving everyone the mean beat."
    yield Finding(text, share > 0.9)
    for part in SEGMENTS_MS:
        baseline = m.get(f"mean_beat_mae_uv_{part}", 0)
        if share <= 0.9 and m.get(f"mae_uv_{part}", 0) > 0.9 * baseline > 0:
            yield Finding(
                f"In the {part.upper()} segment the model is hardly better than the mean beat: "
                "individual differences there are not captured.",
                True,
            )


def _latent_in_use(metrics: Mapping[str, dict]) -> Iterable[Finding]:
    m = metrics.get("latent", {})
    if not {"active_units_kl", "dimensions"} <= m.keys():
        return
    used, total = m["active_units_kl"], m["dimensions"]
    if m.get("collapsed"):
        yield Finding(
            f"The latent space has collapsed: {used} of {total} dimensions are in use, the decoder "
            "learns little or nothing of the ECG.",
            True,
        )
    elif used < total:
        yield Finding(f"{used} of {total} latent dimensions are in use.", True)
    else:
        yield Finding(f"All {total} latent dimensions are in use.")
    distant = [
        f"z{number}"
        for number in range(total)
        if abs(m.get(f"aggregate_mean_{number}", 0)) > 0.3
        or not 0.7 < m.get(f"aggregate_sd_{number}", 1) < 1.4
    ]
    if distant:
        yield Finding(
            "The codes of real subjects are not distributed as the standard normal prior in "
            f"{', '.join(distant)}: samples from that prior may be unlike real ECGs.",
            True,
        )


def _clean_conditions(metrics: Mapping[str, dict]) -> Iterable[Finding]:
    for key, value in metrics.get("latent", {}).items():
        match = re.fullmatch(r"probe_(r2|auc)_(.+)_low", key)
        if match and value > {"r2": 0.1, "auc": 0.6}[match[1]]:
            yield Finding(
                f"The latent code still tells {match[2]}: changing that condition alone is not a "
                "clean counterfactual.",
                True,
            )


def _possible_ecgs(metrics: Mapping[str, dict]) -> Iterable[Finding]:
    residual = metrics.get("reconstruction", {}).get("einthoven_residual")
    if residual is None:
        return
    if residual < 1e-4:
        yield Finding("The limb leads agree with each other as in a real recording.")
    else:
        yield Finding(
            f"The limb leads contradict each other (by up to {residual:.2g} of the largest).", True
        )


def _enough_patients(metrics: Mapping[str, dict]) -> Iterable[Finding]:
    patients = metrics.get("reconstruction", {}).get("patients", FEW_PATIENTS)
    if patients < FEW_PATIENTS:
        yield Finding(f"Only {patients} test patients: every figure here is rough.", True)


FINDINGS = (
    _against_pca,
    _against_mean_beat,
    _latent_in_use,
    _clean_conditions,
    _possible_ecgs,
    _enough_patients,
)


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
    parts = ["<h2>In short</h2>"]
    for short, title in ((False, "What works"), (True, "Where it falls short")):
        items = [escape(finding.text) for finding in findings if finding.short is short]
        if items:
            mark = ' class="short"' if short else ""
            listed = "".join(f"<li{mark}>{item}</li>" for item in items)
            parts.append(f"<h3>{title}</h3>\n<ul>{listed}</ul>")
    return "\n".join(parts)


def _data(run: Run) -> str:
    return _section(run, "data")


def _training(run: Run) -> str:
    if run.history.empty:
        return _section(run, "training")
    last = run.history.iloc[-1].to_dict()
    rows = [
        [escape(name), _cell(last.get(name)), _cell(last.get(f"val_{name}"))]
        for name in dict.fromkeys(column.removeprefix("val_") for column in last)
    ]
    table = _table(["", "training", "validation"], rows, "The last epoch")
    return _section(run, "training", table)


def _results(run: Run) -> str:
    done = ("data", "training")
    names = [name for name in run.metrics if name not in done]
    names += [section for section, _ in FIGURES.values() if section not in (*names, *done)]
    return "\n".join(_section(run, name) for name in dict.fromkeys(names))


def _other_figures(run: Run) -> str:
    return _section(run, "other figures")


def _configuration(run: Run) -> str:
    if not run.config:
        return ""
    parts = ["<h2>Configuration</h2>"]
    for name, fields in run.config.items():
        fields = fields if isinstance(fields, dict) else {name: fields}
        rows = [[escape(field), _cell(value)] for field, value in fields.items()]
        parts.append(_table([name, ""], rows))
    return "\n".join(parts)


SECTIONS = (_heading, _summary, _data, _training, _results, _other_figures, _configuration)


def _section(run: Run, name: str, extra: str = "") -> str:
    """Heading, metrics and figures of one section; "" if there are none."""
    content = _metric_tables(run.metrics.get(name, {})) + extra + _figures_of(run, name)
    if not content:
        return ""
    title = name.replace("_", " ")
    return f"<h2>{escape(title[:1].upper() + title[1:])}</h2>\n{content}"


def _metric_tables(section: Mapping[str, object]) -> str:
    """Tables of flat metrics: one row each, and those per lead, segment or dimension as grids."""
    companions = _companions(section)
    beside = {form.format(key) for key in section for form in companions.values()}
    grids: dict[str, dict[str, list[str]]] = {"lead": {}, "segment": {}, "dimension": {}}
    rows = []
    for key in section:
        base, _, part = key.rpartition("_")
        kind = _kind_of_part(base, part, section)
        if _is_end(key, section) or (key in beside and not kind):
            continue
        if kind:
            grids[kind].setdefault(base, []).append(part)
            continue
        name = f'{escape(key)}<br><span class="reading">{escape(_reading(key))}</span>'
        others = (_with_interval(section, form.format(key)) for form in companions.values())
        rows.append([name, _with_interval(section, key), *others])
    value = "value, 95% interval" if any(_is_end(key, section) for key in section) else "value"
    tables = [_table(["", value, *companions], rows)] if rows else []
    for kind, columns in grids.items():
        parts = dict.fromkeys(part for found in columns.values() for part in found)
        cells = [
            [escape(part), *(_with_interval(section, f"{base}_{part}") for base in columns)]
            for part in parts
        ]
        first = next(iter(parts), "")
        readings = {base: _reading(f"{base}_{first}") for base in columns}
        caption = " ".join(f"{base}: {text}" for base, text in readings.items() if text)
        tables += [_table([kind, *columns], cells, caption)] if cells else []
    return "\n".join(tables)


def _companions(section: Mapping[str, object]) -> dict[str, str]:
    """Columns beside the value: header -> form of the name under which the metrics hold it."""
    forms = {"real against real": "{}_null", "mean beat": "mean_beat_{}"}
    for number in sorted({m[1] for key in section if (m := re.match(r"pca(\d+)_", key))}):
        forms[f"PCA-{number}"] = f"pca{number}_{{}}"
    return {
        header: form
        for header, form in forms.items()
        if any(form.format(key) in section for key in section)
    }


def _is_end(key: str, section: Mapping[str, object]) -> bool:
    """Whether this is one end of another metric's interval."""
    return any(key.endswith(end) and key.removesuffix(end) in section for end in ENDS)


def _kind_of_part(base: str, part: str, section: Mapping[str, object]) -> str | None:
    if part in LEADS and base:
        return "lead"
    if part in SEGMENTS_MS and base in section:
        return "segment"
    if part.isdigit() and {f"{base}_0", f"{base}_1"} <= section.keys():
        return "dimension"
    return None


def _reading(name: str) -> str:
    return next((text for form, text in READING.items() if re.fullmatch(form, name)), "")


def _with_interval(section: Mapping[str, object], name: str) -> str:
    """The cell of a metric: its value, and its 95% interval below; empty without such a metric."""
    if name not in section:
        return ""
    low, high = (section.get(f"{name}{end}") for end in ENDS)
    value = _cell(section[name])
    if low is None or high is None:
        return value
    return f'{value}<br><span class="interval">{_cell(low)} to {_cell(high)}</span>'


def _figures_of(run: Run, section: str) -> str:
    parts = []
    for path in run.figures:
        known = (found for start, found in FIGURES.items() if path.stem.startswith(start))
        place, caption = next(known, ("other figures", ""))
        if place != section:
            continue
        name = path.stem.replace("_", " ")
        image = base64.b64encode(path.read_bytes()).decode("ascii")
        parts.append(
            f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{image}">'
            f"<figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption></figure>"
        )
    return "\n".join(parts)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], caption: str = "") -> str:
    """A table of cells that are HTML already; the header and caption are escaped here."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = []
    for first, *cells in rows:
        tail = "".join(f"<td>{cell}</td>" for cell in cells)
        body.append(f'<tr><th scope="row">{first}</th>{tail}</tr>')
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    rows_html = "\n".join(body)
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows_html}</tbody></table></div>\n"
    )


def _cell(value: object) -> str:
    """A value as escaped text: yes / no, four significant digits, lists and counts in words."""
    if _is_missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return "<br>".join(f"{escape(str(key))}: {_cell(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(each) for each in value) or "none"
    return escape(str(value))


def _is_missing(value: object) -> bool:
    return value is None or isinstance(value, float) and math.isnan(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
