"""How well `evaluation.measures.waves` agrees with people, and what residual noise does to it.

    python -m benchmarks.delineation /data/ludb
    python -m benchmarks.delineation /data/ludb --ptbxl /data/ptb-xl

LUDB (Kalyakulina et al. 2020, doi 10.1109/ACCESS.2020.3029211) has the bounds of P, QRS and T
marked by cardiologists in each lead of 200 strips of 10 s. The median beat of each strip is made
and measured as everywhere in this project. The marks go to it: the beat is found again in the
strip, times count from where it lies, and the median over its beats is taken in each of the 8
independent leads. From these come two references, "lead median" (the median over leads) and
"global" (the earliest onset and the latest end of any lead).

LUDB scales each lead to a span of 1 mV. The samples as stored, read as microvolts, fulfil
Einthoven's equation exactly and have usual voltages, so these are taken.

If neurokit2 is installed, its delineators are given the same beats: each lead of the beat is
repeated ten times at the record's heart rate, the median is taken over the repeats and then over
the 8 leads, and there is a P wave if half of the leads have one.

With --ptbxl: how much the features change if the residual noise of a median beat goes away (each
beat of the folds 1 to 8 beside its projection on principal components, lead by lead), and how much
if noise comes to these, or to simulated beats.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import tyro
import wfdb

from data.beats import Beat, BeatError, median_beat
from data.cohort import INDEPENDENT_LEADS, QRS_SAMPLE, derive_leads, independent_leads
from data.strips import Strip, clean
from data.synthetic import simulate
from evaluation.measures.features import measure

MS = 2.0  # between two samples
BOUNDS = ["p_onset", "p_offset", "qrs_onset", "qrs_offset", "t_offset"]
INTERVALS = {
    "p_duration": ("p_onset", "p_offset"),
    "pr_interval": ("p_onset", "qrs_onset"),
    "qrs_duration": ("qrs_onset", "qrs_offset"),
    "qt_interval": ("qrs_onset", "t_offset"),
}
# SD in ms that the CSE working party allows (Eur Heart J 1985;6:815-825).
TOLERANCES = dict(zip(BOUNDS, (10.2, 12.7, 6.5, 11.6, 30.6), strict=True))
SYMBOLS = {"p": "p", "qrs": "N", "t": "t"}
REACH = {"p": (-300, -40), "qrs": (-100, 100), "t": (60, 600)}  # ms of the peak from the QRS
HALF = 30  # samples on either side of the QRS centre by which a beat is recognised
ALIKE = 0.9  # correlation over these, or it is another beat
RHYTHMS = ("sinus", "AF", "other")
NOISE = 10.0  # uV, added to simulated beats


class Marked(NamedTuple):
    """A median beat with marks by hand.

    Attributes:
        beat: the beat and its quality.
        marks: (8, 5) ms from `QRS_SAMPLE`, the `BOUNDS` of each lead; NaN where not marked.
        p_share: share of the marked complexes, over leads and beats, that have a P wave before.
        rhythm: one of `RHYTHMS`.
    """

    beat: Beat
    marks: np.ndarray
    p_share: float
    rhythm: str


# ------------------------------------------------------------------------------ LUDB and its marks


def read_ludb(folder: Path) -> list[Marked]:
    table = pd.read_csv(folder / "ludb.csv").set_index("ID")
    numbers = sorted(int(file.stem) for file in (folder / "data").glob("*.hea"))
    marked = []
    for number in numbers:
        try:
            marked.append(read_record(folder / "data" / str(number), table["Rhythms"][number]))
        except BeatError as error:
            print(f"Record {number} left out: {error}")
    return marked


def read_record(path: Path, rhythm: str) -> Marked:
    record = wfdb.rdrecord(str(path), physical=False)
    rows = [record.sig_name.index(lead.lower()) for lead in INDEPENDENT_LEADS]
    strip = (record.d_signal[:, rows].T - np.array(record.baseline)[rows, None]) / 1000
    beat = median_beat(strip, record.fs, INDEPENDENT_LEADS)
    ecg = clean(Strip(strip, record.fs, INDEPENDENT_LEADS)).ecg
    centres = places_of(independent_leads(beat.ecg[None])[0], ecg)
    leads = [read_waves(path, lead) for lead in INDEPENDENT_LEADS]
    by_lead = [marks_of(waves, centres) for waves in leads]
    p_share = np.nanmean(np.concatenate(by_lead)[:, 0])
    with warnings.catch_warnings():  # a wave that no beat of this lead has
        warnings.simplefilter("ignore", RuntimeWarning)
        marks = np.stack([np.nanmedian(lead[:, 1:], axis=0) for lead in by_lead])
    kind = "sinus" if "inus" in rhythm else "AF" if "fibrillation" in rhythm else "other"
    return Marked(beat, marks, float(p_share), kind)


def read_waves(path: Path, lead: str) -> dict[str, np.ndarray]:
    """Of each kind of wave, (waves, 3) samples: onset, peak, end; NaN where not marked."""
    notes = wfdb.rdann(str(path), lead.lower())
    symbols, samples = [" ", *notes.symbol, " "], [np.nan, *notes.sample, np.nan]
    waves = {kind: [] for kind in SYMBOLS}
    for kind, symbol in SYMBOLS.items():
        for i in (i for i, found in enumerate(symbols) if found == symbol):
            onset = samples[i - 1] if symbols[i - 1] == "(" else np.nan
            end = samples[i + 1] if symbols[i + 1] == ")" else np.nan
            waves[kind].append((onset, samples[i], end))
    return {kind: np.array(found, float).reshape(-1, 3) for kind, found in waves.items()}


def places_of(beat: np.ndarray, strip: np.ndarray) -> np.ndarray:
    """Where in an (8, T) strip the QRS of an (8, 400) beat comes again, in samples."""
    template = beat[:, QRS_SAMPLE - HALF : QRS_SAMPLE + HALF].ravel()
    windows = np.lib.stride_tricks.sliding_window_view(strip, 2 * HALF, axis=1).swapaxes(0, 1)
    windows = windows.reshape(len(windows), -1)  # (T - 59, 480)
    length = np.linalg.norm(windows, axis=1) * np.linalg.norm(template)
    likeness = windows @ template / np.maximum(length, 1e-9)
    # The QRS of a lead off its baseline is no less alike: the filter has taken that out.
    best = pd.Series(likeness).rolling(125, center=True, min_periods=1).max().to_numpy()
    return np.flatnonzero((likeness == best) & (likeness > ALIKE)) + HALF


def marks_of(waves: dict[str, np.ndarray], centres: np.ndarray) -> np.ndarray:
    """(beats, 6): whether there is a P wave, then `BOUNDS`, ms from the centre; NaN if not marked.

    Args:
        waves: of one lead, as `read_waves` returns.
        centres: (beats,) samples.
    """
    rows = []
    for centre in centres:
        near = {kind: nearest(waves[kind], centre, *REACH[kind]) for kind in waves}
        has_p = float(not np.isnan(near["p"][1])) if not np.isnan(near["qrs"][1]) else np.nan
        rows.append([has_p, *near["p"][[0, 2]], *near["qrs"][[0, 2]], near["t"][2]])
    return np.array(rows, float).reshape(-1, 6)


def nearest(waves: np.ndarray, centre: float, start: float, end: float) -> np.ndarray:
    """(3,): ms from the centre of the wave whose peak lies nearest to it between two times."""
    times = (waves - centre) * MS
    times = times[(times[:, 1] >= start) & (times[:, 1] <= end)]
    return times[np.abs(times[:, 1]).argmin()] if len(times) else np.full(3, np.nan)


def references(marked: list[Marked]) -> dict[str, pd.DataFrame]:
    """Bounds of each record by each reference, ms from `QRS_SAMPLE`."""
    marks = np.stack([record.marks for record in marked])  # (records, 8, 5)
    onsets = np.array([name.endswith("onset") for name in BOUNDS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        by_name = {
            "lead median": np.nanmedian(marks, axis=1),
            "global": np.where(onsets, np.nanmin(marks, axis=1), np.nanmax(marks, axis=1)),
        }
    without = np.array([record.p_share <= 0.5 for record in marked])
    tables = {name: pd.DataFrame(values, columns=BOUNDS) for name, values in by_name.items()}
    for table in tables.values():
        table.loc[without, ["p_onset", "p_offset"]] = np.nan
    return {name: with_intervals(table) for name, table in tables.items()}


def with_intervals(bounds: pd.DataFrame) -> pd.DataFrame:
    return bounds.assign(
        **{n: bounds[end] - bounds[start] for n, (start, end) in INTERVALS.items()}
    )


# ------------------------------------------------------------------------------------- delineators


def by_this_project(marked: list[Marked]) -> pd.DataFrame:
    return measure(np.stack([record.beat.ecg for record in marked]))[[*BOUNDS, *INTERVALS]]


def by_neurokit(marked: list[Marked], method: str) -> pd.DataFrame:
    import neurokit2

    rows = []
    for record in marked:
        period = max(round(60_000 / record.beat.heart_rate / MS), 150)
        leads = independent_leads(record.beat.ecg[None])[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [neurokit_lead(neurokit2, lead, period, method) for lead in leads]
            row = np.nanmedian(found, axis=0)
        few = np.isnan(found).sum(axis=0) > len(found) / 2
        rows.append(np.where(few, np.nan, row))
    return with_intervals(pd.DataFrame(rows, columns=BOUNDS))


def neurokit_lead(neurokit2, lead: np.ndarray, period: int, method: str) -> np.ndarray:
    """(5,): `BOUNDS` of a lead (400,), repeated every `period` samples, ms from the QRS centre."""
    before = min(QRS_SAMPLE, round(0.4 * period))
    piece = lead[QRS_SAMPLE - before :][:period]
    # A line leads on to the next beat, or takes away the step between two.
    if len(piece) < period:
        piece = np.append(piece, np.linspace(piece[-1], piece[0], period - len(piece) + 2)[1:-1])
    else:
        piece = piece - np.linspace(0, piece[-1] - piece[0], period)
    qrs = slice(max(before - 25, 0), before + 25)
    peak = qrs.start + int(np.abs(piece[qrs]).argmax())
    peaks = peak + period * np.arange(10)
    try:
        _, found = neurokit2.ecg_delineate(
            np.tile(piece, 10).astype(float), peaks, sampling_rate=500, method=method
        )
    except (ValueError, IndexError, KeyError, ZeroDivisionError, TypeError):
        return np.full(5, np.nan)  # it gives up on some leads
    names = ("P_Onsets", "P_Offsets", "R_Onsets", "R_Offsets", "T_Offsets")
    times = []
    for name in names:
        values = np.asarray(found.get(f"ECG_{name}", []), float)
        values = values[np.isfinite(values)]
        late = values[:, None] - before - period * np.arange(10)
        window = {"P": (-400, 0), "R": (-100, 150), "T": (50, 800)}[name[0]]
        late = late[(late * MS > window[0]) & (late * MS < window[1])]
        times.append(np.median(late) * MS if len(late) >= 4 else np.nan)
    return np.array(times)


# ------------------------------------------------------------------------------------------ tables


def agreement(found: pd.DataFrame, reference: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Bias and SD in ms of each bound and interval."""
    error = found - reference
    return {name: (error[name].mean(), error[name].std()) for name in error}


