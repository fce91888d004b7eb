"""Ranks and factors against NumPy's decomposition and every choice of ranks tried."""

import itertools
import math

import numpy as np
import pytest
import torch

from lib.projections.lowrank import choose_ranks, low_rank, ranks_for_budget

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def gaussians(shapes, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(s, generator=g) * (i + 1)).to(dtype) for i, s in enumerate(shapes)]


def tails(matrix):
    """Σ_{i>r} σᵢ² for every r."""
    squares = np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2
    return [math.fsum(squares[r:]) for r in range(len(squares) + 1)]


def options(matrices, prices, whole):
    """Per layer every (rank, cost, error)."""
    for i, (matrix, price) in enumerate(zip(matrices, prices, strict=True)):
        layer = [(r, price * r, error) for r, error in enumerate(tails(matrix))]
        yield layer + ([(None, whole[i], 0.0)] if whole else [])


def check(result, matrices, prices, whole):
    """The ranks cost and miss what the result says."""
    chosen = [
        next(o for o in layer if o[0] == r)
        for layer, r in zip(options(matrices, prices, whole), result.ranks, strict=True)
    ]
    assert result.cost == sum(cost for _, cost, _ in chosen)
    error = math.fsum(e for *_, e in chosen)
    assert result.error == pytest.approx(error, rel=1e-9, abs=1e-12)
    assert 0 <= result.lower_bound <= result.error


# ----------------------------------------------------------------------------------- a given rank


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4), (3, 1), (6, 6)])
def test_no_matrix_of_the_rank_is_nearer(shape, dtype):
    (matrix,) = gaussians([shape], dtype=dtype)
    w = matrix.double().numpy()
    u, s, vh = np.linalg.svd(w, full_matrices=False)
    size = np.linalg.norm(w)
    for rank in range(min(shape) + 1):
        left, right = factors = low_rank(matrix, rank=rank)
        assert (left.shape, right.shape) == ((shape[0], rank), (rank, shape[1]))
        assert left.dtype == right.dtype == factors.product().dtype == dtype
        want = (u[:, :rank] * s[:rank]) @ vh[:rank]
        eps = torch.finfo(dtype).eps
        assert np.abs(factors.product().double().numpy() - want).max() <= 4 * eps * size
        error = np.linalg.norm(w - left.double().numpy() @ right.double().numpy())
        assert error == pytest.approx(math.sqrt(tails(matrix)[rank]), abs=8 * eps * size)
        assert float(left.norm()) == pytest.approx(float(right.norm()), rel=8 * eps)


def test_equal_singular_values_zeros_and_strides():
    assert float((torch.eye(4) - low_rank(torch.eye(4), rank=3).product()).norm()) == pytest.approx(
        1
    )
    assert not low_rank(torch.zeros(3, 2), rank=2).product().any()
    assert low_rank(torch.zeros(0, 5), rank=0).product().shape == (0, 5)
    (matrix,) = gaussians([(6, 8)])
    rows = torch.nn.Parameter(matrix)[::2].T
    got = low_rank(rows, rank=2).product()
    assert torch.equal(got, low_rank(rows.detach().contiguous(), rank=2).product())
    assert not got.requires_grad


# ------------------------------------------------------------------------------- ranks by penalty


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("with_whole", [False, True])
def test_every_layer_gets_its_best_rank(seed, with_whole):
    rng = np.random.default_rng(seed)
    matrices = gaussians([(4, 6), (7, 3), (1, 1)], seed)
    prices = rng.integers(1, 9, 3).tolist()
    whole = rng.integers(1, 30, 3).tolist() if with_whole else None
    mu = 2.0 ** rng.integers(-3, 4)
    for alpha in [0, 0.01, 0.3, 1, 10, 1e6]:
        result = choose_ranks(matrices, prices=prices, whole=whole, alpha=alpha, mu=mu)
        check(result, matrices, prices, whole)
        best = [
            min(alpha * cost + mu / 2 * error for _, cost, error in layer)
            for layer in options(matrices, prices, whole)
        ]
        assert alpha * result.cost + mu / 2 * result.error == pytest.approx(sum(best), abs=1e-12)
        assert result.lower_bound == result.error


def test_a_layer_is_kept_whole_where_that_is_no_dearer():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    given = {"prices": [4], "alpha": 0.1, "mu": 2}
    assert choose_ranks([matrix], **given).ranks == [3]
    assert choose_ranks([matrix], whole=[12], **given).ranks == [None]
    assert choose_ranks([matrix], whole=[13], **given).ranks == [3]
    # 14, 4 + 5, 8 + 1, 9 and, at the dearer price, 14, 9 + 5: the cheapest of the equal ones
    assert choose_ranks([matrix], prices=[4], whole=[9], alpha=1, mu=2).ranks == [1]
    assert choose_ranks([matrix], prices=[4], alpha=9 / 4, mu=2).ranks == [0]


