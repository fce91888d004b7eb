"""Both knapsacks against a plain sort, brute force and an integer program."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from lib.projections import knapsack
from lib.projections.knapsack import choose_bitwidths, project_fixed_bitwidth

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


def check(weights, bitwidths, budget, rel=1e-6):
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
    assert result.profit.dtype == torch.float64
    assert float(result.profit) == pytest.approx(profit, rel=rel, abs=1e-300)
    assert result.upper_bound >= result.profit
    return result


def gaussians(sizes, seed=0, dtype=torch.float32, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, generator=g) * scale * (i + 1)).to(dtype) for i, n in enumerate(sizes)]


def budgets_of(weights, bitwidths, fractions=(0, 0.01, 0.1, 0.5, 0.97, 1)):
    total = sum(b * w.numel() for b, w in zip(bitwidths, weights, strict=True))
    return [int(total * f) for f in fractions]


@pytest.fixture
def scans(monkeypatch):
    """Count the reading passes, so that a test knows which way its input went."""
    calls = []

    def count(*args):
        calls.append(args[2:])
        return scan(*args)

    scan = knapsack._scan
    monkeypatch.setattr(knapsack, "_scan", count)
    return calls


# ---------------------------------------------------------------- fixed bitwidth: the kept set


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_what_the_sort_keeps(dtype):
    weights = gaussians([100, 7, 0, 1, 650], dtype=dtype)
    bits = [3, 1, 8, 2, 5]
    for budget in [*budgets_of(weights, bits), 1, 2, 3, 10**12]:
        check(weights, bits, budget)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keeps_what_the_sort_keeps_after_a_scan(dtype, scans):
    # float16 and bfloat16 tie by the hundred
    weights = [w.view(-1, 9) for w in gaussians([90_000, 9 * 313, 60_003, 0, 9], dtype=dtype)]
    bits = [3, 1, 8, 2, 5]
    for budget in budgets_of(weights, bits):
        check(weights, bits, budget)
    assert scans


@pytest.mark.parametrize("exponent", [-140, -120, -60, 0, 60, 120])
@pytest.mark.parametrize("size", [500, 70_000])
def test_scales_do_not_matter(exponent, size):
    weights = [w * 2.0**exponent for w in gaussians([size, size // 3])]
    for budget in budgets_of(weights, [2, 5], (0.02, 0.5, 1)):
        check(weights, [2, 5], budget)


@pytest.mark.parametrize("exponent", [-1000, -600, 0, 500, 1000])
def test_float64_squares_neither_vanish_nor_overflow(exponent):
    base = gaussians([300, 200], dtype=torch.float64)
    weights = [w * 2.0**exponent for w in base]
    for budget in budgets_of(weights, [3, 7]):
        want = project_fixed_bitwidth(base, [3, 7], budget=budget).weights
        got = project_fixed_bitwidth(weights, [3, 7], budget=budget).weights
        for a, b in zip(want, got, strict=True):
            assert torch.equal(a * 2.0**exponent, b)


def test_the_scan_spans_many_chunks(monkeypatch, scans):
    monkeypatch.setattr(knapsack, "CHUNK", 1 << 14)
    weights = gaussians([100_001, 4099, 33_000], seed=3)
    for budget in budgets_of(weights, [1, 6, 4]):
        check(weights, [1, 6, 4], budget)
    assert len(scans) <= 2 * 6


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
def test_all_weights_equal(sizes):
    weights = [torch.full((n,), -0.1) for n in sizes]
    for budget in budgets_of(weights, [3, 3]):
        check(weights, [3, 3], budget)
        check(weights, [2, 8], budget)


@pytest.mark.parametrize("levels", [2, 16, 255])
def test_quantized_weights(levels):
    weights = [(w * levels / 4).round() / levels for w in gaussians([80_000, 20_000])]
    for budget in budgets_of(weights, [2, 3]):
        check(weights, [2, 3], budget)


@pytest.mark.parametrize("size", [4, 80_000])
def test_all_zero(size):
    result = check([torch.zeros(size), torch.zeros(0)], [3, 2], 5)
    assert int(result.bits) == 0
    assert float(result.upper_bound) == 0


def test_no_layers():
    result = check([], [], 10)
    assert result.weights == []
    assert int(result.bits) == 0


def test_budget_counted_past_float32_and_int32():
    # odd sums above 2²⁴, and a budget above 2³¹
    n = (1 << 24) // 7 + 1001
    weights = [torch.linspace(1, 2, n)]
    for budget in [(1 << 24) + 1, (1 << 24) + 6, (1 << 24) + 7]:
        result = project_fixed_bitwidth(weights, [7], budget=budget)
        assert int(result.bits) == budget // 7 * 7
        assert int(result.weights[0].count_nonzero()) == budget // 7
    ones = torch.ones(1 << 20)
    budget = (1 << 31) + 64
    layers = [ones] * 40  # one tensor serves as many layers
    result = project_fixed_bitwidth(layers, [64] * 40, budget=budget)
    assert int(result.bits) == budget
    assert result.counts.tolist() == [1 << 20] * 32 + [1] + [0] * 7
    assert int(project_fixed_bitwidth(layers, [64] * 40, budget=10**30).bits) == 40 << 26


# ------------------------------------------------------- inputs made against the sampled bracket


def stride_of(size):
    return max(1, size // knapsack.SAMPLE) | 1


@pytest.mark.parametrize("inverted", [False, True])
def test_periodic_weights_that_the_sample_sees_only_one_of(inverted, monkeypatch, scans):
    monkeypatch.setattr(knapsack, "SAMPLE", 1 << 12)
    size = 100_000
    stride = stride_of(size)
    (w,) = gaussians([size], seed=5)
    seen = torch.arange(size) % stride == stride // 2
    w[seen] *= 1e-3 if inverted else 1e3
    for budget in budgets_of([w], [3]):
        check([w], [3], budget)
    assert len(scans) > 6  # some brackets missed, and the answer held


def test_one_huge_constant_layer():
    weights = [torch.full((120_000,), 0.5), *gaussians([3000, 50])]
    for budget in budgets_of(weights, [4, 1, 8]):
        check(weights, [4, 1, 8], budget)


def test_spikes():
    (w,) = gaussians([100_000], scale=1e-6)
    w[[5, 77_777]] = torch.tensor([1e6, -1e18])
    for budget in [0, 1, 2, 3, 4, 5, 6, 7, 1000]:
        check([w], [2], budget)


def test_squares_that_overflow_float32():
    (w,) = gaussians([70_000])
    w[[1, 20]] = torch.tensor([-3e38, 2e25])
    for budget in [0, 4, 8, 9, 10_000]:
        check([w], [4], budget)


def test_a_threshold_amid_denormals():
    (w,) = gaussians([70_000], scale=1e-39)
    w[:1000] += 1
    for budget in [500, 1000, 1001, 40_000]:
        check([w], [1], budget)


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
        assert float(result.profit) <= optimum + 1e-12
        assert optimum <= float(result.upper_bound) + 1e-12
        assert float(result.profit) >= optimum - w2.max() - 1e-12


def test_one_bitwidth_is_optimal():
    weights = gaussians([40, 60])
    result = project_fixed_bitwidth(weights, [3, 3], budget=100)
    best = torch.cat(weights).double().square().sort(descending=True).values[:33].sum()
    assert float(result.profit) == pytest.approx(float(best))


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
    result = check(weights, bits, budget)
    again = project_fixed_bitwidth(result.weights, bits, budget=budget)
    assert all(map(torch.equal, result.weights, again.weights))
    scaled = project_fixed_bitwidth([w * 8 for w in weights], bits, budget=budget)
    for a, b in zip(result.weights, scaled.weights, strict=True):
        assert torch.equal(a * 8, b)
    more = project_fixed_bitwidth(weights, bits, budget=budget + 1)
    assert more.profit >= result.profit
    assert not any(bool(w.any()) for w in project_fixed_bitwidth(weights, bits, budget=0).weights)
    everything = project_fixed_bitwidth(weights, bits, budget=10**6)
    assert all(map(torch.equal, everything.weights, weights))
    assert everything.profit == everything.upper_bound


@settings(max_examples=60, deadline=None)
@given(values=st.permutations(list(range(1, 20))), budget=st.integers(0, 60))
def test_permuted_weights_are_kept_alike(values, budget):
    w = torch.tensor(values, dtype=torch.float32)
    (kept,) = project_fixed_bitwidth([w], [3], budget=budget).weights
    assert sorted(kept[kept != 0].tolist()) == list(range(20 - min(19, budget // 3), 20))


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


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("sizes", "fraction"),
    [([9, 5], 0.5), ([9, 70_000], 0.5), ([9, 70_000], 0.001), ([9, 70_000], 1)],
)
@pytest.mark.parametrize("dtype", DTYPES)
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
        ({"budget": -1}, "budget is -1"),
        ({"budget": 2.5}, r"integers, got \[2.5\]"),
        ({"bitwidths": [0]}, "layer 0 is 0"),
        ({"bitwidths": [65]}, "layer 0 is 65"),
        ({"bitwidths": [1.5]}, "integers"),
        ({"bitwidths": torch.tensor([2.0])}, "integers"),
        ({"bitwidths": [1, 2]}, "2 bitwidths for 1 layers"),
        ({"weights": [torch.ones(2, dtype=torch.int64)]}, "int64"),
        ({"out": []}, "0 tensors for 1"),
        ({"out": [torch.ones(3)]}, r"out\[0\]"),
        ({"out": [torch.ones(2, dtype=torch.float64)]}, r"out\[0\]"),
    ],
)
def test_refused_arguments(arguments, message):
    given = {"weights": [torch.ones(2)], "bitwidths": [1], "budget": 1, **arguments}
    with pytest.raises(ValueError, match=message):
        project_fixed_bitwidth(**given)


# ------------------------------------------------------------------------- choosing the bitwidths


def convex_errors(rng, layers, widths=8):
    """About a quarter of the error a bit, as uniform quantizers have."""
    return rng.lognormal(0, 2, (layers, 1)) * 4.0 ** -np.arange(widths)


def rough_errors(rng, layers, widths=8):
    return convex_errors(rng, layers, widths) * rng.uniform(0.3, 3, (layers, widths))


def brute_force(errors, nonzeros, budget, bitwidths):
    best = math.inf
    for choice in itertools.product(range(len(bitwidths)), repeat=len(nonzeros)):
        bits = sum(bitwidths[j] * n for j, n in zip(choice, nonzeros, strict=True))
        if bits <= budget:
            best = min(best, math.fsum(errors[i, j] for i, j in enumerate(choice)))
    return best


def paper_greedy(errors, nonzeros, budget):
    """The paper's three steps, word for word, on widths 1, 2, ...: no hull."""
    layers, widths = errors.shape
    steps = [
        ((errors[i, j - 1] - errors[i, j]) / max(nonzeros[i], 1e-9), -i, -j)
        for i in range(layers)
        for j in range(1, widths)
    ]
    place = np.zeros(layers, int)
    spent = sum(nonzeros)
    for _, i, j in sorted(steps, reverse=True):
        if spent + nonzeros[-i] * (-j - place[-i]) > budget:
            break
        spent += nonzeros[-i] * (-j - place[-i])
        place[-i] = -j
    return errors[np.arange(layers), place].sum()


