"""Prepares a cohort from recordings: in parallel, with progress, resumable, and only once.

Each reader of a source hands over a table of subjects, one record per row (a file name, a number,
whatever its `read` function understands), and `read`. Records are worked through in shards; each
shard is written whole as it finishes, so the same command after an interruption of any kind goes
on where it stopped. The finished shards become one prepared folder, which `Cohort.open` maps into
memory. Its name carries a fingerprint of all that determines the result: other settings give
another folder, never a stale one. Beats that an earlier folder of the same reader has are taken
from there: after a change of the table only recordings that are new to it, or could not be read,
are read. A finished folder is never changed. A change inside the recordings themselves is not
noticed unless `records` tell of it: delete the folder then.

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
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.beats import Beat, BeatError, Strip, median_beat
from data.cohort import (
    FORMAT_VERSION,
    LEADS,
    NOT_IN_TABLES,
    SAMPLES,
    Check,
    Cohort,
    CohortError,
    checked_subjects,
)
from data.ownership import owned
from data.readers.kept import (
    INDEX,
    QUALITY,
    UNREADABLE,
    Kept,
    Outcome,
    Part,
    finished_parts,
    unfinished_parts,
    write_index,
    write_shard,
)
from data.rows import write_array
from data.units import MV

__all__ = ["QUALITY", "Check", "Recording", "prepare"]

BEATS_VERSION = 2  # raise it when the same strip gives another beat than before
RECORDS_PER_WORKER = 500  # a worker takes a second to start; with less work it is not worth it
SHARD_SIZE = 64  # records; a third of a second of work, 1.2 MB


class Recording(NamedTuple):
    """An ECG and what its file says of the subject.

    Attributes:
        ecg: the strip, or the beat where the source stores median beats.
        facts: plain values by column, the same columns for all recordings of a source.
    """

    ecg: Strip | Beat
    facts: Mapping[str, object]


Read = Callable[[Any], Strip | Beat | Recording]


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
    left_out: Sequence[str] | None = None,
    check: Check | None = None,
    facts: Sequence[str] = (),
    unit: str = MV,
) -> Cohort:
    """Turns recordings into a cohort of median beats, or opens it if it was prepared before.

    Args:
        subjects: N rows with a unique `subject_id`, as `Cohort.subjects`. The columns `QUALITY` of
            each beat are added, and what the recordings say (`Recording.facts`).
        records: N records, in the order of `subjects`, each picklable and with a `repr` that tells
            it from others.
        read: record -> `Strip`, a `Beat` where the source stores median beats, or either of them in
            a `Recording`. A function at the top level of a module, or a small frozen dataclass, so
            that workers can import it. It raises `BeatError` with a short reason for a record it
            refuses, with what else is known of it in an attribute `detail` if it likes; any other
            exception counts as unreadable. Either way the record goes into `Cohort.excluded`.
        cache: folder under which prepared cohorts are kept.
        source: short name of the source, e.g. "PTB-XL 500 Hz": in the folder name and the cohort.
        settings: further plain values that determine what is read, such as the path.
        workers: processes; 1 is this one alone, None one per CPU core and 500 records at most.
        shard_size: records per shard.
        progress: show a progress bar on stderr; None shows it on a terminal only.
        left_out: N reasons for which records go into `excluded` unread; "" for those that do not.
        check: is given the subjects whose records are read, before any is, to refuse them, and the
            names of the columns that will be added to them.
        facts: columns of `Recording.facts`.
        unit: of the beats, see `data.units`.

    Returns:
        The cohort, in the order of `subjects`, less the records that gave no beat.

    Raises:
        CohortError: the subjects break the contract, no record gave a beat, or a worker died.
    """
    subjects, unread = _checked(subjects, records, left_out)
    if check is not None:
        check(subjects[unread["reason"] == ""], {*QUALITY, *facts})
    keys = [hashlib.sha256(repr(record).encode()).hexdigest()[:16] for record in records]
    plan = [BEATS_VERSION, FORMAT_VERSION, source, dict(settings or {})]
    reader = _digest(json.dumps(plan, sort_keys=True, default=str))
    tables = [table.to_csv(index=False) for table in (subjects, unread)]
    slug = "".join(c if c.isalnum() else "-" for c in source.lower()).strip("-")
    folder = Path(cache) / f"{slug}-{_digest(reader, *tables, *keys)[:12]}"
    if (folder / "cohort.json").is_file():
        return _opened(folder)
    scratch = Path(cache) / f"{slug}-{reader[:12]}"
    with owned(scratch, wait=True):
        if not (folder / "cohort.json").is_file():  # by the one who was waited for
            wanted = {
                key: record
                for key, record, reason in zip(keys, records, unread["reason"], strict=True)
                if not reason
            }
            try:
                earlier = finished_parts(Path(cache), slug, reader)
                shards = scratch / "shards"
                shards.mkdir(parents=True, exist_ok=True)
                kept = Kept([*earlier, *unfinished_parts(shards)])
                # Again where no lock keeps another process from putting its shards in the way.
                while pending := {key: one for key, one in wanted.items() if key not in kept}:
                    parts = _shards(pending, shards, shard_size, reader)
                    _run(parts, read, workers, progress, source, len(wanted))
                    kept = Kept([*earlier, *unfinished_parts(shards)])
                made = scratch / "made"  # what is left of an interrupted one is found, and goes
                shutil.rmtree(made, ignore_errors=True)
                _assemble(kept, keys, subjects, unread, made, source, reader, scratch, unit)
                if folder.exists():  # unfinished
                    shutil.rmtree(folder)
                made.rename(folder)
            except OSError as error:
                raise CohortError(
                    f"The prepared cohort cannot be written to {folder}: {error}. Free space, or "
                    "choose another cache folder; the same command goes on where it stopped."
                ) from error
            shutil.rmtree(scratch, ignore_errors=True)
    return _opened(folder)


def _opened(folder: Path) -> Cohort:
    """The prepared cohort. What it lacks is told, not added: runs were trained on it as it is."""
    lacking = Part(folder / INDEX).unreadable() if (folder / INDEX).is_file() else []
    if lacking:
        print(
            f"{len(lacking)} recordings could not be read when {folder} was prepared (see "
            "excluded.csv there). If the cause is mended, rename it, adding -old, and run this "
            "again: these alone are read then, and runs that were trained on it still have it."
        )
    return Cohort.open(folder)


def _checked(
    subjects: pd.DataFrame, records: Sequence[Any], left_out: Sequence[str] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finds before the work, not after it, what `Cohort` would refuse.

    Returns:
        Subjects, and `subject_id`, `reason` of each: "" unless it is left out unread.
    """
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
    subjects = subjects.reset_index(drop=True)
    reasons = np.full(len(subjects), "", object) if left_out is None else np.array(left_out, object)
    unread = pd.DataFrame({"subject_id": ids.astype(str).to_numpy(), "reason": reasons})
    read = reasons == ""
    if read.any():
        checked_subjects(subjects[read])
    return subjects, unread


