"""Methods on networks for ImageNet, small: inverted residuals, depthwise layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

import lib
from lib import structured
from lib.optimizers.byte_budget import _graph, silence
from lib.optimizers.df import DF
from tests.optimizers.test_df import decide, slopes_fit
from tests.structured.test_structured import (
    close,
    images,
    macs,
    network,
    outputs,
    shape_of,
    truncated,
    unread,
)

# Depthwise layers


def test_depthwise_layers_with_biases_and_no_normalisation():
    """Nested sequences are sequences; a bias after a filter that is gone is gone too."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.ZeroPad2d((0, 1, 0, 1))),
        nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Hardtanh()),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 4),
    ).double()
    shape = (3, 6, 6)
    keep = {"0.0": torch.arange(8) % 3 == 0, "2": torch.arange(6) > 2}
    assert structured.prunable(model) == list(keep)
    expected = outputs(unread(model, keep), shape)
    close(outputs(structured.remove_filters(model, keep, input_shape=shape), shape), expected)
    method = DF(budget=macs(model, shape) // 2, input_shape=shape, mode="filters")
    surrogate = method.start(model)
    decide(method, keep)
    with torch.no_grad():
        close(surrogate(images(shape)), expected)


@pytest.mark.parametrize("scheme", [1, 2])
def test_one_channel_that_is_left_is_still_never_factored(scheme):
    """A depthwise layer of one channel has one group: nothing else tells it from another layer."""
    model, shape = network("mobilenet"), shape_of("mobilenet")
    names = {f"features.{i}.conv.0.0": [3] for i in (3, 4)}
    smaller = structured.remove_filters(model, names, input_shape=shape)
    between = "features.4.conv.1.0"
    assert smaller.get_submodule(between).groups == 1
    place = {"scheme": scheme, "input_shape": shape}
    ranks = structured.ranks_for_macs(
        smaller,
        lambda _, matrix: torch.linalg.svdvals(matrix),
        budget=macs(smaller, shape) // 2,
        **place,
    )
    assert between not in ranks
    built = structured.factor(smaller, ranks | {between: 1}, **place)
    assert isinstance(built.get_submodule(between), nn.Conv2d)
    found = structured.costs(smaller, filters=False, input_shape=shape)
    counted = found.built({}, ranks | {between: 1}, scheme=scheme)
    assert sum(counted.values()) == macs(built, shape) <= macs(smaller, shape) // 2
    again = structured.rebuild(network("mobilenet"), built.state_dict())
    again.load_state_dict(built.state_dict())
    close(outputs(again, shape), outputs(built, shape))


# DF


def test_gradients_are_those_of_finite_differences():
    """Also of a tall matrix, 240 × 40 and 1280 × 80 here, which is decomposed by its columns."""
    model, shape = network("mobilenet"), shape_of("mobilenet")
    method = DF(budget=macs(model, shape) // 2, input_shape=shape)
    surrogate = method.start(model)
    sides = {name: stack.gram.shape[-1] for stack in method.stacks for name in stack.layers}
    assert (sides["features.18.0"], sides["features.17.conv.0.0"]) == (80, 240)
    leaves = ("features.5.conv.0.0", "features.17.conv.0.0", "features.18.0")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in leaves:
            method.m[name].copy_(torch.rand(len(method.m[name]), generator=generator))
            method.gamma[name].fill_(0.1)
    labels = torch.arange(4)

    def loss():
        return functional.cross_entropy(surrogate(images(shape, 4)), labels) + method.penalty()

    loss().backward()
    for leaf in [table[name] for name in leaves for table in (method.m, method.gamma)]:
        slopes_fit(loss, leaf, [0])


@pytest.mark.parametrize(("name", "steps"), [("mobilenet", 12), ("resnet18", 10)])
def test_df_from_masks_to_a_network_within_its_budget(name, steps):
    """Filters and ranks are chosen, built and counted; what is built is the masked network."""
    model, shape = network(name), shape_of(name)
    whole, dense = copy.deepcopy(model), macs(model, shape)
    method = DF(
        budget=dense // 2, input_shape=shape, penalty=10.0, step=0.1, statistics="batch", beta=12.0
    )
    surrogate = method.start(model)
    labels = torch.arange(8) % 3
    for _ in range(steps):
        loss = functional.cross_entropy(surrogate(images(shape, 8)), labels)
        (loss + method.penalty()).backward()
        method.after_step(torch.tensor(0.1))
        method.after_period()
    with torch.no_grad():
        pruned = method._pruned()
    assert method.finish()
    ranks = structured.ranks(whole, model.state_dict())
    assert 0.495 * dense < macs(model, shape) <= dense // 2
    assert ranks
    kept = {n: len(pruned.get_submodule(n).weight) for n in structured.prunable(whole)}
    assert any(count < len(whole.get_submodule(n).weight) for n, count in kept.items())
    assert set(ranks).isdisjoint(structured.structure(whole, input_shape=shape).depthwise)
    close(outputs(model, shape), outputs(truncated(pruned, ranks, 1), shape))
    # the file needs no graph
    drawn = structured.shrink_like(whole, model.state_dict(), input_shape=shape)
    assert [p.shape for p in drawn.parameters()] == [p.shape for p in model.parameters()]


# Where else the graph is asked


def test_units_that_a_depthwise_layer_does_not_let_through_are_silenced():
    model, shape = network("mobilenet"), shape_of("mobilenet")
    graph = _graph(model, shape)
    assert len(graph) == len(structured.prunable(model))
    block = model.features[5].conv
    with torch.no_grad():
        block[1][0].weight[7] = 0
        block[1][1].running_mean[7] = 0
        block[1][1].bias[7] = 0
        block[2].weight[:, 9] = 0
        before = outputs(model, shape)
        silence(model.state_dict(), graph)
    close(outputs(model, shape), before)
    for dead in (7, 9):
        for part in (block[0][0], block[0][1], block[1][0], block[1][1]):
            assert not part.weight[dead].any()
        assert not block[0][1].bias[dead]
        assert not block[2].weight[:, dead].any()
    assert block[1][0].weight[8].any()


@pytest.mark.parametrize(("name", "method"), [("mobilenet", "df"), ("resnet18", "group-magnitude")])
def test_a_budget_of_multiply_accumulates_for_a_network_of_ones_own(name, method):
    model, shape = network(name).float(), shape_of(name)
    data = [(images(shape, 8).float(), torch.arange(8) % 3)]
    dense = macs(model, shape)
    found = lib.compress(model, data, f"{dense // 2} MACs", method=method, epochs=2, quiet=True)
    assert found.before["macs"] == dense
    assert 0.49 * dense < found.after["macs"] == macs(found.model, shape) <= dense // 2


# What cannot be


def test_layers_that_cannot_change_are_named():
    model, shape = network("mobilenet"), shape_of("mobilenet")
    for layer in ("features.5.conv.1.0", "features.5.conv.2", "features.0.0"):
        with pytest.raises(ValueError, match=f"no single filter of '{layer}' can leave"):
            structured.remove_filters(model, {layer: [0]}, input_shape=shape)
    with pytest.raises(ValueError, match=r"'features\.5\.conv\.1\.0' is a convolution of 48 group"):
        structured.factor(model, {"features.5.conv.1.0": 1}, input_shape=shape)
    grouped = models.ResNet(models.resnet.Bottleneck, [1] * 4, 3, groups=2, width_per_group=8)
    found = structured.structure(grouped, input_shape=shape)
    reads = "'layer1.0.conv2', which reads them, is a grouped convolution"
    assert found.stays["layer1.0.conv1"] == reads
    with pytest.raises(ValueError, match=r"cannot be met: one filter and .* in 'features"):
        DF(budget=1000, input_shape=shape).start(model)
