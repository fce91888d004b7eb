"""Every cost of LC as a projection within its bound, or nearest by brute force."""

import math
from itertools import combinations, pairwise, product

import kmeans1d
import numpy as np
import pytest
import torch

from lib.optimizers import LC, c_steps
from lib.optimizers.c_steps import COSTS
from lib.projections import sparsity

SHAPES = ((3, 4), (2, 3))

SEEDS = range(4)


def layers(seed=0, shapes=SHAPES, heavy=False):
    """Two small layers; ``heavy`` ones have a few weights that are much larger."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return [w**3 if heavy else w for w in drawn]


def flat(group):
    return np.concatenate([w.double().numpy().ravel() for w in group])


def projected(cost, group, amount, *, now=None, mu=1.0):
    """θ of the layers ``now``, under the bound that is made of ``group``."""
    step = COSTS[cost]
    before = [w.clone() for w in group]
    theta = step.project(group if now is None else now, step.bound(group, amount), mu)
    assert all(map(torch.equal, group, before))
    assert [t.shape for t in theta] == [w.shape for w in group]
    return theta


def error(group, others):
    return float(((flat(group) - flat(others)) ** 2).sum())


def test_every_cost_is_tested_here():
    """A new one needs an oracle."""
    assert set(COSTS) == {
        *(f"l{p}-{kind}" for p in (0, 1, 2) for kind in ("constraint", "penalty")),
        *("codebook", "rank-constraint", "rank-penalty", "codebook+l0"),
    }


# ------------------------------------------------------------------------------------------- ℓ


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_constraint_is_a_share_of_what_was_before_training(seed, share):
    before, now = layers(seed), [3 * w for w in layers(seed + 100)]
    w = flat(before)
    for cost, wanted in {
        "l0-constraint": sparsity.l0_constraint(now, keep=int(share * w.size)),
        "l1-constraint": sparsity.l1_constraint(now, radius=share * np.linalg.norm(w, 1)),
        "l2-constraint": sparsity.l2_constraint(now, radius=share * np.linalg.norm(w)),
    }.items():
        theta = projected(cost, before, share, now=now)
        np.testing.assert_allclose(flat(theta), flat(wanted), rtol=1e-6)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_a_penalty_is_weighed_against_mu(power):
    wanted = getattr(sparsity, f"l{power}_penalty")(layers(5), alpha=0.3, mu=0.5)
    theta = projected(f"l{power}-penalty", layers(5), 0.3, mu=0.5)
    assert all(map(torch.equal, theta, wanted))


# ------------------------------------------------------------------------------------ codebook


@pytest.mark.parametrize("values", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("seed", SEEDS)
def test_codebook_is_k_means_of_the_weights_that_were_not_zero(seed, values):
    before = layers(seed, ((6, 7), (5, 3)))
    generator = torch.Generator().manual_seed(seed)
    before = [w * (torch.rand(w.shape, generator=generator) < 0.6) for w in before]
    # as in the L step: other values, and none is zero any more
    now = [w + 0.3 * torch.randn(w.shape, generator=generator) for w in before]
    theta = projected("codebook", before, values, now=now)
    for w, t, old in zip(now, theta, before, strict=True):
        assert not t[old == 0].any()
        shared = w[old != 0].double().numpy()
        assert len(np.unique(t[old != 0])) <= values
        found = kmeans1d.cluster(shared, values)
        best = ((shared - np.array(found.centroids)[found.clusters]) ** 2).sum()
        assert ((shared - t[old != 0].double().numpy()) ** 2).sum() == pytest.approx(
            best, rel=1e-5, abs=1e-12
        )


def test_codebook_of_a_layer_of_zeros():
    group = [torch.zeros(3, 2), torch.tensor([[1.0, 2.0]])]
    theta = projected("codebook", group, 1)
    assert theta[0].tolist() == group[0].tolist()
    assert theta[1].tolist() == [[1.5, 1.5]]


# ---------------------------------------------------------------------------------------- rank


def choices(group):
    """Every choice of the layers' ranks, and of leaving them whole: (ranks, cost, error)."""
    options = []
    for w in group:
        m = w.flatten(1).double().numpy()
        u, s, vh = np.linalg.svd(m, full_matrices=False)
        ranks = [
            (r, r * sum(m.shape), ((m - (u[:, :r] * s[:r]) @ vh[:r]) ** 2).sum())
            for r in range(len(s) + 1)
        ]
        options.append([*ranks, (None, m.size, 0.0)])
    for chosen in product(*options):
        ranks, costs, errors = zip(*chosen, strict=True)
        yield ranks, sum(costs), sum(errors)


def parameters(w):
    """What a matrix costs as factors, by its rank as numpy sees it, or whole."""
    m = w.flatten(1).double().numpy()
    rank = np.linalg.matrix_rank(m, tol=1e-5 * max(1e-9, np.linalg.norm(m)))
    return min(m.size, rank * sum(m.shape))


