"""Rounding to a few significant bits, against exact decimals."""

import math
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
import torch

from lib.projections.precision import each, round_to, rounded


def by_decimals(value: float, significant: int) -> float:
    """The nearest float of so many bits, ties to even, in exact arithmetic."""
    if value == 0 or not math.isfinite(value):
        return value
    _, exponent = math.frexp(value)
    with localcontext(prec=1200):
        unit = Decimal(2) ** (exponent - significant)
        return float((Decimal(value) / unit).to_integral_value(ROUND_HALF_EVEN) * unit)


@pytest.mark.parametrize("significant", [1, 3, 8, 12, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_nearest_float(significant, dtype):
    torch.manual_seed(0)
    info = torch.finfo(dtype)
    ends = torch.tensor([info.max, info.tiny, -info.tiny * info.eps], dtype=dtype)  # a subnormal
    drawn = (torch.randn(500) * torch.exp(4 * torch.randn(500))).to(dtype)
    values = torch.cat([drawn, ends, 5 * ends[1:], 1.9 * ends[1:2]])
    expected = [by_decimals(v, significant) for v in values.double().tolist()]
    found = round_to(values, significant)
    assert found.dtype == dtype
    assert torch.equal(found, torch.tensor(expected, dtype=torch.float64).to(dtype))
    assert torch.equal(round_to(found, significant), found)


def test_ties_go_to_even():
    ties = torch.tensor([1.125, 1.375, 1.625, 1.875, -1.125, -1.375])
    assert round_to(ties, 3).tolist() == [1.0, 1.5, 1.5, 2.0, -1.0, -1.5]


def test_what_is_not_finite_stays():
    values = torch.tensor([math.inf, -math.inf, math.nan])
    assert torch.equal(round_to(values, 3)[:2], values[:2])
    assert round_to(values, 3)[2].isnan()


def test_negative_zero_becomes_zero():
    assert not round_to(torch.tensor([-0.0, 0.0, -1.0]), 3).signbit()[:2].any()


def test_integers_and_booleans_are_returned():
    for values in (torch.arange(300), torch.tensor([True, False])):
        assert round_to(values, 2) is values


def test_matrices_and_others_apart():
    state = {"matrix": torch.full((2, 2), 1.2345), "vector": torch.full((2,), 1.2345)}
    found = rounded(state, matrices=8, others=3)
    assert torch.equal(found["matrix"], round_to(state["matrix"], 8))
    assert torch.equal(found["vector"], round_to(state["vector"], 3))


def test_names_of_one_tensor_share_the_image():
    one, empty = torch.randn(3, 3), torch.empty(0)
    state = {"a": one, "b": one.view(3, 3), "c": one.T, "d": empty, "e": torch.empty(0)}
    found = each(state, lambda value: value + 1)
    assert found["a"] is found["b"]
    assert found["a"] is not found["c"]
    assert found["d"] is not found["e"]
    assert list(found) == list(state)
