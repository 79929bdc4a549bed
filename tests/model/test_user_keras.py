"""What a user's Keras is set to, calls it with and puts on top of it."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from data.conditions import Condition, ConditionSchema
from model.network import ModelError
from model.user_keras import standard_settings
from tests import processes
from tests.fresh_process import run_fresh
from vae import VAE
from vae_prediction import VAEPrediction

SHAPE, LAYERS = (12, 40), ((2,), ((1, 10),), ("same",))
ECG = np.random.default_rng(0).normal(0, 0.2, (24, *SHAPE)).astype(np.float32)


def small(kind=VAE, **settings):
    return kind(SHAPE, *LAYERS, 2, 0, **{"hidden": (3,)} | settings)


# --- settings -------------------------------------------------------------------------------------

# All that a model does, in numbers: one digest of each step.
EVERYTHING = """
import hashlib, keras, numpy as np, pytest
from dataclasses import replace
from pathlib import Path
from tests.eager import train_eagerly
from tests.tiny_cohort import COHORT, CONFIGURED, SCHEMA, TRAIN, VALIDATION
from training.fit import fit
from training.setup import build_model
from vae import VAE
from vae_prediction import VAEPrediction

def show(name, *arrays):
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(one, np.float64) for one in arrays))
    print(name, digest.hexdigest())

