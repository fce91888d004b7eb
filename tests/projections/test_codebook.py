"""Codebooks against oracles that share no code with them: brute-force dynamic programmes over every
cut, kmeans1d's exact solver, and codebooks known by construction."""

import kmeans1d
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.projections.codebook import (
    EXACT_DISTINCT,
    Codebooks,
    assign,
    codebook,
    fit_codebooks,
    histogram,
)

WIDTHS = list(range(1, 9))
BOTH = pytest.mark.parametrize("free_zero", [False, True])


# ------------------------------------------------------------------------------------- oracles


def optimum(v: np.ndarray, clusters: int, *, free_zero: bool) -> float:
    """O(k n²): every last cut of every prefix; with `free_zero`, any one interval may go to zero.

    Nothing is assumed about signs or order: the zero interval lies wherever it is best. Equal
    values are one point that weighs as many, because an interval never parts them.
    """
    v, weight = np.unique(v.astype(np.float64), return_counts=True)
    n = len(v)
    mean_cost, zero_cost = np.full((2, n + 1, n + 1), np.inf)  # [i, j]: points i … j − 1
    for i in range(n + 1):
        mean_cost[i, i] = zero_cost[i, i] = 0
        for j in range(i + 1, n + 1):
            w, x = weight[i:j], v[i:j]
            mean_cost[i, j] = w @ (x - w @ x / w.sum()) ** 2
            zero_cost[i, j] = w @ x**2

    def extend(before: np.ndarray, cost: np.ndarray) -> np.ndarray:
        return (before[:, None] + cost).min(axis=0)

    without = np.where(np.arange(n + 1) == 0, 0.0, np.inf)  # zero not used yet
    used = extend(without, zero_cost)
    for _ in range(clusters):
        without = extend(without, mean_cost)
        used = np.minimum(extend(used, mean_cost), extend(without, zero_cost))
    return float(used[n] if free_zero else without[n])


def kmeans_error(v: np.ndarray, clusters: int) -> float:
    v = v.astype(np.float64)
    found = kmeans1d.cluster(v, clusters)
    return float(((v - np.array(found.centroids)[found.clusters]) ** 2).sum())


def least(v: torch.Tensor, clusters: int, *, free_zero: bool) -> float:
    """By k-means; with `free_zero` a lower bound: one more cluster, and so many zeros beside the
    values that a centre pays for leaving zero. Zero and the best codebook cost the same with and
    without them, and are feasible, so k-means is not above; with many zeros the bound is tight."""
    if not free_zero:
        return kmeans_error(v.numpy(), clusters)
    return kmeans_error(np.concatenate([v.numpy(), np.zeros(30_000)]), clusters + 1)


def check_consistent(found: Codebooks, values: list[torch.Tensor], *, free_zero: bool) -> None:
    """The errors are those of the centres; the centres are such as promised."""
    for layer, v in enumerate(values):
        for column, b in enumerate(WIDTHS[: found.errors.shape[1]]):
            centres = found.centres[layer][column]
            assert centres.dtype == torch.float32
            assert len(centres) <= 2**b
            assert torch.all(centres[1:] > centres[:-1])
            assert not (free_zero and torch.any(centres == 0))
            levels = np.append(centres.double(), [0.0] * free_zero)
            distances = (v.flatten().double().numpy()[:, None] - levels) ** 2
            truth = float(distances.min(axis=1).sum()) if v.numel() else 0.0
            assert found.errors[layer, column].item() == pytest.approx(truth, rel=1e-6, abs=1e-300)


def square(v: torch.Tensor) -> float:
    return float((v.double() ** 2).sum())


def rounding(v: torch.Tensor) -> float:
    """What float64 sums and float32 centres, subnormal ones too, may cost."""
    return 1e-13 * square(v) + 1e-90 * v.numel()


def number_of_values(v: torch.Tensor, *, free_zero: bool) -> int:
    return len((v[v != 0] if free_zero else v).unique())


