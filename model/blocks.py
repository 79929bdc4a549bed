"""Stacks of convolutions evaluated as few large matrix products, with the weights of stock layers.

A convolution with one input channel and five filters leaves most of a vector unit idle, and stock
layers keep five channels innermost in memory, where nothing can be vectorised. Here time is cut
into blocks of N samples, and all that is alike for the network, the blocks of all ECGs of the
batch, lies innermost, one block of all ECGs after another, so that neighbours are far apart:

    values (L, F, M), M = N x blocks x B: sample within the block, block, ECG

- A temporal kernel (1, K) is a banded Toeplitz matrix. Each block of N outputs reads its own and
  neighbouring blocks of inputs, Q samples, and all blocks share one (N, Q) matrix per pair of
  channels. Its transpose is the transposed convolution: each block adds to its neighbours.
- A kernel (L, 1) over all leads is a product with leads x channels.
- Samples that `UpSampling2D` repeats are computed once: the next temporal matrix adds its rows in
  pairs.
- Batch normalisation is scale and shift per channel; the next convolution takes them into its
  kernel and bias, so that no normalised copy is written, nor its gradient.

What this gains is measured by `benchmarks/training.py`. A stack of anything else (strides, kernels
in two dimensions, a length that no block divides, half precision) runs as the stock layers it is
made of.

Dims: B batch, L leads, T samples, F input channels, G output channels, K kernel length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import layers, ops

BLOCKS = range(16, 65, 2)  # N; shorter blocks make the products thin, longer ones mostly zeros
SHORTEST_KERNEL = 8  # of temporal kernels: below this the stock operation is as fast


class Signal(NamedTuple):
    """ECGs on the way through a stack.

    Attributes:
        values: (L, F, M).
        size: N, samples in a block.
        blocks: of an ECG.
        scale, shift: (F,) of a normalisation that `values` have not undergone yet, or None.
        repeat: how often each sample stands for the next layer.
    """

    values: object
    size: int
    blocks: int
    scale: object = None
    shift: object = None
    repeat: int = 1

    def with_values(self, values) -> Signal:
        """The next layer's output (L, G, M), nothing pending but the repetition."""
        return self._replace(values=values, scale=None, shift=None)


@keras.saving.register_keras_serializable(package="cvae_ecg")
class Stack(keras.Sequential):
    """Stock layers, one after another: (B, L, T, F) -> (B, L', T', G).

    Blocks are used where the stack is made of `Conv2D` or `Conv2DTranspose`, `BatchNormalization`,
    and `UpSampling2D` as its first or `AveragePooling2D` as its last layer; see `block_size`.
    """

    def build(self, input_shape=None):
        """Builds the layers and chooses the block size; None is layer by layer."""
        super().build(input_shape)
        shapes = [tuple(input_shape)]
        for layer in self.layers:
            shapes.append(tuple(layer.compute_output_shape(shapes[-1])))
        self.block = block_size(self.layers, shapes)

    def call(self, inputs, training=None, mask=None):
        """See the class."""
        if self.block is None:
            return super().call(inputs, training=training, mask=mask)
        size = self.block
        if isinstance(self.layers[0], layers.UpSampling2D):
            size //= 2
        signal = into_blocks(inputs, size)
        for layer in self.layers:
            signal = step(layer, signal, training)
        return out_of_blocks(signal)


