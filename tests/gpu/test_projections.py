"""Projections on a GPU: the same weights kept as on the CPU, and values that are near."""

import pytest
import torch

from lib.projections import knapsack
from lib.projections.codebook import assign, fit_codebooks
from lib.projections.svt import frozen_gram, svt
from tests.test_pretend_calls import CALLS

SHAPES = ((64, 3, 7, 7), (64, 64, 3, 3), (128, 256), (100, 64))
BITS = [3, 1, 8, 4]


@pytest.fixture(params=["all different", "ties"])
def weights(request):
    """Four layers; with ties a weight takes one of some hundred values."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return layers if request.param == "all different" else [(30 * w).round() / 30 for w in layers]


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.97, 1])
def test_the_same_weights_are_kept_bit_for_bit(weights, share, device):
    limit = int(share * sum(b * w.numel() for b, w in zip(BITS, weights, strict=True)))
    there = [w.to(device) for w in weights]
    wanted = knapsack.project_fixed_bitwidth(weights, BITS, budget=limit)
    found = knapsack.project_fixed_bitwidth(there, BITS, budget=limit)
    assert found.bits == wanted.bits
    assert torch.equal(found.counts, wanted.counts)
    for one, other in zip(found.weights, wanted.weights, strict=True):
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("free_zero", [True, False])
def test_codebooks_are_as_near_to_the_weights(weights, free_zero, device):
    there = [w.to(device) for w in weights]
    wanted = fit_codebooks(weights, free_zero=free_zero)
    found = fit_codebooks(there, free_zero=free_zero)
    assert torch.allclose(found.errors.cpu(), wanted.errors.cpu(), rtol=1e-3, atol=1e-9)
    for w, on, book in zip(weights, there, found.centres, strict=True):
        for centres in book[:4]:
            here = assign(w, centres.cpu(), free_zero=free_zero)
            assert torch.equal(assign(on, centres, free_zero=free_zero).cpu(), here)


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("sparsity")])
def test_constraints_and_penalties_give_the_same_weights(weights, name, device):
    _, project = CALLS[name]
    found = project([w.to(device) for w in weights])
    for one, other in zip(found, project(weights), strict=True):
        assert torch.allclose(one.cpu(), other, rtol=1e-6, atol=1e-7)


def test_thresholded_singular_values(device):
    matrix = torch.randn(3, 64, 256, generator=torch.Generator().manual_seed(0))
    threshold, there = torch.full((3,), 5.0), matrix.to(device)
    wanted = svt(matrix, threshold).matrix
    gram = frozen_gram(there)
    found = [
        svt(there, threshold.to(device), gram=gram, **given).matrix.cpu()
        for given in ({}, {"eigen": torch.linalg.eigh(gram)})
    ]
    for one in found:
        assert torch.allclose(one, wanted, atol=1e-4)
