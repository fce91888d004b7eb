"""Codebooks against oracles that share no code with them: brute-force dynamic programmes over every
cut, kmeans1d's exact solver, sklearn's Lloyd, and codebooks known by construction."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement, pairwise

import kmeans1d
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from lib.projections.codebook import (
    EXACT_DISTINCT,
    Codebooks,
    _errors,
    assign,
    codebook,
    fit_codebooks,
)

WIDTHS = list(range(1, 9))


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


def pinned_error(v: np.ndarray, clusters: int, zeros: int) -> float:
    """A lower bound of the free-zero optimum: one more cluster, and so many zeros beside the values
    that a centre pays for leaving zero. Zero and the best codebook cost the same with and without
    them, and are feasible, so k-means is not above; the bound is tight when `zeros` is large."""
    return kmeans_error(np.concatenate([v, np.zeros(zeros)]), clusters + 1)


def error_of(v: torch.Tensor, centres: torch.Tensor, *, free_zero: bool) -> float:
    """Distances of all values to all centres."""
    levels = centres.double().tolist() + ([0.0] if free_zero else [])
    distances = (v.flatten().double().numpy()[:, None] - np.array(levels)[None, :]) ** 2
    return float(distances.min(axis=1).sum()) if v.numel() else 0.0


def check_consistent(found: Codebooks, values: list[torch.Tensor], *, free_zero: bool) -> None:
    """The errors are those of the centres; the centres are such as promised."""
    for layer, v in enumerate(values):
        for column, b in enumerate(WIDTHS[: found.errors.shape[1]]):
            centres = found.centres[layer][column]
            assert centres.dtype == torch.float32
            assert len(centres) <= 2**b
            assert torch.all(centres[1:] > centres[:-1])
            assert not (free_zero and torch.any(centres == 0))
            truth = error_of(v, centres, free_zero=free_zero)
            assert found.errors[layer, column].item() == pytest.approx(truth, rel=1e-6, abs=1e-300)


def sample(name: str, n: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda: rng.normal(size=n),
        "laplace": lambda: rng.laplace(size=n),
        "student": lambda: rng.standard_t(2, size=n),
        "mixture": lambda: np.where(rng.random(n) < 0.5, 0.01, 1.0) * rng.normal(size=n),
        "skewed": lambda: rng.exponential(size=n) ** 2 - 0.3,
        # nearly on seven values, as ADMM's weights when it has converged
        "clumped": lambda: rng.choice([-3, -1, 0, 0.5, 1, 4], size=n) + 1e-3 * rng.normal(size=n),
        # two narrow clumps with a few stragglers between them
        "stragglers": lambda: np.where(
            rng.random(n) < 0.005,
            rng.uniform(-1, 1, size=n),
            rng.choice([-1, 1], size=n) + 1e-3 * rng.normal(size=n),
        ),
        "offset": lambda: 1000 + rng.normal(size=n),
        # one value that is further out than all others together are wide
        "outlier": lambda: np.append(rng.normal(size=n - 1), 1e4),
    }
    return torch.from_numpy(draw[name]().astype(np.float32))


DRAWS = [
    "normal",
    "laplace",
    "student",
    "mixture",
    "skewed",
    "clumped",
    "stragglers",
    "offset",
    "outlier",
]

floats = st.floats(-100, 100, width=32)
# many ties: few distinct values, repeated
layers = st.one_of(
    st.lists(floats, min_size=0, max_size=24),
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=0, max_size=24),
)


# ------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize("free_zero", [False, True])
@pytest.mark.parametrize("name", ["normal", "student", "clumped", "skewed"])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 60])
def test_brute_force(name, n, free_zero):
    v = sample(name, n, seed=n)
    found = fit_codebooks([v], bitwidths=range(1, 6), free_zero=free_zero)
    check_consistent(found, [v], free_zero=free_zero)
    for b in range(1, 6):
        best = optimum(v.numpy(), min(2**b, n), free_zero=free_zero)
        # centres are rounded to float32
        assert found.errors[0, b - 1].item() == pytest.approx(
            best, rel=1e-9, abs=1e-13 * float((v.double() ** 2).sum())
        )


@settings(max_examples=40, deadline=None)
@given(layers, st.booleans(), st.integers(1, 3))
def test_brute_force_property(v, free_zero, b):
    v = np.array(v, dtype=np.float32)
    found = fit_codebooks([torch.from_numpy(v)], bitwidths=[b], free_zero=free_zero)
    best = optimum(v, 2**b, free_zero=free_zero)
    square = float((v.astype(np.float64) ** 2).sum())
    assert found.errors.item() == pytest.approx(best, rel=1e-9, abs=1e-13 * square)


@pytest.mark.parametrize("name", DRAWS)
def test_exact_up_to_4096_distinct(name):
    v = sample(name, EXACT_DISTINCT)
    found = fit_codebooks([v], free_zero=False)
    check_consistent(found, [v], free_zero=False)
    square = float(((v.double() - v.double().mean()) ** 2).sum())
    # float32 centres cost n·(2⁻²⁵·|c|)², which shows where values are far from zero and close by
    rounding = float((v.double() ** 2).sum()) * 2.0**-49
    for b in WIDTHS:
        best = kmeans_error(v.numpy(), 2**b)
        assert found.errors[0, b - 1].item() <= best * (1 + 1e-9) + 1e-12 * square + rounding


@pytest.mark.parametrize("free_zero", [False, True])
def test_exact_with_many_repeats(free_zero):
    """Few distinct values in a layer of many: counts matter, and zero is one of them."""
    rng = np.random.default_rng(1)
    levels = rng.normal(size=150).astype(np.float32)
    levels[0] = 0
    v = rng.choice(levels, size=20_000, p=rng.dirichlet(np.full(150, 0.3)))
    found = fit_codebooks([torch.from_numpy(v)], free_zero=free_zero)
    check_consistent(found, [torch.from_numpy(v)], free_zero=free_zero)
    for b in (1, 2, 3, 4, 5, 6):
        best = optimum(v, 2**b, free_zero=free_zero)
        assert found.errors[0, b - 1].item() == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_256_values_need_8_bits_and_no_error():
    v = torch.arange(-128, 128).float().repeat(40)
    found = fit_codebooks([v], free_zero=False)
    assert found.errors[0, 7] == 0
    assert torch.equal(found.centres[0][7], torch.arange(-128, 128).float())
    # n even steps of 1 in 2ᵇ intervals of 256/2ᵇ: variance (w² − 1)/12 each
    steps = np.array([256 / 2**b for b in WIDTHS])
    np.testing.assert_allclose(found.errors[0], len(v) * (steps**2 - 1) / 12, rtol=1e-12)


# ------------------------------------------------------------------------------------- large layers


@pytest.mark.parametrize("name", DRAWS)
def test_large_layer_is_near_the_optimum(name):
    v = sample(name, 20_000 if name == "student" else 6_000)
    found = fit_codebooks([v], free_zero=False)
    check_consistent(found, [v], free_zero=False)
    slack = 1e-8 * float((v.double() ** 2).sum())
    for b in (1, 2, 4, 6, 8):
        best = kmeans_error(v.numpy(), 2**b)
        assert found.errors[0, b - 1].item() <= best + max(1e-3 * best, slack)


@pytest.mark.parametrize("name", ["laplace", "student", "stragglers"])
def test_large_layer_is_near_the_optimum_free_zero(name):
    v = sample(name, 6_000)
    found = fit_codebooks([v], free_zero=True)
    check_consistent(found, [v], free_zero=True)
    slack = 1e-8 * float((v.double() ** 2).sum())
    for b in (2, 4, 7):
        bound = pinned_error(v.numpy(), 2**b, zeros=30_000)
        assert found.errors[0, b - 1].item() <= bound + max(1e-3 * bound, slack)


@pytest.mark.parametrize("name", ["student", "outlier", "clumped"])
def test_slack_is_not_what_saves_heavy_tails(name):
    """Within 0.1 % of the optimum even where that is far below 1e-8·Σv²."""
    v = sample(name, 5_000)
    found = fit_codebooks([v], free_zero=False)
    for b in (5, 8):
        assert found.errors[0, b - 1].item() <= 1.001 * kmeans_error(v.numpy(), 2**b)


@pytest.mark.parametrize("b", [3, 6])
def test_heavy_tails_of_100_000(b):
    v = sample("student", 100_000)
    found = fit_codebooks([v], bitwidths=[b], free_zero=False)
    assert found.errors.item() <= 1.001 * kmeans_error(v.numpy(), 2**b)


def test_few_widths_are_as_good():
    """A layer that needs few widths is cut into fewer bins."""
    for name in DRAWS:
        v = sample(name, 8_000, seed=3)
        found = fit_codebooks([v], bitwidths=[1, 2, 3], free_zero=False)
        for b in (1, 2, 3):
            best = kmeans_error(v.numpy(), 2**b)
            slack = 1e-8 * float((v.double() ** 2).sum())
            assert found.errors[0, b - 1].item() <= best + max(1e-3 * best, slack)


def test_not_worse_than_sklearn():
    v = sample("laplace", 30_000)
    found = fit_codebooks([v], bitwidths=[2, 5], free_zero=False)
    for column, b in enumerate((2, 5)):
        theirs = KMeans(2**b, n_init=1, random_state=0).fit(v.double().numpy()[:, None]).inertia_
        assert found.errors[0, column].item() <= theirs * (1 + 1e-6)


def test_symmetric_layer_has_a_known_free_zero_optimum():
    """Two values a sign, mirrored, and noise that zero absorbs: one cluster a sign and value."""
    v = torch.cat([torch.full((3000,), x) for x in (-4.0, -1.0, 1.0, 4.0)])
    noise = torch.linspace(-1e-3, 1e-3, 6001)
    found = fit_codebooks([torch.cat([v, noise])], bitwidths=[1, 2], free_zero=True)
    assert found.centres[0][1].tolist() == [-4, -1, 1, 4]
    assert found.errors[0, 1].item() == pytest.approx(float((noise.double() ** 2).sum()), rel=1e-9)
    # two centres: ±4 and the ±1 left to zero, or both moved to their mean ±2.5
    assert found.centres[0][0].tolist() == [-4, 4]


# ------------------------------------------------------------------------------------- free zero


@pytest.mark.parametrize("n", [2_000, 30_000])
def test_zero_as_one_of_the_values_wastes_one(n):
    """The trap: k-means with zero among the 2ᵇ values has 2ᵇ − 1 others."""
    v = sample("normal", n)
    v[torch.arange(0, n, 2)] = 0
    found = fit_codebooks([v], free_zero=True)
    for b in (1, 2, 4):
        spent = kmeans_error(v.numpy(), 2**b)
        assert found.errors[0, b - 1] < spent * 0.95


@pytest.mark.parametrize("n", [2_000, 30_000])
def test_pruned_weights_stay_at_zero(n):
    """Forgetting zero would move every pruned weight to a centre."""
    v = sample("laplace", n)
    v[: n // 2] = 0
    found = fit_codebooks([v], free_zero=True)
    for centres in found.centres[0]:
        quantized = assign(v, centres, free_zero=True)
        assert torch.all(quantized[: n // 2] == 0)
        assert len(quantized.unique()) == len(centres) + 1
        assert torch.all(assign(v[: n // 2], centres, free_zero=False) != 0)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("n", [200, 9_000])
def test_one_sign_only(sign, n):
    v = sign * sample("laplace", n).abs()
    found = fit_codebooks([v], free_zero=True)
    check_consistent(found, [v], free_zero=True)
    for centres in found.centres[0]:
        assert torch.all(centres * sign > 0)


# ------------------------------------------------------------------------------------- properties


@settings(max_examples=40, deadline=None)
@given(st.lists(layers, min_size=1, max_size=3), st.booleans())
def test_never_worse_when_the_width_grows(rows, free_zero):
    values = [torch.tensor(r, dtype=torch.float32) for r in rows]
    found = fit_codebooks(values, free_zero=free_zero)
    assert torch.all(found.errors[:, 1:] <= found.errors[:, :-1])
    check_consistent(found, values, free_zero=free_zero)


@settings(max_examples=30, deadline=None)
@given(layers, st.booleans(), st.integers(1, 4), st.randoms())
def test_order_does_not_matter(v, free_zero, b, random):
    shuffled = random.sample(v, len(v))
    one, other = (
        fit_codebooks([torch.tensor(x, dtype=torch.float32)], bitwidths=[b], free_zero=free_zero)
        for x in (v, shuffled)
    )
    assert torch.equal(one.errors, other.errors)
    assert torch.equal(one.centres[0][0], other.centres[0][0])


@settings(max_examples=30, deadline=None)
@given(layers, st.booleans(), st.integers(-60, 50))
def test_scales_with_the_values(v, free_zero, exponent):
    """A power of two is exact, so everything scales exactly (subnormal values aside)."""
    v = torch.tensor(v, dtype=torch.float32)
    v[v.abs() < 1e-3] = 0
    scale = 2.0**exponent
    one = fit_codebooks([v], bitwidths=[1, 2, 4], free_zero=free_zero)
    other = fit_codebooks([v * scale], bitwidths=[1, 2, 4], free_zero=free_zero)
    torch.testing.assert_close(other.errors, one.errors * scale**2, rtol=1e-9, atol=0)
    for a, b in zip(one.centres[0], other.centres[0], strict=True):
        torch.testing.assert_close(b, a * scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-20, 1e15])
@pytest.mark.parametrize("free_zero", [False, True])
def test_scale_of_a_large_layer(scale, free_zero):
    v = sample("laplace", 9_000)
    one = fit_codebooks([v], free_zero=free_zero)
    other = fit_codebooks([v * scale], free_zero=free_zero)
    check_consistent(other, [v * scale], free_zero=free_zero)
    torch.testing.assert_close(other.errors, one.errors * scale**2, rtol=1e-3, atol=0)


@pytest.mark.parametrize("free_zero", [False, True])
@pytest.mark.parametrize(
    ("n", "name"), [(500, "normal"), (500, "student"), (500, "clumped"), (6_000, "student")]
)
def test_idempotent(n, name, free_zero):
    v = sample(name, n)
    found = fit_codebooks([v], free_zero=free_zero)
    for column, b in enumerate(WIDTHS):
        quantized = assign(v, found.centres[0][column], free_zero=free_zero)
        again = fit_codebooks([quantized], bitwidths=[b], free_zero=free_zero)
        assert again.errors.item() == 0
        assert torch.equal(again.centres[0][0], found.centres[0][column])


@settings(max_examples=80, deadline=None)
@given(layers, st.lists(floats, min_size=1, max_size=9), st.booleans())
def test_assign_picks_the_nearest(v, centres, free_zero):
    v, centres = torch.tensor(v, dtype=torch.float32), torch.tensor(centres, dtype=torch.float32)
    quantized = assign(v, centres, free_zero=free_zero)
    assert quantized.shape == v.shape
    assert quantized.dtype == v.dtype
    levels = centres.double().tolist() + [0.0] * free_zero
    for value, q in zip(v.double().tolist(), quantized.double().tolist(), strict=True):
        assert q in levels
        assert abs(value - q) == min(abs(value - c) for c in levels)


@pytest.mark.parametrize("free_zero", [False, True])
def test_assign_reaches_the_reported_error(free_zero):
    v = sample("student", 20_000).view(100, 4, 50)
    found = fit_codebooks([v], free_zero=free_zero)
    for column, centres in enumerate(found.centres[0]):
        quantized = assign(v, centres, free_zero=free_zero)
        error = ((v.double() - quantized.double()) ** 2).sum().item()
        assert error == pytest.approx(found.errors[0, column].item(), rel=1e-6)


def test_ties_go_to_the_smaller_magnitude():
    centres = torch.tensor([3.0, 1.0, -1.0, -3.0])
    v = torch.tensor([2.0, -2.0, 0.5, -0.5, 0.0])
    assert assign(v, centres, free_zero=True).tolist() == [1, -1, 0, 0, 0]
    assert assign(v, centres, free_zero=False).tolist() == [1, -1, 1, -1, 1]


# ------------------------------------------------------------------------------------- corners


@pytest.mark.parametrize("free_zero", [False, True])
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
    found = fit_codebooks([torch.ones(3)], bitwidths=[], free_zero=True)
    assert found.errors.shape == (1, 0)
    assert found.centres == [[]]


def test_layers_do_not_touch_each_other():
    values = [sample("normal", 300), sample("student", 5_000), torch.empty(0), torch.zeros(4)]
    values += [sample("laplace", 3_000 + n) for n in range(12)]  # more than one batch
    for free_zero in (False, True):
        together = fit_codebooks(values, bitwidths=range(1, 5), free_zero=free_zero)
        for layer, v in enumerate(values):
            alone = fit_codebooks([v], bitwidths=range(1, 5), free_zero=free_zero)
            assert torch.equal(alone.errors[0], together.errors[layer])
            for a, b in zip(alone.centres[0], together.centres[layer], strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("free_zero", [False, True])
def test_widest(free_zero):
    values = [sample("normal", 300), sample("student", 9_000), sample("laplace", 500)]
    every = fit_codebooks(values, free_zero=free_zero)
    some = fit_codebooks(values, free_zero=free_zero, widest=[0, 3, 8])
    assert torch.all(torch.isinf(some.errors[0]))
    assert torch.all(torch.isinf(some.errors[1, 3:]))
    assert [len(c) for c in some.centres[0]] == [0] * 8
    none = fit_codebooks([values[1]], free_zero=free_zero, widest=[0])
    assert torch.all(torch.isinf(none.errors))
    torch.testing.assert_close(some.errors[1, :3], every.errors[1, :3], rtol=1e-3, atol=0)
    assert torch.equal(some.errors[2], every.errors[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [500, 6_000])
def test_other_precisions(dtype, n):
    v = sample("normal", n).to(dtype)
    for free_zero in (False, True):
        found = fit_codebooks([v], free_zero=free_zero)
        check_consistent(found, [v], free_zero=free_zero)
    quantized = assign(v, found.centres[0][2], free_zero=True)
    assert quantized.dtype == dtype
    assert torch.equal(quantized.unique(), quantized.unique().float().to(dtype))


@pytest.mark.parametrize("free_zero", [True, False])
@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4, 1e-5, 1e-6])
def test_errors_by_prefix_sums_as_on_a_gpu(monkeypatch, distance, free_zero):
    """Far from a codebook, where they serve, and at ADMM's end, where they would cancel."""
    rng = np.random.default_rng(0)
    levels = rng.choice([-3.0, -1.0, 0.0, 0.5, 2.0], size=20_000)
    v = torch.from_numpy((levels + distance * rng.normal(size=20_000)).astype(np.float32))
    direct = fit_codebooks([v, sample("normal", 9_000)], free_zero=free_zero)
    monkeypatch.setattr("lib.projections.codebook._errors_by_sums", lambda x: True)
    asked = []
    errors = _errors
    monkeypatch.setattr(
        "lib.projections.codebook._errors", lambda *a: asked.append(len(a[0])) or errors(*a)
    )
    summed = fit_codebooks([v, sample("normal", 9_000)], free_zero=free_zero)
    assert asked == ([20_000] if distance <= 1e-4 else [])
    torch.testing.assert_close(summed.errors, direct.errors, rtol=2e-7, atol=0)
    for one, other in zip(summed.centres, direct.centres, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("by_sums", [False, True])
@pytest.mark.parametrize("free_zero", [True, False])
def test_layers_together_are_as_each_alone(monkeypatch, free_zero, by_sums):
    """Of several precisions, lengths and numbers of codebooks; of one sign; exact ones between."""
    monkeypatch.setattr("lib.projections.codebook._errors_by_sums", lambda x: by_sums)
    v = [sample("normal", n) for n in (9_000, 300, 6_000, 5_000, 7_000, 8_000)]
    v[2], v[3], v[4] = v[2].double(), v[3].half(), v[4].abs()
    widest = [8, 8, 3, 1, 5, 0]
    found = fit_codebooks(v, free_zero=free_zero, widest=widest)
    for i, (x, most) in enumerate(zip(v, widest, strict=True)):
        alone = fit_codebooks([x], free_zero=free_zero, widest=[most])
        # a sum over fewer levels may be rounded differently
        torch.testing.assert_close(found.errors[i], alone.errors[0], rtol=1e-9, atol=0)
        assert all(map(torch.equal, found.centres[i], alone.centres[0]))


def test_float64_values_closer_than_float32():
    v = 1 + torch.arange(5_000, dtype=torch.float64) * 1e-12
    found = fit_codebooks([v], free_zero=False)
    assert torch.all(torch.isfinite(found.errors))
    assert torch.all(found.errors <= 5_000 * 5e-9**2)  # centres are float32: all are 1


def test_parameters_and_strides():
    v = torch.nn.Parameter(sample("normal", 600).view(20, 30))
    found = fit_codebooks([v, v.t()], free_zero=True)
    assert torch.equal(found.errors[0], found.errors[1])
    quantized = assign(v, found.centres[0][1], free_zero=True)
    assert not quantized.requires_grad
    assert quantized.shape == (20, 30)


def test_same_every_time():
    v = sample("student", 20_000)
    one, other = (fit_codebooks([v], free_zero=True) for _ in range(2))
    assert torch.equal(one.errors, other.errors)
    for a, b in zip(one.centres[0], other.centres[0], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("n", [10, 5_000])
def test_not_finite(bad, n):
    v = torch.linspace(-1, 1, n)
    v[3] = v[7] = bad
    with pytest.raises(ValueError, match=rf"layer 1 holds 2 .* of {n}"):
        fit_codebooks([torch.ones(3), v], free_zero=True)


def test_beyond_float32():
    with pytest.raises(ValueError, match="layer 0 holds 1"):
        fit_codebooks([torch.tensor([1.0, 1e60], dtype=torch.float64)], free_zero=False)


@pytest.mark.parametrize("b", [0, 9, -1])
def test_bitwidth_out_of_range(b):
    with pytest.raises(ValueError, match=rf"bitwidth {b} is outside 1 … 8"):
        fit_codebooks([torch.ones(3)], bitwidths=[b], free_zero=True)
    with pytest.raises(ValueError, match="increase strictly"):
        fit_codebooks([torch.ones(3)], bitwidths=[2, 2], free_zero=True)


def test_other_arguments():
    with pytest.raises(ValueError, match="widest names 2 layers of 1"):
        fit_codebooks([torch.ones(3)], widest=[1, 2], free_zero=True)
    with pytest.raises(ValueError, match="widest 9 of layer 0"):
        fit_codebooks([torch.ones(3)], widest=[9], free_zero=True)
    with pytest.raises(ValueError, match=r"layer 0 holds torch\.int64"):
        fit_codebooks([torch.ones(3, dtype=torch.int64)], free_zero=True)
    with pytest.raises(ValueError, match="codebook of 0 centres for 3 values"):
        assign(torch.ones(3), torch.empty(0), free_zero=False)
    assert assign(torch.ones(3), torch.empty(0), free_zero=True).tolist() == [0, 0, 0]
    assert assign(torch.empty(0), torch.empty(0), free_zero=False).shape == (0,)


# ------------------------------------------------------------------------------------- any number


def every_partition(v: np.ndarray, clusters: int, *, free_zero: bool) -> float:
    """Tries all cuts of the sorted values into intervals, and each of these as the one of zero."""
    v = np.sort(v.astype(np.float64))
    places = range(len(v) + 1)
    mean, zero = np.zeros((2, len(v) + 1, len(v) + 1))  # [i, j]: values i … j − 1
    for i, j in combinations(places, 2):
        mean[i, j] = ((v[i:j] - v[i:j].mean()) ** 2).sum()
        zero[i, j] = (v[i:j] ** 2).sum()
    mean, zero = mean.tolist(), zero.tolist()
    best = np.inf
    for cuts in combinations_with_replacement(places, clusters - 1 + free_zero):
        intervals = list(pairwise((0, *cuts, len(v))))
        total = sum(mean[i][j] for i, j in intervals)
        if free_zero:
            total = min(total - mean[i][j] + zero[i][j] for i, j in intervals)
        best = min(best, total)
    return best


def square(v: torch.Tensor) -> float:
    return float((v.double() ** 2).sum())


def rounding(v: torch.Tensor) -> float:
    """What float64 sums and float32 centres, subnormal ones too, may cost."""
    return 1e-13 * square(v) + 1e-90 * v.numel()


def number_of_values(v: torch.Tensor, *, free_zero: bool) -> int:
    return len((v[v != 0] if free_zero else v).unique())


small = st.builds(
    lambda v, scale: torch.tensor(v, dtype=torch.float32) * scale,
    st.one_of(
        st.lists(floats, max_size=8),
        st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), max_size=8),
    ),
    st.sampled_from([1, 1e-38, 1e36]),
)


