"""ADMM against Algorithm 1 written out, and its three modes against their constraints."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lib.accounting import bitwidth, nominal_bits
from lib.layers import compressible
from lib.optimizers import ADMM


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def weights(model):
    return [w.detach().double().numpy().copy() for w in compressible(model).values()]


def kept_by_sorting(w, bits, budget):
    """Section 3.3: sort by w²/b, keep while the bits last."""
    items = sorted(
        (
            (-(x * x) / b, layer, i, b)
            for layer, (v, b) in enumerate(zip(w, bits, strict=True))
            for i, x in enumerate(v.ravel())
        ),
    )
    kept = [np.zeros(v.size, bool) for v in w]
    for _, layer, i, b in items:
        budget -= b
        if budget < 0:
            break
        kept[layer][i] = True
    return [np.where(k.reshape(v.shape), v, 0) for k, v in zip(kept, w, strict=True)]


def best_codebook(values, count):
    """Least squared error with ``count`` nonzero values and zero, by trying every partition."""
    v = np.sort(values.ravel())
    best = (np.inf, None)
    for cuts in itertools.combinations(range(1, len(v)), count):
        for zero in range(count + 1):  # which of the count + 1 intervals goes to zero
            parts = np.split(v, cuts)
            centres = [0.0 if i == zero else part.mean() for i, part in enumerate(parts)]
            nearest = np.abs(v[:, None] - np.array([*centres, 0.0])).min(axis=1)
            best = min(best, (float((nearest**2).sum()), sorted(centres)), key=lambda x: x[0])
    return best


def test_one_period_is_algorithm_1_written_out():
    budget, rho, lr = 20, 0.05, 0.1
    model = network()
    w = weights(model)
    method = ADMM(budget=budget, rho=rho, start_bits=1)
    method.start(model)

    w = kept_by_sorting(w, [1, 1], budget)  # line 2
    y = [np.zeros_like(v) for v in w]

    def project_v(target, nonzeros):
        """Line 3: with this budget a layer can have 1 or 2 bits; try every choice."""
        books = [{b: best_codebook(t, 2**b) for b in (1, 2)} for t in target]
        choices = [
            (sum(book[b][0] for book, b in zip(books, bits, strict=True)), bits)
            for bits in itertools.product((1, 2), repeat=2)
            if sum(b * n for b, n in zip(bits, nonzeros, strict=True)) <= budget
        ]
        _, bits = min(choices)
        levels = [np.array([*book[b][1], 0.0]) for book, b in zip(books, bits, strict=True)]
        nearest = [np.abs(t[..., None] - q).argmin(-1) for t, q in zip(target, levels, strict=True)]
        return bits, [q[i] for q, i in zip(levels, nearest, strict=True)]

    bits, v = project_v(w, [np.count_nonzero(x) for x in w])
    y = [b + rho * (a - c) for a, b, c in zip(w, y, v, strict=True)]  # line 4
    for mine, theirs in zip(method.v, v, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-6)

    step = [np.full_like(x, 0.01) for x in w]  # stands for −α∇ℓ
    for mine, change in zip(method.w, step, strict=True):
        mine += torch.from_numpy(change).float()
    method.after_step(torch.tensor(lr))
    w = [  # line 6
        (a + s + lr * rho * (c - b / rho)) / (1 + lr * rho)
        for a, s, b, c in zip(w, step, y, v, strict=True)
    ]
    for mine, theirs in zip(weights(model), w, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)

    method.after_period()
    w = kept_by_sorting(w, bits, budget)
    for mine, theirs in zip(weights(model), w, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    target = [a + b / rho for a, b in zip(w, y, strict=True)]
    _, v = project_v(target, [np.count_nonzero(x) for x in w])
    for mine, theirs in zip(method.v, v, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-5)
    for mine, a, c in zip(method.u, target, v, strict=True):  # Y/ρ + W − V
        np.testing.assert_allclose(mine.numpy(), a - c, atol=1e-5)
    assert all(torch.equal(model[i].bias, network()[i].bias) for i in (0, 2))


def test_pruning_alone_keeps_the_largest_weights_in_32_bits():
    model = network()
    before = torch.cat([w.flatten() for w in compressible(model).values()])
    method = ADMM(budget=32 * 10, mode="prune")
    method.start(model)
    method.finish()
    after = torch.cat([w.flatten() for w in compressible(model).values()])
    largest = before.abs().argsort(descending=True)[:10]
    assert set(after.nonzero().flatten().tolist()) == set(largest.tolist())
    assert torch.equal(after[largest], before[largest])


def test_zero_is_free_in_the_joint_mode():
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 3.0, -2.0, -2.0, 0, 0, 0, 0]]))
    method = ADMM(budget=4, start_bits=1)
    method.start(model)
    method.finish()
    weight = model[0].weight.detach()
    assert weight.tolist() == [[3.0, 3.0, -2.0, -2.0, 0, 0, 0, 0]]
    assert bitwidth(weight) == 1


def moved(method, seed, lr=0.1):
    """A step: something else than the method moves the weights, then the proximal term does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in method.w:
            w += 0.02 * torch.randn(w.shape, generator=generator)
    method.after_step(torch.tensor(lr))


