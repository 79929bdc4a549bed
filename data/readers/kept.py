"""Median beats that were prepared before, recording by recording, so that none is read twice.

While a preparation is under way its beats lie in shards; when it is finished they are the ECGs of
its folder, and `recordings.npz` there says which recording each of them is of. A later preparation
by the same reader takes from both what it needs, whatever has become of the table of subjects.

Dims: R recordings of a part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from data.cohort import LEADS, SAMPLES, CohortError
from data.rows import Rows, stored

INDEX = "recordings.npz"
QUALITY = ("beats_used", "beats_found", "beat_correlation", "beat_noise_uv", "heart_rate")
UNREADABLE = "unreadable"
LATEST = 4  # folders in which is looked: what they hold is kept in memory, but for the ECGs


class Outcome(NamedTuple):
    """What became of a recording.

    Attributes:
        ecg: its beat, (12, 400) in mV; None if it gave none.
        quality: as `QUALITY`; NaN without a beat.
        reason: why it gave no beat, or "".
        detail: what else is known of that.
        facts: what the recording says of its subject, plain values by column.
    """

    ecg: np.ndarray | None
    quality: tuple[float, ...] = (np.nan,) * len(QUALITY)
    reason: str = ""
    detail: str = ""
    facts: Mapping[str, object] | None = None


class Part:
    """Outcomes of R recordings on disk; the ECGs are read when they are asked for.

    Attributes:
        keys: of the recordings.
        rows: (R,) row of each beat among the ECGs; -1 without a beat.
        quality: (R, 5).
        texts: reason, detail and facts of each.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        keys, self.rows, self.quality, texts, reader = _load(
            file, "keys", "rows", "quality", "texts", "reader"
        )
        self.keys, self.reader = keys.tolist(), str(reader)
        self.texts = json.loads(texts.tobytes())

    @property
    def finished(self) -> bool:
        """Whether it is a prepared folder."""
        return self.file.name == INDEX

    def unreadable(self) -> list[str]:
        """Keys of recordings that could not be read."""
        pairs = zip(self.keys, self.texts, strict=True)
        return [key for key, (reason, *_) in pairs if reason.startswith(UNREADABLE)]

    def ecg(self) -> np.ndarray | Rows:
        """(beats, 12, 400)."""
        if self.finished:
            with _named(self.file.parent):
                whole = np.load(self.file.parent / "ecg.npy", mmap_mode="r", allow_pickle=False)
            return stored(whole)  # a map would keep in memory what is read of it
        return _load(self.file, "ecg")[0]


class Kept:
    """All that is there of one reader.

    Args:
        parts: later ones win.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        self._place = {
            key: (number, position)
            for number, part in enumerate(self._parts)
            for position, key in enumerate(part.keys)
            # What could not be read may be mended by now.
            if not (part.finished and part.texts[position][0].startswith(UNREADABLE))
        }

    def __contains__(self, key: str) -> bool:
        return key in self._place

    def outcome(self, key: str) -> Outcome:
        """What became of a recording, without its beat."""
        part, position = self._part(key)
        return Outcome(None, tuple(part.quality[position]), *part.texts[position])

    def has_beat(self, key: str) -> bool:
        """Whether a recording gave one."""
        part, position = self._part(key)
        return bool(part.rows[position] >= 0)

    def beats(self, keys: Sequence[str]) -> Iterator[np.ndarray]:
        """Beats of recordings that gave one, in this order, (beats, 12, 400) at a time."""
        for number, run in groupby(keys, lambda key: self._place[key][0]):
            ecg, part = self._parts[number].ecg(), self._parts[number]
            rows = [int(part.rows[self._place[key][1]]) for key in run]
            for start in range(0, len(rows), 1024):
                yield ecg[rows[start : start + 1024]]

    def _part(self, key: str) -> tuple[Part, int]:
        number, position = self._place[key]
        return self._parts[number], position


def finished_parts(cache: Path, slug: str, reader: str) -> list[Part]:
    """The latest prepared folders of a reader, the oldest first."""
    files = sorted(cache.glob(f"{slug}-*/{INDEX}"), key=lambda file: -file.stat().st_mtime_ns)
    complete = (file for file in files if (file.parent / "cohort.json").is_file())
    same = (part for part in map(Part, complete) if part.reader == reader)
    return list(islice(same, LATEST))[::-1]


def unfinished_parts(folder: Path) -> list[Part]:
    """Shards of preparations that were interrupted."""
    return [Part(file) for file in sorted(folder.glob("*.npz"))]


def write_shard(file: Path, reader: str, keys: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """Writes a shard in one piece: it is there whole, or not at all."""
    beats = [outcome.ecg for outcome in outcomes if outcome.ecg is not None]
    ecg = np.stack(beats) if beats else np.empty((0, len(LEADS), SAMPLES))
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with partial.open("wb") as opened:
        np.savez(opened, ecg=ecg.astype(np.float32), **_table(reader, keys, outcomes))
    partial.replace(file)


def write_index(
    folder: Path, reader: str, keys: Sequence[str], outcomes: Sequence[Outcome], beats: np.ndarray
) -> None:
    """Writes which recordings the ECGs of a folder are of.

    Args:
        folder: prepared or about to be.
        reader: what made its beats.
        keys: of all recordings.
        outcomes: of them.
        beats: (R,) whether each gave a beat; they are the rows of `ecg.npy`, in order.
    """
    partial = folder / f"{INDEX}.{os.getpid()}.partial"
    table = _table(reader, keys, outcomes)
    with partial.open("wb") as opened:
        np.savez(opened, **table | {"rows": np.where(beats, np.cumsum(beats) - 1, -1)})
    partial.replace(folder / INDEX)


def _table(reader: str, keys: Sequence[str], outcomes: Sequence[Outcome]) -> dict[str, np.ndarray]:
    beats = np.array([outcome.ecg is not None for outcome in outcomes], dtype=bool)
    # As one text: in an array of texts the longest sets the size of each.
    texts = [(outcome.reason, outcome.detail, outcome.facts) for outcome in outcomes]
    return {
        "reader": np.array(reader),
        "keys": np.array(keys, dtype=str),
        "rows": np.where(beats, np.cumsum(beats) - 1, -1).astype(np.int64),
        "quality": np.array([outcome.quality for outcome in outcomes], np.float64).reshape(
            -1, len(QUALITY)
        ),
        "texts": np.frombuffer(json.dumps(texts, allow_nan=False).encode(), np.uint8),
    }


def _load(file: Path, *names: str) -> list[np.ndarray]:
    with _named(file), file.open("rb") as opened:
        with np.load(opened, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]


@contextmanager
def _named(place: Path) -> Iterator[None]:
    """Says of what is damaged where it lies."""
    try:
        yield
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise CohortError(f"{place} is damaged ({error}). Delete it and try again.") from error
