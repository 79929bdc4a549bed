"""The same ECG twice: one patient to the split, named, and never judged after it was trained on."""

import shutil

import numpy as np
import pandas as pd
import pytest

from data import Cohort, CohortError, Split
from data.cohort import LEADS
from data.readers.ptbxl import load_ptbxl
from data.synthetic import simulate
from tests.places import SHARED

PLAIN = simulate(60, seed=0)


def with_copies(copies, cohort=PLAIN):
    """The cohort, in which these rows hold the ECG of others: {row: original}."""
    ecg = cohort.ecg.copy()
    for row, original in copies.items():
        ecg[row] = ecg[original]
    return Cohort(ecg, cohort.subjects)


def parts_of(split):
    """subject_id -> name of its part."""
    return {
        name: part
        for part, cohort in split._asdict().items()
        for name in cohort.subjects.subject_id
    }


def brute_force(ecg):
    """Row -> first row with the same ECG, by comparing all pairs."""
    pairs = [(a, b) for b in range(len(ecg)) for a in range(b) if (ecg[a] == ecg[b]).all()]
    return {b: min(a for a, other in pairs if other == b) for _, b in pairs}


def test_equal_recordings_are_those_of_all_pairs_on_disk_and_in_parts(tmp_path, monkeypatch):
    copies = {7: 3, 9: 3, 40: 12}
    made = with_copies(copies)
    made.ecg[20] = made.ecg[21]
    made.ecg[20, 3, 100] += np.float32(1e-6)  # nearly is not equal
    made = Cohort(made.ecg, made.subjects)
    assert brute_force(made.ecg) == copies
    made.save(tmp_path / "made")
    monkeypatch.setattr("data.rows.IN_MEMORY", 0)
    monkeypatch.setattr("data.rows.CHUNK", 16)
    opened = Cohort.open(tmp_path / "made")
    ids = made.subjects["subject_id"]
    for cohort in (made, opened, opened.take(np.arange(60)[::-1]).take(np.arange(60)[::-1])):
        found = cohort.equal_recordings()
        assert found["subject_id"].tolist() == ids[list(copies)].tolist()
        assert found["equal_to"].tolist() == ids[list(copies.values())].tolist()
        assert list(found) == ["subject_id", "patient_id", "equal_to", "its_patient"]
    assert opened.take([7, 12]).equal_recordings().empty
    assert PLAIN.equal_recordings().empty
    order = [LEADS[(n + 1) % 12] for n in range(12)]
    moved = Cohort(made.ecg[:, [LEADS.index(lead) for lead in order]], made.subjects, leads=order)
    assert moved.holds_ecgs_of(opened.take([3])).nonzero()[0].tolist() == [3, 7, 9]


@pytest.mark.parametrize("seed", range(4))
def test_patients_of_equal_recordings_are_in_one_part(seed):
    # 1 = 2 and 2's other recording = 5's: three patients are one.
    subjects = PLAIN.subjects.assign(patient_id=PLAIN.subjects["subject_id"])
    subjects.loc[11, "patient_id"] = subjects["patient_id"][2]
    split = with_copies({2: 1, 5: 11}, Cohort(PLAIN.ecg, subjects)).split(0.3, 0.3, seed)
    part = parts_of(split)
    ids = subjects["subject_id"]
    assert len({part[ids[row]] for row in (1, 2, 5, 11)}) == 1
    assert len(part) == 60


@pytest.mark.parametrize("seed", range(4))
def test_without_equal_recordings_the_split_is_what_it_was(seed):
    names = np.sort(PLAIN.subjects["patient_id"].unique())
    order = np.random.default_rng(seed).permutation(len(names))
    split = PLAIN.split(0.1, 0.2, seed)
    assert set(split.test.subjects["patient_id"]) == set(names[order[:12]])
    assert set(split.validation.subjects["patient_id"]) == set(names[order[12:18]])


@pytest.mark.skipif(not (SHARED / "ptbxl").is_dir(), reason="no recordings beside the project")
def test_a_recording_of_ptb_xl_under_two_patients_is_judged_nowhere_after_training(tmp_path):
    table = pd.read_csv(SHARED / "ptbxl" / "ptbxl_database.csv", dtype=str)
    table = table[table["filename_hr"].map(lambda n: (SHARED / "ptbxl" / f"{n}.dat").is_file())]
    others = [table[table["strat_fold"] == fold].head(2) for fold in ("1", "9", "10")]
    table = pd.concat([table[table["ecg_id"] == "145"], *others])
    table = pd.concat([table, table.iloc[:1].assign(ecg_id="463", patient_id="1", strat_fold="10")])
    for name in table["filename_hr"].unique():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        for ending in (".dat", ".hea"):
            shutil.copy(SHARED / "ptbxl" / f"{name}{ending}", tmp_path / f"{name}{ending}")
    table.to_csv(tmp_path / "ptbxl_database.csv", index=False)
    shutil.copy(SHARED / "ptbxl" / "scp_statements.csv", tmp_path)
    cohort = load_ptbxl(tmp_path, tmp_path / "cache", workers=1, progress=False)
    [found] = cohort.equal_recordings().to_dict("records")
    assert (found["subject_id"], found["equal_to"]) == ("463", "145")
    part = parts_of(cohort.split(by_fold=True))
    assert part["145"] == part["463"] == "train"
    assert sorted(part.values()) == ["test"] * 2 + ["train"] * 4 + ["validation"] * 2


def test_another_cohort_is_judged_without_what_was_trained_on(capsys):
    from evaluation.external import TRAINED_ON, _never_trained_on  # here: slow to import

    own = PLAIN.split(0.2, 0.2, 0)
    other = simulate(30, seed=5)
    assert _never_trained_on(other, own) is other
    ecg, subjects = other.ecg.copy(), other.subjects.copy()
    ecg[4], ecg[6], ecg[8] = own.train.ecg[0], own.validation.ecg[1], own.test.ecg[2]
    subjects.loc[9, "patient_id"] = subjects["patient_id"][4]
    ids = subjects["subject_id"]
    left = _never_trained_on(Cohort(ecg, subjects, source="clinic"), own)
    assert left.subjects["subject_id"].tolist() == ids.drop([4, 6, 9]).tolist()
    assert left.excluded.to_numpy().tolist() == [
        [ids[4], TRAINED_ON],
        [ids[6], TRAINED_ON],
        [ids[9], f"patient of a {TRAINED_ON}"],
    ]
    said = capsys.readouterr().out
    assert "2 ECGs of clinic are training or validation ECGs of this run and left out" in said
    assert f"with 1 others of the same patients: {ids[4]}, {ids[6]}." in said
    with pytest.raises(CohortError, match="All .* was trained or validated on"):
        _never_trained_on(own.train, own)


def test_a_run_names_equal_recordings_in_its_data(capsys):
    from evaluation.report.reading import reading
    from training.setup import counts

    made = with_copies({7: 3})
    ids, patients = made.subjects["subject_id"], made.subjects["patient_id"]
    section = counts(Split(made, made, made), made)
    assert section["equal_recordings"] == 1
    assert section["equal_recordings_named"] == {
        ids[7]: f"as {ids[3]} (patients {patients[7]} and {patients[3]})"
    }
    assert reading("equal_recordings")
    assert "equal_recordings" not in counts(Split(PLAIN, PLAIN, PLAIN), PLAIN)
