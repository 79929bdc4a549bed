import numpy as np
import pytest

from model.closed_form import principal_directions

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (40, 40)])
def test_principal_directions_are_those_of_numpy(shape):
    x = RNG.normal(size=shape) * np.linspace(5, 1, shape[1])
    expected = np.linalg.svd(x, full_matrices=False)[2][:4]
    found = principal_directions(x, 4)
    np.testing.assert_allclose(np.abs((found * expected).sum(axis=1)), 1, atol=1e-9)
    np.testing.assert_array_equal(found, principal_directions(x, 4))


def test_principal_directions_are_orthonormal_where_there_are_fewer():
    x = RNG.normal(size=(30, 2)) @ RNG.normal(size=(2, 200))
    found = principal_directions(x, 5)
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(x @ found[:2].T @ found[:2], x, atol=1e-9)