def projected(v: torch.Tensor, k: int, *, free_zero: bool) -> float:
    """The error of the projection onto k values, which is feasible and idempotent."""
    (found,) = codebook([v], values=k, free_zero=free_zero)
    assert (found.shape, found.dtype) == (v.shape, v.dtype)
    assert number_of_values(found, free_zero=free_zero) <= k
    if number_of_values(v, free_zero=free_zero) <= k:
        assert torch.equal(found, v)
    (again,) = codebook([found], values=k, free_zero=free_zero)
    assert torch.equal(again, found)
    return square(found.double() - v.double())


def same(one: Codebooks, other: Codebooks, layer: int = 0) -> bool:
    """Whether layer 0 of one is a layer of the other, bit for bit."""
    centres = all(map(torch.equal, one.centres[0], other.centres[layer]))
    return centres and torch.equal(one.errors[0], other.errors[layer])


def sample(name: str, n: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(DRAWS[name](rng, n).astype(np.float32))


DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "student": lambda rng, n: rng.standard_t(2, size=n),
    "mixture": lambda rng, n: np.where(rng.random(n) < 0.5, 0.01, 1.0) * rng.normal(size=n),
    "skewed": lambda rng, n: rng.exponential(size=n) ** 2 - 0.3,
    # nearly on seven values, as ADMM's weights when it has converged
    "clumped": lambda rng, n: rng.choice([-3, -1, 0, 0.5, 1, 4], n) + 1e-3 * rng.normal(size=n),
    # two narrow clumps with a few stragglers between them
    "stragglers": lambda rng, n: np.where(
        rng.random(n) < 0.005,
        rng.uniform(-1, 1, size=n),
        rng.choice([-1, 1], size=n) + 1e-3 * rng.normal(size=n),
    ),
    "offset": lambda rng, n: 1000 + rng.normal(size=n),
    # one value that is further out than all others together are wide
    "outlier": lambda rng, n: np.append(rng.normal(size=n - 1), 1e4),
}

floats = st.floats(-100, 100, width=32)
ties = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])  # few distinct values, repeated
scales = st.sampled_from([1, 1e-38, 1e36])


def tensors(most: int):
    values = st.lists(floats, max_size=most) | st.lists(ties, max_size=most)
    return values.map(lambda v: torch.tensor(v, dtype=torch.float32))


# ------------------------------------------------------------------------------------- exact


@BOTH
@pytest.mark.parametrize("name", ["normal", "student", "clumped", "skewed"])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 60])
def test_brute_force(name, n, free_zero):
    v = sample(name, n, seed=n)
    found = fit_codebooks([v], bitwidths=range(1, 6), free_zero=free_zero)
    check_consistent(found, [v], free_zero=free_zero)
    for b in range(1, 6):
        best = optimum(v.numpy(), min(2**b, n), free_zero=free_zero)
        # centres are rounded to float32
        assert found.errors[0, b - 1].item() == pytest.approx(best, rel=1e-9, abs=rounding(v))


@settings(max_examples=100, deadline=None)
@given(tensors(24), st.integers(1, 9), st.booleans(), scales)
@example(torch.tensor([-1.0, -0.9, -0.3, 0.1, 0.2, 0.7, 0.8, 1.0]), 3, False, 3e38)
@example(torch.tensor([-1.0, -0.9, -0.3, 0.1, 0.2, 0.7, 0.8, 1.0]), 4, True, 3e38)
@example(torch.tensor([1e30, 1.0, 2.0, -1e-30]), 2, True, 1)
def test_brute_force_property(v, k, free_zero, scale):
    v = v * scale
    best = optimum(v.numpy(), k, free_zero=free_zero)
    assert projected(v, k, free_zero=free_zero) == pytest.approx(best, rel=1e-9, abs=rounding(v))


