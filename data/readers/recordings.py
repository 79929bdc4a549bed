"""A folder of recordings as an ECG system exports them, of any formats, with a table if wanted.

All files below the folder are looked at, whatever they are called (`data.readers.formats` tells
what they are). Whom a recording is of comes from the file, and from `subjects.csv` in the folder
(`data.readers.subjects_table`), which wins.

Nothing is kept of a file but its beat, whole years of age, sex, height and weight, the moment of
the recording, and codes of diagnoses in WFDB headers. Names of patients, files and examinations
become keyed hashes (`data.readers.pseudonyms`), unless ids are to be kept.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from data.beats import Beat, BeatError, Strip, median_beat
from data.cohort import RECORDINGS, Cohort, CohortError
from data.readers import cardiosoft
from data.readers.bounds import MAX_BYTES, bounded
from data.readers.challenge import read_challenge
from data.readers.excluded import by_reason, leave_out, none_of
from data.readers.exports import Export, checked_strip, read_export, stored_beat
from data.readers.formats import CARDIOSOFT, HEAD, WFDB, tell_format
from data.readers.kept import UNREADABLE
from data.readers.person import Person
from data.readers.prepare import QUALITY, Check, Recording, prepare
from data.readers.pseudonyms import Pseudonyms
from data.readers.subjects_table import TABLE, join_table, read_subjects
from data.readers.twins import COPY, without_twins

FACTS = (
    *("patient_id", "age", "sex", "height", "weight", "bmi"),
    *("recorded", "accession", "dx", "format"),
)
BEATS = ("median", "strip", "stored")  # the first two are ours
KEEP = ("all", "first", "last")
NAMED = 5  # files that are named for each reason
# What may be another recording though a WFDB header has its name; all else is of annotations.
_OTHERS = (".xml", ".dcm", ".edf", ".ecg", ".scp", ".mwf", ".mfr", ".mfer")
LONGEST_HEADER = 2**16  # bytes of it that are looked at


class Found(NamedTuple):
    """What there is in a folder.

    Attributes:
        cohort: of the recordings that can be used.
        conflicts: where files and table contradict each other: `subject_id`, `column`, `file`,
            `table`.
        file_of: `subject_id` -> name of the file, also of those left out. Nothing keeps it.
    """

    cohort: Cohort
    conflicts: pd.DataFrame
    file_of: dict[str, str]


class File(NamedTuple):
    """A file as it was found; another size or time makes another recording of it.

    Attributes:
        name: below the folder, with "/".
        size: bytes, -1 if it is no regular file.
        changed: ns.
    """

    name: str
    size: int
    changed: int

    @property
    def called(self) -> str:
        """The name as a line of text can hold it: file systems allow more."""
        return "".join(one if one.isprintable() else repr(one)[1:-1] for one in self.name)


def load_recordings(path: str | Path, *arguments, **options) -> Cohort:
    """The cohort of `read_folder`, which takes the same arguments."""
    return read_folder(path, *arguments, **options).cohort


def read_folder(
    path: str | Path,
    cache: str | Path = "cache",
    beats: str = "median",
    keep: str = "all",
    keep_ids: bool = False,
    workers: int | None = None,
    progress: bool | None = None,
    check: Check | None = None,
    extension: str = "",
) -> Found:
    """Reads a folder of recordings as a cohort of median beats, each file once.

    Args:
        path: the folder.
        cache: folder under which beats and the key of the pseudonyms are kept.
        beats: "stored", the recorder's own median beats, or ours from the strips.
        keep: of several recordings of a patient all, the first or the last.
        keep_ids: names of files and patients instead of pseudonyms.
        workers: processes that prepare; one per CPU core if None.
        progress: show a progress bar; None shows it on a terminal only.
        check: as `data.readers.prepare.prepare` has it.
        extension: of the files that are looked at; all if "".

    Returns:
        The cohort, in the order of the file names. `subjects` has `subject_id` (the file),
        `patient_id` (the file again where none is known), the columns `FACTS`, those of the table,
        and the quality of each beat. Files that give no beat, copies of a recording, and those that
        the table or `keep` leaves out are in `excluded`, with their reasons.

    Raises:
        CohortError: no file, a table that cannot be understood, or no file gave a beat.
    """
    path, cache = Path(path), Path(cache)
    if keep not in KEEP:
        raise CohortError(f"Expected recordings among {list(KEEP)}. Received: {keep!r}.")
    if beats not in BEATS:
        raise CohortError(f"Expected beats among {list(BEATS)}. Received: {beats!r}.")
    if not path.is_dir():
        raise CohortError(f"Expected a folder of recordings. Received: {path}.")
    table = read_subjects(path / TABLE)
    if check is not None:
        later = [*FACTS, *QUALITY, *(() if table is None else table.rows)]
        check(pd.DataFrame(columns=list(dict.fromkeys(later))), later)
    files = find_files(path, extension)
    names = Pseudonyms.of(cache, keep_ids)
    ids = [names("file", file.called) for file in files]
    file_of = dict(zip(ids, (file.called for file in files), strict=True))
    cohort = _prepared(
        file_of,
        subjects=pd.DataFrame({"subject_id": ids}),
        records=files,
        read=FileReader(str(path), beats == "stored", names),
        cache=cache,
        source=RECORDINGS,
        settings={
            "stored": beats == "stored",
            "pseudonyms": names.version,
            "ecgdatakit": version("ecgdatakit"),
        },
        workers=workers,
        progress=progress,
        facts=FACTS,
    )
    cohort = without_twins(cohort)
    against = pd.DataFrame(columns=["subject_id", "column", "file", "table"])
    if table is not None:
        cohort, against = join_table(cohort, table, names, file_of)
    cohort = _one_each(cohort, keep)
    _report(cohort, file_of)
    return Found(cohort, against, file_of)


def _prepared(file_of: dict[str, str], **how) -> Cohort:
    """As `prepare`; a message names the file, not its pseudonym."""
    try:
        return prepare(**how)
    except CohortError as error:
        text = re.sub("[0-9a-f]{16}", lambda one: repr(file_of.get(one[0], one[0])), str(error))
        raise CohortError(text) from error


def find_files(folder: Path, extension: str = "") -> list[File]:
    """All files below a folder that may be recordings, in the order of their names.

    Links to folders are not followed: they may lead round in circles, or away. The signals that a
    WFDB header names are a part of it, and annotations that are called as it is.

    Raises:
        CohortError: there are none.
    """
    found: list[File] = []

    def say(error: OSError) -> None:
        print(f"{error.filename} cannot be looked into: {error.strerror}.")

    for place, folders, names in os.walk(folder, onerror=say):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = set(names)
        headers = [Path(place, name) for name in names if name.lower().endswith(".hea")]
        signals = {file.name for header in headers for file in signal_files(header)}
        for name in names:
            stem, own = os.path.splitext(name)
            below = os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
            beside = f"{stem}.hea" in here and own.lower() not in _OTHERS
            part = own.lower() != ".hea" and (beside or name in signals)
            other = bool(extension) and own.lower() != extension
            if not (name.startswith(".") or part or other or below == TABLE):
                found.append(state(folder, below))
    if not found:
        raise CohortError(f"There is no file in {folder}. Expected recordings, in folders or not.")
    return sorted(found)


def signal_files(header: Path) -> list[Path]:
    """The files beside a WFDB header that it names."""
    try:
        with header.open("rb") as file:
            lines = file.read(LONGEST_HEADER).decode("latin-1").splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    names = {first for first, *_ in fields[1:] if os.path.basename(first) == first}
    return [header.with_name(name) for name in sorted(names) if header.with_name(name).is_file()]


def state(folder: Path, name: str) -> File:
    """Size and time of change of a file; of a WFDB header together with its signals."""
    try:
        of = [os.stat(folder / name)]
    except (OSError, ValueError):
        return File(name, -1, 0)
    if not stat.S_ISREG(of[0].st_mode):
        return File(name, -1, 0)
    if name.lower().endswith(".hea"):
        of += [os.stat(file) for file in signal_files(folder / name)]
    return File(name, sum(one.st_size for one in of), max(one.st_mtime_ns for one in of))


class Refused(BeatError):
    """A file that gives no beat; `detail` is its format, as far as it is known."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.detail = detail