@pytest.mark.parametrize("free_zero", [False, True])
@pytest.mark.parametrize("k", range(1, 8))
@pytest.mark.parametrize(
    "v",
    [
        sample("normal", 8),
        sample("skewed", 8),
        -sample("laplace", 8).abs(),
        torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 5.0, 5.5, 9.0]),
        torch.tensor([0.0, 0.0, 0.0, -1.0, 3.0, 1e-3, -7.0, 2.0]),
        torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]),
        3e38 * torch.tensor([-1.0, -0.9, -0.3, 0.1, 0.2, 0.7, 0.8, 1.0]),
        1e-38 * torch.tensor([-1.0, -0.9, -0.3, 0.1, 0.2, 0.7, 0.8, 1.0]),
        torch.tensor([1e30, 1.0, 2.0, -1e-30]),
    ],
    ids=["normal", "skewed", "negative", "ties", "zeros", "even", "huge", "tiny", "both"],
)
def test_any_number_brute_force(v, k, free_zero):
    (found,) = codebook([v], values=k, free_zero=free_zero)
    assert number_of_values(found, free_zero=free_zero) <= k
    best = every_partition(v.numpy(), k, free_zero=free_zero)
    error = square(found.double() - v.double())
    assert error == pytest.approx(best, rel=1e-9, abs=rounding(v))


