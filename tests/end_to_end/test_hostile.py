"""Bad input of every kind, in tables: what it is, where it goes in, and the error that names it.

Each row either raises an error of ours whose message names the culprit (the record, column, field
or file), or is put right in a documented way, which is then checked. What the tests of a module
check already is not repeated here.
"""

import errno
import io
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import wfdb

import train
from config import CONFIG, Config, ConfigError, DataConfig, ModelConfig, TrainingConfig, from_dict
from data.beats import BeatError, median_beat
from data.cohort import LEADS, Cohort, CohortError
from data.conditions import Condition, ConditionError, ConditionSchema
from data.export import write_csv, write_wfdb
from data.outcomes import join_outcomes, with_outcomes
from data.readers.arrays import load_arrays
from data.readers.code15 import load_code15
from data.readers.ptbxl import WfdbReader, load_ptbxl
from evaluation import generate
from model.network import ModelError
from tests.eager import train_eagerly
from tests.one_line import one_line
from tests.simulated_strips import beat, rhythm_strip, write_ptbxl
from training.batches import Samples
from training.checkpoint import Checkpoint, TrainingError
from training.fit import fit
from vae import VAE
from vae_prediction import VAEPrediction

IDS = ["a", "b", "c", "d"]
ECG = np.stack([beat((np.arange(400) - 150) / 500) * gain for gain in (0.8, 0.9, 1.0, 1.2)])
ECG = ECG.astype(np.float32)
SUBJECTS = pd.DataFrame({"subject_id": IDS, "age": [50.0, 55.0, 60.0, 70.0]})
STRIP = rhythm_strip(seconds=4, noise=0.01, seed=1)
DEEP = "[" * 100_000

_file = io.BytesIO()
np.save(_file, ECG)
NPY = _file.getvalue()


def with_value(array, where, value):
    changed = array.copy()
    changed[where] = value
    return changed


def rows(table):
    """A table of (name, call, ...) as what pytest takes; a dictionary has one per error."""
    if isinstance(table, dict):
        table = [(*row, error) for error, part in table.items() for row in part]
    names = [name for name, *_ in table]
    assert len(set(names)) == len(names)
    return [pytest.param(*row, id=name) for name, *row in table]


# --- builders: each writes its input below a folder and reads it ----------------------------------


def arrays(ecg=ECG, table="subject_id,age\na,50\nb,55\nc,60\nd,70\n", encoding="utf-8"):
    def read(path):
        np.save(path / "ecg.npy", ecg)
        if table is not None:
            (path / "subjects.csv").write_bytes(table.encode(encoding))
        return load_arrays(path)

    return read


def bytes_of_arrays(content, name="ecg.npy"):
    def read(path):
        np.save(path / "ecg.npy", ECG)
        (path / name).write_bytes(content)
        return load_arrays(path)

    return read


def cohort(ecg=ECG, subjects=SUBJECTS, **options):
    return lambda path: Cohort(ecg, subjects, **options)


def split(fold):
    return lambda path: Cohort(ECG, SUBJECTS.assign(fold=fold)).split(by_fold=True)


def prepared(change):
    """A prepared folder, after `change(folder)`."""

    def read(path):
        Cohort(ECG, SUBJECTS).save(path / "cohort")
        change(path / "cohort")
        return Cohort.open(path / "cohort")

    return read


def described(**changes):
    def change(folder):
        file = folder / "cohort.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")

    return prepared(change)


def written(name, content):
    return prepared(lambda folder: (folder / name).write_bytes(content))


def outcomes(text):
    def read(path):
        (path / "outcomes.csv").write_text(text, "utf-8")
        return join_outcomes(Cohort(ECG, SUBJECTS), path / "outcomes.csv")

    return read


def own_outcomes(time, event):
    return lambda path: with_outcomes(Cohort(ECG, SUBJECTS.assign(time=time, event=event)))


def strip(ecg=STRIP, rate=500, leads=LEADS):
    return lambda path: median_beat(ecg, rate, leads)