def test_zeros_cost_nothing():
    result = choose_ranks([torch.zeros(3, 4), torch.zeros(0, 2)], prices=[1, 1], alpha=0, mu=1)
    assert result == ([0, 0], 0, 0.0, 0.0)
    assert choose_ranks([], prices=[], alpha=1, mu=1) == ([], 0, 0.0, 0.0)


# -------------------------------------------------------------------------------- ranks by budget


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("with_whole", [False, True])
def test_the_optimum_lies_between_bound_and_error(seed, with_whole):
    rng = np.random.default_rng(seed)
    matrices = gaussians([(3, 4), (5, 2), (3, 3)], seed)
    prices = rng.integers(1, 9, 3).tolist()
    whole = rng.integers(1, 30, 3).tolist() if with_whole else None
    every = [
        (sum(o[1] for o in choice), math.fsum(o[2] for o in choice))
        for choice in itertools.product(*options(matrices, prices, whole))
    ]
    largest = max(
        max(e for *_, e in layer) for layer in options(matrices, prices, whole)
    )  # what one step can gain
    for budget in [0, 1, 5, 10, 17, 30, 10**9]:
        result = ranks_for_budget(matrices, prices=prices, whole=whole, budget=budget)
        check(result, matrices, prices, whole)
        assert result.cost <= budget
        optimum = min(error for cost, error in every if cost <= budget)
        assert result.lower_bound - 1e-9 <= optimum <= result.error + 1e-9
        assert result.error - result.lower_bound <= largest + 1e-9


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        *((torch.tensor([[1.0, b]]), "1 in layer 1") for b in (math.nan, math.inf, -math.inf)),
        (torch.ones(3), "layer 1 .* needs a matrix"),
        (torch.ones(2, 2, 1, 1), "layer 1 .* needs a matrix"),
        (torch.ones(2, 2, dtype=torch.int64), "layer 1 .*int64"),
    ],
)
def test_refused_matrices(bad, message):
    with pytest.raises(ValueError, match=message.replace("layer 1", "layer 0")):
        low_rank(bad, rank=1)
    with pytest.raises(ValueError, match=message):
        choose_ranks([torch.ones(2, 2), bad], prices=[1, 1], alpha=1, mu=1)
    with pytest.raises(ValueError, match=message):
        ranks_for_budget([torch.ones(2, 2), bad], prices=[1, 1], budget=1)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (low_rank, {"rank": 3}, "rank = 3 .* 0 to 2"),
        (low_rank, {"rank": 1.5}, "rank = 1.5"),
        (choose_ranks, {"prices": [1], "alpha": -1, "mu": 1}, "alpha = -1"),
        (choose_ranks, {"prices": [1], "alpha": 1, "mu": 0}, "mu = 0"),
        (choose_ranks, {"prices": [1, 2], "alpha": 1, "mu": 1}, "prices has 2 entries for 1"),
        (ranks_for_budget, {"prices": [0], "budget": 1}, r"prices\[0\] = 0"),
        (ranks_for_budget, {"prices": [1], "whole": [0], "budget": 1}, r"whole\[0\] = 0"),
        (ranks_for_budget, {"prices": [1], "budget": -1}, "budget = -1"),
        (ranks_for_budget, {"prices": [1], "budget": 1, "least": 2}, "least = 2"),
    ],
)
def test_refused_arguments(function, arguments, message):
    matrix = torch.ones(2, 3)
    with pytest.raises(ValueError, match=message):
        function(matrix if function is low_rank else [matrix], **arguments)


def test_a_rank_at_least_in_every_layer():
    """Of a layer of zeros too, which is worth none."""
    matrices = [torch.zeros(3, 5), *gaussians([(4, 6)])]
    place = {"prices": [8, 10], "whole": [15, 24]}
    assert ranks_for_budget(matrices, budget=18, **place).ranks == [0, 1]
    found = ranks_for_budget(matrices, budget=18, least=1, **place)
    assert (found.ranks, found.cost) == ([1, 1], 18)
    assert ranks_for_budget(matrices, budget=28, least=1, **place).ranks == [1, 2]
    with pytest.raises(ValueError, match=r"budget is 17; .* costs 18"):
        ranks_for_budget(matrices, budget=17, least=1, **place)