@settings(max_examples=60, deadline=None)
@given(small, st.integers(1, 4), st.booleans())
def test_any_number_brute_force_property(v, k, free_zero):
    (found,) = codebook([v], values=k, free_zero=free_zero)
    best = every_partition(v.numpy(), k, free_zero=free_zero)
    error = square(found.double() - v.double())
    assert error == pytest.approx(best, rel=1e-9, abs=rounding(v))


@settings(max_examples=100, deadline=None)
@given(layers, st.integers(1, 24), st.booleans(), st.sampled_from([1, 1e-38, 1e36]))
def test_any_number_is_feasible_and_idempotent(v, k, free_zero, scale):
    v = torch.tensor(v, dtype=torch.float32) * scale
    (found,) = codebook([v], values=k, free_zero=free_zero)
    assert found.shape == v.shape
    assert found.dtype == v.dtype
    assert number_of_values(found, free_zero=free_zero) <= k
    if number_of_values(v, free_zero=free_zero) <= k:
        assert torch.equal(found, v)
    (again,) = codebook([found], values=k, free_zero=free_zero)
    assert torch.equal(again, found)


@settings(max_examples=40, deadline=None)
@given(layers, st.booleans(), st.sampled_from([1, 1e-38, 1e36]))
def test_more_values_are_no_worse(v, free_zero, scale):
    v = torch.tensor(v, dtype=torch.float32) * scale
    found = [codebook([v], values=k, free_zero=free_zero)[0] for k in range(1, 13)]
    errors = [square(f.double() - v.double()) for f in found]
    assert all(b <= a + rounding(v) for a, b in pairwise(errors))