def block_size(stack: Sequence[layers.Layer], shapes: Sequence[tuple]) -> int | None:
    """N for a stack and the shapes between its layers, or None if it is not made for blocks."""
    lengths = {shape[2] for shape in shapes}
    longest = max(lengths)
    halves = [isinstance(layer, (layers.UpSampling2D, layers.AveragePooling2D)) for layer in stack]
    if not lengths <= {longest, longest // 2} or sum(halves) != len(lengths) - 1:
        return None
    kernels = []
    for number, (layer, shape) in enumerate(zip(stack, shapes, strict=False)):
        if layer.dtype_policy.compute_dtype != "float32" or not _fits(layer, shape, number, stack):
            return None
        if isinstance(layer, (layers.Conv2D, layers.Conv2DTranspose)):
            kernels.append(layer.kernel_size[1])
    fitting = [size for size in BLOCKS if longest % size == 0]
    if max(kernels, default=1) < SHORTEST_KERNEL or not fitting:
        return None
    return min(fitting, key=lambda size: (1 + sum(reach(max(kernels), size))) * size)


def _fits(layer: layers.Layer, shape: tuple, number: int, stack: Sequence) -> bool:
    """Whether `step` knows what this layer does with an input of this shape."""
    if isinstance(layer, layers.UpSampling2D):
        return number == 0 and layer.size == (1, 2)
    if isinstance(layer, layers.AveragePooling2D):
        return number == len(stack) - 1 and layer.pool_size == (1, 2) and shape[2] % 2 == 0
    if isinstance(layer, layers.BatchNormalization):
        again = number > 0 and isinstance(stack[number - 1], layers.BatchNormalization)
        plain = layer.center and layer.scale and not layer.synchronized
        return plain and layer.axis in (-1, 3) and not again
    if not isinstance(layer, (layers.Conv2D, layers.Conv2DTranspose)):
        return False
    plain = set(layer.strides) == set(layer.dilation_rate) == {1}
    plain = plain and getattr(layer, "groups", 1) == 1 and layer.data_format == "channels_last"
    height, width = layer.kernel_size
    transposed = isinstance(layer, layers.Conv2DTranspose)
    if width == 1 and layer.padding == "valid":
        return plain and shape[1] == (1 if transposed else height)
    # What is repeated is taken up by the first transposed convolution over time.
    repeated = isinstance(stack[0], layers.UpSampling2D) and not transposed
    return plain and height == 1 and layer.padding == "same" and not repeated


def into_blocks(x, size: int) -> Signal:
    """(B, L, T, F) -> a signal of blocks of `size` samples."""
    _, leads, samples, channels = x.shape
    x = ops.reshape(x, (-1, leads, samples // size, size, channels))
    x = ops.transpose(x, (1, 4, 3, 2, 0))  # (L, F, N, blocks, B)
    return Signal(ops.reshape(x, (leads, channels, -1)), size, samples // size)


def out_of_blocks(signal: Signal):
    """The inverse of `into_blocks`: (B, L, T, F)."""
    values = signal.values
    if signal.scale is not None:
        values = values * signal.scale[:, None] + signal.shift[:, None]
    leads, channels = values.shape[:2]
    x = ops.reshape(values, (leads, channels, signal.size, signal.blocks, -1))
    x = ops.transpose(x, (4, 0, 3, 2, 1))  # (B, L, blocks, N, F)
    return ops.reshape(x, (-1, leads, signal.size * signal.blocks, channels))


def step(layer: layers.Layer, signal: Signal, training: bool) -> Signal:
    """What a layer of a stack does to a signal."""
    if isinstance(layer, layers.UpSampling2D):
        return signal._replace(repeat=2)
    if isinstance(layer, layers.AveragePooling2D):
        return pool(signal)
    if isinstance(layer, layers.BatchNormalization):
        scale, shift = normalisation(layer, signal.values, training)
        return signal._replace(scale=scale, shift=shift)
    transposed = isinstance(layer, layers.Conv2DTranspose)
    kernel = ops.transpose(layer.kernel, (0, 1, 3, 2)) if transposed else layer.kernel
    if layer.kernel_size[1] == 1 and layer.padding == "valid":
        signal = (unmix if transposed else mix)(signal, kernel[:, 0])
    else:
        signal = (scatter if transposed else gather)(signal, kernel[0])
    values = signal.values
    if layer.use_bias:
        values = values + layer.bias[:, None]
    activation = elu if layer.activation is keras.activations.elu else layer.activation
    return signal.with_values(activation(values))


@ops.custom_gradient
def elu(x):
    """`keras.activations.elu`, made for XLA on a CPU, which computes it and a bias in one kernel.

    exp(x) - 1 is 2 t / (1 - t) with t = tanh(x / 2). XLA repeats a choice between x and exp(x) - 1
    in each kernel that reads it, from x and an exp(x) that it keeps, but no division, which comes
    last here. The gradient knows exp(x) from the result.
    """
    half = ops.tanh(0.5 * ops.minimum(x, 0.0))
    result = (ops.maximum(x, 0.0) + 2 * half) / (1 - half)

    def gradient(*upstreams, upstream=None):  # by position with JAX, by name with TensorFlow
        if upstream is None:
            (upstream,) = upstreams
        return upstream * ops.minimum(result + 1, 1.0)

    return result, gradient


def pool(signal: Signal) -> Signal:
    """Means of neighbouring samples."""
    leads, channels = signal.values.shape[:2]
    pairs = ops.reshape(
        signal.values, (leads, channels, signal.size // 2, 2, -1)
    )  # (L, F, N / 2, 2, blocks x B)
    values = 0.5 * (pairs[:, :, :, 0] + pairs[:, :, :, 1])
    return signal._replace(values=ops.reshape(values, (leads, channels, -1)), size=signal.size // 2)


def normalisation(layer: layers.BatchNormalization, values, training: bool):
    """Scale and shift (F,) of a batch normalisation; in training its averages move on."""
    moving_mean, moving_variance = layer.moving_mean, layer.moving_variance
    mean, variance = moving_mean, moving_variance
    if training and layer.trainable:
        # One pass: around the moving mean, so that squares of a large mean cannot swallow it.
        centre = ops.stop_gradient(ops.convert_to_tensor(moving_mean))
        square = ops.square(values - centre[:, None])
        mean, square = (ops.mean(ops.mean(part, axis=2), axis=0) for part in (values, square))
        variance = square - ops.square(mean - centre)
        for average, value in ((moving_mean, mean), (moving_variance, variance)):
            average.assign(average * layer.momentum + value * (1 - layer.momentum))
    scale = layer.gamma * ops.rsqrt(variance + layer.epsilon)
    return scale, layer.beta - mean * scale


def mix(signal: Signal, kernel) -> Signal:
    """`Conv2D` over all leads: kernel (L, F, G) -> values (1, G, M)."""
    leads, channels, filters = kernel.shape
    scaled = kernel if signal.scale is None else kernel * signal.scale[:, None]
    values = ops.matmul(
        ops.transpose(ops.reshape(scaled, (leads * channels, filters))),
        ops.reshape(signal.values, (leads * channels, -1)),
    )
    if signal.shift is not None:
        values = values + ops.sum(kernel * signal.shift[:, None], axis=(0, 1))[:, None]
    return signal.with_values(values[None])


def unmix(signal: Signal, kernel) -> Signal:
    """`Conv2DTranspose` from one row to all leads: kernel (L, F, G) -> values (L, G, M)."""
    leads, channels, filters = kernel.shape
    scaled = kernel if signal.scale is None else kernel * signal.scale[:, None]
    values = ops.matmul(
        ops.reshape(ops.transpose(scaled, (0, 2, 1)), (leads * filters, channels)),
        signal.values[0],
    )
    values = ops.reshape(values, (leads, filters, -1))
    if signal.shift is not None:
        values = values + ops.einsum("lfg,f->lg", kernel, signal.shift)[..., None]
    return signal.with_values(values)


def reach(length: int, size: int) -> tuple[int, int]:
    """Neighbouring blocks that a centred kernel of K samples ties a block to: before, after it."""
    before = (length - 1) // 2  # as "same" pads
    after = length - 1 - before
    return -(-before // size), -(-after // size)


def toeplitz(kernel, size: int):
    """The matrices (N, Q, F, G) of a temporal kernel (K, F, G).

    Entry [n, q] ties sample n of a block to sample q of the block, its neighbours before it
    included: kernel[q - n - offset].
    """
    length, channels, filters = kernel.shape
    before, after = reach(length, size)
    width = (before + 1 + after) * size
    offset = before * size - (length - 1) // 2
    # A row of Q + 1 repeated and re-cut to rows of Q: each row is the one above, shifted by one.
    row = ops.pad(kernel, ((offset, width + 1 - offset - length), (0, 0), (0, 0)))
    rows = ops.tile(row, (size, 1, 1))[: size * width]
    return ops.reshape(rows, (size, width, channels, filters))


def gather(signal: Signal, kernel) -> Signal:
    """`Conv2D` over time: kernel (K, F, G), each block reads its neighbours -> values (L, G, M)."""
    length, channels, filters = kernel.shape
    size, blocks = signal.size, signal.blocks

    def convolve(values, matrices):
        before, after = reach(length, size)
        leads = values.shape[0]
        x = ops.reshape(values, (leads, channels, size, blocks, -1))
        x = ops.pad(x, ((0, 0), (0, 0), (0, 0), (before, after), (0, 0)))
        x = ops.concatenate(
            [x[..., first : first + blocks, :] for first in range(before + 1 + after)], axis=2
        )  # (L, F, Q, blocks, B)
        matrix = ops.transpose(matrices, (3, 0, 2, 1))  # (G, N, F, Q)
        matrix = ops.reshape(matrix, (filters * size, -1))
        matrix = ops.tile(matrix[None], (leads, 1, 1))
        y = ops.matmul(matrix, ops.reshape(x, (leads, matrix.shape[2], -1)))
        return ops.reshape(y, (leads, filters, -1))

    return _linear(signal, toeplitz(kernel, size), convolve)


def scatter(signal: Signal, kernel) -> Signal:
    """`Conv2DTranspose` over time: kernel (K, F, G), each block adds to its neighbours."""
    length, channels, filters = kernel.shape
    size, blocks = signal.size * signal.repeat, signal.blocks
    matrices = ops.reshape(
        toeplitz(kernel, size), (signal.size, signal.repeat, -1, channels, filters)
    )

    def convolve(values, matrices):
        before, after = reach(length, size)
        leads, neighbours = values.shape[0], before + 1 + after
        matrix = ops.transpose(matrices, (3, 1, 2, 0))  # (G, Q, F, N)
        matrix = ops.reshape(matrix, (-1, channels * signal.size))
        matrix = ops.tile(matrix[None], (leads, 1, 1))
        y = ops.matmul(matrix, ops.reshape(values, (leads, channels * signal.size, -1)))
        y = ops.reshape(y, (leads, filters, neighbours, size, blocks, -1))
        shifted = [
            ops.pad(part, (*[(0, 0)] * 3, (number, neighbours - 1 - number), (0, 0)))
            for number, part in enumerate(ops.unstack(y, axis=2))
        ]
        return ops.reshape(sum(shifted)[..., before : before + blocks, :], (leads, filters, -1))

    result = _linear(signal, ops.sum(matrices, axis=1), convolve)
    return result._replace(size=size, repeat=1)


def _linear(signal: Signal, matrices, convolve) -> Signal:
    """A temporal layer (N, Q, F, G) on a signal whose normalisation is pending."""
    if signal.scale is None:
        return signal.with_values(convolve(signal.values, matrices))
    values = convolve(signal.values, matrices * signal.scale[:, None])
    # The shift, alike in all leads and ECGs, ends where the zeros of the padding begin.
    one = ops.tile(signal.shift[None, :, None], (1, 1, signal.size * signal.blocks))
    constant = convolve(one, matrices)  # (1, G, N x blocks)
    leads, filters = values.shape[:2]
    size = constant.shape[2] // signal.blocks
    values = ops.reshape(values, (leads, filters, size, signal.blocks, -1))
    values = values + ops.reshape(constant, (1, filters, size, signal.blocks, 1))
    return signal.with_values(ops.reshape(values, (leads, filters, -1)))