def record(ecg=STRIP, units="mV", rate=500, leads=LEADS, name="r", change=None):
    """A WFDB record, read and made a beat."""

    def read(path):
        kinds = {"units": [units] * 12, "sig_name": list(leads), "fmt": ["16"] * 12}
        wfdb.wrsamp("r", rate, p_signal=ecg.T, write_dir=str(path), **kinds)
        if change is not None:
            change(path)
        return median_beat(*WfdbReader(str(path))(name))

    return read


def ptbxl(change=lambda text: text, **columns):
    """Three records in the layout of PTB-XL, their table changed as text."""

    def read(path):
        write_ptbxl(path / "ptbxl", 3, **columns)
        file = path / "ptbxl" / "ptbxl_database.csv"
        file.write_bytes(change(file.read_text("utf-8")).encode())
        return load_ptbxl(path / "ptbxl", path / "cache", workers=1)

    return read


def code15(tracings=None, **columns):
    """Two exams in the layout of CODE-15%; `tracings`: bytes or an array in place of the strips."""

    def read(path):
        table = {"exam_id": [1, 2], "patient_id": [7, 8], "age": 50, "is_male": True, "timey": 2.0}
        table |= {"death": [True, False], "normal_ecg": True, "trace_file": "exams_part0.hdf5"}
        table |= dict.fromkeys(("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"), False)
        pd.DataFrame(table | columns).to_csv(path / "exams.csv", index=False)
        one = rhythm_strip(sampling_rate=400, noise=0.02, seed=1).astype(np.float32).T
        file = path / "exams_part0.hdf5"
        if isinstance(tracings, bytes):
            file.write_bytes(tracings)
        else:
            with h5py.File(file, "w") as opened:
                opened["tracings"] = np.stack([one, one]) if tracings is None else tracings
                opened["exam_id"] = [1, 2]
        return load_code15(path, path / "cache", workers=1)

    return read


def schema(encoding="standard", **scaling):
    conditions = [
        Condition("age", unit="years", low=0, high=120),
        Condition("sex", "binary", categories=("male", "female")),
    ]
    return ConditionSchema(conditions, encoding, {"age": (55.0, 10.0)} | scaling)


def encode(values, encoding="standard"):
    return lambda path: schema(encoding).encode(values)


# --- data: errors ---------------------------------------------------------------------------------

SWAPPED_CABLES = list(LEADS[3:6] + LEADS[:3] + LEADS[6:])
OUTCOMES = "subject_id,time,event\na,{},{}\nb,2,0\nc,3,1\nd,1,0\n"

