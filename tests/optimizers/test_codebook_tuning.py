"""Values made by k-means are the best ones; shared, they move by the mean of their gradients."""

import copy
import io

import kmeans1d
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.accounting import bitwidth, nominal_bits
from lib.layers import compressible
from lib.optimizers import CodebookTuning


@pytest.fixture
def model():
    """Two layers, one of values ½ and −1 and zeros, one of the value 2 alone."""
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, 0, -1, 0.5], [-1, 0.5, 0, -1]]))
        model[2].weight.copy_(torch.tensor([[2.0, 0], [0, 2], [2, 2]]))
    return model


def step(model, lr=0.1, seed=0):
    """One step of plain SGD; returns the gradients."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(16, 4, generator=generator)
    labels = torch.randint(0, 3, (16,), generator=generator)
    model.zero_grad()
    functional.cross_entropy(model(images), labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= lr * parameter.grad
    return [layer.weight.grad for layer in (model[0], model[2])]


def test_a_value_moves_by_the_mean_gradient_of_its_weights_and_zeros_stay(model):
    layers = compressible(model).values()
    first = [w.detach().clone() for w in layers]
    bias, bits = model[0].bias.detach().clone(), nominal_bits(compressible(model))
    method = CodebookTuning()
    method.start(model)
    for seed in range(20):
        before = [w.detach().clone() for w in layers]
        gradients = step(model, lr=0.5, seed=seed)
        method.after_step(torch.tensor(0.5))
        for w, old, start, gradient in zip(layers, before, first, gradients, strict=True):
            for value in start.unique():
                shared = start == value
                wanted = old[shared] - 0.5 * gradient[shared].mean() * (value != 0)
                torch.testing.assert_close(w[shared], wanted)
                assert len(w[shared].unique()) == 1
        assert nominal_bits(compressible(model)) <= bits
    assert not torch.equal(model[0].bias, bias)  # biases train freely


def test_values_that_have_met_part_again_after_a_resume(model):
    """From the weights alone, two equal values would be taken for one for ever."""
    method = CodebookTuning()
    method.start(model)
    with torch.no_grad():
        model[0].weight[model[0].weight != 0] = 3.0
    buffer = io.BytesIO()
    torch.save(method.state_dict(), buffer)
    buffer.seek(0)

    resumed = CodebookTuning()
    resumed.start(model)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    step(model)
    resumed.after_step(torch.tensor(0.1))
    assert torch.unique(model[0].weight[model[0].weight != 0]).numel() == 2


def lloyd(latent, centres):
    """One iteration written out: the nearest value, then each value's mean."""
    codes = np.abs(latent[:, None] - centres).argmin(1)
    means = [latent[codes == k].mean() if (codes == k).any() else c for k, c in enumerate(centres)]
    return np.array(means)[codes], np.sort(means)


def test_with_reassignment_unquantized_weights_choose_their_values_anew():
    model = network(zeros=0.4)
    method = CodebookTuning(bits=2, reassign=True)
    method.start(model)
    shared = [w[w != 0] for w in weights(model)]
    zeros = [w == 0 for w in weights(model)]
    latent, centres = [s.copy() for s in shared], [np.unique(s) for s in shared]
    generator = torch.Generator().manual_seed(0)
    first = [s.copy() for s in shared]
    for _ in range(6):
        with torch.no_grad():
            for w in compressible(model).values():
                w += 0.1 * torch.randn(w.shape, generator=generator)
        moved = [w[~zero] for w, zero in zip(weights(model), zeros, strict=True)]
        method.after_step(torch.tensor(0.1))
        for i, now in enumerate(moved):
            latent[i] += now - shared[i]
            shared[i], centres[i] = lloyd(latent[i], centres[i])
        for w, zero, expected in zip(weights(model), zeros, shared, strict=True):
            assert (w[zero] == 0).all()
            np.testing.assert_allclose(w[~zero], expected, atol=1e-5)
            assert len(np.unique(w[~zero])) <= 4
    changed = [
        np.unique(a, return_inverse=True)[1] != np.unique(b, return_inverse=True)[1]
        for a, b in zip(first, shared, strict=True)
    ]
    assert all(each.any() for each in changed)


