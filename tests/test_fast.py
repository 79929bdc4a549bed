import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from fast import FastConv2D, FastConv2DTranspose

# (input (L, T, F), filters, kernel, padding, other arguments)
CONVOLUTIONS = {
    "temporal layer as published": ((12, 400, 1), 5, (1, 40), "same", {}),
    "lead layer as published": ((12, 400, 5), 5, (12, 1), "valid", {}),
    "lead layer on 8 leads": ((8, 50, 3), 4, (8, 1), "valid", {}),
    "odd length": ((3, 375, 2), 3, (1, 40), "same", {}),
    "odd kernel": ((3, 57, 2), 3, (1, 9), "same", {}),
    "valid": ((3, 57, 2), 3, (1, 8), "valid", {}),
    "one output": ((2, 20, 1), 4, (1, 20), "valid", {}),
    "kernel longer than the input": ((2, 16, 3), 2, (1, 41), "same", {}),
    "one sample": ((2, 1, 3), 2, (1, 8), "same", {}),
    "no bias": ((2, 30, 2), 3, (1, 10), "same", {"use_bias": False}),
    "short kernel": ((4, 30, 2), 3, (1, 5), "same", {}),
    "two-dimensional kernel": ((4, 30, 2), 3, (3, 9), "same", {}),
    "some leads": ((4, 30, 2), 3, (2, 1), "valid", {}),
    "lead layer with padding": ((4, 30, 2), 3, (4, 1), "same", {}),
    "strides": ((3, 41, 2), 3, (1, 9), "same", {"strides": (1, 2)}),
    "strides over leads": ((4, 30, 2), 3, (4, 1), "valid", {"strides": 2}),
    "dilation": ((3, 60, 2), 3, (1, 9), "valid", {"dilation_rate": (1, 2)}),
    "groups": ((3, 40, 4), 2, (1, 10), "same", {"groups": 2}),
}
TRANSPOSED = {
    "lead layer as published": ((1, 400, 5), 5, (12, 1), "valid", {}),
    "temporal layer as published": ((12, 400, 5), 1, (1, 40), "same", {}),
    "odd length": ((3, 375, 2), 3, (1, 40), "same", {}),
    "odd kernel": ((3, 57, 2), 3, (1, 9), "same", {}),
    "valid": ((3, 57, 2), 3, (1, 8), "valid", {}),
    "kernel longer than the input": ((2, 16, 3), 2, (1, 41), "same", {}),
    "no bias": ((2, 30, 2), 3, (1, 10), "same", {"use_bias": False}),
    "no bias over leads": ((1, 30, 2), 3, (4, 1), "valid", {"use_bias": False}),
    "short kernel": ((4, 30, 2), 3, (1, 5), "same", {}),
    "two-dimensional kernel": ((4, 30, 2), 3, (3, 9), "valid", {}),
    "from two rows": ((2, 30, 2), 3, (4, 1), "valid", {}),
    "lead layer with padding": ((1, 30, 2), 3, (4, 1), "same", {}),
    "strides": ((3, 21, 2), 3, (1, 9), "same", {"strides": (1, 2)}),
    "dilation": ((3, 40, 2), 3, (1, 9), "valid", {"dilation_rate": (1, 2)}),
}


def values_and_gradients(layer, x, cotangent, compiled=False):
    @tf.function(jit_compile=True)
    def compiled_layer(x):
        return layer(x)

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = compiled_layer(x) if compiled else layer(x)
        total = tf.reduce_sum(y * cotangent[:, : y.shape[1], : y.shape[2], : y.shape[3]])
    weights = [weight.value for weight in layer.trainable_weights]
    return [y, *tape.gradient(total, [x, *weights])]


def assert_same(fast, stock, shape, compiled=False):
    rng = np.random.default_rng(1)
    x = tf.constant(rng.normal(size=(3, *shape)), tf.float32)
    cotangent = tf.constant(rng.normal(size=(3, 30, 500, 10)), tf.float32)
    stock.build(x.shape)
    stock.set_weights([rng.normal(size=weight.shape) for weight in stock.weights])
    fast.build(x.shape)
    fast.set_weights(stock.get_weights())
    expected = values_and_gradients(stock, x, cotangent)
    received = values_and_gradients(fast, x, cotangent, compiled)
    assert fast.compute_output_shape(x.shape) == expected[0].shape
    for one, other in zip(received, expected, strict=True):
        size = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_has_values_and_gradients_of_the_stock_layer(name):
    shape, filters, kernel, padding, others = CONVOLUTIONS[name]
    arguments = {"padding": padding, "activation": "elu", **others}
    fast = FastConv2D(filters, kernel, **arguments)
    assert_same(fast, layers.Conv2D(filters, kernel, **arguments), shape)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolution_has_values_and_gradients_of_the_stock_layer(name):
    shape, filters, kernel, padding, others = TRANSPOSED[name]
    arguments = {"padding": padding, "activation": "elu", **others}
    fast = FastConv2DTranspose(filters, kernel, **arguments)
    assert_same(fast, layers.Conv2DTranspose(filters, kernel, **arguments), shape)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    transposed=st.booleans(),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 90), st.integers(1, 3)),
    filters=st.integers(1, 3),
    width=st.integers(8, 45),
    padding=st.sampled_from(["same", "valid"]),
)
def test_any_temporal_kernel_and_length_agree(transposed, shape, filters, width, padding):
    if padding == "valid" and not transposed:
        width = min(width, shape[1])
    fast, stock = (
        (FastConv2DTranspose, layers.Conv2DTranspose) if transposed else (FastConv2D, layers.Conv2D)
    )
    arguments = (filters, (1, width), (1, 1), padding)
    assert_same(fast(*arguments), stock(*arguments), shape)


@pytest.mark.parametrize("name", ["temporal layer as published", "lead layer as published"])
def test_layers_agree_when_compiled_with_xla(name):
    shape, filters, kernel, padding, _ = CONVOLUTIONS[name]
    fast = FastConv2D(filters, kernel, padding=padding)
    assert_same(fast, layers.Conv2D(filters, kernel, padding=padding), shape, compiled=True)
    shape, filters, kernel, padding, _ = TRANSPOSED[name]
    fast = FastConv2DTranspose(filters, kernel, padding=padding)
    stock = layers.Conv2DTranspose(filters, kernel, padding=padding)
    assert_same(fast, stock, shape, compiled=True)


def test_published_layers_do_not_run_the_stock_operation(monkeypatch):
    def refuse(*_):
        raise AssertionError("stock operation")

    monkeypatch.setattr(layers.Conv2D, "convolution_op", refuse)
    monkeypatch.setattr(layers.Conv2DTranspose, "call", refuse)
    for kind, cases in ((FastConv2D, CONVOLUTIONS), (FastConv2DTranspose, TRANSPOSED)):
        for name in ("temporal layer as published", "lead layer as published"):
            shape, filters, kernel, padding, _ = cases[name]
            y = kind(filters, kernel, padding=padding)(np.zeros((1, *shape), np.float32))
            assert y.shape[-1] == filters
