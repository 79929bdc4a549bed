"""A stack in blocks gives what its stock layers give one after another, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from model.blocks import Stack, elu


def conv(filters, kernel, padding="same", activation="elu", **others):
    return layers.Conv2D, (filters, kernel), {"padding": padding, "activation": activation} | others


def transposed(filters, kernel, padding="same", activation="elu", **others):
    arguments = {"padding": padding, "activation": activation} | others
    return layers.Conv2DTranspose, (filters, kernel), arguments


NORM = layers.BatchNormalization, (), {}
POOL = layers.AveragePooling2D, ((1, 2),), {"padding": "same"}
UP = layers.UpSampling2D, ((1, 2),), {}

# (input (L, T, F), layers, samples in a block)
IN_BLOCKS = {
    "published encoder": (
        *((12, 400, 1), [conv(5, (1, 40)), NORM, conv(5, (12, 1), "valid"), NORM, POOL], 20),
    ),
    "published decoder": (
        (1, 200, 5),
        [UP, transposed(5, (12, 1), "valid"), NORM, transposed(1, (1, 40)), NORM],
        20,
    ),
    "default encoder": ((8, 400, 1), [conv(5, (1, 40)), conv(5, (8, 1), "valid"), POOL], 20),
    "default decoder": (
        (1, 200, 5),
        [UP, transposed(5, (8, 1), "valid"), transposed(1, (1, 40), activation=None)],
        20,
    ),
    "three layers": (
        *((3, 96, 2), [conv(4, (1, 9)), NORM, conv(3, (1, 20)), conv(6, (3, 1), "valid"), POOL]),
        16,
    ),
    "three layers back": (
        (1, 48, 6),
        [UP, transposed(3, (3, 1), "valid"), NORM, transposed(4, (1, 20)), transposed(2, (1, 9))],
        16,
    ),
    "leads before time": ((3, 60, 1), [conv(4, (3, 1), "valid"), conv(2, (1, 11)), NORM], 20),
    "time before leads": ((1, 60, 3), [transposed(4, (1, 11)), transposed(2, (3, 1), "valid")], 20),
    "no bias": ((2, 60, 2), [conv(3, (1, 10), use_bias=False), POOL], 20),
    "kernel longer than the input": ((2, 16, 3), [conv(2, (1, 41)), NORM, conv(2, (1, 40))], 16),
    "frozen normalisation": (
        *(
            (2, 40, 1),
            [conv(3, (1, 8)), (*NORM[:2], {"trainable": False}), conv(2, (2, 1), "valid")],
        ),
        20,
    ),
    "short kernel beside a long one": ((2, 40, 1), [conv(3, (1, 3)), conv(3, (1, 9)), POOL], 20),
}
LAYER_BY_LAYER = {
    "strides": ((3, 40, 2), [conv(3, (1, 9), strides=(1, 2))]),
    "dilation": ((3, 60, 2), [conv(3, (1, 9), dilation_rate=(1, 2))]),
    "groups": ((3, 40, 4), [conv(2, (1, 10), groups=2)]),
    "two-dimensional kernel": ((4, 40, 2), [conv(3, (3, 9))]),
    "some leads": ((4, 40, 2), [conv(3, (1, 9)), conv(3, (2, 1), "valid")]),
    "leads with padding": ((4, 40, 2), [conv(3, (1, 9)), conv(3, (4, 1), "same")]),
    "from two rows": ((2, 40, 2), [transposed(3, (4, 1), "valid"), transposed(1, (1, 9))]),
    "valid": ((3, 57, 2), [conv(3, (1, 10), "valid")]),
    "no block fits": ((3, 375, 2), [conv(3, (1, 40)), POOL]),
    "short kernels": ((3, 40, 2), [conv(3, (1, 5)), POOL]),
    "cropped": (
        *((1, 20, 2), [UP, (layers.Cropping2D, (((0, 0), (0, 1)),), {}), transposed(1, (1, 9))]),
    ),
    "pooled first": ((2, 40, 2), [POOL, conv(3, (1, 9))]),
    "repeated before a plain convolution": ((1, 20, 2), [UP, conv(3, (1, 9))]),
    "normalised twice": ((2, 40, 2), [conv(3, (1, 9)), NORM, NORM]),
    "repeated last": ((1, 20, 2), [transposed(3, (1, 9)), UP]),
    "repeated thrice": ((1, 20, 2), [(layers.UpSampling2D, ((1, 3),), {}), transposed(3, (1, 9))]),
    "synchronised": ((2, 40, 2), [conv(3, (1, 9)), (*NORM[:2], {"synchronized": True})]),
    "half precision": ((2, 40, 2), [conv(3, (1, 9), dtype="mixed_bfloat16")]),
}


def make(description, dtype):
    return [kind(*arguments, **({"dtype": dtype} | more)) for kind, arguments, more in description]


def in_turn(stack, x, training):
    for layer in stack:
        x = layer(x, training=training) if hasattr(layer, "moving_mean") else layer(x)
    return x


def values_and_gradients(function, x, weights):
    """Output, then gradients of a weighted sum of it: by x and by the weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        cotangent = np.random.default_rng(1).normal(size=y.shape)
        total = tf.reduce_sum(y * tf.constant(cotangent, y.dtype))
    return [y, *tape.gradient(total, [x, *weights])]