def check_choice(errors, nonzeros, budget, **options):
    bitwidths = list(options.get("bitwidths", range(1, 9)))
    result = choose_bitwidths(torch.as_tensor(errors), nonzeros, budget=budget, **options)
    places = [bitwidths.index(b) for b in result.bitwidths.tolist()]
    spent = sum(b * n for b, n in zip(result.bitwidths.tolist(), nonzeros, strict=True))
    assert result.bitwidths.dtype == torch.int64
    assert result.bits == spent <= budget
    assert result.error == math.fsum(errors[i, j] for i, j in enumerate(places))
    assert result.lower_bound <= result.error
    return result


@pytest.mark.parametrize("make", [convex_errors, rough_errors])
def test_choices_against_brute_force(make):
    rng = np.random.default_rng(1)
    widths = [1, 2, 4, 7]
    for _ in range(120):
        layers = int(rng.integers(1, 5))
        errors = make(rng, layers, 4)
        errors[rng.random(errors.shape) < 0.1] = math.inf
        errors[:, 1] = np.minimum(errors[:, 1], 50)
        nonzeros = rng.integers(0, 30, layers).tolist()
        budget = int(rng.integers(2 * sum(nonzeros), 7 * sum(nonzeros) + 2))
        optimum = brute_force(errors, nonzeros, budget, widths)
        greedy = check_choice(errors, nonzeros, budget, bitwidths=widths)
        exact = check_choice(errors, nonzeros, budget, bitwidths=widths, exact=True)
        assert greedy.lower_bound <= optimum * (1 + 1e-12)
        assert greedy.error >= optimum * (1 - 1e-12)
        assert exact.error == pytest.approx(optimum, rel=1e-12)
        assert exact.lower_bound == exact.error


