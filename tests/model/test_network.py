import keras
import numpy as np
import pytest
from keras import layers
from scipy import stats

from data.conditions import Condition, ConditionSchema
from model.network import ModelError
from vae import PUBLISHED, VAE

LAYERS = ((5, 5), ((1, 40), (12, 1)), ("same", "valid"))


def published_encoder():
    """The encoder of the publication, layer by layer, of stock Keras layers."""
    ecg, conditions = keras.Input((12, 400, 1)), keras.Input((3,))
    x = layers.Conv2D(5, (1, 40), padding="same", activation="elu")(ecg)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(5, (12, 1), padding="valid", activation="elu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(layers.AveragePooling2D((1, 2))(x))
    x = layers.BatchNormalization()(layers.Concatenate()([x, conditions]))
    return keras.Model([ecg, conditions], [layers.Dense(10)(x), layers.Dense(10)(x)])


def published_decoder():
    """The decoder of the publication, layer by layer, of stock Keras layers."""
    z, conditions = keras.Input((10,)), keras.Input((3,))
    x = layers.BatchNormalization()(layers.Concatenate()([z, conditions]))
    x = layers.Reshape((1, 200, 5))(layers.Dense(1000)(x))
    x = layers.UpSampling2D((1, 2))(x)
    x = layers.Conv2DTranspose(5, (12, 1), padding="valid", activation="elu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2DTranspose(1, (1, 40), padding="same", activation="elu")(x)
    return keras.Model([z, conditions], layers.BatchNormalization()(x))


def randomise(model, rng):
    """Random weights everywhere, moving means and variances too."""
    for weight in model.weights:
        if "variance" in weight.name or "gamma" in weight.name:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        else:
            weight.assign(rng.normal(0, 0.1, weight.shape))


@pytest.fixture(scope="module")
def published():
    """Our published network, and the one of stock layers with the same random weights in float64.

    In float64: with the statistics of a batch of 6, stock layers in float32 are off by 2e-5.
    """
    rng = np.random.default_rng(0)
    vae = VAE((12, 400, 1), *LAYERS, 10, 3, **PUBLISHED)
    keras.config.set_dtype_policy("float64")
    halves = published_encoder(), published_decoder()
    keras.config.set_dtype_policy("float32")
    for ours, stock in zip((vae.encoder, vae.decoder), halves, strict=True):
        randomise(stock, rng)
        ours.set_weights(stock.get_weights())
    ecg = rng.normal(0, 0.5, (6, 12, 400)).astype(np.float32)
    conditions = np.array([[30, 0, 22], [40, 1, 25], [50, 0, 30]] * 2, np.float32)
    return vae, *halves, ecg, conditions


def flat(model):
    return [inner for layer in model.layers for inner in getattr(layer, "layers", [layer])]


def parameters(model):
    return [layer.count_params() for layer in flat(model) if layer.count_params()]


def test_published_network_has_the_published_parameters_in_each_layer(published):
    vae = published[0]
    assert parameters(vae.encoder) == [205, 20, 305, 20, 4012, 10040, 10040]
    assert parameters(vae.decoder) == [52, 14000, 305, 20, 201, 4]
    assert vae.encoder.count_params() == 24_642
    assert vae.decoder.count_params() == 14_582


@pytest.mark.parametrize("training", [False, True])
def test_published_encoder_equals_stock_layers(published, training):
    vae, encoder, _, ecg, conditions = published
    weights = vae.encoder.get_weights()
    inputs = [part.astype(np.float64) for part in (ecg[..., None], conditions)]
    expected = encoder(inputs, training=training)
    received = vae.encoder([ecg, conditions], training=training)
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for half in (vae.encoder, encoder):
        half.set_weights(weights)  # training moves the batch statistics
    if not training:
        for one, other in zip(vae.encode(ecg, conditions), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_published_decoder_equals_stock_layers(published, training):
    vae, _, decoder, _, conditions = published
    weights = vae.decoder.get_weights()
    z = np.random.default_rng(1).normal(size=(6, 10))
    expected = decoder([z, conditions.astype(np.float64)], training=training)
    received = vae.decoder([z.astype(np.float32), conditions], training=training)
    np.testing.assert_allclose(received, expected[..., 0], atol=1e-5)
    for half in (vae.decoder, decoder):
        half.set_weights(weights)
    if not training:
        np.testing.assert_allclose(vae.decode(z, conditions), expected[..., 0], atol=1e-5)


def test_published_objective_is_mean_squared_error_plus_summed_kl(published):
    vae, encoder, decoder, ecg, conditions = published
    mean, log_var = (np.asarray(part) for part in encoder([ecg[..., None], conditions]))
    decoded = np.asarray(decoder([mean, conditions]))[..., 0]
    error = ((ecg - decoded) ** 2).mean(axis=(1, 2))
    kl = 0.5 * (np.exp(log_var) + mean**2 - 1 - log_var).sum(axis=1)
    vae.compile(optimizer="adam")
    values = vae.evaluate([ecg, conditions], verbose=0, return_dict=True)
    assert values["reconstruction"] == pytest.approx(error.mean(), rel=1e-5)
    assert values["kl"] == pytest.approx(kl.mean(), rel=1e-5)
    assert values["loss"] == pytest.approx((error + kl).mean(), rel=1e-5)
    assert values["objective"] == values["loss"]


def test_published_output_has_a_floor_and_the_linear_one_has_none():
    wild = 1000 * np.random.default_rng(0).normal(size=(50, 10))
    published = VAE((12, 400), *LAYERS, 10, 0, **PUBLISHED)
    floor = -1 / np.sqrt(1 + 1e-3)  # of ELU, through the batch normalisation of a new network
    assert published.decode(wild).min() >= floor - 1e-6
    assert VAE((12, 400), *LAYERS, 10, 0, linear_path=False).decode(wild).min() < -10


SHAPES = {
    "8 leads": ((8, 500), (5, 5), ((1, 40), (8, 1)), ("same", "valid")),
    "15 leads": ((15, 375), (5, 5), ((1, 40), (15, 1)), ("same", "valid")),
    "odd length": ((12, 401), (5, 5), ((1, 40), (12, 1)), ("same", "valid")),
    "kernel longer than the beat": ((12, 25), (5, 5), ((1, 40), (12, 1)), ("same", "valid")),
    "other filters": ((12, 60), (8, 16), ((1, 9), (12, 1)), ("same", "valid")),
    "one layer": ((12, 60), (4,), ((12, 9),), ("valid",)),
    "three layers": ((12, 60), (4, 8, 16), ((1, 9), (1, 5), (12, 1)), ("same",) * 2 + ("valid",)),
    "leads first": ((12, 60), (4, 8), ((12, 1), (1, 9)), ("valid", "same")),
    "all same": ((12, 60), (4, 8), ((3, 5), (5, 9)), ("same", "same")),
    "valid to an odd length": ((12, 60), (4, 8), ((1, 10), (12, 1)), ("valid", "valid")),
    "valid to an even length": ((12, 61), (4, 8), ((1, 10), (12, 1)), ("valid", "valid")),
    "valid twice": ((12, 60), (4, 8), ((3, 10), (5, 8)), ("valid", "valid")),
    "one lead": ((1, 60), (4,), ((1, 9),), ("same",)),
    "two samples": ((2, 2), (4,), ((2, 1),), ("valid",)),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("as_published", [False, True])
def test_any_leads_samples_and_layers_work(name, as_published):
    shape, filters, kernels, paddings = SHAPES[name]
    settings = PUBLISHED if as_published else {}
    vae = VAE(shape, filters, kernels, paddings, 3, 2, **settings)
    ecg = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    assert vae.reconstruct(ecg, np.zeros((2, 2))).shape == (2, *shape)


def test_the_decoder_mirrors_filters_and_shapes_of_the_encoder():
    shape, filters, kernels, paddings = SHAPES["three layers"]
    vae = VAE(shape, filters, kernels, paddings, 3, 2)
    down = [x.output.shape[1:] for x in flat(vae.encoder) if isinstance(x, layers.Conv2D)]
    up = [x for x in flat(vae.decoder) if isinstance(x, layers.Conv2DTranspose)]
    assert down == [(8, 60, 4), (8, 60, 8), (1, 60, 16)]
    assert [layer.input.shape[1:] for layer in up] == down[::-1]
    assert [layer.filters for layer in up] == [8, 4, 1]
    assert [layer.kernel_size for layer in up] == [(8, 1), (1, 5), (1, 9)]


def test_fifteen_leads_with_the_names_of_the_limb_leads_are_worked_on_as_eleven():
    names = ("I", "II", "III", "aVR", "aVL", "aVF", *(f"V{n}" for n in range(1, 10)))
    vae = VAE(*SHAPES["15 leads"], 3, 0, leads=names)
    assert len(vae.network_leads) == 11
    ecg = vae.generate(n=3, seed=0)
    np.testing.assert_allclose(ecg[:, 2], ecg[:, 1] - ecg[:, 0], atol=1e-6)
    assert len(VAE(*SHAPES["15 leads"], 3, 0).network_leads) == 15


def schema(encoding="standard"):
    return ConditionSchema([Condition("age", unit="years")], encoding, {"age": (50, 10)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": (4800,)}, r"Expected input_shape \(L, T\)"),
        ({"input_shape": (12, 400, 2)}, r"Expected input_shape \(L, T\)"),
        ({"leads": ("I", "II")}, "Expected 12 different leads"),
        ({"leads": ("I",) * 12}, "Expected 12 different leads"),
        ({"conv_filters": (5,)}, r"one length.*\[1, 2, 2\]"),
        ({"conv_filters": (), "conv_kernels": (), "conv_paddings": ()}, "one entry per layer"),
        ({"conv_filters": (5, 0)}, "Convolution 1: expected at least one filter"),
        ({"conv_kernels": (40, 12)}, "conv_kernels as pairs"),
        ({"conv_kernels": ((1, 0), (12, 1))}, "Convolution 0"),
        ({"conv_paddings": ("same", "causal")}, "Convolution 1.*causal"),
        ({"conv_kernels": ((1, 401), (12, 1)), "conv_paddings": ("valid",) * 2}, "larger than"),
        ({"conv_kernels": ((1, 40), (10, 1))}, r"\(10, 1\) is larger than its input of 8 leads"),
        ({"conv_kernels": ((1, 400), (12, 1)), "conv_paddings": ("valid",) * 2}, "fewer than 2"),
        *(
            ({"sampling_rate": rate}, f"sampling_rate: expected Hz above 0. Received: {rate}")
            for rate in (-1.0, 0.0, float("nan"), float("inf"))
        ),
        ({"qrs_sample": 500}, r"qrs_sample: expected 0 to 399, .* Received: 500"),
        ({"qrs_sample": 400}, "qrs_sample: expected 0 to 399"),
        ({"qrs_sample": -1}, "qrs_sample: expected 0 to 399"),
        ({"qrs_sample": 149.5}, "number of a sample. Received: 149.5"),
        ({"latent_space_dim": 0}, "latent_space_dim of at least 1"),
        ({"condition_dim": -1}, "condition_dim of at least 0"),
        ({"hidden": (16, 0)}, "hidden widths of at least 1"),
        ({"schema": schema()}, "in 2 columns, but condition_dim is 0"),
        ({"output": "relu"}, "output: linear or elu_batchnorm"),
        ({"output": "elu_batchnorm"}, "needs batch_normalization=True"),
        ({"noise": "poisson"}, "noise:"),
        ({"noise": 0.0}, "noise:"),
        ({"kl_weight": -1}, "kl_weight"),
        ({"free_bits": float("nan")}, "free_bits"),
        ({"condition_dropout": 1.0}, "condition_dropout"),
        ({"condition_dropout": 0.1}, "needs a schema"),
        (
            {"condition_dropout": 0.1, "condition_dim": 1, "schema": schema("raw")},
            "raw encoding has no place",
        ),
    ],
)
def test_arguments_that_make_no_network_are_refused_at_construction(changes, message):
    arguments = {
        "input_shape": (12, 400),
        "conv_filters": (5, 5),
        "conv_kernels": ((1, 40), (12, 1)),
        "conv_paddings": ("same", "valid"),
        "latent_space_dim": 3,
        "condition_dim": 0,
    }
    with pytest.raises(ModelError, match=message):
        VAE(**arguments | changes)


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def test_mixed_precision_keeps_ecgs_latents_and_losses_in_float32(half_precision):
    ecg = np.random.default_rng(0).normal(size=(40, 12, 40)).astype(np.float32)
    vae = VAE((12, 40), *LAYERS, 4, 0, noise="learned").adapt(
        ecg
    )  # all in the linear path, the rest starts at zero
    assert flat(vae.encoder)[2].compute_dtype == "bfloat16"
    received = vae.reconstruct(ecg)
    keras.config.set_dtype_policy("float32")
    exact = VAE((12, 40), *LAYERS, 4, 0, noise="learned").adapt(ecg)
    np.testing.assert_allclose(received, exact.reconstruct(ecg), atol=1e-5)
    output = vae(ecg, training=True)
    assert {str(value.dtype) for value in output.values()} == {"<dtype: 'float32'>"}
    noise = np.exp(float(vae.log_noise))
    x, decoded = (np.asarray(output[name]) for name in ("standardised", "decoded"))
    nats = -stats.norm.logpdf(x, decoded, noise).sum(axis=(1, 2))
    loss = vae.reconstruction_loss(output["standardised"], output["decoded"])
    np.testing.assert_allclose(loss, nats, rtol=1e-5)
