"""Shared values move by the mean of their weights' gradients, and nothing else moves."""

import io

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.budget import nominal_bits
from lib.networks import compressible
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


def test_a_value_moves_by_the_mean_gradient_of_its_weights(model):
    before = [w.detach().clone() for w in compressible(model).values()]
    bias = model[0].bias.detach().clone()
    method = CodebookTuning()
    method.start(model)
    gradients = step(model)
    method.after_step(torch.tensor(0.1))
    for w, old, gradient in zip(compressible(model).values(), before, gradients, strict=True):
        for value in (0.5, -1.0, 2.0):
            shared = old == value
            if shared.any():
                wanted = value - 0.1 * gradient[shared].mean()
                torch.testing.assert_close(w[shared], wanted.expand(int(shared.sum())))
        assert (w[old == 0] == 0).all()
    assert not torch.equal(model[0].bias, bias)  # biases train freely


def test_zeros_stay_and_levels_never_grow(model):
    zeros = [w == 0 for w in compressible(model).values()]
    bits = nominal_bits(compressible(model))
    method = CodebookTuning()
    method.start(model)
    for i in range(20):
        step(model, lr=0.5, seed=i)
        method.after_step(torch.tensor(0.5))
        for w, zero, most in zip(compressible(model).values(), zeros, (2, 1), strict=True):
            assert (w[zero] == 0).all()
            assert torch.unique(w[~zero]).numel() <= most
        assert nominal_bits(compressible(model)) <= bits


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


def test_a_layer_without_weights_is_left_alone(model):
    nn.init.zeros_(model[0].weight)
    method = CodebookTuning()
    method.start(model)
    step(model)
    method.after_step(torch.tensor(0.1))
    assert (model[0].weight == 0).all()