def _digest(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class _Shard:
    """Some records and the file their beats go to."""

    file: Path
    reader: str
    keys: tuple[str, ...]
    records: tuple[Any, ...]


def _shards(pending: Mapping[str, Any], folder: Path, shard_size: int, reader: str) -> list[_Shard]:
    """What is to be done, numbered on from what is there."""
    there = [int(file.stem) for file in folder.glob("*.npz")]
    first, keys = max(there, default=-1) + 1, list(pending)
    return [
        _Shard(
            folder / f"{first + number:09d}.npz",
            reader,
            tuple(keys[start : start + shard_size]),
            tuple(pending[key] for key in keys[start : start + shard_size]),
        )
        for number, start in enumerate(range(0, len(keys), shard_size))
    ]


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(
    pending: list[_Shard],
    read: Read,
    workers: int | None,
    progress: bool | None,
    source: str,
    total: int,
) -> None:
    """Writes shards; `total` records are wanted, and those in no shard are done."""
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
    outcomes = [_outcome(record, read) for record in shard.records]
    write_shard(shard.file, shard.reader, shard.keys, outcomes)
    return len(shard.records)


def _outcome(record: Any, read: Read) -> Outcome:
    try:
        found = read(record)
        ecg, facts = found if isinstance(found, Recording) else (found, None)
        beat = ecg if isinstance(ecg, Beat) else median_beat(*ecg)
        return Outcome(beat.ecg, tuple(map(float, beat[1:])), facts=facts)
    except BeatError as error:
        return Outcome(None, reason=str(error), detail=getattr(error, "detail", ""))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file may raise anything in the library that reads it
        said = NOT_IN_TABLES.sub("\ufffd", str(error))  # a name of a file may hold anything
        return Outcome(None, reason=f"{UNREADABLE} ({type(error).__name__})", detail=said)


def _assemble(
    kept: Kept,
    keys: list[str],
    subjects: pd.DataFrame,
    unread: pd.DataFrame,
    folder: Path,
    source: str,
    reader: str,
    scratch: Path,
    unit: str,
) -> None:
    """Makes one prepared folder; no more than one shard is in memory at a time."""
    wanted = (unread["reason"] == "").to_numpy()
    beat = np.array([want and kept.has_beat(k) for k, want in zip(keys, wanted, strict=True)])
    outcomes = [
        kept.outcome(key) if want else Outcome(None, reason=reason)
        for key, want, reason in zip(keys, wanted, unread["reason"], strict=True)
    ]
    reasons = [
        (one.reason, one.detail) for one, good in zip(outcomes, beat, strict=True) if not good
    ]
    excluded = pd.DataFrame(reasons, columns=["reason", "detail"], dtype=object)
    excluded.insert(0, "subject_id", unread["subject_id"][~beat].to_numpy())
    if not beat.any():
        shutil.rmtree(scratch)  # the cause may be mended before the next try
        raise CohortError(_nothing_left(excluded, source))
    folder.mkdir(parents=True, exist_ok=True)
    joined = folder / "joined.npy"
    try:
        found = kept.beats([key for key, good in zip(keys, beat, strict=True) if good])
        write_array(joined, (int(beat.sum()), len(LEADS), SAMPLES), found)
        ecg = np.load(joined, mmap_mode="r")
        table = subjects[beat].reset_index(drop=True)
        good = [one for one, is_good in zip(outcomes, beat, strict=True) if is_good]
        if good[0].facts is not None:
            facts = pd.DataFrame([one.facts for one in good])
            unknown = facts.columns[facts.isna().all()]
            table[list(facts)] = facts.astype(dict.fromkeys(unknown, float))
        measured = pd.DataFrame([one.quality for one in good], columns=QUALITY)
        table[list(QUALITY)] = measured.astype({"beats_used": int, "beats_found": int})
        cohort = Cohort(ecg, table, source=source, excluded=excluded, unit=unit)
        # Before the folder counts as finished. A recording that is left out is in no index: it is
        # read when its row of the table is mended.
        read = np.flatnonzero(wanted)
        write_index(
            folder, reader, [keys[i] for i in read], [outcomes[i] for i in read], beat[read]
        )
        cohort.save(folder)
    finally:
        joined.unlink(missing_ok=True)


def _nothing_left(excluded: pd.DataFrame, source: str) -> str:
    counts = excluded["reason"].value_counts()
    example = excluded[excluded["reason"] == counts.index[0]].iloc[0]
    return (
        f"None of the {len(excluded)} records of {source} gave a beat. Most common reason, "
        f"{counts.iloc[0]} times: {counts.index[0]}"
        + (f": {example['detail']}" if example["detail"] else "")
        + f" (first: {example['subject_id']})."
    )
