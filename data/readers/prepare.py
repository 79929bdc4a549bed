"""Prepares a cohort from recordings: in parallel, with progress, resumable, and only once.

Each reader of a source hands over a table of subjects, one record per row (a file name, a number,
whatever its `read` function understands), and `read`. Records are worked through in shards; each
shard is written whole as it finishes, so the same command after an interruption of any kind goes
on where it stopped. The finished shards become one prepared folder, which `Cohort.open` maps into
memory. Its name carries a fingerprint of all that determines the result: other settings give
another folder, never a stale one. A change inside the recordings themselves is not noticed: delete
the folder then.

This module and the readers import no TensorFlow: worker processes start afresh ("spawn"; a fork of
a process that has TensorFlow running may hang) and import only what is named here.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.beats import Beat, BeatError, Strip, median_beat
from data.cohort import FORMAT_VERSION, LEADS, SAMPLES, Cohort, CohortError
from data.ownership import owned
from data.rows import write_array

BEATS_VERSION = 2  # raise it when the same strip gives another beat than before
RECORDS_PER_WORKER = 500  # a worker takes a second to start; with less work it is not worth it
SHARD_SIZE = 64  # records; a third of a second of work, 1.2 MB
QUALITY = ("beats_used", "beats_found", "beat_correlation", "beat_noise_uv", "heart_rate")


Read = Callable[[Any], Strip | Beat]


def prepare(
    subjects: pd.DataFrame,
    records: Sequence[Any],
    read: Read,
    cache: str | Path,
    source: str,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    shard_size: int = SHARD_SIZE,
    progress: bool | None = None,
) -> Cohort:
    """Turns recordings into a cohort of median beats, or opens it if it was prepared before.

    Args:
        subjects: N rows with a unique `subject_id`, as `Cohort.subjects`. The columns `QUALITY` of
            each beat are added.
        records: N records, in the order of `subjects`, each picklable and with a `repr` that tells
            it from others.
        read: record -> `Strip`, or a `Beat` where the source stores median beats. A function at the
            top level of a module, or a small frozen dataclass, so that workers can import it. It
            raises `BeatError` with a short reason for a record it refuses; any other exception
            counts as unreadable. Either way the record goes into `Cohort.excluded`.
        cache: folder under which prepared cohorts are kept.
        source: short name of the source, e.g. "PTB-XL 500 Hz": in the folder name and the cohort.
        settings: further plain values that determine the result, such as the path.
        workers: processes; 1 is this one alone, None one per CPU core and 500 records at most.
        shard_size: records per shard.
        progress: show a progress bar on stderr; None shows it on a terminal only.

    Returns:
        The cohort, in the order of `subjects`, less the records that gave no beat.

    Raises:
        CohortError: ids are missing or stand twice, no record gave a beat, or a worker died.
    """
    subjects = _with_checked_ids(subjects, records)
    fingerprint = _fingerprint(subjects, records, source, settings or {}, shard_size)
    slug = "".join(c if c.isalnum() else "-" for c in source.lower()).strip("-")
    folder = Path(cache) / f"{slug}-{fingerprint[:12]}"
    if not (folder / "cohort.json").is_file():
        with owned(folder, wait=True):
            if not (folder / "cohort.json").is_file():  # by the one who was waited for
                _prepare(subjects, records, read, folder, source, workers, shard_size, progress)
    shutil.rmtree(folder / "shards", ignore_errors=True)
    return Cohort.open(folder)


def _prepare(
    subjects: pd.DataFrame,
    records: Sequence[Any],
    read: Read,
    folder: Path,
    source: str,
    workers: int | None,
    shard_size: int,
    progress: bool | None,
) -> None:
    shards = _shards(records, folder / "shards", shard_size)
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        _run(shards, read, workers, progress, source)
        _assemble(shards, subjects, folder, source)
    except OSError as error:
        raise CohortError(
            f"The prepared cohort cannot be written to {folder}: {error}. Free space, or "
            "choose another cache folder; the same command goes on where it stopped."
        ) from error


def _with_checked_ids(subjects: pd.DataFrame, records: Sequence[Any]) -> pd.DataFrame:
    """Finds before the work, not after it, what `Cohort` would refuse."""
    if len(subjects) == 0 or "subject_id" not in subjects:
        raise CohortError("Expected subjects with a column `subject_id`, and at least one.")
    if len(subjects) != len(records):
        raise CohortError(f"Expected {len(subjects)} records, one per subject. Got {len(records)}.")
    ids = subjects["subject_id"]
    wrong = ids.isna() | ids.duplicated()
    if wrong.any():
        row = int(np.argmax(wrong))
        [received] = ids.iloc[[row]].tolist()  # 0, not np.int64(0)
        raise CohortError(f"subject_id {received!r} in row {row} is missing or stands twice.")
    return subjects.reset_index(drop=True)


def _fingerprint(
    subjects: pd.DataFrame,
    records: Sequence[Any],
    source: str,
    settings: Mapping[str, Any],
    shard_size: int,
) -> str:
    """Hexadecimal digest of all that determines the result and the shards on the way to it."""
    digest = hashlib.sha256()
    plan = [BEATS_VERSION, FORMAT_VERSION, source, shard_size, dict(settings)]
    digest.update(json.dumps(plan, sort_keys=True, default=str).encode())
    digest.update(subjects.to_csv(index=False).encode())
    for record in records:
        digest.update(repr(record).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Shard:
    """A run of consecutive records and the file their beats go to."""

    file: Path
    first: int  # row of the first record
    records: tuple[Any, ...]


def _shards(records: Sequence[Any], folder: Path, shard_size: int) -> list[_Shard]:
    starts = range(0, len(records), shard_size)
    return [
        _Shard(
            folder / f"{start:09d}.npz",
            start,
            tuple(records[start : start + shard_size]),
        )
        for start in starts
    ]


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(
    shards: list[_Shard], read: Read, workers: int | None, progress: bool | None, source: str
) -> None:
    """Writes the shards that are not there yet."""
    pending = [shard for shard in shards if not shard.file.is_file()]
    total = sum(len(shard.records) for shard in shards)
    missing = sum(len(shard.records) for shard in pending)
    if workers is None:
        workers = min(_cores(), missing // RECORDS_PER_WORKER)
    bar = tqdm(
        total=total,
        initial=total - missing,
        desc=f"Preparing {source}",
        unit="ECG",
        disable=None if progress is None else not progress,
    )
    with bar:
        for count in _in_turn(pending, read, workers):
            bar.update(count)


def _in_turn(pending: list[_Shard], read: Read, workers: int) -> Iterator[int]:
    """Works through shards, here or in other processes; yields the size of each one finished."""
    workers = min(workers, len(pending))
    if workers <= 1:
        yield from (_write_shard(shard, read) for shard in pending)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        with _light_workers(read):
            tasks = [executor.submit(_write_shard, shard, read) for shard in pending]
        for task in as_completed(tasks):
            yield _size_of(task)
    finally:
        executor.shutdown(cancel_futures=True)


def _size_of(task: Future[int]) -> int:
    try:
        return task.result()
    except BrokenProcessPool as error:
        raise CohortError(
            "A worker process died: out of memory, killed, or `read` is not importable by it. "
            "The same command goes on where it stopped; with workers=1 nothing is started."
        ) from error


@contextmanager
def _light_workers(read: Read) -> Iterator[None]:
    """While processes start: one thread each, and no second import of the main program.

    A spawned process imports the main program, which here means TensorFlow: seconds and 400 MB per
    worker for nothing, unless `read` is defined there. Its matrix products are small: threads of
    the linear algebra library would only fight for the cores.
    """
    main = sys.modules["__main__"]
    hidden = {}
    if read.__module__ != "__main__":
        hidden = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


def _start_worker() -> None:
    """Leaves the interrupt key to the main process, and ends when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_shard(shard: _Shard, read: Read) -> int:
    """Makes the beats of one shard and writes them in one piece; returns the number of records."""
    beats, rows, excluded = [], [], []
    for row, record in enumerate(shard.records, start=shard.first):
        try:
            beats.append(_beat(record, read))
            rows.append(row)
        except BeatError as error:
            excluded.append((row, str(error), ""))
        except MemoryError:
            raise
        except Exception as error:  # a damaged file may raise anything in the library that reads it
            excluded.append((row, f"unreadable ({type(error).__name__})", str(error)))
    ecg = np.stack([beat.ecg for beat in beats]) if beats else np.empty((0, len(LEADS), SAMPLES))
    partial = shard.file.with_name(f"{shard.file.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            ecg=ecg.astype(np.float32),
            rows=np.array(rows, dtype=np.int64),
            quality=np.array([beat[1:] for beat in beats]).reshape(-1, len(QUALITY)),
            excluded_rows=np.array([row for row, _, _ in excluded], dtype=np.int64),
            reasons=np.array([texts for _, *texts in excluded], dtype=str).reshape(-1, 2),
        )
    partial.replace(shard.file)
    return len(shard.records)


