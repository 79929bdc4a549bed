"""The settings of the user's Keras, which the network does not depend on.

`keras.json` and `keras.config` say for all models of a process how images are laid out, of what
type numbers are and how small a number may be. Some people have them set for another project.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def standard_settings() -> Iterator[None]:
    """Keras's own defaults, and after it the user's settings again; also a decorator.

    Channels last, float32, epsilon of 1e-7. Mixed precision stays, which one chooses; a policy with
    variables of another type than float32, which `floatx` brings about too, does not.
    """
    config = keras.config
    policy = config.dtype_policy()
    kept = config.image_data_format(), config.floatx(), config.epsilon()
    _set("channels_last", "float32", 1e-7)
    if policy.variable_dtype != "float32":
        config.set_dtype_policy("float32")
    try:
        yield
    finally:
        _set(*kept)
        config.set_dtype_policy(policy)


def _set(image_data_format: str, floatx: str, epsilon: float) -> None:
    keras.config.set_image_data_format(image_data_format)
    keras.config.set_floatx(floatx)
    keras.config.set_epsilon(epsilon)