def test_a_fading_dual_step_shrinks_with_the_learning_rate():
    model = network()
    method = ADMM(budget=20, rho=0.1, start_bits=1, fading=True)
    method.start(model)
    for seed, lr in enumerate((0.05, 0.2, 0.08)):  # the largest need not be the first
        moved(method, seed, lr)
    before = [u.double() for u in method.u]
    method.after_period()
    for w, v, u, old in zip(method.w, method.v, method.u, before, strict=True):
        expected = old + 0.08 / 0.2 * (w.double() - v.double())
        torch.testing.assert_close(u.double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("mode", ["joint", "quantize"])
def test_a_held_v_stays_with_its_zeros_and_bits_and_w_comes_to_it(mode):
    model, budget = network(), {"joint": 30, "quantize": 75}[mode]
    method = ADMM(budget=budget, mode=mode, rho=0.5, start_bits=1, hold_after=2)
    method.start(model)
    for seed in range(2):
        moved(method, seed)
        method.after_period()
    v, bits = [v.clone() for v in method.v], method.bits.clone()
    zeros = [w == 0 for w in method.w]
    assert mode == "joint" or not any(zero.any() for zero in zeros)
    first = method.metrics()["mse"]
    for period in range(5):
        if period < 2:
            moved(method, period + 7)
        for _ in range(20):  # no loss, the proximal step alone
            method.after_step(torch.tensor(0.1))
        method.after_period()
        assert all(map(torch.equal, method.v, v))
        assert torch.equal(method.bits, bits)
        assert all(bool((w[zero] == 0).all()) for w, zero in zip(method.w, zeros, strict=True))
    assert method.metrics()["mse"] < 0.1 * first
    for u, v, zero in zip(method.u, method.v, zeros, strict=True):
        assert not u[zero].any()
        assert not v[zero].any()


def test_what_is_compressed_at_the_end_is_the_average_of_w():
    model, budget = network(), 32 * 10
    method = ADMM(budget=budget, mode="prune", rho=0.1, average_after=2)
    method.start(model)
    seen = []
    for seed in range(5):
        moved(method, seed)
        seen.append(np.concatenate([w.ravel() for w in weights(model)]))
        method.after_period()
    mean = np.mean(seen[2:], axis=0)
    largest = np.argsort(-np.abs(mean))[:10]
    expected = np.zeros_like(mean)
    expected[largest] = mean[largest]
    now = weights(model)
    found = np.concatenate([w.numpy().ravel() for w in method.compressed().values()])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert all(map(np.array_equal, now, weights(model)))
    method.finish()
    found = np.concatenate([w.ravel() for w in weights(model)])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "end", [{}, {"fading": True}, {"hold_after": 2}, {"average_after": 1}, {"hold_after": 1}]
)
@pytest.mark.parametrize(
    ("mode", "budget"),
    [("joint", 30), ("joint", 60), ("joint", 200), ("quantize", 45), ("quantize", 90)],
)
def test_every_end_is_within_the_budget(mode, budget, end):
    options = {"budget": budget, "mode": mode, "rho": 0.1, "growth": 1.2, "start_bits": 1}
    model = network()
    method = ADMM(**options | end)
    method.start(model)
    for seed in range(4):
        moved(method, seed)
        method.after_period()
    method.finish()
    free = mode == "joint"
    paid = [int((w != 0).sum() if free else w.numel()) for w in method.w]
    assert sum(b * n for b, n in zip(method.bits.tolist(), paid, strict=True)) <= budget
    for bits, w in zip(method.bits.tolist(), method.w, strict=True):
        # zero is one of the 2ᵇ values where it is not free: five levels are not two bits
        assert torch.unique(w[w != 0] if free else w).numel() <= 2**bits
    assert not free or nominal_bits(compressible(model)) <= budget


def test_an_impossible_budget_names_the_least():
    method = ADMM(budget=44, mode="quantize")
    with pytest.raises(ValueError, match=r"44 bits is too small.*at least\s+45"):
        method.start(network())


def test_a_rising_rho_keeps_the_dual_variable():
    model = network()
    method = ADMM(budget=20, rho=0.01, growth=1.5, start_bits=1)
    method.start(model)
    before = [0.01 * 1.5 * u.double() for u in method.u]  # Y = ρU, ρ as it is after one projection
    with torch.no_grad():
        for w in method.w:
            w.add_(0.1)
    method.after_period()
    assert float(method.rho) == pytest.approx(0.01 * 1.5**2)
    for w, v, u, y in zip(method.w, method.v, method.u, before, strict=True):
        # Y ← Y + ρ(W − V) with the ρ of before
        expected = y + 0.01 * 1.5 * (w.double() - v.double())
        torch.testing.assert_close(float(method.rho) * u.double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_amplifies_the_gradient_and_not_the_pull(momentum):
    """At rest ∇ℓ = (1 − m)·ρ·(anchor − W), for the loss ½(W − c)²."""
    lr, rho = 0.05, 2.0
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False).double()
    method = ADMM(budget=1_000, rho=rho)
    method.start(model)
    centre, anchor = torch.randn(2, 3, 4, dtype=torch.float64)
    method.anchor[0].copy_(anchor)
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for _ in range(1_000):
        sgd.zero_grad()
        (0.5 * (model.weight - centre).square().sum()).backward()
        sgd.step()
        method.after_step(torch.tensor(lr, dtype=torch.float64))
    pull = (1 - momentum) * rho
    at_rest = (centre + pull * anchor) / (1 + pull)
    torch.testing.assert_close(model.weight.detach(), at_rest, rtol=1e-9, atol=1e-9)