ERRORS = {
    CohortError: [
        ("arrays: empty file", bytes_of_arrays(b""), r"ecg\.npy cannot be read"),
        ("arrays: truncated", bytes_of_arrays(NPY[:5000]), r"ecg\.npy cannot be read"),
        ("arrays: no recordings", arrays(ECG[:0], None), "at least one subject"),
        ("arrays: integers", arrays((ECG * 1000).astype(int)), "ecg as floating-point"),
        ("arrays: text", arrays(ECG.astype(str)), "Received: <U"),
        ("arrays: inf", arrays(with_value(ECG, (0, 0, 0), -np.inf)), "ECG 'a'.* lead I"),
        ("arrays: constant lead", arrays(with_value(ECG, (1, 8), 0.3)), "'b' .* lead V3"),
        ("arrays: leads reversed", arrays(ECG[:, ::-1]), "in the order I, II, III, aVR"),
        (
            "arrays: aVL before aVR",
            arrays(ECG[:, [0, 1, 2, 4, 3, *range(5, 12)]]),
            "do not follow from I and II in most of the 4 ECGs",
        ),
        ("arrays: one in microvolts", arrays(ECG * [[[1]], [[1]], [[1000]], [[1]]]), "'c'"),
        ("table: empty", arrays(table=""), r"subjects\.csv cannot be read"),
        (
            "table: semicolons",
            arrays(table="subject_id;age\na;50\nb;55\nc;60\nd;70\n"),
            r"subjects\.csv has semicolons.*'subject_id;age'",
        ),
        (
            "table: semicolons and decimal commas",
            arrays(table="subject_id;age\na;50,5\nb;55,0\nc;60,1\nd;70,2\n"),
            r"subjects\.csv have more fields.*decimal commas",
        ),
        (
            "table: decimal commas in every row",
            arrays(table="subject_id,age\na,50,5\nb,55,0\nc,60,1\nd,70,2\n"),
            r"subjects\.csv have more fields.*'subject_id', 'age'",
        ),
        (
            "table: a decimal comma in one row",
            arrays(table="subject_id,age\na,50\nb,55,5\nc,60\nd,70\n"),
            r"subjects\.csv .*line 3.* point in decimal numbers",
        ),
        (
            "table: a column twice",
            arrays(table="subject_id,age,age\na,1,2\nb,1,2\nc,1,2\nd,1,2\n"),
            r"column 'age' is there twice in .*subjects\.csv",
        ),
        (
            "table: rounded ids",
            arrays(table="subject_id,age\n1.23E+05,1\n1.24E+05,1\n3,1\n4,1\n"),
            r"subject_id '1\.23E\+05' in .*subjects\.csv was rounded",
        ),
        (
            "table: rounded ids of patients",
            arrays(table="subject_id,patient_id\na,1.2E+11\nb,1.2E+11\nc,1\nd,2\n"),
            r"patient_id '1\.2E\+11'",
        ),
        ("table: an id twice", arrays(table="subject_id\na\nb\na\nd\n"), "'a' stands twice"),
        ("table: no id", arrays(table="subject_id,x\na,1\n,1\nc,1\nd,1\n"), "Row 1 .* no su"),
        (
            "table: Latin-1",
            arrays(table="subject_id\na\nb\nc\nMüller\n", encoding="latin-1"),
            r"subjects\.csv cannot be read.*UTF-8",
        ),
        (
            "table: UTF-16",
            arrays(table="subject_id\na\nb\nc\nd\n", encoding="utf-16"),
            r"subjects\.csv cannot be read.*UTF-8",
        ),
        ("cohort: a list", cohort(ECG.tolist()), "NumPy array. Received: .*list"),
        ("cohort: a dictionary", cohort(subjects={"subject_id": IDS}), "DataFrame.*dict"),
        ("cohort: a lead twice", cohort(leads=("I",) * 12), "I is there twice"),
        ("cohort: negative rate", cohort(sampling_rate=-500), "sampling rate.*-500"),
        ("cohort: rate in text", cohort(sampling_rate="500 Hz"), "rate.*'500 Hz'"),
        (
            "cohort: a column twice",
            cohort(subjects=pd.concat([SUBJECTS, SUBJECTS["age"]], axis=1)),
            "column 'age' of the subjects is there twice",
        ),
        (
            "cohort: an id that no table can hold",
            cohort(subjects=SUBJECTS.assign(subject_id=["a", "b\0", "c", "d"])),
            r"subject_id 'b\\x00' has characters",
        ),
        ("split: one subject", lambda path: Cohort(ECG[:1], SUBJECTS[:1]).split(), "three"),
        ("split: fold 11", split([1, 9, 10, 11]), "Record 'd' has 11"),
        ("split: fold in words", split(["test", 9, 10, 1]), "Record 'a' has 'test'"),
        ("prepared: nothing there", lambda path: Cohort.open(path / "x"), "x is no prepared"),
        ("prepared: deep JSON", written("cohort.json", DEEP.encode()), "cohort is damaged"),
        ("prepared: rate of 0 Hz", described(sampling_rate=0), "sampling rate.*0"),
        ("prepared: other leads", described(leads=["I", "II"]), r"Expected .* \(4, 2, T\)"),
        ("prepared: pickled ECGs", written("ecg.npy", b"\x80\x04N."), "cohort is damaged"),
        (
            "prepared: decimal commas",
            written("subjects.csv", b"subject_id,age\na,50,1\nb,55,2\nc,60,3\nd,70,4\n"),
            r"damaged.*subjects\.csv have more fields",
        ),
        ("outcomes: a date", outcomes(OUTCOMES.format("2021-03-01", 1)), "'2021-03-01'"),
        ("outcomes: thousands", outcomes(OUTCOMES.format('"1,234"', 1)), "'1,234'"),
        ("outcomes: decimal comma", outcomes(OUTCOMES.format('"1,5"', 1)), "'1,5'"),
        ("outcomes: beyond float", outcomes(OUTCOMES.format("1e999", 1)), "'1e999'"),
        (
            "outcomes: rounded id",
            outcomes("subject_id,time,event\n1E+06,1,1\na,2,0\n"),
            r"subject_id '1E\+06' in .*outcomes\.csv",
        ),
        (
            "outcomes: commas at the ends of lines",
            outcomes("subject_id,time,event\na,1,1,\nb,2,0,\n"),
            r"outcomes\.csv have more fields",
        ),
        (
            "outcomes: a column twice",
            outcomes("subject_id,time,time,event\na,1,9,1\nb,2,9,0\n"),
            "column 'time' is there twice",
        ),
        (
            "own outcomes: 1 and 2",
            own_outcomes(1.0, [1, 2, 2, 1]),
            "event of .b.. Received: 2.* as 0",
        ),
        ("own outcomes: all negative", own_outcomes(-1.0, 1), "None of the 4"),
        ("PTB-XL: a date as age", ptbxl(age=["60", "1.2.1960", "61"]), "age of .2.*1.2.1960"),
        (
            "PTB-XL: commas at the ends of lines",
            ptbxl(lambda text: re.sub(r"(?m)(?<=\d_hr)$", ",", text)),
            r"rows of .*ptbxl_database\.csv have more fields",
        ),
        ("PTB-XL: deep statements", ptbxl(scp_codes="(" * 5000), "record 1 are no"),
        ("CODE-15%: truncated", code15(b"\x89HDF\r\n\x1a\n"), r"part0\.hdf5 cannot be read"),
        ("CODE-15%: rounded patient", code15(patient_id="1.2E+06"), "patient_id '1.2E.06'"),
        ("CODE-15%: path", code15(trace_file="../exams_part0.hdf5"), "None of the 1 files"),
        ("CODE-15%: NaN", code15(np.full((2, 4096, 12), np.nan)), "I has missing samples"),
    ],
    BeatError: [
        ("strip: empty", strip(STRIP[:, :0]), "shorter than 2.5 s"),
        ("strip: missing lead", strip(STRIP[:11], leads=LEADS[:11]), "V6 is not there"),
        ("strip: swapped cables", strip(leads=SWAPPED_CABLES), "contradicts leads I and II"),
        ("record: outside", record(name="../r"), "leads out of the data folder"),
        ("record: absolute", record(name="/etc/passwd"), "leads out of the data folder"),
        (
            "record: changed samples",
            record(change=lambda path: flip(path / "r.dat")),
            "contradicts its checksum",
        ),
    ],
    ConditionError: [
        ("condition: decimal comma", encode({"age": "63,5"}), "age: .*'63,5'"),
        ("condition: infinite", encode({"age": np.inf}), "age: .*inf"),
        ("condition: beyond float32", encode({"age": 1e39}), r"age: .*1e\+39"),
        ("condition: Age", encode(pd.DataFrame({"Age": [50]})), "'age'. Received 'Age'"),
        ("encoded: NaN", encode(with_value(np.zeros((2, 3)), (1, 0), np.nan)), "age .* row 1"),
        ("encoded: overflow", encode(np.full((2, 3), 1e39)), "age is 1e.39 in row 0"),
        ("encoded: text", encode(np.full((2, 3), "a")), "as numbers. Received: <U1"),
        ("raw: NaN", encode({"age": np.nan, "sex": "male"}, "raw"), "age is missing in row 0"),
        ("raw: encoded NaN", encode(np.array([[np.nan, 1]]), "raw"), "age is nan in row 0"),
        ("scaling: SD of 0", lambda path: schema(age=(50, 0)), "age: no scaling"),
        ("scaling: NaN", lambda path: schema(age=(np.nan, 1)), "age: no scaling"),
    ],
    ConfigError: [
        ("config: part of an epoch", lambda path: TrainingConfig(epochs=2.5), "training.epochs"),
        ("config: text", lambda path: TrainingConfig(batch_size="64"), "batch_size.*'64'"),
        ("config: infinite", lambda path: ModelConfig(kl_weight=np.inf), "model.kl_weight"),
        ("config: path of no text", lambda path: DataConfig(path=5), "data.path: .*5"),
        ("config: one name", lambda path: DataConfig(conditions="age"), "data.conditions"),
        ("config: section", lambda path: from_dict(Config, {"data": 5}), "DataConfig|Config"),
        ("config: unknown", lambda path: from_dict(Config, {"modle": {}}), "'modle'"),
    ],
}