def detection(found: pd.DataFrame, has_p: np.ndarray) -> str:
    seen = found["p_onset"].notna().to_numpy()
    return f"{(seen & has_p).sum()} of {has_p.sum()}, {(seen & ~has_p).sum()} of {(~has_p).sum()}"


def table_of(rows: dict[str, pd.DataFrame], marked: list[Marked]) -> str:
    """Markdown."""
    names = [*BOUNDS, *INTERVALS]
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("| --- |" + " --- |" * len(names))
    for reference, truth in references(marked).items():
        for row, found in rows.items():
            cells = [
                "" if np.isnan(sd) else f"{bias:+.1f} ± {sd:.1f}"
                for bias, sd in agreement(found[names], truth[names]).values()
            ]
            lines.append(f"| {row}, {reference} | " + " | ".join(cells) + " |")
    limits = [f"± {TOLERANCES[name]}" if name in TOLERANCES else "" for name in names]
    lines.append("| CSE tolerance | " + " | ".join(limits) + " |")
    return "\n".join(lines)


def p_table(rows: dict[str, pd.DataFrame], marked: list[Marked]) -> str:
    """Markdown: P waves found, of the records with one and of those without, by rhythm."""
    rhythm = np.array([record.rhythm for record in marked])
    has_p = np.array([record.p_share > 0.5 for record in marked])
    groups = {"all": np.full(len(marked), True), **{name: rhythm == name for name in RHYTHMS}}
    lines = ["| P found, with and without | " + " | ".join(groups) + " |"]
    lines.append("| --- |" + " --- |" * len(groups))
    for row, found in rows.items():
        cells = [detection(found[group], has_p[group]) for group in groups.values()]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------- noise


