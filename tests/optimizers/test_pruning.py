"""Magnitude pruning against plain sorts, and its zeros through steps that move them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lib.layers import compressible
from lib.optimizers import MagnitudePruning


def network(seed=0, ties=False):
    """Layers of 30 and 15 weights; with ``ties`` of the six values ±⅓, ±⅔ and ±1 alone."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    if ties:
        with torch.no_grad():
            for weight in compressible(model).values():
                weight.copy_(torch.randint(1, 4, weight.shape) / 3 * weight.sign())
    return model


def layers(model):
    return [w.detach().numpy().copy() for w in compressible(model).values()]


def largest(arrays, keep):
    """The largest ``keep`` of all arrays together, the first ones of equals; else zero."""
    flat = np.concatenate([a.ravel() for a in arrays])
    kept = np.zeros_like(flat)
    order = np.argsort(-np.abs(flat), kind="stable")[:keep]
    kept[order] = flat[order]
    parts = np.split(kept, np.cumsum([a.size for a in arrays])[:-1])
    return [part.reshape(a.shape) for part, a in zip(parts, arrays, strict=True)]


def by_scope(arrays, share, scope):
    groups = [arrays] if scope == "global" else [[a] for a in arrays]
    return [p for g in groups for p in largest(g, int(share * sum(a.size for a in g)))]


def equal(arrays, others):
    return all(np.array_equal(a, b) for a, b in zip(arrays, others, strict=True))


@pytest.mark.parametrize("keep", [0, 0.1, 1 / 3, 0.7, 1])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("ties", [False, True])
def test_at_the_start_the_largest_stay(keep, scope, ties):
    model = network(ties=ties)
    before = layers(model)
    bias = model[0].bias.detach().clone()
    method = MagnitudePruning(keep=keep, scope=scope)
    method.start(model)
    assert equal(layers(model), by_scope(before, keep, scope))
    assert equal(method.masks, [a != 0 for a in layers(model)])
    assert torch.equal(model[0].bias, bias)
    assert equal(method.compressed().values(), layers(model))
    assert not method.finish()


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_gradual_masks_follow_the_cubic_schedule_and_are_nested(scope):
    model, keep = network(), 0.2
    # 1 − s_t, s_t = s_f + (0 − s_f)(1 − t/3)³ for s_f = 0.8; then s_f
    shares = [1 - 0.8 * 19 / 27, 1 - 0.8 * 26 / 27, 0.2, 0.2, 0.2]
    before = layers(model)
    method = MagnitudePruning(keep=keep, scope=scope, epochs=3)
    method.start(model)
    addresses = [mask.data_ptr() for mask in method.masks]
    assert equal(layers(model), before)
    masks = [np.ones_like(a) for a in before]
    for share in shares:
        # a step of any kind, on pruned weights too
        with torch.no_grad():
            for weight in compressible(model).values():
                weight.add_(torch.randn_like(weight))
        stepped = [w * mask for w, mask in zip(layers(model), masks, strict=True)]
        method.after_step(torch.tensor(0.1))
        assert equal(layers(model), stepped)
        method.after_period()
        pruned = by_scope(stepped, share, scope)
        assert equal(layers(model), pruned)
        now = [(p != 0).astype(np.float32) for p in pruned]
        assert all((new <= old).all() for new, old in zip(now, masks, strict=True))
        assert equal(method.masks, now)
        masks = now
    assert method.metrics() == {
        "kept_fraction": pytest.approx(keep),
        "0.kept": np.count_nonzero(pruned[0]),
        "2.kept": np.count_nonzero(pruned[1]),
    }
    assert sum(map(np.count_nonzero, pruned)) == 9
    assert addresses == [mask.data_ptr() for mask in method.masks]
    assert not method.finish()


def test_a_schedule_cut_short_is_finished():
    model = network()
    before = layers(model)
    method = MagnitudePruning(keep=0.2, epochs=4)
    method.start(model)
    method.after_period()
    wanted = by_scope(before, 0.2, "global")
    assert equal(method.compressed().values(), wanted)
    assert sum(map(np.count_nonzero, layers(model))) > 9  # nothing is changed
    assert method.finish()
    assert equal(layers(model), wanted)
    assert not method.finish()


@pytest.mark.parametrize("order", ["magnitude", "random"])
def test_zeros_from_before_are_held_and_count_as_pruned(order):
    model = network()
    with torch.no_grad():
        model[0].weight[:3] = 0
    before = layers(model)
    method = MagnitudePruning(keep=0.6, order=order)  # all 27 that are left
    method.start(model)
    assert equal(layers(model), before)
    with torch.no_grad():
        model[0].weight.add_(1)
    method.after_step(torch.tensor(0.1))
    assert not model[0].weight[:3].any()
    assert model[0].weight[3:].all()


@pytest.mark.parametrize("epochs", [0, 3])
@pytest.mark.parametrize("keep", [[0.5, 0.2], (1, 0), (0.0, 1 / 3)])
def test_each_layer_keeps_what_a_list_says(keep, epochs):
    model = network()
    before = layers(model)
    method = MagnitudePruning(keep=keep, scope="layer", epochs=epochs)
    method.start(model)
    for _ in range(epochs):
        method.after_period()
    wanted = [largest([a], int(k * a.size))[0] for a, k in zip(before, keep, strict=True)]
    assert equal(layers(model), wanted)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("epochs", [0, 3])
def test_random_weights_stay_as_many_as_by_magnitude_and_nested(scope, epochs):
    model = network()
    method = MagnitudePruning(keep=0.2, scope=scope, epochs=epochs, order="random")
    by_size, other = network(), MagnitudePruning(keep=0.2, scope=scope, epochs=epochs)
    torch.manual_seed(7)
    method.start(model)
    other.start(by_size)
    for _ in range(epochs):
        old = copy.deepcopy(method.masks)
        for each, pruned in ((method, model), (other, by_size)):
            with torch.no_grad():
                for weight in compressible(pruned).values():
                    weight.add_(torch.randn_like(weight))
            each.after_step(torch.tensor(0.1))
            each.after_period()
        assert all((new <= before).all() for new, before in zip(method.masks, old, strict=True))
        counts = [[int(w.count_nonzero()) for w in m.w] for m in (method, other)]
        assert sum(counts[0]) == sum(counts[1])
        assert scope == "global" or counts[0] == counts[1]
    assert sum(int(w.count_nonzero()) for w in method.w) == 9
    assert not all(map(torch.equal, method.masks, other.masks))
    assert equal(method.compressed().values(), layers(model))
    assert not method.finish()


def test_random_weights_are_drawn_evenly_and_anew_by_each_seed():
    """Whatever their size: each stays as often as any other, to five standard deviations."""
    times, draws, keep = np.zeros(45), 500, 9
    for seed in range(draws):
        model = network()
        torch.manual_seed(seed)
        MagnitudePruning(keep=0.2, order="random").start(model)
        times += np.concatenate([a.ravel() != 0 for a in layers(model)])
    assert times.sum() == draws * keep
    assert np.abs(times - draws * 0.2).max() < 5 * np.sqrt(draws * 0.2 * 0.8)