def matrices(seed):
    """A matrix and a convolution whose singular values fall; ranks cost 17 and 13 of 72 and 40."""
    group = []
    for w in layers(seed, ((8, 9), (5, 2, 2, 2))):
        u, s, vh = torch.linalg.svd(w.flatten(1), full_matrices=False)
        group.append(((u * s * 0.6 ** torch.arange(len(s))) @ vh).view_as(w))
    return group


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_are_the_best_of_all_under_a_penalty_and_within_what_it_costs(seed):
    group = matrices(seed)
    every, found = list(choices(group)), set()
    for alpha in (0.0, *np.geomspace(0.005, 5, 16)):
        for mu in (0.5, 2.0):
            ranks, cost, left = min(every, key=lambda c: alpha * c[1] + mu / 2 * c[2])
            found.add(ranks)
            for theta in (
                projected("rank-penalty", group, alpha, mu=mu),
                projected("rank-constraint", group, math.nextafter(cost / 112, 1)),
            ):
                assert error(group, theta) == pytest.approx(left, rel=1e-5, abs=1e-8)
                assert sum(map(parameters, theta)) <= cost
    assert len(found) >= 5


# --------------------------------------------------------------------------------- codebook+l0


def least_sum(group, values, keep):
    """The optimum: all choices of corrected weights, k-means of the others in each layer."""
    sizes = [w.numel() for w in group]
    w, ends = flat(group), np.cumsum([0, *sizes])
    best = math.inf
    for corrected in combinations(range(len(w)), keep):
        left = 0.0
        for start, end in pairwise(ends):
            others = w[[i for i in range(start, end) if i not in corrected]]
            if len(others) > values:
                found = kmeans1d.cluster(others, values)
                left += ((others - np.array(found.centroids)[found.clusters]) ** 2).sum()
        best = min(best, left)
    return best


def corrections(theta, values):
    """How many weights are none of their layer's most frequent values."""
    counts = [np.sort(np.unique(t.numpy(), return_counts=True)[1]) for t in theta]
    return sum(int(c[:-values].sum()) for c in counts)


@pytest.mark.parametrize("values", [1, 2, 3])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("heavy", [False, True])
def test_a_sum_is_within_its_bounds_and_no_worse_than_either_part(values, share, heavy):
    for seed in range(10):
        group = layers(seed, ((9, 7), (4, 5)), heavy)
        keep = int(share * 83)
        theta = projected("codebook+l0", group, (values, share))
        assert corrections(theta, values) <= keep
        quantized = projected("codebook", group, values)
        sparse = projected("l0-constraint", group, share)
        least = min(error(group, quantized), error(group, sparse))
        assert error(group, theta) <= least * (1 + 1e-6)


@pytest.mark.parametrize("heavy", [False, True])
def test_a_sum_is_near_the_best_of_all(heavy):
    """A local minimum: never below the optimum, and it in most of these small cases."""
    reached = 0
    for seed in range(20):
        group = layers(seed, ((2, 3), (2, 2)), heavy)
        theta = projected("codebook+l0", group, (2, 0.2))
        best = least_sum(group, values=2, keep=2)
        assert error(group, theta) >= best - 1e-6
        reached += error(group, theta) <= best * (1 + 1e-4) + 1e-9
    assert reached >= 10


def test_a_sums_error_falls_from_turn_to_turn(monkeypatch):
    fell = 0
    for seed in range(10):
        group, errors = layers(seed, ((20, 30), (10, 20)), heavy=seed % 2 == 0), []
        for turns in range(1, 11):
            monkeypatch.setattr(c_steps, "TURNS", turns)
            errors.append(error(group, projected("codebook+l0", group, (2, 0.05))))
        assert all(b <= a for a, b in pairwise(errors))
        fell += errors[-1] < errors[0]
    assert fell >= 5


def test_a_sum_that_is_one_already_is_found_and_all_weights_may_be_corrected():
    group = [torch.tensor([[1.0, 1, -1, -1, 1, 9]]), torch.tensor([[-2.0, -2, 5, -2]])]
    for amount in ((2, 0.1), (1, 0.4), (1, 1.0)):
        assert error(group, projected("codebook+l0", group, amount)) == 0


# ----------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("cost", "amount", "message"),
    [
        ("l1-constraint", 1.1, "amount = 1.1 must be from 0 to 1"),
        ("rank-constraint", float("nan"), "amount = nan must be from 0 to 1"),
        ("l2-penalty", -1, "amount = -1 must be 0 or more, and finite"),
        ("rank-penalty", float("inf"), "amount = inf must be 0 or more"),
        *(("codebook", k, "must be a whole number from 1 to 256") for k in (0, 257, 2.5)),
        ("codebook+l0", 4, "amount = 4 must be two numbers"),
        ("codebook+l0", (4,), "must be two numbers"),
        ("codebook+l0", (4, 1.5), "1.5 must be from 0 to 1"),
        ("codebook+l0", (2.5, 0.1), "amount = 2.5 must be a whole number"),
    ],
)
def test_amounts_out_of_range_are_refused_before_anything_is_trained(cost, amount, message):
    with pytest.raises(ValueError, match=message):
        LC(cost=cost, amount=amount)
