import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.beats import Beat, BeatError, Strip, median_beat
from data.cohort import Cohort, CohortError
from data.readers import prepare as engine
from data.readers.prepare import prepare
from tests.places import ROOT
from tests.simulated_strips import rhythm_strip


@dataclass(frozen=True)
class Simulated:
    """Reads record `n` as a strip of seed `n`; refuses or fails at some numbers."""

    log: str
    refused: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    costly: tuple[int, ...] = ()
    odd: tuple[int, ...] = ()
    seconds: float = 0.0

    def __call__(self, number):
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"{number} {os.getpid()}\n")
        time.sleep(self.seconds)
        if number in self.refused:
            raise BeatError("lead V1 is flat")
        if number in self.costly:
            raise BeatError("unreadable within 30 s")
        if number in self.odd:
            raise OSError("no file a\udcff\r\0")
        if number in self.broken:
            raise KeyError("no such thing")
        return Strip(rhythm_strip(seconds=5, noise=0.01, seed=number), 500)


def subjects(n):
    return pd.DataFrame({"subject_id": [f"s{k}" for k in range(n)], "age": np.arange(n) + 40.0})


def run(folder, n=10, workers=1, table=None, settings=None, **reader):
    reader.setdefault("log", str(folder / "log.txt"))
    return prepare(
        subjects(n) if table is None else table,
        list(range(n)),
        Simulated(**reader),
        folder / "cache",
        "Simulated",
        settings=settings,
        workers=workers,
        shard_size=4,
    )


def log(folder):
    return [line.split() for line in (folder / "log.txt").read_text().splitlines()]


def test_a_cohort_holds_the_median_beat_of_each_record_in_order(tmp_path):
    cohort = run(tmp_path)
    expected = [median_beat(rhythm_strip(seconds=5, noise=0.01, seed=k), 500) for k in range(10)]
    np.testing.assert_array_equal(cohort.ecg, np.stack([beat.ecg for beat in expected]))
    assert list(cohort.subjects["subject_id"]) == [f"s{k}" for k in range(10)]
    assert list(cohort.subjects["beats_used"]) == [beat.beats_used for beat in expected]
    assert isinstance(cohort.ecg, np.memmap)


def test_records_that_give_no_beat_are_listed_and_the_rest_goes_on(tmp_path):
    cohort = run(tmp_path, refused=(2,), broken=(5, 9))
    assert len(cohort) == 7
    assert list(cohort.excluded["subject_id"]) == ["s2", "s5", "s9"]
    assert list(cohort.excluded["reason"]) == ["lead V1 is flat", *["unreadable (KeyError)"] * 2]
    assert cohort.subjects["age"][4] == 46  # of s6: rows stay together with their beats


def test_a_reason_may_name_a_file_whose_name_is_no_text(tmp_path):
    cohort = run(tmp_path, odd=(3,))
    assert list(cohort.excluded["detail"]) == ["no file a\ufffd\ufffd\ufffd"]
    assert list(run(tmp_path, odd=(3,)).excluded["subject_id"]) == ["s3"]


def test_if_all_fail_one_error_says_why_and_nothing_is_kept(tmp_path):
    with pytest.raises(CohortError, match=r"None of the 10.*9 times: unreadable \(KeyError\).*s0"):
        run(tmp_path, broken=tuple(range(9)), refused=(9,))
    assert not list(tmp_path.glob("cache/*"))


def test_a_second_call_reads_nothing(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path)
    assert len(log(tmp_path)) == 10
    pd.testing.assert_frame_equal(first.subjects, again.subjects)


def test_what_was_unreadable_is_told_and_read_once_the_folder_has_another_name(tmp_path, capsys):
    few = run(tmp_path, broken=(2, 5), refused=(7,), costly=(8,))
    assert "3 recordings could not be read when" in capsys.readouterr().out
    same = run(tmp_path)  # mended, but runs were trained on what is there
    assert len(log(tmp_path)) == 10
    np.testing.assert_array_equal(same.ecg, few.ecg)
    shown = capsys.readouterr().out
    folder = next(path for path in (tmp_path / "cache").iterdir() if str(path) in shown)
    folder.rename(f"{folder}-old")
    cohort = run(tmp_path)
    assert [number for number, _ in log(tmp_path)][10:] == ["2", "5", "8"]
    assert list(cohort.excluded["subject_id"]) == ["s7"]  # a refusal is final
    assert "could not be read" not in capsys.readouterr().out
    assert len(Cohort.open(f"{folder}-old")) == 6