@pytest.mark.parametrize("make", [convex_errors, rough_errors])
@pytest.mark.parametrize("layers", [12, 54])
def test_choices_against_an_integer_program(make, layers):
    rng = np.random.default_rng(layers)
    for mean_bits in (1.4, 3.3):
        errors = make(rng, layers)
        nonzeros = rng.integers(1, 40_000, layers)
        budget = int(mean_bits * nonzeros.sum())
        one_each = np.kron(np.eye(layers), np.ones(8))
        cost = (nonzeros[:, None] * np.arange(1, 9)).ravel().astype(float)
        answer = milp(
            errors.ravel() / errors.max(),
            integrality=1,
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(cost[None], 0, budget)],
            options={"mip_rel_gap": 0, "time_limit": 20},
        )
        picked = errors.ravel()[answer.x > 0.5].sum()
        greedy = check_choice(errors, nonzeros.tolist(), budget)
        exact = check_choice(errors, nonzeros.tolist(), budget, exact=True)
        # the program works to tolerances, so it may stop a little above the optimum
        assert exact.error <= picked * (1 + 1e-9)
        assert exact.error >= picked * (1 - 1e-6)
        assert greedy.lower_bound <= exact.error <= greedy.error
        assert greedy.error <= paper_greedy(errors, nonzeros, budget) * (1 + 1e-12) or (
            make is rough_errors
        )