def _beat(record: Any, read: Read) -> Beat:
    found = read(record)
    return found if isinstance(found, Beat) else median_beat(*found)


def _assemble(shards: list[_Shard], subjects: pd.DataFrame, folder: Path, source: str) -> None:
    """Makes one prepared folder of the shards; no more than one shard is in memory at a time."""
    tables = [_table(shard) for shard in shards]
    rows, quality, excluded_rows, reasons = map(np.concatenate, zip(*tables, strict=True))
    excluded = pd.DataFrame(reasons, columns=["reason", "detail"])
    excluded.insert(0, "subject_id", subjects["subject_id"][excluded_rows].astype(str).to_numpy())
    if len(rows) == 0:
        shutil.rmtree(folder)  # the cause may be mended before the next try
        raise CohortError(_nothing_left(excluded, source))
    joined = folder / "shards" / f"joined.{os.getpid()}.npy"
    beats = (_load(shard, "ecg")[0] for shard in shards)
    write_array(joined, (len(rows), len(LEADS), SAMPLES), beats)
    ecg = np.load(joined, mmap_mode="r")
    kept = subjects.iloc[rows].reset_index(drop=True)
    measured = pd.DataFrame(quality, columns=QUALITY)
    kept[list(QUALITY)] = measured.astype({"beats_used": int, "beats_found": int})
    Cohort(ecg, kept, source=source, excluded=excluded).save(folder)


def _table(shard: _Shard) -> tuple[np.ndarray, ...]:
    """All but the ECGs. Reasons as objects: in a text array the longest sets the size of each."""
    *numbers, reasons = _load(shard, "rows", "quality", "excluded_rows", "reasons")
    return *numbers, reasons.astype(object)


def _load(shard: _Shard, *names: str) -> list[np.ndarray]:
    try:
        with shard.file.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (ValueError, KeyError, BadZipFile) as error:
        raise CohortError(f"{shard.file} is damaged ({error}). Delete it and try again.") from error


def _nothing_left(excluded: pd.DataFrame, source: str) -> str:
    counts = excluded["reason"].value_counts()
    example = excluded[excluded["reason"] == counts.index[0]].iloc[0]
    return (
        f"None of the {len(excluded)} records of {source} gave a beat. Most common reason, "
        f"{counts.iloc[0]} times: {counts.index[0]}"
        + (f": {example['detail']}" if example["detail"] else "")
        + f" (first: {example['subject_id']})."
    )
