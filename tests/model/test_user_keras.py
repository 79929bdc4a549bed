"""What a user's Keras is set to, calls it with and puts on top of it."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from model.network import ModelError
from model.user_keras import standard_settings
from tests.fresh_process import run_fresh
from vae import VAE
from vae_prediction import TASKS, VAEPrediction

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
head.compile("adam")
done = head.fit(inputs, y, batch_size=40, verbose=0)
show("head fitted", [value[0] for value in done.history.values()], *head.get_weights())
show("judged", list(head.evaluate(inputs, y, verbose=0, return_dict=True).values()))
show("predicted", head.predict(inputs, verbose=0)["output"], head.predict_head(*inputs))
"""


@pytest.fixture(scope="module")
def of_the_defaults(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("default"))


def everything(folder, **settings):
    """The digests of a process whose `keras.json` holds these settings."""
    home = folder / "home"
    home.mkdir()
    (home / "keras.json").write_text(json.dumps({"backend": "tensorflow"} | settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(home))
        done = run_fresh(EVERYTHING, folder, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if len(line.split()[-1]) == 64]


@pytest.mark.parametrize("task", [task for task, loss in TASKS.items() if loss])
def test_the_losses_of_the_tasks_are_float32_in_a_process_of_float16(task):
    assert TASKS[task].dtype == "float32"


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