@pytest.mark.parametrize("free_zero", [False, True])
@pytest.mark.parametrize("n", [300, 6_000])
@pytest.mark.parametrize("name", DRAWS)
def test_powers_of_two_are_bitwidths(name, n, free_zero):
    v = sample(name, n)
    for b in (1, 3, 6, 8):
        (found,) = codebook([v], values=2**b, free_zero=free_zero)
        ((centres,),) = fit_codebooks([v], bitwidths=[b], free_zero=free_zero).centres
        assert torch.equal(found, assign(v, centres, free_zero=free_zero))


@pytest.mark.parametrize("k", [1, 3, 11, 200])
@pytest.mark.parametrize("name", DRAWS)
def test_any_number_in_a_large_layer(name, k):
    v = sample(name, 6_000)
    (found,) = codebook([v], values=k, free_zero=False)
    assert number_of_values(found, free_zero=False) <= k
    assert square(found.double() - v.double()) <= 1.001 * kmeans_error(v.numpy(), k)
    (again,) = codebook([found], values=k, free_zero=False)
    assert torch.equal(again, found)


@pytest.mark.parametrize("k", [7, 100])
@pytest.mark.parametrize("name", ["laplace", "student", "stragglers"])
def test_any_number_in_a_large_layer_free_zero(name, k):
    v = sample(name, 6_000)
    (found,) = codebook([v], values=k, free_zero=True)
    assert number_of_values(found, free_zero=True) <= k
    bound = pinned_error(v.numpy(), k, zeros=30_000)
    assert square(found.double() - v.double()) <= 1.001 * bound


