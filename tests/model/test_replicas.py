import keras
import numpy as np
import pytest

from model.replicas import random_rows


@pytest.mark.parametrize("draw", [keras.random.normal, keras.random.uniform])
def test_on_one_device_rows_are_the_numbers_that_keras_draws(draw):
    seed, same = keras.random.SeedGenerator(3), keras.random.SeedGenerator(3)
    for shape in ((5, 3), (2, 7)):
        np.testing.assert_array_equal(random_rows(draw, shape, seed), draw(shape, seed=same))