def test_another_table_takes_the_beats_that_are_there(tmp_path):
    first = run(tmp_path, n=6, refused=(0, 3))
    again = run(tmp_path, n=6, refused=(0, 3), table=subjects(6).assign(age=70.0))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert len(log(tmp_path)) == 6
    assert again.subjects["age"].eq(70).all()
    assert again.subjects["subject_id"].tolist() == ["s1", "s2", "s4", "s5"]
    np.testing.assert_array_equal(again.ecg, first.ecg)


def test_other_settings_are_prepared_anew(tmp_path):
    run(tmp_path)
    run(tmp_path, settings={"path": "b"})
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert len(log(tmp_path)) == 20


def test_an_interrupted_preparation_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        prepare(
            subjects(10),
            list(range(10)),
            _InterruptedAt(9),
            tmp_path / "cache",
            "Simulated",
            workers=1,
            shard_size=4,
        )
    cohort = run(tmp_path)
    assert [number for number, _ in log(tmp_path)] == ["8", "9"]
    assert len(cohort) == 10
    assert not list((tmp_path / "cache").glob("*/shards"))


@dataclass(frozen=True)
class _InterruptedAt:
    last: int

    def __call__(self, number):
        if number == self.last:
            raise KeyboardInterrupt
        return Strip(rhythm_strip(seconds=5, noise=0.01, seed=number), 500)


def test_shards_that_another_process_puts_in_the_way_are_made_again(tmp_path, monkeypatch):
    """Two processes with different tables number their shards alike."""
    real, runs = engine._run, []

    def disturbed(work, *rest):
        real(work, *rest)
        runs.append(len(work))
        if len(runs) == 1:
            work[1].file.unlink()

    monkeypatch.setattr(engine, "_run", disturbed)
    cohort = run(tmp_path)
    assert runs == [3, 1]
    assert list(cohort.subjects["subject_id"]) == [f"s{k}" for k in range(10)]
    assert len(log(tmp_path)) == 14


def test_an_interruption_while_the_cohort_is_put_together_is_mended(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Cohort, "save", fail)
        with pytest.raises(CohortError, match="No space left"):
            run(tmp_path)
    assert len(run(tmp_path)) == 10
    assert len(log(tmp_path)) == 10


def test_a_preparation_killed_while_it_is_put_together_leaves_nothing_behind(tmp_path):
    command = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from data.cohort import Cohort\n"
        "from tests.data.test_prepare import run\n"
        "Cohort.save = lambda *_: os._exit(0)\n"
        f"run(Path({str(tmp_path)!r}))\n"
    )
    subprocess.run([sys.executable, "-c", command], check=True)
    assert list((tmp_path / "cache").rglob("joined*"))
    assert len(run(tmp_path)) == 10
    assert len(log(tmp_path)) == 10
    [folder] = (tmp_path / "cache").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        *("cohort.json", "ecg.npy", "excluded.csv", "recordings.npz", "subjects.csv")
    ]