def flip(file):
    content = bytearray(file.read_bytes())
    content[100] ^= 0x55
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(("call", "message", "error"), rows(ERRORS))
def test_bad_data_are_an_error_of_ours_that_names_the_culprit(call, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        call(tmp_path)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


# --- data: what is put right ----------------------------------------------------------------------


def ids_are(*expected):
    return lambda made: made.subjects["subject_id"].tolist() == list(expected)


def ages_are(*expected):
    return lambda made: made.subjects["age"].tolist() == list(expected)


def same_ecg(made):
    np.testing.assert_array_equal(made.ecg, ECG)
    return made.leads == LEADS


def same_beat(made, tolerance=0.01):
    """As from the strip in order, in mV, at 500 Hz."""
    return np.abs(made.ecg - median_beat(STRIP, 500).ecg).max() < tolerance


SHUFFLED = np.random.default_rng(3).permutation(12)
BACKWARDS = tuple(LEADS[row] for row in SHUFFLED)
AT_1000_HZ = rhythm_strip(seconds=4, noise=0, seed=1, sampling_rate=1000)
SLOW = rhythm_strip(seconds=4, noise=0, seed=1, sampling_rate=500)


RECOVERIES = [
    (
        "byte-order mark",
        arrays(table="subject_id,age\na,1\nb,2\nc,3\nd,4\n", encoding="utf-8-sig"),
        ids_are(*IDS),
    ),
    (
        "Windows line ends",
        arrays(table="subject_id,age\r\na,1\r\nb,2\r\nc,3\r\nd,4\r\n"),
        ages_are(1, 2, 3, 4),
    ),
    (
        "quoted numbers",
        arrays(table='subject_id,age\na,"1"\nb,"2.5"\nc,3\nd,4\n'),
        ages_are(1, 2.5, 3, 4),
    ),
    (
        "spaces after commas",
        arrays(table="subject_id, age\na, 1\nb, 2\nc, 3\nd, 4\n"),
        ages_are(1, 2, 3, 4),
    ),
    (
        "leading zeros",
        arrays(table="subject_id\n007\n008\n010\n011\n"),
        ids_are("007", "008", "010", "011"),
    ),
    (
        "ids with a decimal point",
        arrays(table="subject_id\n7.0\n8.0\n9.0\n10.0\n"),
        ids_are("7", "8", "9", "10"),
    ),
    (
        "ids like numbers of another kind",
        arrays(table="subject_id\n1e5\n2e5\n3E12\nx\n"),
        ids_are("1e5", "2e5", "3E12", "x"),
    ),
    (
        "gaps as a spreadsheet program leaves them",
        arrays(table="subject_id,age\na,1\nb\nc,\nd,NA\n"),
        lambda made: made.subjects["age"].isna().tolist() == [False, True, True, True],
    ),
    ("leads in another order, by name", cohort(ECG[:, SHUFFLED], leads=BACKWARDS), same_ecg),
    ("prepared leads in another order", prepared(lambda folder: reorder(folder)), same_ecg),
    (
        "folds as text",
        split(["1", "9", "10", "10"]),
        lambda made: [len(p) for p in made] == [1, 1, 2],
    ),
    ("record in another order", record(STRIP[SHUFFLED], leads=BACKWARDS), same_beat),
    (
        "record at 1000 Hz",
        record(AT_1000_HZ, rate=1000),
        lambda made: np.abs(made.ecg - median_beat(SLOW, 500).ecg).max() < 0.05,
    ),
    (
        "missing conditions",
        encode({"age": [50, None], "sex": np.nan}),
        lambda made: made.tolist() == [[-0.5, 1, 0], [0, 0, 0]],
    ),
]


def reorder(folder):
    np.save(folder / "ecg.npy", ECG[:, SHUFFLED])
    file = folder / "cohort.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"leads": BACKWARDS}), "utf-8")


@pytest.mark.parametrize(("call", "good"), rows(RECOVERIES))
def test_what_has_one_meaning_only_is_read_as_that(call, good, tmp_path):
    assert good(call(tmp_path))


# --- disks and folders ----------------------------------------------------------------------------


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.mark.parametrize(
    ("place", "name"),
    [(np.lib.format, "write_array_header_1_0"), (pd.DataFrame, "to_csv"), (Path, "write_text")],
    ids=["ECGs", "tables", "description"],
)
def test_a_full_disk_leaves_an_earlier_cohort_as_it_was(place, name, tmp_path, monkeypatch):
    Cohort(ECG, SUBJECTS).save(tmp_path)
    monkeypatch.setattr(place, name, full)
    with pytest.raises(OSError, match="No space left"):
        Cohort(ECG[:2] * 0.5, SUBJECTS[:2]).save(tmp_path)
    monkeypatch.undo()
    assert same_ecg(Cohort.open(tmp_path))
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_leaves_an_earlier_model_as_it_was(model, tmp_path, monkeypatch):
    model.save(tmp_path / "model")
    for place, name in ((VAE, "save_weights"), (Path, "write_text")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OSError, match="No space left"):
                model.save(tmp_path / "model")
        VAE.load(tmp_path / "model")


def test_a_full_disk_leaves_what_a_run_wrote_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    train.write_text(file, "before")
    half = Path.write_text

    def full_after_half(path, text, encoding):
        half(path, text[:3], encoding)
        full()

    monkeypatch.setattr(Path, "write_text", full_after_half)
    with pytest.raises(OSError, match="No space left"):
        train.write_text(file, "after and longer")
    assert file.read_text() == "before"


def test_a_full_disk_leaves_no_half_ecg(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_bytes", full)
    for write_one in (write_csv, write_wfdb):
        with pytest.raises(OSError, match="No space left"):
            write_one(tmp_path, "ecg", ECG[0])
    assert not list(tmp_path.glob("*.csv")) + list(tmp_path.glob("*.hea"))


def test_a_full_disk_while_preparing_is_told_with_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(CohortError, match=r"cannot be written to .*ptb-xl.*Free space"):
        ptbxl()(tmp_path)


def test_a_file_in_place_of_a_folder_is_named(model, tmp_path):
    file = tmp_path / "taken"
    file.write_text("mine")
    for save in (Cohort(ECG, SUBJECTS).save, model.save):
        with pytest.raises(OSError, match="taken"):
            save(file)
    write_ptbxl(tmp_path / "ptbxl", 1)
    with pytest.raises(CohortError, match="cannot be written to .*taken"):
        load_ptbxl(tmp_path / "ptbxl", file, workers=1)
    assert file.read_text() == "mine"


# --- model ----------------------------------------------------------------------------------------

LAYERS = ((2,), ((1, 5),), ("same",))
SMALL = np.random.default_rng(0).normal(0, 0.3, (12, 12, 30)).astype(np.float32)
TABLE = pd.DataFrame({"age": np.linspace(40, 70, 12), "sex": ["male", "female"] * 6})


@pytest.fixture(scope="module")
def model():
    named = schema().fit(TABLE)
    return VAE((12, 30), *LAYERS, 2, named.dim, schema=named, hidden=()).adapt(SMALL, TABLE)


Z, ENCODED = np.zeros((3, 2)), np.zeros((3, 3), np.float32)

USES = {
    ModelError: [
        ("encode: text", lambda m: m.encode(SMALL.astype(str), TABLE), "Received: <U"),
        (
            "encode: one condition too many",
            lambda m: m.encode(SMALL[:3], np.zeros((3, 4))),
            r"\(3, 4\)",
        ),
        ("decode: NaN", lambda m: m.decode(with_value(Z, (1, 0), np.nan), ENCODED), "Row 1 of z"),
        ("generate: none", lambda m: m.generate(n=0), "n of 1 or more. Received: 0"),
        ("generate: part of one", lambda m: m.generate(n=1.5), "n of 1 or more. Received: 1.5"),
        ("generate: negative seed", lambda m: m.generate(seed=-1), "seed of 0 or more"),
    ],
    ConditionError: [
        ("encode: NaN conditions", lambda m: m.encode(SMALL[:3], ENCODED * np.nan), "NaN|nan"),
        ("encode: infinite conditions", lambda m: m.encode(SMALL[:3], ENCODED + np.inf), "inf"),
        ("encode: Age", lambda m: m.encode(SMALL, TABLE.rename(columns={"age": "Age"})), "'Age'"),
        ("decode: NaN conditions", lambda m: m.decode(Z, ENCODED * np.nan), "nan"),
        ("generate: infinite age", lambda m: m.generate(age=np.inf), "age: .*inf"),
        ("generate: lengths", lambda m: m.generate(n=3, age=[1, 2]), "age 2, n = 3"),
    ],
}


@pytest.mark.parametrize(("call", "message", "error"), rows(USES))
def test_a_model_that_is_asked_nonsense_says_so(model, call, error, message):
    with pytest.raises(error, match=message):
        call(model)


def huge(folder):
    with (folder / "parameters.json").open("r+b") as file:
        file.truncate(60_000_000)  # a hole: it takes no space


FOREIGN = [
    ("nothing there", lambda folder: shutil.rmtree(folder), "holds no model"),
    ("huge JSON", huge, "larger than any description"),
    ("empty weights", lambda folder: (folder / "model.weights.h5").write_bytes(b""), "is damaged"),
]


@pytest.mark.parametrize(("change", "message"), rows(FOREIGN))
def test_a_model_folder_from_elsewhere_is_named_where_it_is_none(model, change, message, tmp_path):
    model.save(tmp_path / "foreign")
    change(tmp_path / "foreign")
    with pytest.raises(ModelError, match=message) as caught:
        VAE.load(tmp_path / "foreign")
    assert "foreign" in str(caught.value)


# --- training -------------------------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch):
    train_eagerly(monkeypatch)


def trained(path, target=None, **settings):
    """Epochs of the small model on six subjects, judged on six others."""
    named = schema().fit(TABLE)
    arguments = {"schema": named, "hidden": ()}
    task = "none" if target is None else "cox"
    kind = VAE if target is None else VAEPrediction
    made = kind((12, 30), *LAYERS, 2, named.dim, **arguments).adapt(SMALL, TABLE)
    config = replace(
        CONFIG,
        model=ModelConfig(task=task),
        training=TrainingConfig(**{"epochs": 2, "batch_size": 3, "xla": False} | settings),
    )
    parts = [
        Samples(SMALL[rows], named.encode(TABLE[rows]), None if target is None else target[rows])
        for rows in (slice(0, 6), slice(6, 12))
    ]
    return made, fit(made, *parts, config, path)


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_a_huge_learning_rate_stops_with_the_terms_that_were_lost(tmp_path):
    with pytest.raises(TrainingError, match=r"loss.* in epoch 1\. Try a lower training\.learning"):
        trained(tmp_path / "training.npz", learning_rate=1e30)
    assert not (tmp_path / "training.npz").exists()


@pytest.mark.usefixtures("eager")
def test_a_log_hazard_that_is_lost_stops_with_the_last_good_epoch_kept(tmp_path, monkeypatch):
    time = np.arange(1.0, 13)
    target = np.stack([time, np.ones(12)], axis=1).astype(np.float32)
    asked = VAEPrediction.predict_log_hazard
    calls = []

    def lost_in_the_second_epoch(self, *arguments):
        calls.append(1)
        return asked(self, *arguments) * (np.nan if len(calls) > 1 else 1)

    monkeypatch.setattr(VAEPrediction, "predict_log_hazard", lost_in_the_second_epoch)
    path = tmp_path / "training.npz"
    with pytest.raises(
        TrainingError, match=r"val_log_hazard .* epoch 2\. Epoch 1 is kept in .*npz"
    ):
        trained(path, target)
    with np.load(path, allow_pickle=False) as saved:
        assert len(json.loads(str(saved["history"]))) == 1


@pytest.mark.usefixtures("eager")
def test_a_batch_larger_than_the_cohort_is_the_cohort_and_a_full_disk_loses_no_epoch(
    tmp_path, capsys, monkeypatch
):
    path = tmp_path / "training.npz"
    writes = Checkpoint._write

    def full_after_one(self):
        monkeypatch.setattr(np, "savez", full)
        return writes(self)

    def first(self):
        writes(self)
        monkeypatch.setattr(Checkpoint, "_write", full_after_one)

    monkeypatch.setattr(Checkpoint, "_write", first)
    with pytest.raises(OSError, match="No space left"):
        trained(path, batch_size=1000)
    assert "batch is the whole training set: 6 ECGs" in capsys.readouterr().out
    monkeypatch.setattr(Checkpoint, "_write", writes)
    monkeypatch.undo()
    with np.load(path, allow_pickle=False) as saved:
        assert len(json.loads(str(saved["history"]))) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(content, tmp_path):
    (tmp_path / "training.npz").write_bytes(content)
    with pytest.raises(TrainingError, match=r"training\.npz is damaged.*Delete it"):
        trained(tmp_path / "training.npz")


# --- command line ---------------------------------------------------------------------------------


def with_arrays(table):
    """A folder `mine` of arrays."""

    def make(here):
        (here / "mine").mkdir()
        np.save(here / "mine" / "ecg.npy", np.repeat(ECG, 5, axis=0))
        rows = [f"{number},{50 + number},male,25" for number in range(20)]
        (here / "mine" / "subjects.csv").write_text("\n".join([table, *rows, ""]))

    return make


def nothing(here):
    pass


MINE = "--run mine --data.source arrays --data.path mine"
HEADER = "subject_id,age,sex,bmi"

COMMANDS = [
    ("misspelled preset flag", nothing, "--pre quick", "--pre"),
    ("NaN", nothing, "--training.learning_rate nan", "training.learning_rate: .*nan"),
    ("infinity", nothing, "--model.kl_weight inf", "model.kl_weight: .*inf"),
    ("task without target", nothing, "--model.task binary", "model.target"),
    ("missing path", nothing, MINE, "data.path: mine is not there"),
    ("empty folder", lambda here: (here / "mine").mkdir(), MINE, r"ecg\.npy is not there"),
    ("table with semicolons", with_arrays("subject_id;age;sex;bmi"), MINE, r"subjects\.csv"),
    ("other columns", with_arrays("subject_id,Age,sex,bmi"), MINE, "Expected a column 'age'"),
    (
        "unknown codes",
        with_arrays("subject_id,age,bmi,sex"),
        MINE,
        "sex: .*Received 25 in record '0'",
    ),
    (
        "missing outcomes",
        with_arrays(HEADER),
        f"{MINE} --data.outcomes gone.csv",
        r"gone\.csv is not",
    ),
    ("no outcomes", with_arrays(HEADER), f"{MINE} --model.task cox", r"lacks \['time', 'event'\]"),
    ("a file called runs", lambda here: (here / "runs").write_text("x"), "--run mine", "runs/mine"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("make", "typed", "message"), rows(COMMANDS))
def test_a_mistake_in_training_is_one_line(here, make, typed, message, capsys):
    make(here)
    line = one_line(train.main, "train.py: ", capsys, *typed.split())
    assert re.search(message, line), line


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "small"
    model.save(folder)
    return folder


def test_a_file_in_the_way_and_deep_json_are_one_line_where_ecgs_are_generated(here, saved, capsys):
    (here / "taken").write_text("mine")
    (here / "deep").mkdir()
    (here / "deep" / "parameters.json").write_text(DEEP)
    refused = partial(one_line, generate.main, "python -m evaluation.generate: ", capsys)
    assert "taken" in refused(saved, "--out", "taken")
    assert "deep holds no model, or a damaged one" in refused("deep", "--out", "out")
    assert not (here / "out").exists()