def without_noise(ecg: np.ndarray, components: int) -> np.ndarray:
    """(N, 12, 400): each lead of the beats as its own principal components have it."""
    leads = independent_leads(ecg).swapaxes(0, 1).astype(np.float64)  # (8, N, 400)
    mean = leads.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh((leads - mean).swapaxes(1, 2) @ (leads - mean))
    kept = vectors[:, :, -components:]
    smooth = mean + (leads - mean) @ kept @ kept.swapaxes(1, 2)
    return derive_leads(smooth.swapaxes(0, 1)).astype(np.float32)


def noise_table(noisy: np.ndarray, smooth: np.ndarray) -> str:
    """Markdown: level and spread of both, difference of each beat, noisy minus smooth."""
    a, b = measure(noisy), measure(smooth)
    lines = ["| | with noise | without | difference | missing with noise | missing without |"]
    lines.append("| --- |" + " --- |" * 5)
    for name in [*INTERVALS, *BOUNDS]:
        both = (a[name] - b[name]).dropna()
        lines.append(
            f"| {name.replace('_', ' ')} | {a[name].mean():.1f} ± {a[name].std():.1f} "
            f"| {b[name].mean():.1f} ± {b[name].std():.1f} | {both.mean():+.1f} ± {both.std():.1f} "
            f"| {a[name].isna().mean():.1%} | {b[name].isna().mean():.1%} |"
        )
    return "\n".join(lines)