config = replace(CONFIGURED, model=replace(CONFIGURED.model, noise="per_recording"))
config = replace(config, training=replace(config.training, epochs=1, gradient_norm=10.0))
model = build_model(config, SCHEMA, COHORT).adapt(COHORT.ecg, COHORT.subjects)
show("adapted", *model.get_weights())
history = fit(model, TRAIN, VALIDATION, config, Path("training.npz"))
show("fitted", history.drop(columns="seconds").to_numpy(), *model.get_weights())
show("standardised", *model.standardise_latent(TRAIN.ecg, TRAIN.conditions).get_weights())
model.fit_prior(TRAIN.ecg, TRAIN.conditions)
model.save("model")
show("generated", VAE.load("model").generate(n=3, age=60), model.generate(n=3))
train_eagerly(pytest.MonkeyPatch())
published = {"batch_normalization": True, "output": "elu_batchnorm", "linear_path": False}
head = VAEPrediction(
    (12, 60), (2, 2), ((1, 20), (12, 1)), ("same", "valid"), 3, SCHEMA.dim, schema=SCHEMA,
    **published,
).adapt(COHORT.ecg, COHORT.subjects)
inputs, number = [TRAIN.ecg, TRAIN.conditions], np.arange(40)
y = np.stack([1 + number / 3000, number % 2], axis=1)
head.compile(optimizer="adam")
done = head.fit(inputs, y, batch_size=40, verbose=0, shuffle=False)
show("head fitted", [value[0] for value in done.history.values()], *head.get_weights())
show("judged", list(head.evaluate(inputs, y, verbose=0, return_dict=True).values()))
show("predicted", head.predict(inputs, verbose=0)["output"], head.predict_head(*inputs))
"""


def run_text(code):
    exec(code, {})  # noqa: S102


def digests(printed):
    return [line for line in printed.splitlines() if re.search(r" [0-9a-f]{64}$", line)]


@pytest.fixture(scope="module")
def of_the_defaults(tmp_path_factory):
    """The digests of a process that has imported Keras as it is."""
    return digests(processes.finish(tmp_path_factory.mktemp("default"), run_text, EVERYTHING))


def everything(folder, **settings):
    """The digests of a process whose `keras.json` holds these settings."""
    home = folder / "home"
    home.mkdir()
    (home / "keras.json").write_text(json.dumps({"backend": "tensorflow"} | settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(home))
        done = run_fresh(EVERYTHING, folder, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return digests(done.stdout)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_losses_of_the_tasks_are_float32_in_a_process_of_float16(task, restored):
    keras.config.set_floatx("float16")
    assert small(VAEPrediction, task=task, classes=2)._loss_of_task.dtype == "float32"


def test_no_number_depends_on_the_users_keras_json(of_the_defaults, tmp_path):
    received = everything(
        tmp_path, image_data_format="channels_first", floatx="float16", epsilon=1e-2
    )
    assert len(received) == 7
    assert received == of_the_defaults


@pytest.fixture
def restored():
    config = keras.config
    kept = config.image_data_format(), config.floatx(), config.epsilon(), config.dtype_policy()
    yield
    config.set_image_data_format(kept[0])
    config.set_floatx(kept[1])
    config.set_epsilon(kept[2])
    config.set_dtype_policy(kept[3])


def current():
    config = keras.config
    return config.image_data_format(), config.floatx(), config.epsilon(), config.dtype_policy().name


def test_the_users_settings_are_the_same_afterwards_even_after_an_error(restored):
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float64")
    keras.config.set_epsilon(1e-3)
    keras.config.set_dtype_policy("float64")
    users = "channels_first", "float64", 1e-3, "float64"
    with standard_settings():
        assert current() == ("channels_last", "float32", 1e-7, "float32")
    assert current() == users
    with pytest.raises(ZeroDivisionError), standard_settings():
        1 / 0  # noqa: B018
    assert current() == users
    small().adapt(ECG).compile("adam")
    assert current() == users


def test_mixed_precision_is_chosen_and_stays(restored):
    keras.config.set_dtype_policy("mixed_bfloat16")
    with standard_settings():
        assert keras.config.dtype_policy().name == "mixed_bfloat16"


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64"])
def test_variables_are_float32_whatever_the_policy(restored, policy):
    keras.config.set_dtype_policy(policy)
    model = small(VAEPrediction, task="binary", batch_normalization=True)
    variables = [*model.variables, *(v for metric in model.metrics for v in metric.variables)]
    names = {variable.dtype for variable in variables if "seed" not in variable.path}
    assert names == {"float32"}


def test_a_folder_is_not_blamed_for_what_keras_cannot_do(tmp_path, monkeypatch):
    small().save(tmp_path / "model")

    def fail(*args, **keywords):
        raise ValueError("no kernel for this device")

    monkeypatch.setattr(keras.layers.Conv2D, "build", fail)
    message = "is not to blame: Keras .* cannot build the smallest network: .*no kernel for this"
    with pytest.raises(ModelError, match=message) as caught:
        VAE.load(tmp_path / "model")
    assert "damaged" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    small().save(tmp_path / "model")

    def refuse(*args, **keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ModelError, match="cannot be read: .*Permission denied"):
        VAE.load(tmp_path / "model")


# --- arguments ------------------------------------------------------------------------------------

ROWS = np.arange(24)
WEIGHT = np.where(ROWS % 3 == 0, 3.0, 1.0)
REPEATED = np.concatenate([ROWS, ROWS[WEIGHT == 3], ROWS[WEIGHT == 3]])  # what weights stand for
CONDITIONS = np.linspace(-1, 1, 24, dtype=np.float32)[:, None]
X = (ECG, CONDITIONS)


def told(kind=VAE, **settings):
    """A model of one condition, compiled."""
    model = kind(SHAPE, *LAYERS, 2, 1, **{"hidden": (3,)} | settings).adapt(*X)
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    return model


def of(rows, parts=X):
    return tuple(part[rows] for part in parts)


WITH_WEIGHTS = {
    "evaluate": lambda model: model.evaluate(
        X, sample_weight=WEIGHT, batch_size=24, verbose=0, return_dict=True
    ),
    "by place": lambda model: model.evaluate(X, None, 24, 0, WEIGHT, return_dict=True),
    "as a column": lambda model: model.evaluate(
        list(X), sample_weight=WEIGHT[:, None], batch_size=24, verbose=0, return_dict=True
    ),
    "test_on_batch": lambda model: model.test_on_batch(X, sample_weight=WEIGHT, return_dict=True),
    "validation_data": lambda model: {
        name.removeprefix("val_"): values[0]
        for name, values in model.fit(
            X, validation_data=(X, None, WEIGHT), batch_size=24, verbose=0
        ).history.items()
        if name.startswith("val_")
    },
}


@pytest.mark.parametrize("way", WITH_WEIGHTS)
def test_weights_count_as_rows_that_are_repeated_do(way):
    model = told()
    model.optimizer.learning_rate = 0.0
    received = WITH_WEIGHTS[way](model)
    expected = model.evaluate(of(REPEATED), batch_size=100, verbose=0, return_dict=True)
    plain = model.evaluate(X, batch_size=100, verbose=0, return_dict=True)
    assert abs(plain["loss"] - expected["loss"]) > 0.05
    for name in ("loss", "objective", "reconstruction", "kl", "rmse_uv"):
        assert received[name] == pytest.approx(expected[name], rel=1e-4)


@pytest.mark.parametrize("call", ["fit", "train_on_batch"])
def test_a_step_on_weighted_rows_is_one_on_the_rows_of_weight_above_0(call, monkeypatch):
    monkeypatch.setattr("vae.random_rows", lambda draw, shape, seed: keras.ops.zeros(shape))
    weight = (ROWS % 2 == 0).astype(float)
    weighted, part = told(), told()
    if call == "fit":
        weighted.fit(X, sample_weight=weight, batch_size=24, verbose=0)
        part.fit(of(weight > 0), batch_size=12, verbose=0)
    else:
        weighted.train_on_batch(X, sample_weight=weight)
        part.train_on_batch(of(weight > 0))
    start = told().get_weights()
    moved = [np.abs(a - b).max() for a, b in zip(part.get_weights(), start, strict=True)]
    assert max(moved) > 1e-3
    for one, other in zip(weighted.get_weights(), part.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("wrong", [-1.0, np.nan])
@pytest.mark.parametrize("way", ["evaluate", "validation_data"])
def test_weights_below_0_are_refused(way, wrong, monkeypatch):
    monkeypatch.setitem(globals(), "WEIGHT", np.where(ROWS == 4, wrong, 1.0))
    model = told()
    with pytest.raises(ModelError, match="weights of 0 or more. Received: .* in row 4"):
        WITH_WEIGHTS[way](model)
    assert model.optimizer.iterations == 0


def test_weights_are_divided_with_the_rows_for_validation():
    weight = np.repeat([1.0, 0.0], 12)
    history = (
        told()
        .fit(
            X, sample_weight=weight, validation_split=0.25, batch_size=24, verbose=0, shuffle=False
        )
        .history
    )
    assert history["val_loss"] == [0]  # the last quarter has no weight
    assert history["loss"][0] != 0


def test_weights_of_a_head_without_targets_do_not_make_some_up():
    model = told(VAEPrediction)
    with pytest.raises(ModelError, match="needs targets"):
        model.fit(X, sample_weight=WEIGHT, verbose=0)
    with pytest.raises(ModelError, match="needs targets"):
        model.fit(Batched(X), verbose=0)


COMPILED = {
    "loss": ("mse", 'noise="mse"'),
    "loss_weights": ([1.0], "kl_weight"),
    "metrics": (["mae"], "predict, reconstruct"),
    "weighted_metrics": (["mae"], "weighted already"),
}


@pytest.mark.parametrize("kind", [VAE, VAEPrediction])
@pytest.mark.parametrize("name", COMPILED)
def test_a_loss_or_metrics_that_would_not_be_used_are_refused(name, kind):
    value, instead = COMPILED[name]
    with pytest.raises(ModelError, match=rf"compile\({name}=.*would not use it.*{instead}"):
        small(kind).compile("adam", **{name: value})


def test_a_loss_is_refused_by_its_place_too_and_nothing_is_nothing():
    with pytest.raises(ModelError, match=r"compile\(loss='mse'\)"):
        keras.saving.get_registered_object("cvae_ecg>VAE").compile(small(), "adam", "mse")
    small().compile("adam", loss=None, metrics=[])


class Batched(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.parts


IGNORED = {
    "the ECG as its own target": lambda model: model.fit(ECG, ECG, verbose=0),
    "a target": lambda model: model.fit(ECG, ROWS, verbose=0),
    "conditions as targets": lambda model: model.evaluate(ECG, CONDITIONS, verbose=0),
    "in validation": lambda model: model.fit(ECG, validation_data=X, verbose=0),
    "in batches": lambda model: model.fit(Batched(ECG, CONDITIONS), verbose=0),
    "on a batch": lambda model: model.train_on_batch(ECG, CONDITIONS),
}


@pytest.mark.parametrize("way", IGNORED)
def test_targets_that_nothing_reads_are_refused(way):
    model = small().adapt(ECG)
    model.compile(run_eagerly=True)
    with pytest.raises(ModelError, match=r"no head: .* shape .*Conditions belong to the inputs"):
        IGNORED[way](model)


def test_a_subclass_reads_targets_where_it_says_so():
    class Drawn(VAE):
        def extra_loss(self, y, y_pred, weight, elbo):
            return keras.ops.mean(keras.ops.square(y_pred["mean"][:, 0] - y))

    with_target = told(Drawn).evaluate(X, 0.0 * ROWS, verbose=0, return_dict=True)
    mean = told(Drawn).encode(*X)[0][:, 0]
    elbo = with_target["objective"]
    assert with_target["loss"] - elbo == pytest.approx((mean**2).mean(), rel=1e-3)


# --- arrays that nothing could be learned from ----------------------------------------------------

YEARS, EVENTS = 1.0 + ROWS, ROWS % 2


def but(values, row, value):
    changed = np.array(values, float)
    changed[row] = value
    return changed


def cox(years=YEARS, events=EVENTS):
    return np.stack([years, events], axis=1)


WRONG = {
    "a gap in time": ("cox", cox(but(YEARS, 3, np.nan)), "finite targets. Received: nan in row 3"),
    "swapped": (
        "cox",
        cox()[:, ::-1],
        "event of 0 or 1.* 2 in row 1. Are time and event swap",
    ),
    "swapped, all events": ("cox", cox(1 + 0 * ROWS, YEARS), "swapped"),
    "another code": ("cox", cox(events=2 * EVENTS), "event of 0 or 1, .* Received: 2 in row 1"),
    "before": ("cox", cox(but(YEARS, 5, -2)), "times above 0, .* Received: -2 in row 5"),
    "no event": ("cox", cox(events=0 * ROWS), "an event in some of 24 subjects"),
    "a column": ("cox", YEARS, r"targets \(B, 2\), time and event. Received: \(24,\)"),
    "too few": ("cox", cox()[:20], "targets of 24 subjects. Received: 20"),
    "from 1": ("binary", 1 + EVENTS, "classes as 0 to 1. Received: 2 in row 1"),
    "beyond K": ("multiclass", ROWS % 4, "classes as 0 to 2. Received: 3 in row 3"),
    "between": ("multiclass", but(ROWS % 3, 1, 0.5), "classes as 0 to 2. Received: 0.5 in row 1"),
    "words": ("binary", np.where(EVENTS, "yes", "no"), "targets as numbers, classes as 0, 1"),
    "infinite": ("regression", but(YEARS, 2, np.inf), "finite targets. Received: inf in row 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_targets_that_are_no_outcomes_are_refused_before_training(case):
    task, y, message = WRONG[case]
    model = told(VAEPrediction, task=task, classes=3)
    with pytest.raises(ModelError, match=message):
        model.fit(X, y, verbose=0)
    good = cox() if task == "cox" else EVENTS
    given = {"x": X, "y": good, "validation_data": (X, y), "batch_size": 24, "verbose": 0}
    if case == "no event":  # a few subjects of validation may have none
        model.fit(**given)
        return
    with pytest.raises(ModelError, match=message):
        model.fit(**given)


def test_probabilities_of_two_classes_are_targets_too():
    model = told(VAEPrediction, task="binary")
    model.fit(X, 0.1 + 0.8 * EVENTS, batch_size=24, verbose=0)


BROKEN = {
    "microvolts": (1000 * ECG, "look like microvolts"),
    "a gap": (np.where(np.arange(24)[:, None, None] == 7, np.nan, ECG), "ECG 7 has NaN"),
    "turned": (ECG.transpose(0, 2, 1), "Are leads and samples swapped"),
    "one": (ECG[0], r"give ecg\[None\]"),
}


@pytest.mark.parametrize("call", ["fit", "evaluate", "validation_data"])
@pytest.mark.parametrize("case", BROKEN)
def test_ecgs_that_encode_refuses_are_refused_before_training_too(case, call):
    ecg, message = BROKEN[case]
    model = told()
    before, x = model.get_weights(), (ecg, CONDITIONS)
    given = {"x": X, "validation_data": (x,)} if call == "validation_data" else {"x": x}
    with pytest.raises(ModelError, match=message):
        getattr(model, call.replace("validation_data", "fit"))(**given, verbose=0)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_validation_is_checked_once_and_not_after_each_epoch(monkeypatch):
    seen, check = [], VAE._checked_arrays
    monkeypatch.setattr(
        VAE, "_checked_arrays", lambda self, *given: seen.append(1) or check(self, *given)
    )
    told().fit(X, validation_data=(X,), epochs=3, batch_size=24, verbose=0)
    assert len(seen) == 2


TABLE = pd.DataFrame({"age": np.linspace(30, 80, 24), "sex": np.where(EVENTS, "female", "male")})
SCHEMA = ConditionSchema(
    [Condition("age", unit="years"), Condition("sex", "binary", categories=("male", "female"))]
).fit(TABLE)
GIVEN = {
    "a table": TABLE,
    "a mapping": {name: TABLE[name].tolist() for name in TABLE},
    "an array of the backend": keras.ops.convert_to_tensor(SCHEMA.encode(TABLE)),
}


def named(kind=VAE, **settings):
    settings = {"hidden": (3,), "schema": SCHEMA, **settings}
    model = kind(SHAPE, *LAYERS, 2, SCHEMA.dim, **settings).adapt(ECG, TABLE)
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    return model


@pytest.mark.parametrize("form", GIVEN)
def test_conditions_are_taken_in_any_form_that_encode_takes(form):
    encoded, options = SCHEMA.encode(TABLE), {"batch_size": 24, "verbose": 0}
    in_order = options | {"shuffle": False}
    one, other = named(), named()
    expected = one.fit((ECG, encoded), validation_data=((ECG, encoded),), **in_order).history
    given = (ECG, GIVEN[form])
    received = other.fit(given, validation_data=(list(given), None), **in_order).history
    assert received == expected
    judged = other.evaluate(given, return_dict=True, **options)
    assert judged == one.evaluate((ECG, encoded), return_dict=True, **options)


def test_targets_may_be_columns_of_a_table():
    y = pd.DataFrame({"time": YEARS, "event": EVENTS == 1})  # Keras takes no column of truths
    one, other = (named(VAEPrediction) for _ in range(2))
    options = {"batch_size": 24, "verbose": 0, "shuffle": False}
    expected = one.fit((ECG, TABLE), cox(), **options).history
    assert other.fit((ECG, TABLE), y, **options).history == expected


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (TABLE[:20], "conditions of 24 subjects. Received: 20"),
        (np.zeros((24, 7)), r"shape \(N, 3\)"),
        (TABLE.rename(columns={"age": "Age"}), "Expected a column 'age'"),
    ],
)
def test_conditions_that_encode_refuses_are_refused_too(conditions, message):
    with pytest.raises(ValueError, match=message):
        named().fit((ECG, conditions), verbose=0)


def test_a_table_in_the_place_of_targets_is_refused():
    with pytest.raises(ModelError, match="no head: .*Conditions belong to the inputs"):
        named().fit(ECG, validation_data=(ECG, TABLE), verbose=0)


@pytest.mark.parametrize("call", ["fit", "train_on_batch"])
@pytest.mark.parametrize(
    ("settings", "y"),
    [
        ({}, None),
        ({"kind": VAEPrediction, "task": "cox"}, np.stack([1.0 + ROWS, ROWS % 2], 1)),
        ({"kind": VAEPrediction, "task": "regression"}, 1.0 * ROWS),
    ],
)
def test_weights_of_classes_need_classes(call, settings, y):
    with pytest.raises(ModelError, match="class_weight: this model has no classes"):
        getattr(told(**settings), call)(X, y, class_weight={0: 1.0, 1: 2.0})


def test_weights_of_classes_weigh_their_subjects():
    y = ROWS % 2
    first, second = (told(VAEPrediction, task="binary") for _ in range(2))
    keras.utils.set_random_seed(0)
    first.fit(X, y, class_weight={0: 1.0, 1: 2.0}, batch_size=24, verbose=0, shuffle=False)
    second.fit(X, y, sample_weight=1.0 + y, batch_size=24, verbose=0, shuffle=False)
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_targets_of_several_columns_are_refused(task):
    with pytest.raises(
        ModelError, match=r"Expected targets \(B,\) or \(B, 1\). Received: \(24, 2\)"
    ):
        told(VAEPrediction, task=task).train_on_batch(X, np.zeros((24, 2)))


# --- files ----------------------------------------------------------------------------------------


class Shifted(VAE):
    """As users write them: with an argument of their own."""

    def __init__(self, *args, shift=0.0, **keywords):
        super().__init__(*args, **keywords)
        self.shift = shift

    def get_config(self):
        return super().get_config() | {"shift": self.shift}

    def decode(self, z, conditions=None):
        return super().decode(z, conditions) + self.shift


class Forgetful(Shifted):
    def get_config(self):
        return VAE.get_config(self)


class Narrow(VAE):
    def __init__(self):
        super().__init__(SHAPE, *LAYERS, 2, 0)


class Deaf(VAE):
    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords | {"seed": keywords.get("seed", 0) + 1})


class Growing(VAE):
    def adapt(self, ecg, conditions=None):
        self.gain = self.add_weight(shape=(3,), name="gain")
        return super().adapt(ecg, conditions)


class Lazy(VAE):
    def __init__(self, *args, early=False, **keywords):
        super().__init__(*args, **keywords)
        self.early, self.extra = early, keras.layers.Dense(3, name="extra")
        if early:
            self.extra.build((None, self.latent_space_dim))

    def get_config(self):
        return super().get_config() | {"early": self.early}

    def call(self, inputs, training=False):
        outputs = super().call(inputs, training=training)
        return outputs | {"extra": self.extra(outputs["mean"])}


def test_a_layer_of_a_users_own_is_built_in_init_or_not_saved(tmp_path):
    for early in (False, True):
        model = small(Lazy, early=early)
        model([ECG, np.zeros((24, 0))])
        if not early:
            with pytest.raises(ModelError, match=r"no weights yet in extra, .*self.my_layer.build"):
                model.save(tmp_path)
            continue
        model.extra.kernel.assign_add(np.ones((2, 3)))
        model.save(tmp_path)
        loaded = Lazy.load(tmp_path)
        np.testing.assert_array_equal(*(np.asarray(one.extra.kernel) for one in (model, loaded)))


def test_a_subclass_of_a_users_own_is_read_by_its_own_name(tmp_path):
    model = small(Shifted, shift=0.25).adapt(ECG)
    model.save(tmp_path / "model")
    loaded = Shifted.load(tmp_path / "model")
    assert type(loaded) is Shifted
    np.testing.assert_array_equal(loaded.reconstruct(ECG), model.reconstruct(ECG))
    with pytest.raises(ModelError, match=r"holds a 'Shifted', .*your own, .*Shifted.load\(folder"):
        VAE.load(tmp_path / "model")
    with pytest.raises(ModelError, match="holds a 'Shifted'"):
        Growing.load(tmp_path / "model")


def test_a_subclass_is_not_made_of_a_model_of_another_class(tmp_path):
    small().save(tmp_path)
    with pytest.raises(ModelError, match="holds a VAE, not a Shifted: call VAE.load"):
        Shifted.load(tmp_path)
    small(VAEPrediction).save(tmp_path)
    assert type(VAE.load(tmp_path)) is type(VAEPrediction.load(tmp_path)) is VAEPrediction


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: small(Forgetful), "Forgetful: get_config leaves out shift"),
        (Narrow, "Narrow cannot be built from its get_config"),
        (lambda: small(Deaf), "Deaf built from its get_config is another"),
        (lambda: small(Growing).adapt(ECG), "Growing built from its get_config is another"),
        (lambda: small(type("VAE", (VAE,), {})), "is called VAE too"),
    ],
)
def test_a_subclass_that_could_not_be_read_again_is_not_saved(tmp_path, build, message):
    with pytest.raises(ModelError, match=message):
        build().save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["m.h5", "M.KERAS", "m.hdf5", "m.weights.h5", "m.zip", "m.Pb"])
def test_no_folder_is_called_as_a_file_is(tmp_path, name):
    with pytest.raises(
        ModelError, match=r"save writes a folder. Leave \.\w+ out.* \.keras in small"
    ):
        small().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_have_dots_in_its_name(tmp_path):
    small().save(tmp_path / "2024.05.v1")
    assert type(VAE.load(tmp_path / "2024.05.v1")) is VAE


def test_an_argument_of_another_format_is_not_dropped(tmp_path):
    with pytest.raises(ModelError, match="include_optimizer goes with a path ending in .keras"):
        small().save(tmp_path / "model", include_optimizer=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.keras", r"keras.saving.load_model\(.*m.keras'\) reads this file"),
        ("m.weights.h5", "call load_weights"),
        ("parameters.json", "give the folder that it lies in"),
        ("parameters.pkl", "load_published"),
        ("m.pt", "load reads the folder that save wrote"),
    ],
)
def test_a_file_is_not_loaded_but_the_call_that_loads_it_is_named(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match=f"is a file: .*{message}"):
        VAE.load(tmp_path / name)


@pytest.mark.parametrize("kind", [VAE, VAEPrediction])
def test_a_model_is_exported_as_a_program_of_ecgs_and_conditions(kind, tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("another backend")
    import tensorflow as tf

    model = told(kind)
    model.export(tmp_path / "program", verbose=False)
    program = tf.saved_model.load(str(tmp_path / "program"))
    made = program.serve([X[0][:5], X[1][:5]])
    expected = model.reconstruct(X[0][:5], X[1][:5])
    np.testing.assert_allclose(made["reconstruction"], expected, atol=1e-5)


def test_without_tensorflow_export_says_what_to_use_instead(tmp_path, monkeypatch):
    model = small()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match=r"KERAS_BACKEND=tensorflow. Use save\(\)"):
        model.export(tmp_path / "program")


def test_the_format_of_keras_keeps_the_optimizer(tmp_path):
    model = told()
    model.fit(X, batch_size=12, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert int(loaded.optimizer.iterations) == 2
    loaded.fit(X, batch_size=12, verbose=0)