def test_a_killed_preparation_leaves_no_process_and_continues(tmp_path):
    command = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from tests.data.test_prepare import run\n"
        f"run(Path({str(tmp_path)!r}), n=40, workers=2, seconds=0.05)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", command], start_new_session=True)
    _wait_for(lambda: len(list((tmp_path / "cache").glob("*/shards/*.npz"))) >= 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = {int(pid) for _, pid in log(tmp_path)}
    _wait_for(lambda: not any(_alive(pid) for pid in workers))
    done = len(list((tmp_path / "cache").glob("*/shards/*.npz")))
    before = len(log(tmp_path))
    assert len(run(tmp_path, n=40)) == 40
    assert len(log(tmp_path)) - before == 40 - 4 * done


def _wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail("waited in vain")
        time.sleep(0.05)


def _alive(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@dataclass(frozen=True)
class _Deadly:
    def __call__(self, number):
        os._exit(1)


def test_a_worker_that_dies_ends_in_an_error_not_in_waiting(tmp_path):
    with pytest.raises(CohortError, match="worker process died"):
        prepare(subjects(8), list(range(8)), _Deadly(), tmp_path, "Deadly", workers=2, shard_size=4)


def test_workers_give_what_one_process_gives_without_importing_the_main_program(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    script = tmp_path / "main.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        f"open({str(tmp_path / 'imports.txt')!r}, 'a').write('imported\\n')\n"
        "from tests.data.test_prepare import run\n"
        f"run(Path({str(other)!r}), workers=2)\n"
        "if 'tensorflow' in sys.modules:\n"
        "    raise SystemExit('tensorflow was imported')\n"
    )
    main = subprocess.Popen([sys.executable, str(script)])
    assert main.wait(timeout=120) == 0
    assert (tmp_path / "imports.txt").read_text() == "imported\n"
    # One worker may take all shards before the other has started: how many there were is chance.
    assert str(main.pid) not in {str(pid) for _, pid in log(other)}
    alone, together = run(tmp_path), run(other)  # the latter opens what the script prepared
    assert len(log(other)) == 10
    np.testing.assert_array_equal(alone.ecg, together.ecg)
    pd.testing.assert_frame_equal(alone.subjects, together.subjects)


@dataclass(frozen=True)
class _Stored:
    def __call__(self, number):
        return Beat(np.full((12, 400), 1.0, np.float32) * np.arange(400) / 400, 5, 6, 0.9, 3.0, 60)


def test_a_source_of_stored_beats_needs_no_strip(tmp_path):
    cohort = prepare(subjects(3), [0, 1, 2], _Stored(), tmp_path, "Stored", workers=1)
    assert cohort.ecg[0, 0, -1] == pytest.approx(399 / 400)
    assert list(cohort.subjects["beats_found"]) == [6, 6, 6]


def test_the_progress_bar_counts_records_and_is_silent_unless_asked(tmp_path, capfd):
    run(tmp_path)
    assert capfd.readouterr().err == ""
    prepare(subjects(3), [0, 1, 2], _Stored(), tmp_path, "Stored", workers=1, progress=True)
    assert "3/3" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (subjects(10).assign(subject_id="a"), "'a' in row 1 is missing or stands twice"),
        (subjects(10).assign(subject_id=None), "row 0 is missing"),
        (subjects(10).drop(columns="subject_id"), "column `subject_id`"),
        (subjects(9), "Expected 9 records"),
        (subjects(0), "at least one"),
    ],
)
def test_wrong_subjects_are_refused_before_the_work(tmp_path, table, message):
    with pytest.raises(CohortError, match=message):
        run(tmp_path, table=table)
    assert not (tmp_path / "log.txt").exists()


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(CohortError, match="cannot be written.*another cache folder"):
        run(tmp_path)


@pytest.mark.parametrize("left", [b"PK\x03\x04 broken", b"", b"\0" * 100])
def test_a_damaged_shard_is_named(tmp_path, monkeypatch, left):
    def damage(*_):
        next((tmp_path / "cache").glob("*/shards/000000000.npz")).write_bytes(left)
        raise OSError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_assemble", damage)
        with pytest.raises(CohortError, match="stop"):
            run(tmp_path)
    with pytest.raises(CohortError, match=r"000000000\.npz is damaged"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["ecg.npy", "recordings.npz"])
def test_a_damaged_folder_from_which_beats_are_taken_is_named(tmp_path, name):
    run(tmp_path)
    [folder] = (tmp_path / "cache").iterdir()
    (folder / name).write_bytes(b"")
    with pytest.raises(CohortError, match=rf"{folder.name}\S* is damaged .*Delete it and try"):
        run(tmp_path, n=11)