def test_never_worse_than_the_paper_where_its_premise_holds():
    rng = np.random.default_rng(4)
    better = 0
    for _ in range(100):
        errors = convex_errors(rng, 6)
        nonzeros = rng.integers(1, 1000, 6).tolist()
        budget = int(rng.uniform(1, 6) * sum(nonzeros))
        mine = check_choice(errors, nonzeros, budget).error
        paper = paper_greedy(errors, nonzeros, budget)
        assert mine <= paper * (1 + 1e-12)
        better += mine < paper * (1 - 1e-9)
    assert better > 10  # it stops at the first increment that does not fit; others still fit


def paper_greedy_in_turn(errors, nonzeros, budget):
    """The other reading of the paper: an increment is on offer once those before it are taken."""
    place = [0] * len(nonzeros)
    spent = sum(nonzeros)
    while True:
        offers = [
            ((errors[i, j] - errors[i, j + 1]) / nonzeros[i], -i)
            for i, j in enumerate(place)
            if j + 1 < errors.shape[1]
        ]
        i = -max(offers)[1] if offers else None
        if i is None or spent + nonzeros[i] > budget:
            return sum(errors[i, j] for i, j in enumerate(place))
        spent += nonzeros[i]
        place[i] += 1


@pytest.mark.parametrize(
    ("budget", "paper", "best"), [(40, paper_greedy_in_turn, 8), (60, paper_greedy, 5)]
)
def test_a_curve_with_a_step_misleads_the_greedy_without_a_hull(budget, paper, best):
    # layer 0 gains nothing from its second bit and all from its third: sorted as they are, its
    # increments come out of turn; taken in turn, the third is never reached
    errors = np.array([[10.0, 9.9, 0.0], [8.0, 6.0, 5.0]])
    mine = check_choice(errors, [10, 10], budget, bitwidths=[1, 2, 3])
    assert mine.error == best == brute_force(errors, [10, 10], budget, [1, 2, 3])
    assert paper(errors, [10, 10], budget) > best + 1


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_choice_properties(data):
    layers = data.draw(st.integers(0, 4))
    row = st.lists(st.integers(0, 9), min_size=3, max_size=3)
    rows = data.draw(st.lists(row, min_size=layers, max_size=layers))
    errors = np.array(rows, float).reshape(layers, 3)
    nonzeros = data.draw(st.lists(st.integers(0, 5), min_size=layers, max_size=layers))
    budget = sum(nonzeros) + data.draw(st.integers(0, 30))
    options = {"bitwidths": [1, 2, 3]}
    optimum = brute_force(errors, nonzeros, budget, [1, 2, 3])
    greedy = check_choice(errors, nonzeros, budget, **options)
    assert greedy.lower_bound <= optimum <= greedy.error
    assert check_choice(errors, nonzeros, budget, exact=True, **options).error == optimum
    everything = check_choice(errors, nonzeros, 1000, **options)
    assert everything.error == everything.lower_bound == errors.min(1, initial=99).sum()
    for i, n in enumerate(nonzeros):
        if n == 0:
            assert greedy.bitwidths[i] == 1 + errors[i].argmin()