@dataclass(frozen=True)
class FileReader:
    """Reads one file of any format below a folder.

    Attributes:
        root: the folder.
        stored: whether beats are the recorder's own.
        names: makes pseudonyms.
    """

    root: str
    stored: bool
    names: Pseudonyms

    def __call__(self, record: File) -> Recording:
        """Reads a file.

        Raises:
            Refused: it gives no beat, or costs too much, or is written to. Nothing of what is in
                the file gets into the reason.
        """
        folder, kind = Path(self.root), ""
        try:
            with bounded():
                kind = self._kind(folder, record)
                ecg, person = read_file(folder / record.name, kind, self.stored)
                beat = ecg if isinstance(ecg, Beat) else median_beat(*ecg)
        except BeatError as error:
            raise Refused(str(error), kind) from error
        except Exception as error:  # anything that a damaged file makes a library raise
            raise Refused(f"{UNREADABLE} ({type(error).__name__})", kind) from error
        if state(folder, record.name) != record:
            raise Refused("changed while it was read", kind)
        return Recording(beat, self._facts(record, person) | {"format": kind})

    @staticmethod
    def _kind(folder: Path, record: File) -> str:
        if state(folder, record.name) != record:
            raise BeatError("changed while it was read")
        if record.size < 0:
            raise BeatError("no file: a link that leads nowhere, a pipe or the like")
        if record.size > MAX_BYTES:
            raise BeatError(f"larger than {MAX_BYTES // 2**20} MB")
        with (folder / record.name).open("rb") as opened:
            head = opened.read(HEAD)
        return tell_format(folder / record.name, head)

    def _facts(self, record: File, person: Person) -> dict[str, object]:
        bmi = None
        if person.height and person.weight:
            bmi = person.weight / (person.height / 100) ** 2
        patient, examination = person.patient_id, person.accession
        return {
            **person._asdict(),
            "patient_id": self.names("file", record.called)
            if patient is None
            else self.names("patient", patient),
            "accession": None if examination is None else self.names("accession", examination),
            "bmi": bmi,
        }


