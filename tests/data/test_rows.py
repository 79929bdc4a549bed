import pickle
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from config import CONFIG, TrainingConfig
from data import rows as module
from data.beats import Beat
from data.cohort import Cohort
from data.conditions import Condition, ConditionSchema
from data.readers.prepare import prepare
from data.rows import Rows, chunks, select, stored, write_array
from evaluation import draw, judge
from evaluation.measures.reconstruction import reconstruction_metrics
from tests.eager import train_eagerly
from training.batches import Batches, Samples
from training.fit import fit
from training.provenance import fingerprint
from training.setup import build_model, samples_of
from vae import VAE, ModelError

N = 60


def some_ecg(n=N, samples=400):
    return np.random.default_rng(0).normal(0, 0.3, (n, 12, samples)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A prepared cohort of recordings of 40 patients, on disk."""
    folder = tmp_path_factory.mktemp("cohort")
    number = np.arange(N)
    subjects = pd.DataFrame(
        {"subject_id": number, "patient_id": number % 40, "age": 40 + number % 40}
    )
    Cohort(some_ecg(), subjects).save(folder)
    return folder


@pytest.fixture
def _all_on_disk(monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", 0)


@pytest.fixture
def rows(saved):
    return stored(np.load(saved / "ecg.npy", mmap_mode="r"))


CHOICES = {
    "one": 3,
    "one from the end": -2,
    "NumPy's one": np.int64(5),
    "some": slice(2, 9),
    "every third, backwards": slice(None, None, -3),
    "beyond the end": slice(50, 99),
    "none": slice(5, 5),
    "a list": [4, 4, 0, -1],
    "an empty list": np.array([], int),
    "shuffled": np.random.default_rng(1).permutation(N),
    "a mask": np.arange(N) % 7 == 0,
    "two axes": np.array([[1, 2], [2, 0]]),
}


@pytest.mark.parametrize("key", CHOICES.values(), ids=CHOICES)
def test_rows_are_those_of_the_array_in_the_file(rows, key):
    found, expected = rows[key], some_ecg()[key]
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, expected, strict=True)
    assert not found.size or found.ctypes.data % 64 == 0  # TensorFlow copies any other


def test_a_selection_of_a_selection_reads_the_right_rows_and_copies_only_numbers(rows):
    chosen, again = np.random.default_rng(2).permutation(N)[:40], [7, 3, 3, 39]
    tracemalloc.start()
    part = rows.take(chosen).take(again)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**14  # one ECG alone is 19 kB
    assert isinstance(part, Rows)
    np.testing.assert_array_equal(np.asarray(part), some_ecg()[chosen][again], strict=True)
    assert (len(part), part.ndim, part.shape, part.dtype) == (4, 3, (4, 12, 400), np.float32)
    assert part.nbytes == 4 * 12 * 400 * 4
    assert np.asarray(part, np.float64).dtype == np.float64


@pytest.mark.parametrize("key", [N, [0, N], (0, 1), np.s_[:, 0], np.s_[..., 0]])
def test_what_is_not_there_and_more_than_one_index_are_refused(rows, key):
    with pytest.raises(IndexError):
        rows[key]


def test_rows_can_be_walked_through_and_sent_to_another_process(rows):
    np.testing.assert_array_equal(list(rows), some_ecg())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows))[:], some_ecg())


def test_rows_of_a_view_of_a_memory_map_start_where_the_view_does(saved):
    mapped = np.load(saved / "ecg.npy", mmap_mode="r")
    for view in (mapped[5:20], mapped[5:20][3:], mapped[..., None][..., 0]):
        assert isinstance(stored(view), Rows)
        np.testing.assert_array_equal(stored(view)[:], view)


def test_only_a_plain_read_only_memory_map_becomes_rows(saved, tmp_path):
    mapped = np.load(saved / "ecg.npy", mmap_mode="r")
    private = np.load(saved / "ecg.npy", mmap_mode="c")
    private[5] = 0  # in memory alone
    turned = np.asfortranarray(some_ecg(5))
    np.save(tmp_path / "turned.npy", turned)
    turned = np.load(tmp_path / "turned.npy", mmap_mode="r")
    np.save(tmp_path / "alike.npy", some_ecg()[[0, 1, 0, 1, 0]])
    every_other = np.load(tmp_path / "alike.npy", mmap_mode="r")[::2]  # its ends look right
    for array in (some_ecg(), private, turned, mapped[:, :3], every_other, mapped[:0]):
        assert stored(array) is array
        rows = np.arange(len(array))[::-1]
        np.testing.assert_array_equal(select(array, rows), array[::-1])


def test_a_file_that_was_replaced_is_not_taken_for_the_one_that_is_mapped(tmp_path):
    file = tmp_path / "ecg.npy"
    np.save(file, some_ecg())
    mapped = np.load(file, mmap_mode="r")
    rows = stored(mapped)
    np.save(tmp_path / "other.npy", -some_ecg())
    (tmp_path / "other.npy").replace(file)
    np.testing.assert_array_equal(stored(mapped)[:3], some_ecg()[:3])
    with pytest.raises(OSError, match="replaced or changed"):
        rows[0]


def test_a_file_that_was_cut_short_is_told(tmp_path):
    np.save(tmp_path / "ecg.npy", some_ecg())
    header = np.load(tmp_path / "ecg.npy", mmap_mode="r").offset
    with (tmp_path / "ecg.npy").open("r+b") as file:
        file.truncate(header + 30 * 12 * 400 * 4 + 100)
    rows = Rows(tmp_path / "ecg.npy", header, (N, 12, 400), np.float32)
    np.testing.assert_array_equal(rows[29], some_ecg()[29])
    with pytest.raises(OSError, match="cut short"):
        rows[30]


def test_what_is_written_in_parts_is_what_numpy_writes(tmp_path):
    np.save(tmp_path / "whole.npy", some_ecg())
    parts = (part for _, part in chunks(some_ecg(), 7))
    write_array(tmp_path / "parts.npy", (N, 12, 400), parts)
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


# ---- cohorts -------------------------------------------------------------------------------------


def test_a_large_part_of_a_mapped_cohort_stays_on_disk_and_a_small_one_is_copied(
    saved, monkeypatch
):
    cohort = Cohort.open(saved)
    assert {type(part.ecg) for part in cohort.split()} == {np.ndarray}
    monkeypatch.setattr(module, "IN_MEMORY", max(part.ecg.nbytes for part in cohort.split()[1:]))
    assert [type(part.ecg) for part in cohort.split()] == [Rows, np.ndarray, np.ndarray]
    monkeypatch.setattr("data.cohort.SMALL", cohort.ecg.nbytes - 1)
    assert {type(part.ecg) for part in cohort.split()} == {Rows}


def test_what_is_judged_of_a_large_cohort_is_read_once(saved, monkeypatch):
    monkeypatch.setattr("data.cohort.SMALL", 0)
    test = Cohort.open(saved).split().test
    for count in (len(test), 3):
        assert isinstance(test.thinned(count).ecg, np.ndarray)
        assert isinstance(test.thinned(count, 0).ecg, Rows)
    assert test.thinned(len(test), 0) is test


@pytest.mark.usefixtures("_all_on_disk")
def test_a_split_on_disk_holds_what_the_same_split_in_memory_holds(saved):
    cohort = Cohort.open(saved)
    in_memory = Cohort(some_ecg(), cohort.subjects)
    tracemalloc.start()
    split = cohort.split()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < cohort.ecg.nbytes / 4
    for part, expected in zip(split, in_memory.split(), strict=True):
        assert isinstance(part.ecg, Rows)
        np.testing.assert_array_equal(np.asarray(part.ecg), expected.ecg)
        pd.testing.assert_frame_equal(part.subjects, expected.subjects)
        assert fingerprint(part) == fingerprint(expected)
    some = split.train.take([4, 1])
    np.testing.assert_array_equal(some.ecg[:], in_memory.split().train.ecg[[4, 1]])


@pytest.mark.usefixtures("_all_on_disk")
def test_a_part_on_disk_can_be_saved_and_checked_as_a_cohort_of_its_own(saved, tmp_path):
    part = Cohort.open(saved).split().train
    again = Cohort(part.ecg, part.subjects)
    again.save(tmp_path)
    np.testing.assert_array_equal(Cohort.open(tmp_path).ecg, part.ecg[:])


def test_passes_over_a_mapped_cohort_read_the_file_and_leave_the_map_alone(saved, monkeypatch):
    opened = Cohort.open(saved)
    expected = fingerprint(Cohort(some_ecg(), opened.subjects))

    class Untouchable(np.memmap):
        def __getitem__(self, key):
            assert key in (0, -1)  # to see that the file is the one that is mapped
            return super().__getitem__(key)

    opened.ecg = opened.ecg.view(Untouchable)
    assert fingerprint(opened) == expected
    opened.split()
    opened.save(saved.parent / "copy")
    Cohort(opened.ecg, opened.subjects)


def test_preparing_holds_a_few_shards_at_a_time(tmp_path, monkeypatch):
    """1,000 records of 19 kB: 19 MB."""
    monkeypatch.setattr(module, "CHUNK", 64)
    table = pd.DataFrame({"subject_id": np.arange(1000)})
    tracemalloc.start()
    cohort = prepare(table, range(1000), made_up_beat, tmp_path, "made up", workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23
    np.testing.assert_array_equal(cohort.ecg[999], made_up_beat(999).ecg)


def made_up_beat(number):
    ecg = np.random.default_rng(number).normal(0, 0.3, (12, 400)).astype(np.float32)
    return Beat(ecg, 8, 9, 0.99, 5.0, 60.0)


# ---- models --------------------------------------------------------------------------------------


CONFIGURED = replace(
    CONFIG,
    model=replace(
        CONFIG.model,
        latent_space_dim=3,
        conv_filters=(2, 2),
        conv_kernels=((1, 20), (12, 1)),
        hidden=(8,),
    ),
    training=TrainingConfig(epochs=2, batch_size=16, xla=False),
)


def built(split):
    schema = ConditionSchema([Condition("age", unit="years")]).fit(split.train.subjects)
    return build_model(CONFIGURED, schema, split.train)


def trained(split, folder):
    model = built(split)
    model.adapt(split.train.ecg, split.train.subjects)
    train, validation = (samples_of(part, model, CONFIGURED.model) for part in split[:2])
    history = fit(model, train, validation, CONFIGURED, folder / "training.npz")
    model.standardise_latent(train.ecg, train.conditions)
    model.fit_prior(train.ecg, train.conditions)
    return model, history.drop(columns="seconds")


@pytest.mark.usefixtures("_all_on_disk")
def test_training_from_disk_is_training_in_memory_bit_for_bit(saved, tmp_path, monkeypatch):
    train_eagerly(monkeypatch)
    cohort = Cohort.open(saved)
    on_disk, in_memory = cohort.split(), Cohort(some_ecg(), cohort.subjects).split()
    assert isinstance(on_disk.train.ecg, Rows)
    model, history = trained(on_disk, tmp_path / "disk")
    expected, expected_history = trained(in_memory, tmp_path / "memory")
    pd.testing.assert_frame_equal(history, expected_history, check_exact=True)
    for weight, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    for part, other in zip(model.prior, expected.prior, strict=True):
        np.testing.assert_array_equal(part, other)
    test = on_disk.test
    np.testing.assert_array_equal(
        model.reconstruct(test.ecg, test.subjects),
        expected.reconstruct(in_memory.test.ecg, test.subjects),
    )


@pytest.mark.parametrize(("kept", "decoded"), [(8, [8]), (7, [3, 2])])
def test_few_reconstructions_are_decoded_once_and_many_when_asked_for(monkeypatch, kept, decoded):
    monkeypatch.setattr(judge, "KEPT", kept)
    calls = []

    def decode(z, subjects):
        calls.append(len(z))
        return 2 * z + subjects.to_numpy()

    latent, subjects = np.arange(16.0).reshape(8, 2), pd.DataFrame({"age": np.arange(8.0)})
    model = SimpleNamespace(ecg_shape=(12, 400), decode=decode)
    found = judge.Reconstruction(model, latent, subjects)
    assert found.shape == (8, 12, 400)
    for rows in (slice(2, 5), np.array([7, 0])):
        expected = 2 * latent[rows] + subjects.iloc[rows].to_numpy()
        np.testing.assert_array_equal(found[rows], expected)
    assert calls == decoded


@pytest.mark.usefixtures("_all_on_disk")
def test_reconstructions_are_judged_from_disk_as_in_memory(saved, monkeypatch):
    cohort = Cohort.open(saved)
    on_disk, in_memory = cohort.split(test=0.7), Cohort(some_ecg(), cohort.subjects).split(test=0.7)
    test, subjects = in_memory.test, in_memory.test.subjects
    model = built(in_memory).adapt(in_memory.train.ecg, in_memory.train.subjects)
    mean, _ = model.encode(test.ecg, subjects)
    whole, lazy = model.decode(mean, subjects), judge.Reconstruction(model, mean, subjects)
    patients = subjects["patient_id"]
    expected = reconstruction_metrics(test.ecg, whole, in_memory.train.ecg, patients, 3, draws=20)
    monkeypatch.setattr("evaluation.measures.reconstruction.RECORDINGS_PER_CHUNK", 8)
    monkeypatch.setattr(module, "CHUNK", 8)
    monkeypatch.setattr(judge, "KEPT", 8)
    found = reconstruction_metrics(on_disk.test.ecg, lazy, on_disk.train.ecg, patients, 3, draws=20)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    drawn = []
    monkeypatch.setattr(draw.figures, "plot_reconstructions", lambda *a, **k: drawn.append(a))
    draw._examples(on_disk.test, lazy, 3)
    error = 1000 * np.abs(test.ecg - whole).mean(axis=(1, 2))
    [(real, made, titles)] = drawn
    for row, ecg, reconstruction, title in zip(
        np.argsort(error)[np.round(np.linspace(0.05, 0.95, 3) * (len(error) - 1)).astype(int)],
        *(real, made, titles),
        strict=True,
    ):
        np.testing.assert_array_equal(ecg, test.ecg[row])
        np.testing.assert_allclose(reconstruction, whole[row], atol=1e-5)
        assert title.startswith(f"{subjects['subject_id'][row]}: mean error {error[row]:.0f} uV")


@pytest.mark.usefixtures("_all_on_disk")
def test_of_a_large_split_an_even_selection_is_judged(saved):
    train = Cohort.open(saved).split().train
    some = train.thinned(3)
    np.testing.assert_array_equal(some.ecg[:], train.ecg[[0, (len(train) - 1) // 2, -1]])


@pytest.mark.usefixtures("_all_on_disk")
def test_an_epoch_from_disk_deals_each_row_once_in_an_order_of_its_own(saved):
    train = Cohort.open(saved).split().train
    batches = Batches(Samples(train.ecg, np.zeros((len(train), 1), np.float32)), 9)
    orders = []
    for epoch in range(2):
        batches.start_epoch(epoch)
        ecg = np.concatenate([batches[number][0][0] for number in range(len(batches))])
        orders.append([row.tobytes() for row in ecg])
    assert len(set(orders[0])) == len(orders[0]) == len(train) // 9 * 9
    assert set(orders[0]) <= {row.tobytes() for row in train.ecg}
    assert orders[0] != orders[1]


@pytest.mark.usefixtures("_all_on_disk")
def test_rows_that_do_not_fit_a_model_are_refused_in_words(saved, tmp_path):
    model = built(Cohort.open(saved).split())
    short = Rows(saved / "ecg.npy", 128, (N, 12, 200), np.float32)
    with pytest.raises(ModelError, match=r"Received: \(60, 12, 200\)"):
        model.encode(short)
    broken = some_ecg()
    broken[7, 2, 3] = np.nan
    np.save(tmp_path / "broken.npy", broken)
    with pytest.raises(ModelError, match="ECG 7 has NaN"):
        model.encode(np.load(tmp_path / "broken.npy", mmap_mode="r"))


def test_encoding_checks_and_reads_each_row_once(rows, monkeypatch):
    monkeypatch.setattr("model.inputs.PREDICT_BATCH", 16)
    read, count = Rows._read, []
    monkeypatch.setattr(Rows, "_read", lambda *given: count.append(len(given[1])) or read(*given))
    model = VAE((12, 400), (2,), ((12, 1),), ("valid",), 2, 0)
    np.testing.assert_allclose(model.encode(rows)[0], model.encode(some_ecg())[0], atol=1e-6)
    assert sum(count) == 2 * N