def compare(shape, description, training=False, compiled=False, block=0):
    """Against the stock layers in float64: to 1e-5, or as near as these layers are in float32.

    The gradient of a bias before a normalisation nearly cancels; stock layers are off by 2e-4.
    """
    rng = np.random.default_rng(0)
    stack = Stack(make(description, "float32"))
    x = rng.normal(size=(3, *shape))
    stack(x.astype(np.float32))
    assert block == 0 or stack.block == block
    for weight in stack.weights:
        positive = "gamma" in weight.path or "variance" in weight.path
        draw = rng.uniform(0.5, 2, weight.shape) if positive else rng.normal(size=weight.shape)
        weight.assign(draw)
    stock = {dtype: make(description, dtype) for dtype in ("float64", "float32")}
    results = {}
    for dtype, chain in stock.items():
        in_turn(chain, x.astype(dtype), False)
        for ours, other in zip(stack.layers, chain, strict=True):
            other.set_weights(ours.get_weights())
        weights = [weight.value for layer in chain for weight in layer.trainable_weights]
        results[dtype] = values_and_gradients(
            lambda x, chain=chain: in_turn(chain, x, training), tf.constant(x, dtype), weights
        )
        results[dtype] += [weight.numpy() for layer in chain for weight in layer.weights]
    run = tf.function(lambda x: stack(x, training=training), jit_compile=True, autograph=False)
    received = values_and_gradients(
        run if compiled else lambda x: stack(x, training=training),
        tf.constant(x, tf.float32),
        [weight.value for weight in stack.trainable_weights],
    )
    received += [weight.numpy() for layer in stack.layers for weight in layer.weights]
    exact = results["float64"]
    assert stack.compute_output_shape((None, *shape)) == (None, *exact[0].shape[1:])
    for one, other, single in zip(received, exact, results["float32"], strict=True):
        one, other, single = (np.asarray(part) for part in (one, other, single))
        allowed = max(1e-5 * np.abs(other).max(), np.abs(single - other).max(), 1e-8)
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_blocks_give_values_gradients_and_statistics_of_stock_layers(name, training):
    shape, description, block = IN_BLOCKS[name]
    compare(shape, description, training, block=block)


@pytest.mark.parametrize("name", ["published encoder", "published decoder"])
def test_blocks_agree_when_compiled_with_xla(name):
    shape, description, block = IN_BLOCKS[name]
    compare(shape, description, training=True, compiled=True, block=block)


@pytest.mark.parametrize("name", LAYER_BY_LAYER)
def test_any_other_stack_runs_as_its_stock_layers(name):
    shape, description = LAYER_BY_LAYER[name]
    stack = Stack(make(description, "float32"))
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    received = stack(x, training=True)
    assert stack.block is None
    np.testing.assert_array_equal(received, in_turn(stack.layers, x, True))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    transpose=st.booleans(),
    leads=st.integers(1, 3),
    samples=st.sampled_from([16, 32, 40, 54, 80, 100]),
    channels=st.integers(1, 3),
    filters=st.integers(1, 3),
    width=st.integers(8, 70),
)
def test_any_temporal_kernel_agrees(transpose, leads, samples, channels, filters, width):
    layer = (transposed if transpose else conv)(filters, (1, width))
    compare((leads, samples, channels), [NORM, layer, NORM])


def test_elu_and_its_gradient_are_those_of_keras():
    x = np.append(np.linspace(-30, 10, 4001), [-1e9, -1e-6, 1e-6]).astype(np.float32)
    value, slope = values_and_gradients(elu, tf.constant(x), [])
    exact = values_and_gradients(keras.activations.elu, tf.constant(x, tf.float64), [])
    np.testing.assert_allclose(value, exact[0], rtol=1e-5)
    np.testing.assert_allclose(slope, exact[1], rtol=0, atol=1e-6)


def test_a_large_mean_does_not_swallow_the_variance():
    stack = Stack(make([conv(2, (1, 9), activation=None), NORM], "float32"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 2, 40, 1)).astype(np.float32)
    stack(x)
    convolution, normalisation = stack.layers
    convolution.kernel.assign(rng.normal(size=convolution.kernel.shape))
    convolution.bias.assign([1000, 3000])  # millivolts as microvolts
    normalisation.moving_mean.assign([1000, 3000])
    received = np.asarray(stack(x, training=True))
    np.testing.assert_allclose(received.std(axis=(0, 1, 2)), 1, atol=2e-3)


def test_a_stack_is_itself_after_saving(tmp_path):
    shape, description, _ = IN_BLOCKS["published encoder"]
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    stack = Stack(make(description, "float32"))
    expected = stack(x)
    stack.save(tmp_path / "stack.keras")
    again = keras.saving.load_model(tmp_path / "stack.keras")
    assert type(again) is Stack
    np.testing.assert_array_equal(again(x), expected)