def read_file(file: Path, kind: str, stored: bool) -> tuple[Strip | Beat, Person]:
    """Reads a file of a known format.

    Args:
        file: of a format that `data.readers.formats.tell_format` tells.
        kind: that format.
        stored: whether the recorder's own beat is asked for.

    Raises:
        BeatError: it gives no ECG; the message is the reason.
        Exception: anything that a damaged file makes a library raise.
    """
    if kind == CARDIOSOFT:
        strip = cardiosoft.read_strip(file)
        strip = checked_strip(strip.ecg, strip.sampling_rate, tuple(strip.leads))
        own = cardiosoft.read_stored_beat(file) if stored else None
        found = Export(strip, own, cardiosoft.read_person(file))
    else:
        found = read_challenge(file) if kind == WFDB else read_export(file, kind)
    return stored_beat(found.stored, found.strip) if stored else found.strip, found.person


def _one_each(cohort: Cohort, keep: str) -> Cohort:
    """The first or last recording of each patient; those without a date come last."""
    if keep == "all":
        return cohort
    when = cohort.subjects[["patient_id", "recorded"]].sort_values(
        "recorded", kind="stable", na_position="last" if keep == "first" else "first"
    )
    chosen = when.drop_duplicates("patient_id", keep=keep).index.sort_values()
    others = ~cohort.subjects.index.isin(chosen)
    return leave_out(cohort, none_of(cohort).mask(others, f"not the {keep} of its patient"))


def _report(cohort: Cohort, file_of: dict[str, str]) -> None:
    """Says what was left out, by the names of the files: only here, since nothing keeps them."""
    for reason, group in by_reason(cohort.excluded):
        files = [file_of[one] for one in group["subject_id"]]
        if reason == COPY:
            files = [
                f"{file} of {file_of[kept]}"
                for file, kept in zip(files, group["detail"], strict=True)
            ]
        more = f" and {len(files) - NAMED} more" * (len(files) > NAMED)
        print(f"Left out, {reason}: {len(files)} ({', '.join(files[:NAMED])}{more}).")
    subjects = cohort.subjects
    alone = int((subjects["patient_id"] == subjects["subject_id"]).sum())
    if alone:
        print(
            f"{alone} of {len(cohort)} recordings name no patient: each counts as a patient of its "
            f"own. If patients have several, give patient_id in {TABLE}."
        )