def test_exact_at_the_size_of_a_large_network():
    rng = np.random.default_rng(9)
    errors = rough_errors(rng, 54)
    nonzeros = rng.integers(4096, 2_400_000, 54).tolist()
    budget = int(2.9 * sum(nonzeros))  # past 2²⁴ and 2³¹ thousandths
    greedy = check_choice(errors, nonzeros, budget)
    exact = check_choice(errors, nonzeros, budget, exact=True)
    assert greedy.lower_bound <= exact.error <= greedy.error


def test_only_the_cheapest_fits():
    errors = np.array([[5.0, 1.0], [math.inf, 2.0]])
    result = check_choice(errors, [4, 3], 10, bitwidths=[1, 2])
    assert result.bitwidths.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"9 bits.* needs 10"):
        choose_bitwidths(torch.tensor(errors), [4, 3], budget=9, bitwidths=[1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"errors": torch.tensor([[1.0, math.nan]])}, r"errors\[0, 1\] is nan"),
        ({"errors": torch.tensor([[1.0, -math.inf]])}, r"errors\[0, 1\] is -inf"),
        ({"errors": torch.full((1, 2), math.inf)}, "layer 0 has no finite error"),
        ({"errors": torch.ones(2, 2)}, r"shape \(2, 2\)"),
        ({"errors": torch.ones(2)}, r"shape \(2,\)"),
        ({"nonzeros": [-1]}, "-1 nonzeros"),
        ({"nonzeros": [1.5]}, "integers"),
        ({"bitwidths": [2, 2]}, "distinct"),
        ({"bitwidths": [0, 1]}, "from 1 up"),
        ({"bitwidths": []}, "one or more"),
        ({"budget": -3}, "budget is -3"),
    ],
)
def test_refused_choices(arguments, message):
    given = {"errors": torch.ones(1, 2), "nonzeros": [3], "bitwidths": [1, 2], "budget": 9}
    with pytest.raises(ValueError, match=message):
        choose_bitwidths(**{**given, **arguments})
