import numpy as np
import pytest

from model.closed_form import largest, weighted_pca

RNG = np.random.default_rng(0)


def by_hand(x, conditions, count, rounds):
    """The same with numpy's singular values, of all of the rows in each round."""
    weights = np.ones(len(x))
    for _ in range(rounds):
        used = weights / weights.mean()
        root = np.sqrt(used)[:, None]
        penalised = np.concatenate([root * conditions, np.eye(conditions.shape[1])])
        wanted = np.concatenate([root * x, np.zeros((conditions.shape[1], x.shape[1]))])
        effect = np.linalg.lstsq(penalised, wanted)[0]
        rest = x - conditions @ effect
        directions = np.linalg.svd(root * rest, full_matrices=False)[2][:count]
        scores = rest @ directions.T
        error = ((rest - scores @ directions) ** 2).sum(axis=1) / (x.shape[1] - count)
        weights = 1 / np.maximum(error, 0.1 * np.median(error))
    return effect, directions, (scores**2).mean(axis=0), np.average(error, weights=used), used


@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (40, 40)])
@pytest.mark.parametrize("rounds", [1, 3])
def test_weighted_pca_is_that_of_numpy(shape, rounds):
    conditions = RNG.normal(size=(shape[0], 2))
    x = RNG.normal(size=shape) * np.linspace(5, 1, shape[1]) + conditions @ RNG.normal(
        size=(2, shape[1])
    )
    x *= np.exp(RNG.normal(size=(len(x), 1)))  # some rows are louder
    expected = by_hand(x, conditions, 4, rounds)
    found = weighted_pca(x, conditions, 4, rounds)
    for part, by_numpy in zip(
        (found.effect, found.variances, found.residual, found.weights),
        (expected[0], *expected[2:]),
        strict=True,
    ):
        np.testing.assert_allclose(part, by_numpy, rtol=1e-8)
    np.testing.assert_allclose(np.abs((found.directions * expected[1]).sum(axis=1)), 1, atol=1e-9)
    np.testing.assert_array_equal(found.directions, weighted_pca(x, conditions, 4, rounds)[1])


def test_directions_are_orthonormal_where_rows_have_fewer():
    x = RNG.normal(size=(30, 2)) @ RNG.normal(size=(2, 200))
    found = weighted_pca(x, np.zeros((30, 1)), 5, 2)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(x @ found.directions[:2].T @ found.directions[:2], x, atol=1e-6)
    np.testing.assert_allclose(found.variances[2:], 0, atol=1e-12)


def test_a_row_that_a_direction_has_to_itself_does_not_take_all_of_the_weight():
    x = RNG.normal(size=(40, 60)) * 0.1
    x[0, 0] = 50
    found = weighted_pca(x, np.zeros((40, 1)), 2, 4)
    assert found.weights.max() < 15
    np.testing.assert_allclose(found.weights.mean(), 1)


@pytest.mark.parametrize("rows", [1, 2])
def test_of_too_few_rows_no_direction_is_told(rows):
    found = weighted_pca(RNG.normal(size=(rows, 20)), np.zeros((rows, 1)), 3, 2)
    assert found.directions.shape == (3, 20)
    assert not found.directions.any()
    assert not found.variances.any()


def test_the_largest_come_first():
    values, vectors = largest(np.diag([1.0, 5, 3, 4, 2]), 3)
    np.testing.assert_allclose(values, [5, 4, 3])
    np.testing.assert_allclose(np.abs(vectors), np.eye(5)[:, [1, 3, 2]], atol=1e-12)
