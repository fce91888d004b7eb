"""The multiple-choice knapsack against brute force and an integer program."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from lib.projections.multiple_choice import choose_bitwidths


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
        assert greedy.lower_bound <= optimum * (1 + 1e-12)
        assert greedy.error >= optimum * (1 - 1e-12)


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
        # the program works to tolerances, so it may stop a little above the optimum
        assert greedy.lower_bound <= picked * (1 + 1e-9)
        assert greedy.error >= picked * (1 - 1e-6)
        assert greedy.error <= paper_greedy(errors, nonzeros, budget) * (1 + 1e-12) or (
            make is rough_errors
        )


def test_a_curve_with_a_step_misleads_the_greedy_without_a_hull():
    # layer 0 gains nothing from its second bit and all from its third: sorted as they are, its
    # increments come out of turn
    errors = np.array([[10.0, 9.9, 0.0], [8.0, 6.0, 5.0]])
    mine = check_choice(errors, [10, 10], 60, bitwidths=[1, 2, 3])
    assert mine.error == 5 == brute_force(errors, [10, 10], 60, [1, 2, 3])
    assert paper_greedy(errors, [10, 10], 60) > 6


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
    everything = check_choice(errors, nonzeros, 1000, **options)
    assert everything.error == everything.lower_bound == errors.min(1, initial=99).sum()
    for i, n in enumerate(nonzeros):
        if n == 0:
            assert greedy.bitwidths[i] == 1 + errors[i].argmin()


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
        ({"errors": torch.ones(2, 2)}, r"errors is \(2, 2\)"),
        ({"nonzeros": [-1]}, r"nonzeros\[0\] = -1"),
        ({"nonzeros": [1.5]}, r"nonzeros\[0\] = 1.5"),
        ({"bitwidths": [0, 1]}, r"bitwidths\[0\] = 0"),
        *(({"bitwidths": b}, rf"bitwidths are \{b}") for b in ([2, 2], [])),
        ({"budget": -3}, "budget in bits = -3"),
    ],
)
def test_refused_choices(arguments, message):
    given = {"errors": torch.ones(1, 2), "nonzeros": [3], "bitwidths": [1, 2], "budget": 9}
    with pytest.raises(ValueError, match=message):
        choose_bitwidths(**{**given, **arguments})
