from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from config import TrainingConfig
from data.leads import derive_leads, independent_leads
from model.augment import augment, draw
from tests.eager import train_eagerly
from tests.tiny_cohort import COHORT, CONFIGURED, OTHERS, SCHEMA, TRAIN, VALIDATION
from training import batches as batches_module
from training import calls
from training import fit as training
from training.batches import Batches, Filled, Samples, hold
from training.calls import Calls, pipeline
from training.checkpoint import TrainingError
from training.fit import fit, kl_weight_at, learning_rate_at
from training.setup import build_model
from vae import PUBLISHED, VAE


def trained(path, config=CONFIGURED, train=TRAIN, **settings):
    config = replace(config, training=replace(config.training, **settings))
    model = build_model(config, SCHEMA, COHORT)
    if config.model.linear_path:
        model.adapt(COHORT.ecg, COHORT.subjects)
    return model, fit(model, train, VALIDATION, config, path)


@pytest.fixture(scope="module", autouse=True)
def _eager():
    with pytest.MonkeyPatch.context() as patch:
        train_eagerly(patch)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three epochs without interruption: the model and its history."""
    return trained(tmp_path_factory.mktemp("run") / "checkpoint" / "training.npz")


# --- batches --------------------------------------------------------------------------------------


def rows_of(batches):
    """Which subjects are in each batch, told by the condition."""
    return [inputs[1][:, 0].astype(int) for (inputs,) in (batches[i] for i in range(len(batches)))]


def numbered(n):
    ecg = np.arange(n, dtype=np.float32)[:, None, None] * np.ones((1, 12, 4), np.float32)
    return Samples(ecg, np.arange(n, dtype=np.float32)[:, None])


def test_an_epoch_sees_each_subject_at_most_once_and_fills_its_batches():
    batches = Batches(numbered(70), 16, seed=3)
    seen = np.zeros(70, int)
    for epoch in range(6):
        batches.start_epoch(epoch)
        rows = rows_of(batches)
        assert [len(part) for part in rows] == [16] * 4
        seen += np.bincount(np.concatenate(rows), minlength=70)
        assert seen.max() <= epoch + 1
    assert seen.min() >= 4  # no subject waits for ever


def test_a_batch_joins_each_ecg_to_its_own_conditions_and_target():
    samples = numbered(40)._replace(target=np.arange(40.0) * 2)
    (ecg, conditions), target = Batches(samples, 8, seed=1)[2]
    np.testing.assert_array_equal(ecg[:, 0, 0], conditions[:, 0])
    np.testing.assert_array_equal(target, 2 * conditions[:, 0])
    assert ecg.dtype == np.float32


@pytest.mark.parametrize("keywords", [{}, {"augmentation": 1.0}, {"resident": True}])
def test_several_batches_at_once_are_the_stack_of_each(keywords):
    ecg = np.random.default_rng(0).normal(size=(40, 12, 400)).astype(np.float32)
    target = np.random.default_rng(1).normal(size=(40, 2))
    batches = Batches(Samples(ecg, np.arange(40.0)[:, None], target), 8, seed=3, **keywords)
    batches.start_epoch(2)
    stacked, targets = batches[np.array([1, 4, 4])]
    for position, number in enumerate((1, 4, 4)):
        inputs, one = batches[number]
        for part, expected in zip(stacked, inputs, strict=True):
            np.testing.assert_array_equal(part[position], expected, strict=True)
        np.testing.assert_array_equal(targets[position], one, strict=True)
        if "augmentation" in keywords:
            known = draw(8, 1.0, np.random.default_rng([3, 2, number]))
            np.testing.assert_array_equal(inputs[2], known)


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, visited=()):
        batches = Batches(numbered(64), 16, seed)
        for other in visited:
            batches.start_epoch(other)
        batches.start_epoch(epoch)
        return np.concatenate(rows_of(batches)).tolist()

    assert order(0, 5) == order(0, 5, visited=(1, 2, 3))
    assert order(0, 5) != order(0, 6)
    assert order(0, 5) != order(1, 5)


def test_validation_is_in_order_and_complete():
    rows = rows_of(Batches(numbered(70), 16, shuffle=False))
    assert [len(part) for part in rows] == [16, 16, 16, 16, 6]
    assert np.concatenate(rows).tolist() == list(range(70))
    assert len(Batches(numbered(64), 16, shuffle=False)) == 4


def test_fewer_subjects_than_a_batch_are_one_batch():
    assert [len(part) for part in rows_of(Batches(numbered(5), 16))] == [5]


def test_batches_read_only_their_rows_of_a_memory_map(tmp_path):
    class Watched(np.memmap):
        asked: list = []  # noqa: RUF012

        def __getitem__(self, rows):
            self.asked.append(np.size(rows))
            return super().__getitem__(rows)

    np.save(tmp_path / "ecg.npy", numbered(64).ecg)
    ecg = np.load(tmp_path / "ecg.npy", mmap_mode="r").view(Watched)
    batches = Batches(numbered(64)._replace(ecg=ecg), 16, seed=2)
    ((received, conditions),) = batches[1]
    assert ecg.asked == [16]
    np.testing.assert_array_equal(received[:, 3, 2], conditions[:, 0])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("target", [None, np.arange(40, dtype=np.float32)])
def test_the_pipeline_hands_out_the_batches_of_each_epoch(shuffle, target):
    batches = Batches(TRAIN._replace(target=target), 16, seed=3, shuffle=shuffle)
    made = pipeline(batches)
    assert len(made) == len(batches)
    assert made.element_spec[0][0].shape == (16 if shuffle else None, 12, 60)
    for epoch in range(2):
        batches.start_epoch(epoch)
        for index, received in enumerate(made.as_numpy_iterator()):
            (ecg, conditions), *target_of = batches[index]
            np.testing.assert_array_equal(received[0][0], ecg)
            np.testing.assert_array_equal(received[0][1], conditions)
            assert len(received) == len(target_of) + 1
            for one, other in zip(received[1:], target_of, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("target", [None, np.arange(40, dtype=np.float32)])
def test_filled_batches_have_one_shape_and_weights_that_count_each_row_once(target):
    batches = Filled(Batches(TRAIN._replace(target=target), 16, shuffle=False), 16)
    made = pipeline(batches)
    assert made.element_spec[0][0].shape == (16, 12, 60)
    assert made.element_spec[2].shape == (16,)
    counted = []
    for (_, conditions), targets, weights in made:
        assert (targets is None) == (target is None)
        counted.append(np.asarray(conditions)[np.asarray(weights) > 0])
    np.testing.assert_array_equal(np.concatenate(counted), TRAIN.conditions)


def test_calls_hold_each_batch_once_and_differ_in_length_by_filling_alone(monkeypatch):
    monkeypatch.setattr(calls, "MOST_STEPS", 4)
    target = np.arange(40, dtype=np.float32)
    batches = Batches(TRAIN._replace(target=target), 4, seed=3)  # 10 in 3 calls: 4, 4, 2
    made = pipeline(Calls(batches))
    assert made.element_spec["batches"][0][0].shape == (4, 4, 12, 60)
    for epoch in range(2):
        batches.start_epoch(epoch)
        found = []
        for call in made.as_numpy_iterator():
            (ecg, conditions), targets = call["batches"]
            found += list(zip(ecg, conditions, targets, strict=True))[: call["steps"]]
        assert len(found) == len(batches) == 10
        for index, (ecg, conditions, targets) in enumerate(found):
            np.testing.assert_array_equal(ecg, batches[index][0][0])
            np.testing.assert_array_equal(conditions, batches[index][0][1])
            np.testing.assert_array_equal(targets, batches[index][1])


@pytest.mark.parametrize(
    ("most", "size", "bytes_at_most", "steps"),
    # An ECG of these is 12 x 60 x 4 bytes; 40 of them.
    [(32, 4, 2**24, 10), (6, 4, 2**24, 5), (32, 4, 3 * 4 * 2880, 3), (32, 16, 1, 1)],
)
def test_calls_are_limited_in_steps_and_bytes(monkeypatch, most, size, bytes_at_most, steps):
    monkeypatch.setattr(calls, "MOST_STEPS", most)
    monkeypatch.setattr(calls, "MOST_BYTES", bytes_at_most)
    batches = Batches(TRAIN, size)
    assert Calls(batches).steps == steps
    assert len(Calls(batches)) == -(-len(batches) // steps)


def steps_of(several, **compiled):
    """Weights and history after ten steps on batches, two of them in a call or one by one."""
    # One convolution and no dense layer: compiled sooner.
    kernels = {"conv_kernels": ((1, 20),), "conv_paddings": ("same",)}
    small = {"hidden": (), "conv_filters": (2,), **kernels}
    config = replace(CONFIGURED, model=replace(CONFIGURED.model, **small))
    model = build_model(config, SCHEMA, COHORT)
    # Not eagerly unless it is asked for, as the other tests here.
    keras.Model.compile(model, keras.optimizers.Adam(1e-3), **compiled)
    batches = Batches(TRAIN, 8)  # 5 in 3 calls, of which the last holds one
    data = pipeline(Calls(batches) if several else batches)
    history = model.fit(data, epochs=2, shuffle=False, verbose=0).history
    assert model.optimizer.iterations == 10
    return model.get_weights(), history


@pytest.mark.parametrize(
    ("compiled", "single"),
    # XLA rounds otherwise than the same steps without a graph, TensorFlow's own graph does not.
    [
        ({"jit_compile": True}, {"jit_compile": True}),
        ({"jit_compile": False}, {"run_eagerly": True}),
    ],
    ids=["xla", "graph"],
)
def test_steps_of_a_call_are_those_that_single_batches_make(monkeypatch, compiled, single):
    monkeypatch.setattr(calls, "MOST_STEPS", 2)
    weights, history = steps_of(False, **single)
    others, other_history = steps_of(True, **compiled)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    for name, values in history.items():
        np.testing.assert_allclose(values, other_history[name], rtol=1e-5, err_msg=name)


def test_ecgs_that_lie_on_a_gpu_are_told_by_number_and_train_bit_for_bit_the_same(
    finished, tmp_path, monkeypatch
):
    seen, look_up = [], VAE._as_inputs
    monkeypatch.setattr(training.keras.distribution, "list_devices", lambda: ["gpu:0"])
    monkeypatch.setattr(
        VAE,
        "_as_inputs",
        lambda self, inputs: seen.append(inputs[0].shape) or look_up(self, inputs),
    )
    model, history = trained(tmp_path / "training.npz")
    assert {tuple(shape) for shape in seen} == {(16,), (20, 12, 60)}  # training and validation
    assert model.resident is None
    columns = {"seconds"}
    pd.testing.assert_frame_equal(
        history.drop(columns=columns), finished[1].drop(columns=columns), check_exact=True
    )
    for one, other in zip(model.get_weights(), finished[0].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_does_not_fit_on_a_gpu_stays_where_it_is(monkeypatch):
    model = build_model(CONFIGURED, SCHEMA, COHORT)
    assert not hold(model, COHORT.ecg)  # no GPU
    monkeypatch.setattr(training.keras.distribution, "list_devices", lambda: ["gpu:0"])
    monkeypatch.setattr(batches_module, "RESIDENT", COHORT.ecg.nbytes - 1)
    assert not hold(model, COHORT.ecg)
    assert model.resident is None
    monkeypatch.setattr(batches_module, "RESIDENT", COHORT.ecg.nbytes)
    assert hold(model, COHORT.ecg)


def test_augmentation_is_drawn_anew_in_each_epoch_and_batch_and_reproducibly():
    samples = Samples(np.zeros((20, 12, 400), np.float32), np.arange(20.0)[:, None])

    def drawn(epoch, number, seed=0, **keywords):
        batches = Batches(samples, 10, seed, 1.0, **keywords)
        batches.start_epoch(epoch)
        [(_, _, numbers)] = batches[number]
        return numbers

    assert drawn(1, 0).shape == (10, 7)
    np.testing.assert_array_equal(drawn(1, 0), drawn(1, 0, resident=True))
    assert (drawn(1, 0) != drawn(2, 0)).all()
    assert (drawn(1, 0) != drawn(1, 1)).all()
    assert (drawn(1, 0) != drawn(1, 0, seed=1)).all()
    np.testing.assert_array_equal(drawn(1, 0, share=(1, 2)), drawn(1, 0)[5:])


def test_a_model_is_trained_on_the_augmented_ecgs_and_judged_on_the_others():
    ecg = np.cumsum(np.random.default_rng(0).normal(0, 0.05, (20, 12, 400)), axis=2)
    ecg, conditions = derive_leads(independent_leads(ecg.astype(np.float32))), np.zeros((20, 0))
    model = VAE((12, 400), (2,), ((1, 10),), ("same",), 2, 0).adapt(ecg)
    [(_, _, drawn)] = Batches(Samples(ecg, conditions), 20, 0, 2.0)[0]
    given = model((ecg, conditions, drawn), training=True)["standardised"]
    expected = model((augment(ecg, drawn, 150), conditions), training=True)["standardised"]
    np.testing.assert_allclose(given, expected, atol=1e-5)
    plain = model((ecg, conditions))["standardised"]
    assert np.abs(given - plain).max() > 0.1


# --- schedules ------------------------------------------------------------------------------------


def test_the_kl_weight_warms_up_linearly_or_in_cycles():
    settings = TrainingConfig(kl_schedule="warm-up", kl_epochs=4)
    weights = [kl_weight_at(epoch, settings, 2.0) for epoch in range(6)]
    assert weights == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    settings = TrainingConfig(kl_schedule="cyclical", kl_epochs=4)
    weights = [kl_weight_at(epoch, settings, 2.0) for epoch in range(9)]
    assert weights == pytest.approx([1, 2, 2, 2, 1, 2, 2, 2, 1])
    assert kl_weight_at(0, TrainingConfig(), 2.0) == 2.0


def test_the_learning_rate_falls_as_a_half_cosine():
    settings = TrainingConfig(learning_rate=0.1)
    rates = [learning_rate_at(epoch, settings, 4) for epoch in range(5)]
    eighth = 0.05 * np.sqrt(0.5)  # the cosine of an eighth of a turn is sqrt(1/2)
    assert rates == pytest.approx([0.1, 0.05 + eighth, 0.05, 0.05 - eighth, 0])
    settings = TrainingConfig(learning_rate=0.1, learning_rate_decay="none")
    assert learning_rate_at(3, settings, 4) == 0.1


def test_training_uses_both_schedules(tmp_path, monkeypatch):
    seen = []

    def note(callback, batch, logs=None):
        rate = float(callback.model.optimizer.learning_rate.numpy())
        seen.append((callback.batches.epoch, rate, float(callback.model.kl_weight.numpy())))

    monkeypatch.setattr(training.EpochStart, "on_train_batch_end", note)
    trained(tmp_path / "training.npz", learning_rate=1e-4)
    cosine = 1e-4 * 0.5 * (1 + np.cos(np.pi * np.arange(3) / 3))
    expected = zip(range(3), cosine, [1 / 2, 1, 1], strict=True)
    np.testing.assert_allclose(sorted(set(seen)), list(expected), rtol=1e-5)


# --- fit ------------------------------------------------------------------------------------------


def test_gradients_are_clipped_at_the_norm_that_is_asked_for(tmp_path):
    model, _ = trained(tmp_path / "training.npz", epochs=1, gradient_norm=3.0)
    assert model.optimizer.global_clipnorm == 3


def test_the_objective_falls(tmp_path):
    settings = replace(CONFIGURED.model, condition_dropout=0.0)
    _, history = trained(tmp_path / "training.npz", replace(CONFIGURED, model=settings))
    assert history["val_objective"].is_monotonic_decreasing


def test_a_best_epoch_of_the_warm_up_leaves_the_kl_weight_that_was_asked_for(tmp_path):
    model, history = trained(tmp_path / "training.npz", epochs=2, kl_epochs=20)
    assert history["epoch"].tolist() == [1, 2]
    assert float(model.kl_weight.numpy()) == model.settings["kl_weight"] == 1.0


def test_the_best_epoch_is_kept(finished):
    model, history = finished
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["seconds"].min() > 0
    model.compile()
    values = model.evaluate(
        [VALIDATION.ecg, VALIDATION.conditions], batch_size=256, verbose=0, return_dict=True
    )
    assert values["objective"] == pytest.approx(history["val_objective"].min(), rel=1e-5)


def test_the_objective_of_the_history_is_that_of_the_public_functions(finished):
    model, history = finished
    mean, log_var = model.encode(VALIDATION.ecg, VALIDATION.conditions)
    decoded = model.decode(mean, VALIDATION.conditions)
    independent = [0, 1, 6, 7, 8, 9, 10, 11]
    left = (VALIDATION.ecg - decoded)[:, independent].astype(np.float64) / float(model.scale)
    variance = np.exp(2 * float(model.log_noise))
    nats = 0.5 * (left**2 / variance + np.log(2 * np.pi * variance)).sum(axis=(1, 2))
    kl = 0.5 * (np.exp(log_var) + mean**2 - 1 - log_var).sum(axis=1)
    assert history["val_objective"].min() == pytest.approx((nats + kl).mean(), rel=1e-4)
    assert history.loc[history["val_objective"].idxmin(), "val_kl"] == pytest.approx(
        kl.mean(), rel=1e-4
    )


def test_an_interrupted_training_ends_bit_by_bit_where_an_uninterrupted_one_does(
    finished, tmp_path, monkeypatch, capsys
):
    class Killed(Exception):
        pass

    def kill(callback, batch, logs=None):
        if callback.batches.epoch == 1:
            raise Killed

    expected, history = finished
    with monkeypatch.context() as patch:
        patch.setattr(training.EpochStart, "on_train_batch_end", kill)
        with pytest.raises(Killed):
            trained(tmp_path / "training.npz")
    capsys.readouterr()
    model, resumed = trained(tmp_path / "training.npz")
    assert "Resuming after epoch 1 of 3" in capsys.readouterr().out
    pd.testing.assert_frame_equal(
        resumed.drop(columns="seconds"), history.drop(columns="seconds"), check_exact=True
    )
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [path.name for path in tmp_path.glob("partial*")] == []


def test_a_finished_training_is_not_trained_again(finished, tmp_path, monkeypatch):
    model, history = trained(tmp_path / "training.npz")
    monkeypatch.setattr(type(model), "fit", None)
    again, same = trained(tmp_path / "training.npz")
    pd.testing.assert_frame_equal(same, history)
    np.testing.assert_array_equal(again.encode(OTHERS.ecg)[0], model.encode(OTHERS.ecg)[0])


def test_a_loss_that_becomes_nan_stops_with_its_name_and_keeps_the_epoch_before(
    finished, tmp_path, capsys
):
    path = tmp_path / "training.npz"
    spoilt = TRAIN._replace(ecg=np.where(np.arange(40)[:, None, None] < 30, np.nan, TRAIN.ecg))
    with pytest.raises(TrainingError, match="loss.*became NaN or infinite in epoch 1"):
        trained(path, train=spoilt)
    assert not path.exists()

    original = training.Checkpoint.on_epoch_end
    with pytest.MonkeyPatch.context() as patch:

        def stop(callback, epoch, logs=None):
            original(callback, epoch, logs)
            if epoch == 0:
                raise KeyboardInterrupt

        patch.setattr(training.Checkpoint, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(path)
    with pytest.raises(TrainingError, match=r"kl.*in epoch 2\. Epoch 1 is kept in .*training"):
        trained(path, train=spoilt)
    with np.load(path, allow_pickle=False) as saved:
        assert np.isfinite(saved["last3"]).all()

    # Nothing of the lost epoch is left: with sound data it goes on as if that had not been.
    capsys.readouterr()
    model, resumed = trained(path)
    assert "Resuming after epoch 1 of 3" in capsys.readouterr().out
    expected, history = finished
    pd.testing.assert_frame_equal(
        resumed.drop(columns="seconds"), history.drop(columns="seconds"), check_exact=True
    )
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(tmp_path, value):
    saver = training.Checkpoint(tmp_path / "training.npz", 3, 0, "val_objective")
    with pytest.raises(TrainingError, match="^kl became NaN or infinite in epoch 1"):
        saver.on_epoch_end(0, {"loss": 1.0, "kl": value})


def test_one_bad_value_of_one_ecg_is_enough_to_stop(tmp_path):
    ecg = TRAIN.ecg.copy()
    ecg[7, 3, 5] = np.inf  # aVR, which the network does not even read
    trained(tmp_path / "training.npz", train=TRAIN._replace(ecg=ecg), epochs=1)
    ecg[7, 6, 5] = np.inf
    with pytest.raises(TrainingError, match=r"reconstruction.*rmse_uv.*in epoch 1\."):
        trained(tmp_path / "other.npz", train=TRAIN._replace(ecg=ecg), epochs=3)


def test_training_stops_after_patience_and_returns_to_the_best_epoch(tmp_path):
    model, history = trained(
        tmp_path / "training.npz",
        epochs=15,
        patience=2,
        learning_rate=0.02,
        learning_rate_decay="none",
        kl_schedule="constant",
    )
    best = history["val_objective"].idxmin()
    assert len(history) == best + 3 < 15
    model.compile()
    values = model.evaluate(
        [VALIDATION.ecg, VALIDATION.conditions], batch_size=256, verbose=0, return_dict=True
    )
    assert values["objective"] == pytest.approx(history["val_objective"][best], rel=1e-5)
    assert history["val_objective"].iloc[-1] > values["objective"]


def test_the_collapse_of_the_published_objective_is_told(finished, tmp_path, capsys):
    model = replace(CONFIGURED.model, **PUBLISHED, condition_encoding="raw")
    _, history = trained(tmp_path / "training.npz", replace(CONFIGURED, model=model), epochs=4)
    output = capsys.readouterr().out
    assert "Warning: posterior collapse. Only 0.0 of 3 latent dimensions" in output
    assert history["val_kl"].max() < 0.5
    best = finished[1]["val_objective"].idxmin()
    assert finished[1]["val_active_units"][best] == 3


def test_each_epoch_is_a_line_on_the_screen(tmp_path, capsys):
    _, history = trained(tmp_path / "training.npz", epochs=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 1
    row = history.iloc[0]
    for part in (
        *("1/1", f"objective {row['objective']:10.2f}  validation {row['val_objective']:10.2f}"),
        *(f"RMSE {row['val_rmse_uv']:5.1f} uV", f"KL {row['val_kl']:6.2f} nat", "active  3.0/3"),
    ):
        assert part in lines[0]


def test_a_batch_larger_than_the_training_set_is_told(tmp_path, capsys):
    trained(tmp_path / "training.npz", epochs=1, batch_size=100)
    assert "The batch is the whole training set: 40 ECGs" in capsys.readouterr().out