def with_noise(ecg: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N, 12, 400): with white noise of `NOISE` uV in each of the 8 independent leads."""
    white = np.random.default_rng(seed).standard_normal((len(ecg), 8, ecg.shape[2]))
    return ecg + derive_leads(NOISE / 1000 * white).astype(np.float32)


def report_noise(ptbxl: Path, cache: Path, components: int) -> None:
    from data.readers.ptbxl import load_ptbxl

    cohort = load_ptbxl(ptbxl, cache=cache)
    ecg = np.array(cohort.ecg[np.flatnonzero(cohort.subjects["fold"] <= 8)])
    smooth = without_noise(ecg, components)
    residual = 1000 * np.sqrt(np.mean((ecg - smooth) ** 2))
    print(
        f"\n{len(ecg)} beats of PTB-XL, and projected on {components} components per lead, ", end=""
    )
    print(f"which takes {residual:.1f} uV away\n")
    print(noise_table(ecg, smooth))
    print(f"\nThe projected beats with white noise of {NOISE:g} uV, and without\n")
    print(noise_table(with_noise(smooth), smooth))
    simulated = without_noise(simulate(1000).ecg, components)
    print(f"\nSimulated beats, projected likewise, with white noise of {NOISE:g} uV, and without\n")
    print(noise_table(with_noise(simulated), simulated))


def main(
    ludb: tyro.conf.Positional[Path],
    ptbxl: Path | None = None,
    cache: Path = Path("cache"),
    components: int = 50,
) -> None:
    """Measures and prints.

    Args:
        ludb: folder of LUDB, with ludb.csv and data/.
        ptbxl: folder of PTB-XL.
        cache: where its median beats are kept.
        components: of each lead, that keep the waves and leave most of the noise.
    """
    marked = read_ludb(ludb)
    rows = {"this": by_this_project(marked)}
    if importlib.util.find_spec("neurokit2"):
        for method in ("dwt", "cwt", "peak"):
            rows[f"neurokit2 {method}"] = by_neurokit(marked, method)
    else:
        print("neurokit2 is not installed: its rows are left out.")
    print(f"{len(marked)} records. Measured minus marked: bias ± SD, ms\n")
    print(table_of(rows, marked))
    print()
    print(p_table(rows, marked))
    if ptbxl:
        report_noise(ptbxl, cache, components)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