@pytest.mark.parametrize("name", DRAWS)
def test_exact_up_to_4096_distinct(name):
    v = sample(name, EXACT_DISTINCT)
    found = fit_codebooks([v], free_zero=False)
    check_consistent(found, [v], free_zero=False)
    # float32 centres cost n·(2⁻²⁵·|c|)², which shows where values are far from zero and close by
    slack = 1e-12 * square(v.double() - v.double().mean()) + 2.0**-49 * square(v)
    for b in WIDTHS:
        best = kmeans_error(v.numpy(), 2**b)
        assert found.errors[0, b - 1].item() <= best * (1 + 1e-9) + slack


@BOTH
def test_exact_with_many_repeats(free_zero):
    """Few distinct values in a layer of many: counts matter, and zero is one of them."""
    rng = np.random.default_rng(1)
    levels = rng.normal(size=150).astype(np.float32)
    levels[0] = 0
    v = torch.from_numpy(rng.choice(levels, size=20_000, p=rng.dirichlet(np.full(150, 0.3))))
    found = fit_codebooks([v], free_zero=free_zero)
    check_consistent(found, [v], free_zero=free_zero)
    for b in range(1, 7):
        best = optimum(v.numpy(), 2**b, free_zero=free_zero)
        assert found.errors[0, b - 1].item() == pytest.approx(best, rel=1e-9, abs=1e-9)


# ------------------------------------------------------------------------------------- large layers


@pytest.mark.parametrize(
    ("name", "free_zero"),
    [(name, False) for name in DRAWS]
    + [(name, True) for name in ("laplace", "student", "stragglers")],
)
def test_large_layer_is_near_the_optimum(name, free_zero):
    v = sample(name, 20_000 if name == "student" and not free_zero else 6_000)
    found = fit_codebooks([v], free_zero=free_zero)
    check_consistent(found, [v], free_zero=free_zero)
    # a layer that needs few widths is cut into fewer bins
    few = fit_codebooks([v], bitwidths=[1, 2, 3], free_zero=free_zero)
    # with zero free the bound is not tight for every number
    widths, numbers = ([2, 4, 7], [7, 100]) if free_zero else ([1, 2, 3, 6, 8], [3, 11, 200])
    for b in widths:
        best = least(v, 2**b, free_zero=free_zero)
        for errors in (found.errors[0], few.errors[0, :3]):
            for error in errors[b - 1 : b].tolist():
                assert error <= best + max(1e-3 * best, 1e-8 * square(v))
    for k in numbers:
        assert projected(v, k, free_zero=free_zero) <= 1.001 * least(v, k, free_zero=free_zero)


@pytest.mark.parametrize(
    ("name", "n", "b"),
    [
        *((name, 5_000, b) for name in ("student", "outlier", "clumped") for b in (5, 8)),
        *(("student", 100_000, b) for b in (3, 6)),
    ],
)
def test_slack_is_not_what_saves_heavy_tails(name, n, b):
    """Within 0.1 % of the optimum even where that is far below 1e-8·Σv²."""
    v = sample(name, n)
    found = fit_codebooks([v], bitwidths=[b], free_zero=False)
    assert found.errors.item() <= 1.001 * kmeans_error(v.numpy(), 2**b)


def test_symmetric_layer_has_a_known_free_zero_optimum():
    """Two values a sign, mirrored, and noise that zero absorbs: one cluster a sign and value."""
    v = torch.cat([torch.full((3000,), x) for x in (-4.0, -1.0, 1.0, 4.0)])
    noise = torch.linspace(-1e-3, 1e-3, 6001)
    found = fit_codebooks([torch.cat([v, noise])], bitwidths=[1, 2], free_zero=True)
    assert found.centres[0][1].tolist() == [-4, -1, 1, 4]
    assert found.errors[0, 1].item() == pytest.approx(square(noise), rel=1e-9)
    # two centres: ±4 and the ±1 left to zero, or both moved to their mean ±2.5
    assert found.centres[0][0].tolist() == [-4, 4]


# ------------------------------------------------------------------------------------- free zero


