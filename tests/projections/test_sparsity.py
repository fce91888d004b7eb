"""Pruning's C steps against plain sorts, the KKT conditions and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.projections import prefix, sparsity
from lib.projections.sparsity import (
    l0_constraint,
    l0_penalty,
    l1_constraint,
    l1_penalty,
    l2_constraint,
    l2_penalty,
)
from tests.projections.test_knapsack import DTYPES, gaussians

CONSTRAINTS = [(l0_constraint, "keep"), (l1_constraint, "radius"), (l2_constraint, "radius")]
PENALTIES = [l0_penalty, l1_penalty, l2_penalty]


def joined(weights):
    return np.concatenate([np.zeros(0), *(w.double().reshape(-1).numpy() for w in weights)])


def rounding(weights):
    """What an entry misses where it is rounded to its dtype: half an ulp, of a subnormal too."""
    return joined(
        [
            w.double().abs() * (info.eps / 2) + info.smallest_normal * info.eps
            for w in weights
            for info in [torch.finfo(w.dtype)]
        ]
    )


def sorted_threshold(w, radius):
    """t of the projection onto the ℓ1 ball, from a sort in float64 (Duchi et al., Fig. 1)."""
    sizes = np.sort(np.abs(w))[::-1]
    if math.fsum(sizes) <= radius:
        return 0.0
    candidates = (np.cumsum(sizes) - radius) / np.arange(1, len(sizes) + 1)
    kept = np.flatnonzero(sizes > candidates)
    return candidates[kept[-1]] if len(kept) else sizes[0]  # a radius lost to rounding, or 0


def check_l1(weights, radius):
    before = [w.clone() for w in weights]
    result = l1_constraint(weights, radius=radius)
    for w, b, o in zip(weights, before, result, strict=True):
        assert torch.equal(w, b)
        assert (o.shape, o.dtype) == (w.shape, w.dtype)
    w, o = joined(weights), joined(result)
    if math.fsum(np.abs(w)) <= radius:
        assert all(map(torch.equal, result, weights))
        assert all(
            a.data_ptr() != b.data_ptr() for a, b in zip(result, weights, strict=True) if a.numel()
        )
        return result
    t = sorted_threshold(w, radius)
    want = np.sign(w) * np.maximum(np.abs(w) - t, 0)
    slack = rounding(result) + 1e-13 * t + 1e-15 * np.abs(w).max()
    assert (np.abs(o - want) <= slack).all()
    # KKT: ‖θ‖₁ = radius; w − θ = t·sign(θ) where θ ≠ 0, and |w| ≤ t where θ = 0, for one t ≥ 0
    assert (
        abs(math.fsum(np.abs(o)) - radius) <= math.fsum(rounding(result)) + 1e-14 * np.abs(w).sum()
    )
    on = o != 0
    assert (np.abs(w[~on]) <= t + slack[~on]).all()
    assert (np.abs((w - o)[on] - t * np.sign(o[on])) <= slack[on]).all()
    return result


def norm1(weights):
    return math.fsum(np.abs(joined(weights)))


# -------------------------------------------------------------------------------- the ℓ0 constraint


def test_l0_keeps_the_largest_with_ties_by_layer_and_index():
    weights = [torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([-2.0, 2.0])]
    for keep, want in [
        (0, [[0, 0, 0, 0], [0, 0]]),
        (1, [[0, 0, 3, 0], [0, 0]]),
        (2, [[0, -2, 3, 0], [0, 0]]),
        (3, [[0, -2, 3, 0], [-2, 0]]),
        (5, [[1, -2, 3, 0], [-2, 2]]),
        (9, [[1, -2, 3, 0], [-2, 2]]),
    ]:
        got = l0_constraint(weights, keep=keep)
        assert [w.flatten().tolist() for w in got] == want
        assert got[0].shape == (2, 2)


@pytest.mark.parametrize("seed", range(20))
def test_l0_is_the_best_of_all_supports(seed):
    weights = gaussians([3, 0, 4], seed)
    w = joined(weights)
    supports = np.array(list(itertools.product([0, 1], repeat=7)))
    for keep in range(8):
        errors = ((w - supports * w) ** 2).sum(1)
        best = errors[supports.sum(1) <= keep].min()
        got = joined(l0_constraint(weights, keep=keep))
        assert np.count_nonzero(got) <= keep
        assert ((w - got) ** 2).sum() == pytest.approx(best)


# -------------------------------------------------------------------------------- the ℓ1 constraint


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[1], [100, 7, 0, 1], [20_000, 3000]])
def test_l1_is_the_sorted_projection(sizes, dtype):
    weights = gaussians(sizes, dtype=dtype)
    for fraction in [1e-6, 0.01, 0.3, 0.9, 1 - 1e-6, 1, 2]:
        check_l1(weights, fraction * norm1(weights))


@pytest.mark.parametrize(
    "weights",
    [
        *(
            gaussians([500, 200], dtype=dtype, scale=10.0**exponent)
            for dtype in (torch.float32, torch.float64, torch.bfloat16)
            for exponent in (-30, -10, 10, 30)
        ),
        # sixty orders apart
        [torch.logspace(-30, 30, 121), -torch.logspace(-30, 30, 61)],
        [(w * 4).round() / 4 for w in gaussians([3000, 70])] + [torch.zeros(50)],
    ],
)
def test_l1_scales_and_ties_do_not_matter(weights):
    for fraction in [0, 1e-60, 1e-33, 1e-4, 0.01, 0.1, 0.5, 0.9, 1.1]:
        check_l1(weights, fraction * norm1(weights))


@pytest.mark.parametrize("exponent", [-1060, -1000, 500, 1017])
def test_l1_and_l2_of_float64_neither_vanish_nor_overflow(exponent):
    # whole numbers: no power of two rounds them
    base = [w.mul(8).round() for w in gaussians([300, 20], dtype=torch.float64)]
    weights = [w * 2.0**exponent for w in base]
    scale = 2.0**exponent
    for function in [l1_constraint, l2_constraint]:
        want = function(base, radius=16.0)
        got = function(weights, radius=16 * scale)
        for a, b in zip(want, got, strict=True):
            # below the normal range a result is rounded to a whole number of the smallest
            assert torch.allclose(a * scale, b, rtol=1e-12, atol=5e-324)
    everything = l1_constraint(weights, radius=1e308)
    if exponent < 1000:
        assert all(map(torch.equal, everything, weights))


@pytest.mark.parametrize("inverted", [False, True])
def test_l1_of_periodic_weights_that_the_sample_sees_only_one_of(inverted, monkeypatch):
    monkeypatch.setattr(prefix, "SAMPLE", 1 << 8)
    size = 5000
    (w,) = gaussians([size], seed=5)
    stride = (size >> 8) | 1
    w[torch.arange(size) % stride == stride // 2] *= 1e-3 if inverted else 1e3
    for fraction in [1e-4, 0.01, 0.5, 0.999]:
        check_l1([w, w[:9]], fraction * norm1([w, w[:9]]))


def test_l1_reads_ordinary_weights_a_few_times(monkeypatch):
    sizes = []

    def count(flat, *args):
        sizes.append(sum(map(len, flat)))
        return above(flat, *args)

    above = sparsity._above
    monkeypatch.setattr(sparsity, "_above", count)
    weights = gaussians([300_000, 100_000])
    for fraction in [0.01, 0.1, 0.5]:
        sizes.clear()
        l1_constraint(weights, radius=fraction * norm1(weights))
        assert sizes.count(400_000) <= 6


# -------------------------------------------------------------------------------- the ℓ2 constraint


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [-4, 0, 4])
def test_l2_scales_onto_the_ball(exponent, dtype):
    weights = gaussians([100, 0, 7], dtype=dtype, scale=2.0**exponent)
    w = joined(weights)
    norm = np.linalg.norm(w)
    for fraction in [1e-3, 0.5, 0.999]:
        result = l2_constraint(weights, radius=fraction * norm)
        assert (np.abs(joined(result) - w * fraction) <= rounding(result) + 1e-15 * norm).all()
        assert (
            abs(np.linalg.norm(joined(result)) - fraction * norm)
            <= np.linalg.norm(rounding(result)) + 1e-14 * norm
        )
    assert all(map(torch.equal, l2_constraint(weights, radius=1.001 * norm), weights))


def test_l2_of_float32_squares_that_overflow_it():
    weights = [torch.tensor([3e38, -3e38]), torch.tensor([1e-30])]
    got = joined(l2_constraint(weights, radius=math.sqrt(2) * 1e38))
    assert got == pytest.approx([1e38, -1e38, 1e-30 / 3], rel=1e-7)


# ------------------------------------------------------------------------------------ the penalties


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-4, 4, width=16), max_size=12),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    mu=st.sampled_from([0.25, 1.0, 3.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_no_value_on_a_grid_beats_a_penalty(values, alpha, mu, dtype):
    w = torch.tensor(values, dtype=dtype)
    costs = [lambda t: t != 0, np.abs, np.square]
    grid = np.append(np.linspace(-4, 4, 801), joined([w]))[:, None]

    def objective(cost, t):
        return alpha * cost(t) + mu / 2 * (t - joined([w])) ** 2

    for penalty, cost in zip(PENALTIES, costs, strict=True):
        (got,) = penalty([w], alpha=alpha, mu=mu)
        assert (got.shape, got.dtype) == (w.shape, w.dtype)
        least = objective(cost, grid).min(0)
        # a result rounded to half precision is not the minimum to the last digit
        assert (
            objective(cost, joined([got])) <= least + 64 * torch.finfo(dtype).eps ** 2 + 1e-12
        ).all()


def test_a_weight_at_the_threshold_goes():
    # √(2·2/1) = 2
    (got,) = l0_penalty([torch.tensor([2.0, -2.0, 2.0000002, -3.0])], alpha=2, mu=1)
    assert got.tolist() == [0, 0, torch.tensor(2.0000002).item(), -3]
    (got,) = l1_penalty([torch.tensor([2.0, -2.0, 2.5, -3.0])], alpha=2, mu=1)
    assert got.tolist() == [0, 0, 0.5, -1]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalty_of_nothing_and_of_everything(penalty):
    weights = gaussians([5, 0, 30])
    free = penalty(weights, alpha=0, mu=2)
    assert all(map(torch.equal, free, weights))
    assert free[0].data_ptr() != weights[0].data_ptr()
    dear = penalty(weights, alpha=1e308, mu=1e-308)
    assert not any(bool(w.any()) for w in dear)


# --------------------------------------------------------------------------------------- properties

LAYERS = st.lists(
    st.lists(st.floats(-4, 4, width=16) | st.sampled_from([0.0, 1.0, -1.0]), max_size=10),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(layers=LAYERS, radius=st.floats(0, 30, width=16), dtype=st.sampled_from(DTYPES))
def test_properties(layers, radius, dtype):
    weights = [torch.tensor(w, dtype=dtype) for w in layers]
    check_l1(weights, radius)
    w = joined(weights)
    for function, order in [(l1_constraint, 1), (l2_constraint, 2)]:
        result = function(weights, radius=radius)
        o, slack = joined(result), rounding(result)
        norm = np.linalg.norm(o, order)
        assert norm <= radius + slack.sum() + 1e-13 * np.abs(w).sum()
        again = joined(function(result, radius=radius))
        assert (np.abs(again - o) <= 2 * slack.sum() + 1e-13).all()
        if np.linalg.norm(w, order) < radius * (1 - 1e-12):
            assert all(map(torch.equal, result, weights))
    keep = int(radius)
    kept = l0_constraint(weights, keep=keep)
    assert np.count_nonzero(joined(kept)) == min(keep, np.count_nonzero(w))
    assert all(map(torch.equal, kept, l0_constraint(kept, keep=keep)))


# ------------------------------------------------------------------------------- all six functions


def calls():
    for function, budget in CONSTRAINTS:
        for value in [0, 3, 10**6]:
            yield pytest.param(
                lambda w, f=function, b=budget, v=value: f(w, **{b: v}),
                id=f"{function.__name__}-{value}",
            )
    for function in PENALTIES:
        yield pytest.param(lambda w, f=function: f(w, alpha=0.3, mu=2), id=function.__name__)


@pytest.mark.parametrize("call", [*calls()])
def test_strided_weights_parameters_and_empty_lists(call):
    base = gaussians([24, 12])
    weights = [base[0].view(2, 3, 4).permute(2, 0, 1), base[1].view(3, 4).T]
    want = call([w.contiguous() for w in weights])
    got = call([torch.nn.Parameter(w) for w in weights])
    assert all(map(torch.equal, got, want))
    assert not any(w.requires_grad for w in got)
    assert call([]) == []
    empty, zero, scalar = call([torch.zeros(0, 3), torch.zeros(4), torch.tensor(0.0)])
    assert empty.shape == (0, 3)
    assert torch.equal(zero, torch.zeros(4))
    assert scalar.shape == ()


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("call", [*calls()])
def test_weights_that_are_not_finite_are_refused(call, bad):
    for dtype in DTYPES:
        weights = gaussians([9, 5], dtype=dtype)
        weights[1][[0, -1]] = bad
        with pytest.raises(ValueError, match="2 in layer 1"):
            call(weights)
    with pytest.raises(ValueError, match="int64"):
        call([torch.ones(2, dtype=torch.int64)])


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (l0_constraint, {"keep": -1}, "keep = -1"),
        (l0_constraint, {"keep": 1.5}, "keep = 1.5"),
        (l1_constraint, {"radius": -0.5}, "radius = -0.5"),
        (l2_constraint, {"radius": math.inf}, "radius = inf"),
        (l1_penalty, {"alpha": 1, "mu": 0}, "mu = 0 must be above 0"),
        (l2_penalty, {"alpha": 1, "mu": math.nan}, "mu = nan"),
    ],
)
def test_numbers_out_of_range(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function([torch.ones(2)], **arguments)
