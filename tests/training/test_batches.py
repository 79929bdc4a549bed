"""What batches are made of, one by one; `test_fit.py` has how they come to the model."""

import keras
import numpy as np
import pytest

from data.rows import Rows, stored
from tests.tiny_cohort import COHORT, CONFIGURED, SCHEMA
from training.batches import Batches, Filled, Samples, hold
from training.setup import build_model


def numbered(n, target=None):
    """ECGs, conditions and targets that are the number of their row."""
    ecg = np.arange(n, dtype=np.float32)[:, None, None] * np.ones((1, 12, 4), np.float32)
    return Samples(ecg, np.arange(n, dtype=np.float32)[:, None], target)


def test_rare_events_are_dealt_to_the_batches():
    target = np.stack([np.full(64, 2.0), np.arange(64) % 8 == 0], axis=1)  # 8 events, 8 batches
    batches = Batches(numbered(64, target), 8, seed=1)
    for number in range(4):
        batches.start_epoch(number)
        events = [batches[index][1][:, 1].sum() for index in range(8)]
        assert events == [1] * 8


@pytest.mark.parametrize("size", [8, 7])
def test_the_shares_of_a_batch_are_the_batch(size):
    samples = numbered(30, np.arange(30.0))
    whole = Batches(samples, size, seed=2, augmentation=1.0)[1]
    parts = [Batches(samples, size, 2, 1.0, share=(number, 3))[1] for number in range(3)]
    assert all(len(target) in (2, 3) for _, target in parts)
    for position, expected in enumerate(whole[0]):
        found = np.concatenate([inputs[position] for inputs, _ in parts])
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.concatenate([target for _, target in parts]), whole[1])


def test_the_numbers_of_ecgs_on_the_device_begin_where_they_lie():
    numbers, conditions = Batches(numbered(9), 3, shuffle=False, resident=True, first=40)[1][0]
    np.testing.assert_array_equal(numbers, np.array([43, 44, 45], np.int32), strict=True)
    np.testing.assert_array_equal(conditions[:, 0], [3, 4, 5])


def test_twice_the_augmentation_is_twice_the_change():
    one, two = (Batches(numbered(20), 10, 3, strength)[1][0][2] for strength in (1.0, 2.0))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)


def test_parts_lie_on_a_gpu_one_behind_the_other_and_what_is_on_disk_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"])
    model = build_model(CONFIGURED, SCHEMA, COHORT)
    np.save(tmp_path / "ecg.npy", COHORT.ecg)
    on_disk = stored(np.load(tmp_path / "ecg.npy", mmap_mode="r"))
    assert isinstance(on_disk, Rows)
    assert not hold(model, COHORT.ecg, on_disk)
    assert model.resident is None
    assert hold(model, COHORT.ecg[:5], COHORT.ecg[5:9])
    np.testing.assert_array_equal(model.resident, COHORT.ecg[:9])


@pytest.mark.parametrize("target", [None, np.arange(10.0)])
def test_filled_batches_share_rows_targets_and_weights_and_stack(target):
    batches = Batches(numbered(10, target), 5, shuffle=False)
    (ecg, conditions), targets, weight = Filled(batches, 4)[1]
    assert len(ecg) == 8
    np.testing.assert_array_equal(ecg[:5, 0, 0], [5, 6, 7, 8, 9])
    np.testing.assert_array_equal(conditions[:, 0], ecg[:, 0, 0])
    np.testing.assert_array_equal(weight, [1, 1, 1, 1, 1, 0, 0, 0])
    assert target is None or targets.tolist() == ecg[:, 0, 0].tolist()
    for number in range(2):
        ours = slice(4 * number, 4 * number + 4)
        [(part, _), part_targets, part_weight] = Filled(batches, 4, (number, 2))[1]
        np.testing.assert_array_equal(part, ecg[ours])
        np.testing.assert_array_equal(part_weight, weight[ours])
        assert target is None or part_targets.tolist() == targets[ours].tolist()
    (stack, _), stacked_targets, weights = Filled(batches, 4)[np.array([1, 0])]
    np.testing.assert_array_equal(stack[0], ecg)
    assert stack[1, 0, 0, 0] == 0
    np.testing.assert_array_equal(weights, [weight, weight])
    assert target is None or stacked_targets[0].tolist() == targets.tolist()