def test_a_value_that_no_weight_has_is_kept():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0, 2.0, 4.0]]))
    method = CodebookTuning(reassign=True)
    method.start(model)
    with torch.no_grad():
        model[0].weight[0, 2] = 1.2
    method.after_step(torch.tensor(0.1))
    torch.testing.assert_close(model[0].weight[0], torch.tensor([3.2 / 3] * 3 + [4.0]))
    assert method.sharing.values[0, 1] == 2


@pytest.mark.parametrize("reassign", [False, True])
def test_weights_that_lie_channels_last_are_tuned_as_others(reassign):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 2))
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found = []
    for network in (model, other):
        method = CodebookTuning(bits=2, reassign=reassign)
        method.start(network)
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            with torch.no_grad():
                for weight in compressible(network).values():
                    weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
            method.after_step(torch.tensor(0.1))
        found.append(method.state_dict())
    assert not other[0].weight.is_contiguous()
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    assert all(
        torch.equal(a, b) for n in found[0] for a, b in zip(found[0][n], found[1][n], strict=True)
    )


# ------------------------------------------------------------------------ values made by k-means


def network(zeros=0.0, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 6))
    with torch.no_grad():
        for weight in compressible(model).values():
            weight.mul_(torch.rand_like(weight) >= zeros)
    return model


def weights(model):
    return [w.detach().double().numpy().copy() for w in compressible(model).values()]


def optimum(values, clusters):
    """k-means by an exact solver."""
    found = kmeans1d.cluster(values, clusters)
    return float(((values - np.array(found.centroids)[found.clusters]) ** 2).sum())


@pytest.mark.parametrize("free_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_error_is_the_optimum_of_k_means_over_weights_but_zeros_where_they_are_free(
    bits, free_zero
):
    model = network(zeros=0.5)
    before = weights(model)
    CodebookTuning(bits=bits, free_zero=free_zero).start(model)
    for old, new in zip(before, weights(model), strict=True):
        shared = (old != 0) | (not free_zero)
        wanted = optimum(old[shared], 2**bits)
        assert ((new - old) ** 2).sum() == pytest.approx(wanted, rel=1e-5, abs=1e-12)
        assert not new[~shared].any()
        assert len(np.unique(new[shared])) <= 2**bits


@pytest.mark.parametrize("listed", [[1, 3], (1, 3)])
def test_each_layer_has_the_bits_that_a_list_says(listed):
    model, narrow, wide = (network(zeros=0.4) for _ in range(3))
    CodebookTuning(bits=listed).start(model)
    CodebookTuning(bits=1).start(narrow)
    CodebookTuning(bits=3).start(wide)
    assert torch.equal(model[0].weight, narrow[0].weight)
    assert torch.equal(model[2].weight, wide[2].weight)
    assert [bitwidth(w) for w in compressible(model).values()] == [1, 3]


@pytest.mark.parametrize("bits", [None, 2])
def test_a_layer_of_zeros_stays_one(bits, model):
    nn.init.zeros_(model[0].weight)
    method = CodebookTuning(bits=bits)
    method.start(model)
    step(model)
    method.after_step(torch.tensor(0.1))
    assert not model[0].weight.any()
    assert model[2].weight.any()


def test_values_that_were_made_are_tuned():
    """From the first step on, as those of a network that is quantized already."""
    model = network(zeros=0.5)
    made = CodebookTuning(bits=2)
    made.start(model)
    given_model = copy.deepcopy(model)
    given = CodebookTuning()
    given.start(given_model)
    for method, each in ((made, model), (given, given_model)):
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in compressible(each).values():
                weight.add_(0.1 * torch.randn_like(weight))
        method.after_step(torch.tensor(0.1))
    assert all(map(torch.equal, model.parameters(), given_model.parameters()))
    assert made.finish()  # normalisation has not seen these values
    assert not given.finish()
