"""Leads against Einthoven's law and Goldberger's definition of the augmented leads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data.leads import (
    INDEPENDENT_LEADS,
    LEADS,
    derive_leads,
    einthoven_residual,
    expansion_matrix,
    independent_among,
    independent_leads,
)


def from_electrodes(n=3, samples=50, seed=0):
    """Twelve leads from the potentials of nine electrodes, by the definition of each lead."""
    right, left, foot, *chest = np.random.default_rng(seed).normal(size=(9, n, samples))
    wilson = (right + left + foot) / 3
    standard = [left - right, foot - right, foot - left]
    augmented = [right - (left + foot) / 2, left - (right + foot) / 2, foot - (right + left) / 2]
    return np.stack([*standard, *augmented, *(electrode - wilson for electrode in chest)], axis=1)


def test_the_standard_twelve_leads_are_in_the_usual_order():
    assert LEADS == tuple("I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split())
    assert INDEPENDENT_LEADS == independent_among(LEADS)


def test_derived_leads_agree_with_the_electrodes_of_each_lead():
    ecg = from_electrodes()
    np.testing.assert_allclose(derive_leads(independent_leads(ecg)), ecg, atol=1e-14)


def test_independent_leads_are_picked_by_name():
    ecg = np.arange(12.0)[None, :, None]
    assert independent_leads(ecg).ravel().tolist() == [0, 1, 6, 7, 8, 9, 10, 11]


WHOLE_MICROVOLTS = st.integers(-50_000, 50_000).map(
    lambda microvolts: np.float32(microvolts / 1000)
)


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.float32, (8, 5), elements=WHOLE_MICROVOLTS))
def test_derived_leads_are_the_textbook_equations_exactly_in_float32(independent):
    one, two = independent[:2]
    half = np.float32(0.5)
    expected = [one, two, two - one, -half * one - half * two, one - half * two, two - half * one]
    derived = derive_leads(independent)
    assert derived.dtype == np.float32
    np.testing.assert_array_equal(derived[:6], expected)
    np.testing.assert_array_equal(derived[6:], independent[2:])


def test_leads_are_derived_along_any_leading_axes():
    beats = np.random.default_rng(0).normal(size=(2, 3, 8, 4))
    np.testing.assert_array_equal(derive_leads(beats)[1, 2], derive_leads(beats[1, 2]))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float16])
def test_halves_survive_in_leads_derived_from_raw_converter_counts(dtype):
    counts = np.zeros((8, 1), dtype=dtype)
    counts[:2, 0] = 3, 4
    limb = derive_leads(counts)[:6, 0]
    np.testing.assert_array_equal(limb, [3, 4, 1, -3.5, 1, 2.5])


def test_the_expansion_of_any_selection_of_leads_makes_exactly_these_leads():
    ecg = from_electrodes(n=1)[0]
    names = ("V2", "aVF", "II", "aVR", "I", "III")
    selected = ecg[[LEADS.index(name) for name in names]]
    assert independent_among(names) == ("V2", "II", "I")
    np.testing.assert_allclose(
        expansion_matrix(names) @ selected[[0, 2, 4]], selected, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("names", [("I", "III", "aVF"), ("II", "V1"), ("lead1", "lead2"), ()])
def test_without_both_limb_leads_nothing_is_derived(names):
    assert independent_among(names) == names
    np.testing.assert_array_equal(expansion_matrix(names), np.eye(len(names)))


def test_the_residual_of_an_exact_ecg_is_rounding_and_of_a_flat_one_zero():
    assert einthoven_residual(from_electrodes()).max() < 1e-14
    assert einthoven_residual(from_electrodes().astype(np.float32)).max() < 1e-6
    np.testing.assert_array_equal(einthoven_residual(np.zeros((2, 12, 5))), 0)


@pytest.mark.parametrize("lead", ["III", "aVR", "aVL", "aVF"])
def test_the_residual_is_the_largest_error_over_the_largest_limb_lead(lead):
    ecg = from_electrodes(n=2)
    largest = np.abs(ecg[1, :6]).max()
    ecg[1, LEADS.index(lead), 7] += 0.01 * largest
    ecg[1, 6:] *= 100  # chest leads have no part in it
    expected = 0.01 * largest / np.abs(ecg[1, :6]).max()
    np.testing.assert_allclose(einthoven_residual(ecg), [0, expected], atol=1e-12)