@pytest.mark.parametrize("free_zero", [False, True])
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
        assert found.shape == w.shape
        assert number_of_values(found, free_zero=free_zero) == min(
            k, number_of_values(w, free_zero=free_zero)
        )
        (alone,) = codebook([w], values=k, free_zero=free_zero)
        assert torch.equal(alone, found)
    same = codebook(weights, values=3, free_zero=free_zero)
    each = codebook(weights, values=[3] * 6, free_zero=free_zero)
    assert all(torch.equal(a, b) for a, b in zip(same, each, strict=True))
    assert codebook([], values=3, free_zero=free_zero) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("free_zero", [False, True])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_any_number_in_other_precisions(dtype, free_zero, k):
    w = torch.nn.Parameter(sample("normal", 500).to(dtype))
    (found,) = codebook([w], values=k, free_zero=free_zero)
    assert found.dtype == dtype
    assert not found.requires_grad
    assert number_of_values(found, free_zero=free_zero) <= k
    assert torch.equal(found, assign(w, found.unique(), free_zero=free_zero))
    (again,) = codebook([found], values=k, free_zero=free_zero)
    assert torch.equal(again, found)


def test_few_values_are_kept_as_they_are():
    """Finer than float32 or float64's sums could tell apart; and the result is not the argument."""
    for w in (
        torch.tensor([1.0, 1 + 1e-12, -1e-200, 1.0], dtype=torch.float64),
        torch.tensor([3e38, 1.0, 2.0, 1.0]),
        torch.tensor([[0.0, 1e-45], [-1e-45, 0.0]]),
    ):
        for free_zero in (False, True):
            (found,) = codebook([w], values=3, free_zero=free_zero)
            assert torch.equal(found, w)
            assert found.data_ptr() != w.data_ptr()


@pytest.mark.parametrize("k", [0, 257, -1])
def test_number_out_of_range(k):
    weights = [torch.ones(3), torch.ones(2)]
    with pytest.raises(ValueError, match=rf"{k} values for layer 1, .* 1 … 256; to keep"):
        codebook(weights, values=[3, k], free_zero=True)
    with pytest.raises(ValueError, match=rf"{k} values for layer 0"):
        codebook(weights, values=k, free_zero=False)


def test_any_number_refuses_other_arguments():
    with pytest.raises(ValueError, match=r"values must be integers, got \[2.5\]"):
        codebook([torch.ones(3)], values=2.5, free_zero=True)
    with pytest.raises(ValueError, match="values has 2 entries for 1 layers; give one"):
        codebook([torch.ones(3)], values=[2, 3], free_zero=True)
    with pytest.raises(ValueError, match=r"layer 1 holds torch\.int64"):
        codebook([torch.ones(3), torch.ones(3, dtype=torch.int64)], values=2, free_zero=True)
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match="layer 1 holds 1 NaN or infinite values of 2"):
            codebook([torch.ones(3), torch.tensor([1.0, bad])], values=2, free_zero=False)
