"""The two convolutions of the network as matrix products, with the same weights and values.

On two CPU cores and compiled, the published network trains 2.2 (batch 32) to 4.4 times (batch 256)
as fast as with the stock operation, the default one 1.9 to 2.2 times (`benchmarks/training.py`).

A convolution with one input channel and five filters leaves most of a vector unit idle. Written as
a matrix product it does not:

- A temporal kernel (1, K) over T samples is a banded Toeplitz matrix. Cut into blocks of K outputs,
  each block reads two neighbouring blocks of inputs, and all blocks share one (2K, K) matrix per
  pair of channels. Half of that matrix is zero, which the speed of the product more than repays.
- A lead-mixing kernel (L, 1) that spans all leads is a product over leads and filters.

Anything else (strides, dilation, short or two-dimensional kernels) is left to the stock operation.

Dims: B batch, L leads, T samples, F input channels, G output channels, K kernel length.
"""

from __future__ import annotations

import keras
from keras import layers, ops

# Below this the stock operation is as fast.
SHORTEST_TEMPORAL_KERNEL = 8


def temporal_convolution(x, kernel, before: int, after: int):
    """Cross-correlates (B, L, T, F) with (K, F, G) after padding T with zeros -> (B, L, T', G).

    Args:
        x: input.
        kernel: y[t] = sum over k of x[t + k - before] kernel[k].
        before: zeros before the first sample.
        after: zeros after the last sample; T' = T + before + after - K + 1.
    """
    size, channels, filters = kernel.shape
    leads, samples = x.shape[1], x.shape[2] + before + after - size + 1
    blocks = -(-samples // size)
    padding = (blocks + 1) * size - before - x.shape[2]
    x = ops.pad(x, ((0, 0), (0, 0), (before, max(padding, 0)), (0, 0)))
    x = ops.reshape(x[:, :, : (blocks + 1) * size], (-1, leads, blocks + 1, size * channels))
    x = ops.concatenate([x[:, :, :-1], x[:, :, 1:]], axis=-1)  # (B, L, blocks, 2 K F)
    # Rows of 2K + 1 repeated and re-cut to rows of 2K: each row is the one before, shifted by one.
    rows = ops.pad(kernel, ((0, size + 1), (0, 0), (0, 0)))
    rows = ops.tile(rows, (size, 1, 1))[: 2 * size * size]
    matrix = ops.transpose(
        ops.reshape(rows, (size, 2 * size, channels, filters)), (1, 2, 0, 3)
    )  # (2K inputs, F, K outputs, G)
    matrix = ops.reshape(matrix, (2 * size * channels, size * filters))
    y = ops.reshape(ops.matmul(x, matrix), (-1, leads, blocks * size, filters))
    return y[:, :, :samples]


def _is_plain(layer) -> bool:
    return (
        layer.data_format == "channels_last"
        and set(layer.strides) == set(layer.dilation_rate) == {1}
        and getattr(layer, "groups", 1) == 1
    )


@keras.saving.register_keras_serializable(package="cvae_ecg")
class FastConv2D(layers.Conv2D):
    """`keras.layers.Conv2D` with the same weights and values."""

    def convolution_op(self, inputs, kernel):
        """As in the parent: (B, L, T, F) and (height, width, F, G) -> (B, L', T', G)."""
        height, width = self.kernel_size
        if not _is_plain(self):
            return super().convolution_op(inputs, kernel)
        if height == 1 and width >= SHORTEST_TEMPORAL_KERNEL:
            before = (width - 1) // 2 if self.padding == "same" else 0
            after = width - 1 - before if self.padding == "same" else 0
            return temporal_convolution(inputs, kernel[0], before, after)
        if width == 1 and height == inputs.shape[1] and self.padding == "valid":
            return ops.einsum("bltf,lfg->btg", inputs, kernel[:, 0])[:, None]
        return super().convolution_op(inputs, kernel)


@keras.saving.register_keras_serializable(package="cvae_ecg")
class FastConv2DTranspose(layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with the same weights and values."""

    def call(self, inputs):
        """As in the parent: (B, L, T, F) -> (B, L', T', G)."""
        height, width = self.kernel_size
        kernel = self.kernel  # (height, width, G, F)
        if _is_plain(self) and height == 1 and width >= SHORTEST_TEMPORAL_KERNEL:
            # The transpose of a cross-correlation is one with the kernel reversed and the padding
            # that "same" splits unevenly for an even width swapped.
            flipped = ops.transpose(ops.flip(kernel[0], axis=0), (0, 2, 1))
            before = width - 1 - (width - 1) // 2 if self.padding == "same" else width - 1
            after = (width - 1) // 2 if self.padding == "same" else width - 1
            y = temporal_convolution(inputs, flipped, before, after)
        elif _is_plain(self) and width == 1 and inputs.shape[1] == 1 and self.padding == "valid":
            y = ops.einsum("btf,lgf->bltg", inputs[:, 0], kernel[:, 0])
        else:
            return super().call(inputs)
        if self.use_bias:
            y = y + self.bias
        return self.activation(y)