@pytest.mark.parametrize("n", [2_000, 30_000])
def test_zero_is_free_and_pruned_weights_stay_at_it(n):
    """The trap: k-means with zero among the 2ᵇ values has 2ᵇ − 1 others."""
    v = sample("normal", n)
    v[: n // 2] = 0
    found = fit_codebooks([v], free_zero=True)
    for b in (1, 2, 4):
        assert found.errors[0, b - 1] < kmeans_error(v.numpy(), 2**b) * 0.95
    for centres in found.centres[0]:
        quantized = assign(v, centres, free_zero=True)
        assert torch.all(quantized[: n // 2] == 0)
        assert len(quantized.unique()) == len(centres) + 1
        assert torch.all(assign(v[: n // 2], centres, free_zero=False) != 0)


# ------------------------------------------------------------------------------------- properties


@settings(max_examples=40, deadline=None)
@given(st.lists(tensors(24), min_size=1, max_size=3), st.booleans())
def test_never_worse_when_the_width_grows(values, free_zero):
    found = fit_codebooks(values, free_zero=free_zero)
    assert torch.all(found.errors[:, 1:] <= found.errors[:, :-1])
    check_consistent(found, values, free_zero=free_zero)


@settings(max_examples=30, deadline=None)
@given(tensors(24), st.booleans(), st.randoms())
def test_order_does_not_matter(v, free_zero, random):
    shuffled = v[random.sample(range(len(v)), len(v))]
    one, other = (fit_codebooks([x], bitwidths=[1, 4], free_zero=free_zero) for x in (v, shuffled))
    assert same(one, other)


@BOTH
@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_scale_of_a_large_layer(scale, free_zero):
    v = sample("laplace", 9_000)
    one = fit_codebooks([v], free_zero=free_zero)
    other = fit_codebooks([v * scale], free_zero=free_zero)
    check_consistent(other, [v * scale], free_zero=free_zero)
    torch.testing.assert_close(other.errors, one.errors * scale**2, rtol=1e-3, atol=0)


@BOTH
@pytest.mark.parametrize("n", [300, 6_000])
@pytest.mark.parametrize("name", DRAWS)
def test_a_bitwidth_is_a_number_of_values_and_assigned_values_fit_exactly(name, n, free_zero):
    v = sample(name, n)
    for b in (1, 3, 6, 8):
        (found,) = codebook([v], values=2**b, free_zero=free_zero)
        ((centres,),) = fit_codebooks([v], bitwidths=[b], free_zero=free_zero).centres
        assert torch.equal(found, assign(v, centres, free_zero=free_zero))
        again = fit_codebooks([found], bitwidths=[b], free_zero=free_zero)
        assert again.errors.item() == 0
        assert torch.equal(again.centres[0][0], centres)


@settings(max_examples=80, deadline=None)
@given(tensors(24), st.lists(floats, min_size=1, max_size=9), st.booleans())
def test_assign_picks_the_nearest(v, centres, free_zero):
    quantized = assign(v, torch.tensor(centres, dtype=torch.float32), free_zero=free_zero)
    assert (quantized.shape, quantized.dtype) == (v.shape, v.dtype)
    levels = centres + [0.0] * free_zero
    for value, q in zip(v.double().tolist(), quantized.double().tolist(), strict=True):
        assert q in levels
        assert abs(value - q) == min(abs(value - c) for c in levels)


def test_ties_go_to_the_smaller_magnitude():
    centres = torch.tensor([3.0, 1.0, -1.0, -3.0])
    v = torch.tensor([2.0, -2.0, 0.5, -0.5, 0.0])
    assert assign(v, centres, free_zero=True).tolist() == [1, -1, 0, 0, 0]
    assert assign(v, centres, free_zero=False).tolist() == [1, -1, 1, -1, 1]


# ------------------------------------------------------------------------------------- corners


@BOTH
def test_degenerate_layers(free_zero):
    values = [
        torch.empty(0),
        torch.zeros(10),
        torch.zeros(5_000),
        torch.tensor(7.5),
        torch.full((5_000,), -0.1),
        torch.tensor([-0.0, 0.0]),
    ]
    found = fit_codebooks(values, free_zero=free_zero)
    assert torch.all(found.errors == 0)
    zero = [] if free_zero else [0.0]
    expected = [[], zero, zero, [7.5], [-0.1], zero]
    for layer, centres in zip(found.centres, expected, strict=True):
        for c in layer:
            assert torch.equal(c, torch.tensor(centres))
            assert not torch.any(torch.signbit(c) & (c == 0))


def test_no_layers_and_no_widths():
    assert fit_codebooks([], free_zero=True).errors.shape == (0, 8)
    assert codebook([], values=3, free_zero=True) == []
    found = fit_codebooks([torch.ones(3)], bitwidths=[], free_zero=True)
    assert found.errors.shape == (1, 0)
    assert found.centres == [[]]


@BOTH
@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4, 1e-5, 1e-6])
def test_errors_by_prefix_sums_as_on_a_gpu(monkeypatch, distance, free_zero):
    """Far from a codebook, where they serve, and at ADMM's end, where they would cancel."""
    rng = np.random.default_rng(0)
    levels = rng.choice([-3.0, -1.0, 0.0, 0.5, 2.0], size=20_000)
    v = torch.from_numpy((levels + distance * rng.normal(size=20_000)).astype(np.float32))
    direct = fit_codebooks([v, sample("normal", 9_000)], free_zero=free_zero)
    monkeypatch.setattr(histogram, "_errors_by_sums", lambda x: True)
    asked = []
    errors = histogram._errors
    monkeypatch.setattr(histogram, "_errors", lambda *a: asked.append(len(a[0])) or errors(*a))
    summed = fit_codebooks([v, sample("normal", 9_000)], free_zero=free_zero)
    assert asked == ([20_000] if distance <= 1e-4 else [])
    torch.testing.assert_close(summed.errors, direct.errors, rtol=2e-7, atol=0)
    for one, other in zip(summed.centres, direct.centres, strict=True):
        assert all(map(torch.equal, one, other))


@BOTH
@pytest.mark.parametrize("by_sums", [False, True])
def test_layers_together_are_as_each_alone(monkeypatch, free_zero, by_sums):
    """Of several precisions, lengths and numbers of codebooks; of one sign; exact ones between."""
    monkeypatch.setattr(histogram, "_errors_by_sums", lambda x: by_sums)
    v = [sample("normal", n) for n in (9_000, 300, 6_000, 5_000, 7_000, 8_000)]
    v[2], v[3], v[4] = v[2].double(), v[3].half(), v[4].abs()
    v += [torch.empty(0), torch.zeros(4)]
    v += [sample("laplace", 3_000 + n) for n in range(12)]  # more than one batch
    widest = [8, 8, 3, 1, 5, 0, 8, 8, *12 * [4]]
    found = fit_codebooks(v, free_zero=free_zero, widest=widest)
    for i, (x, most) in enumerate(zip(v, widest, strict=True)):
        alone = fit_codebooks([x], free_zero=free_zero, widest=[most])
        # a sum over fewer levels may be rounded differently
        torch.testing.assert_close(found.errors[i], alone.errors[0], rtol=1e-9, atol=0)
        assert all(map(torch.equal, found.centres[i], alone.centres[0]))
        assert found.errors[i, most:].isinf().all()
        assert not sum(map(len, found.centres[i][most:]))


@BOTH
def test_a_number_for_each_layer(free_zero):
    weights = [
        sample("normal", 300).view(3, 10, 10),
        sample("student", 5_000),
        torch.empty(0, 4),
        torch.zeros(4),
        torch.tensor(7.5),
        sample("laplace", 3_000).view(50, 60).t(),
    ]
    numbers = [5, 3, 1, 1, 1, 256]
    together = codebook(weights, values=numbers, free_zero=free_zero)
    for w, k, found in zip(weights, numbers, together, strict=True):
        has = number_of_values(w, free_zero=free_zero)
        assert number_of_values(found, free_zero=free_zero) == min(k, has)
        (alone,) = codebook([w], values=k, free_zero=free_zero)
        assert torch.equal(alone, found)
    numbers = codebook(weights, values=3, free_zero=free_zero)
    each = codebook(weights, values=[3] * 6, free_zero=free_zero)
    assert all(map(torch.equal, numbers, each))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [500, 6_000])
def test_other_precisions(dtype, n, free_zero):
    v = sample("normal", n).to(dtype)
    check_consistent(fit_codebooks([v], free_zero=free_zero), [v], free_zero=free_zero)
    for k in (1, 3, 100):
        projected(v, k, free_zero=free_zero)
        (found,) = codebook([v], values=k, free_zero=free_zero)
        assert torch.equal(found, assign(v, found.unique(), free_zero=free_zero))


def test_float64_values_closer_than_float32():
    v = 1 + torch.arange(5_000, dtype=torch.float64) * 1e-12
    found = fit_codebooks([v], free_zero=False)
    assert torch.all(found.errors <= 5_000 * 5e-9**2)  # centres are float32: all are 1


@BOTH
def test_few_values_are_kept_as_they_are(free_zero):
    """Finer than float32 or float64's sums could tell apart; and the result is not the argument."""
    for w in (
        torch.tensor([1.0, 1 + 1e-12, -1e-200, 1.0], dtype=torch.float64),
        torch.tensor([3e38, 1.0, 2.0, 1.0]),
        torch.tensor([[0.0, 1e-45], [-1e-45, 0.0]]),
    ):
        (found,) = codebook([w], values=3, free_zero=free_zero)
        assert torch.equal(found, w)
        assert found.data_ptr() != w.data_ptr()


def test_parameters_and_strides():
    v = torch.nn.Parameter(sample("normal", 600).view(20, 30))
    found = fit_codebooks([v, v.t()], free_zero=True)
    assert torch.equal(found.errors[0], found.errors[1])
    for w in (v, v.t()):
        quantized = assign(w, found.centres[0][1], free_zero=True)
        (few,) = codebook([w], values=4, free_zero=True)
        assert torch.equal(quantized, few)
        assert not quantized.requires_grad
        assert not few.requires_grad
        assert quantized.shape == w.shape


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e60])
@pytest.mark.parametrize("n", [10, 5_000])
def test_not_finite_or_beyond_float32(bad, n):
    v = torch.linspace(-1, 1, n, dtype=torch.float64)
    v[3] = v[7] = bad
    for refuse in (fit_codebooks, lambda w, free_zero: codebook(w, values=2, free_zero=free_zero)):
        with pytest.raises(ValueError, match=rf"layer 1 holds 2 .* of {n}"):
            refuse([torch.ones(3), v], free_zero=True)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (fit_codebooks, {"bitwidths": [0]}, r"bitwidths\[0\] = 0 .* 1 to 8"),
        (fit_codebooks, {"bitwidths": [2, 2]}, r"\[2, 2\] must increase"),
        (fit_codebooks, {"widest": [1, 2]}, "widest has 2 entries for 1"),
        (codebook, {"values": 0}, r"values\[0\] = 0 .* 1 to 256"),
        (codebook, {"values": 2.5}, r"values\[0\] = 2.5"),
        (codebook, {"values": [2, 3]}, "values has 2 entries for 1"),
    ],
)
def test_refused_arguments(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function([torch.ones(3)], free_zero=True, **arguments)
    with pytest.raises(ValueError, match=r"layer 0 has dtype torch\.int64"):
        codebook([torch.ones(3, dtype=torch.int64)], values=2, free_zero=True)


def test_nothing_to_assign():
    with pytest.raises(ValueError, match="0 centres for 3 values"):
        assign(torch.ones(3), torch.empty(0), free_zero=False)
    assert assign(torch.ones(3), torch.empty(0), free_zero=True).tolist() == [0, 0, 0]
    assert assign(torch.empty(0), torch.empty(0), free_zero=False).shape == (0,)
