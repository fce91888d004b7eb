"""The 0-1 knapsack against a plain sort and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.projections import knapsack, knapsack_gpu, prefix
from lib.projections.knapsack import project_fixed_bitwidth

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def sorted_greedy(weights, bitwidths, budget):
    """The definition: stable sort by w²/b, cumulative sum, longest prefix. Masks per layer."""
    flat = [w.detach().double().reshape(-1).numpy() for w in weights]
    sizes = [len(w) for w in flat]
    cost = np.repeat(np.array(bitwidths, np.int64), sizes)
    w = np.concatenate([*flat, np.zeros(0)])
    ratio = w * w / cost
    order = np.argsort(-ratio, kind="stable")
    order = order[w[order] != 0]
    kept = np.zeros(len(w), bool)
    kept[order[np.cumsum(cost[order]) <= budget]] = True
    profit = math.fsum((w[kept] ** 2).tolist())
    return np.split(kept, np.cumsum(sizes))[:-1], profit


def check(weights, bitwidths, budget):
    before = [w.clone() for w in weights]
    result = project_fixed_bitwidth(weights, bitwidths, budget=budget)
    masks, profit = sorted_greedy(weights, bitwidths, budget)
    for w, b, o, mask in zip(weights, before, result.weights, masks, strict=True):
        assert torch.equal(w, b)
        assert o.shape == w.shape
        assert o.dtype == w.dtype
        assert torch.equal(o, torch.where(torch.from_numpy(mask).view(w.shape), w, 0))
    counts = [int(mask.sum()) for mask in masks]
    spent = sum(b * n for b, n in zip(bitwidths, counts, strict=True))
    assert result.counts.tolist() == counts
    assert result.bits.dtype == torch.int64
    assert int(result.bits) == spent <= budget
    assert result.profit().dtype == result.gap.dtype == torch.float64
    assert float(result.profit()) == pytest.approx(profit, rel=1e-12, abs=1e-300)
    assert result.upper_bound() == result.profit() + result.gap
    dropped = [w[o == 0].double().square() for w, o in zip(weights, result.weights, strict=True)]
    assert 0 <= result.gap <= max([0.0, *(float(d.max()) for d in dropped if d.numel())])
    return result


def gaussians(sizes, seed=0, dtype=torch.float32, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, generator=g) * scale * (i + 1)).to(dtype) for i, n in enumerate(sizes)]


def budgets_of(weights, bitwidths, fractions=(0, 0.01, 0.1, 0.5, 0.97, 1)):
    total = sum(b * w.numel() for b, w in zip(bitwidths, weights, strict=True))
    return [int(total * f) for f in fractions]


@pytest.fixture(autouse=True, params=["cpu", "gpu"])
def way(request, monkeypatch):
    """Every test goes both ways: what a GPU does is plain PyTorch, and runs on a CPU too."""
    if request.param == "gpu":
        monkeypatch.setattr(knapsack, "_for_gpu", lambda weights: any(map(torch.numel, weights)))
    return request.param


@pytest.fixture
def scans(way, monkeypatch):
    """Count the reading passes, one a bracket, so that a test knows which way its input went."""
    calls = []

    def count(*args):
        calls.append(args[2:])
        return counted(*args)

    place, name = {"cpu": (knapsack, "_scan"), "gpu": (knapsack_gpu, "bracket")}[way]
    counted = getattr(place, name)
    monkeypatch.setattr(place, name, count)
    return calls


# ---------------------------------------------------------------- fixed bitwidth: the kept set


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes", [[100, 7, 0, 1, 650], [90_000, 9 * 313, 60_003, 0, 9]], ids=["few", "many"]
)
def test_keeps_what_the_sort_keeps(sizes, dtype, scans):
    # float16 and bfloat16 tie by the hundred
    weights = [
        w.view(-1, 9 if n % 9 == 0 else 1)
        for n, w in zip(sizes, gaussians(sizes, dtype=dtype), strict=True)
    ]
    bits = [3, 1, 8, 2, 5]
    for budget in [*budgets_of(weights, bits), 1, 2, 3, 10**12]:
        check(weights, bits, budget)
    assert scans or sizes[0] == 100


@pytest.mark.parametrize("exponent", [-140, -120, -60, 0, 60, 120])
@pytest.mark.parametrize("size", [500, 70_000])
def test_scales_do_not_matter(exponent, size):
    weights = [w * 2.0**exponent for w in gaussians([size, size // 3])]
    for budget in budgets_of(weights, [2, 5], (0.02, 0.5, 1)):
        check(weights, [2, 5], budget)


def test_one_scan_takes_layers_of_different_dtypes(scans):
    layers = gaussians([30_000, 20_000, 40_001, 7000])
    weights = [w.to(t) for w, t in zip(layers, DTYPES, strict=True)]
    for budget in budgets_of(weights, [3, 4, 5, 2]):
        check(weights, [3, 4, 5, 2], budget)
    assert scans


@pytest.mark.parametrize("exponent", [-1000, -600, 0, 500, 1000])
@pytest.mark.parametrize("size", [300, 70_000])
def test_float64_squares_neither_vanish_nor_overflow(exponent, size):
    base = gaussians([size, 200], dtype=torch.float64)
    weights = [w * 2.0**exponent for w in base]
    for budget in budgets_of(weights, [3, 7]):
        want = project_fixed_bitwidth(base, [3, 7], budget=budget).weights
        got = project_fixed_bitwidth(weights, [3, 7], budget=budget).weights
        for a, b in zip(want, got, strict=True):
            assert torch.equal(a * 2.0**exponent, b)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_scan_spans_many_chunks(threads, monkeypatch, scans):
    monkeypatch.setattr(knapsack, "CHUNK", 1 << 14)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weights = gaussians([100_001, 4099, 33_000], seed=3)
    for budget in budgets_of(weights, [1, 6, 4]):
        check(weights, [1, 6, 4], budget)
    assert len(scans) <= 2 * 6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("low", [0, 0.1])
@pytest.mark.parametrize("high", [0.3, math.inf])
def test_a_scan_counts_and_collects(dtype, low, high, monkeypatch):
    monkeypatch.setattr(knapsack, "CHUNK", 64)
    rng = np.random.default_rng(0)
    # after a full chunk, every number of weights in the last word of eight
    flat = [rng.normal(size=64 + n).astype(dtype) for n in range(20)]
    flat += [np.zeros(0, dtype), np.zeros(70, dtype), np.full(70, -0.5, dtype)]
    bits = [1 + i % 8 for i in range(len(flat))]
    items = knapsack._scan(flat, bits, 1.0, low, high)
    ratios = [np.square(w, dtype=np.float64) / b for w, b in zip(flat, bits, strict=True)]
    assert items.above == [int((r > high).sum()) for r in ratios]
    inside = [r[(r > low) & (r <= high)] for r in ratios]
    assert items.counts == [len(r) for r in inside]
    for found, r in zip(items.ratio.split(items.counts), inside, strict=True):
        assert np.array_equal(np.sort(found.numpy()), np.sort(r))
    assert items.cost.tolist() == np.repeat(bits, items.counts).tolist()


@pytest.mark.parametrize("fraction", [0.02, 0.5])
def test_ordinary_weights_need_one_scan(fraction, scans):
    weights = gaussians([300_000, 200_000, 1000])
    (budget,) = budgets_of(weights, [2, 7, 3], [fraction])
    check(weights, [2, 7, 3], budget)
    assert len(scans) == 1


def test_order_of_equal_ratios():
    # 2²/4 = 1²/1: the earlier layer first, then the earlier index
    weights = [torch.tensor([2.0, -2.0]), torch.tensor([1.0, -1.0, 1.0])]
    got = project_fixed_bitwidth(weights, [4, 1], budget=6).weights
    assert [w.tolist() for w in got] == [[2, 0], [0, 0, 0]]  # the next one, of 4 bits, ends it
    got = project_fixed_bitwidth(weights[::-1], [1, 4], budget=6).weights
    assert [w.tolist() for w in got] == [[1, -1, 1], [0, 0]]
    got = project_fixed_bitwidth(weights, [4, 1], budget=9).weights
    assert [w.tolist() for w in got] == [[2, -2], [1, 0, 0]]


@pytest.mark.parametrize("sizes", [[5, 8], [70_000, 30_000]])
def test_weights_that_tie(sizes):
    for weights in (
        [torch.full((n,), -0.1) for n in sizes],
        *([(w * k / 4).round() / k for w in gaussians(sizes)] for k in (2, 16, 255)),
        [torch.zeros(sizes[0]), torch.zeros(0)],
    ):
        for budget in budgets_of(weights, [3, 3]):
            check(weights, [3, 3], budget)
            check(weights, [2, 8], budget)


def test_budget_counted_past_float32_and_int32():
    # odd sums above 2²⁴, and a budget above 2³¹
    n = (1 << 24) // 7 + 1001
    weights = [torch.linspace(1, 2, n)]
    for budget in [(1 << 24) + 1, (1 << 24) + 6, (1 << 24) + 7]:
        result = project_fixed_bitwidth(weights, [7], budget=budget)
        assert int(result.bits) == budget // 7 * 7
        assert int(result.weights[0].count_nonzero()) == budget // 7
    layers = [torch.linspace(1, 2, 1 << 20)] * 33  # one tensor serves as many layers
    budget = (1 << 31) + 64 * 3
    result = project_fixed_bitwidth(layers, [64] * 33, budget=budget)
    assert int(result.bits) == budget
    assert int(result.counts.sum()) == (1 << 25) + 3
    assert sum(int(w.count_nonzero()) for w in result.weights) == (1 << 25) + 3
    assert int(project_fixed_bitwidth(layers, [64] * 33, budget=10**30).bits) == 33 << 26


# ------------------------------------------------------- inputs made against the sampled bracket


def stride_of(size):
    return max(1, size // prefix.SAMPLE) | 1


@pytest.mark.parametrize("inverted", [False, True])
def test_periodic_weights_that_the_sample_sees_only_one_of(inverted, monkeypatch, scans):
    monkeypatch.setattr(prefix, "SAMPLE", 1 << 12)
    size = 100_000
    stride = stride_of(size)
    (w,) = gaussians([size], seed=5)
    seen = torch.arange(size) % stride == stride // 2
    w[seen] *= 1e-3 if inverted else 1e3
    for budget in budgets_of([w], [3]):
        check([w], [3], budget)
    assert len(scans) > 6  # some brackets missed, and the answer held


def spiked(size, scale, **values):
    (w,) = gaussians([size], scale=scale)
    for place, value in values.items():
        w[int(place[1:])] = value
    return w


@pytest.mark.parametrize(
    ("weights", "bits", "budgets"),
    [
        ([torch.full((120_000,), 0.5), *gaussians([3000, 50])], [4, 1, 8], None),
        ([spiked(100_000, 1e-6, _5=1e6, _77777=-1e18)], [2], [*range(8), 1000]),
        # squares that overflow float32
        ([spiked(70_000, 1, _1=-3e38, _20=2e25)], [4], [0, 4, 8, 9, 10_000]),
        # a threshold amid denormals
        ([spiked(70_000, 1e-39) + (torch.arange(70_000) < 1000)], [1], [500, 1000, 1001, 40_000]),
    ],
    ids=["huge constant layer", "spikes", "overflow", "denormals"],
)
def test_weights_of_different_sizes(weights, bits, budgets):
    for budget in budgets or budgets_of(weights, bits):
        check(weights, bits, budget)


def test_few_nonzeros_kept_again(scans):
    weights = gaussians([200_000, 50_000])
    first = project_fixed_bitwidth(weights, [2, 3], budget=10_000)
    again = check(first.weights, [2, 3], 10_000)
    assert all(map(torch.equal, first.weights, again.weights))
    assert len(scans) == 2


# ------------------------------------------------------------------------- bounds and properties


def test_the_optimum_lies_between_profit_and_bound():
    rng = np.random.default_rng(0)
    for _ in range(150):
        sizes = rng.integers(1, 5, 3)
        bits = rng.integers(1, 9, 3).tolist()
        weights = [torch.from_numpy(rng.normal(size=n)) for n in sizes]
        w2 = np.concatenate([w.numpy() ** 2 for w in weights])
        cost = np.repeat(bits, sizes)
        budget = int(rng.integers(0, cost.sum() + 2))
        subsets = np.array(list(itertools.product([0, 1], repeat=len(w2))))
        optimum = (subsets @ w2)[subsets @ cost <= budget].max()
        result = check(weights, bits, budget)
        assert float(result.profit()) <= optimum + 1e-12
        assert optimum <= float(result.upper_bound()) + 1e-12
        assert float(result.profit()) >= optimum - w2.max() - 1e-12


LAYERS = st.lists(
    st.tuples(
        st.lists(st.floats(-4, 4, width=16) | st.sampled_from([0.0, 1.0, -1.0, 2.0]), max_size=12),
        st.integers(1, 8),
    ),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(layers=LAYERS, budget=st.integers(0, 300), dtype=st.sampled_from(DTYPES))
def test_properties(layers, budget, dtype):
    weights = [torch.tensor(w, dtype=dtype) for w, _ in layers]
    bits = [b for _, b in layers]
    check(weights, bits, budget)
    everything = project_fixed_bitwidth(weights, bits, budget=10**6)
    assert all(map(torch.equal, everything.weights, weights))
    assert everything.profit() == everything.upper_bound()


# ------------------------------------------------------------------------ out, and what is refused


@pytest.mark.parametrize("sizes", [[30, 50], [70_000, 100]])
def test_out_and_in_place(sizes):
    weights = gaussians(sizes)
    (budget,) = budgets_of(weights, [2, 3], [0.3])
    want = project_fixed_bitwidth(weights, [2, 3], budget=budget)
    out = [torch.full_like(w, 9.0) for w in weights]
    got = project_fixed_bitwidth(weights, torch.tensor([2, 3]), budget=budget, out=out)
    assert all(a is b for a, b in zip(got.weights, out, strict=True))
    assert all(map(torch.equal, want.weights, out))
    place = [torch.nn.Parameter(w.clone()) for w in weights]
    project_fixed_bitwidth(place, [2, 3], budget=budget, out=place)
    assert all(map(torch.equal, want.weights, place))
    assert all(p.requires_grad for p in place)


@pytest.mark.parametrize("size", [24, 90_000])
def test_strided_weights(size):
    w = torch.arange(1, size + 1).float().view(-1, 3, 4).permute(1, 2, 0)
    ties = torch.ones(size).view(-1, 3, 4).permute(2, 0, 1)
    for budget in [7, size // 2, 3 * size]:
        check([w, ties], [2, 1], budget)
        masks, _ = sorted_greedy([w, ties], [2, 1], budget)
        place = [w.clone(), ties.clone()]
        project_fixed_bitwidth(place, [2, 1], budget=budget, out=place)
        assert [int((p != 0).sum()) for p in place] == [int(m.sum()) for m in masks]


@pytest.mark.parametrize(
    ("bad", "sizes", "fraction", "dtype"),
    [
        (math.nan, [9, 5], 0.5, torch.float32),
        (-math.nan, [9, 70_000], 0.5, torch.float64),
        (math.inf, [9, 70_000], 0.001, torch.float16),
        (-math.inf, [9, 70_000], 1, torch.bfloat16),
        (math.nan, [9, 70_000], 0.5, torch.float32),
    ],
)
def test_a_refused_input_is_left_as_it_was(bad, sizes, fraction, dtype):
    weights = gaussians(sizes, dtype=dtype)
    weights[1][[0, 2, -1]] = bad
    (budget,) = budgets_of(weights, [2, 3], [fraction])
    before = [w.clone() for w in weights]
    with pytest.raises(ValueError, match="3 in layer 1"):
        project_fixed_bitwidth(weights, [2, 3], budget=budget, out=weights)
    for a, b in zip(before, weights, strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 2.5}, "budget in bits = 2.5"),
        ({"bitwidths": [0]}, r"bitwidths\[0\] = 0 .* 1 to 64"),
        ({"bitwidths": torch.tensor([2.0])}, r"bitwidths\[0\] = 2.0"),
        ({"bitwidths": [1, 2]}, "bitwidths has 2 entries for 1"),
        ({"weights": [torch.ones(2, dtype=torch.int64)]}, "int64"),
        ({"out": []}, "out has 0 entries for 1"),
        ({"out": [torch.ones(2, dtype=torch.float64)]}, r"out\[0\]"),
    ],
)
def test_refused_arguments(arguments, message):
    given = {"weights": [torch.ones(2)], "bitwidths": [1], "budget": 1, **arguments}
    with pytest.raises(ValueError, match=message):
        project_fixed_bitwidth(**given)
