"""Networks built smaller against the same networks whose weights are zero, or of low rank."""

import copy
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
import torch_pruning
from torch import nn
from torchvision import models

from lib import accounting, networks, structured
from lib.layers import compressible

#: Those that are trained on small images.
NETWORKS = ["lenet5", "lenet300", "resnet8", "resnet20", "vgg16"]


class Narrow(models.ResNet):
    """torchvision's ResNet-18 with a quarter of the channels, and projections for shortcuts."""

    def __init__(self):
        super().__init__(models.resnet.BasicBlock, [2, 2, 2, 2])
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(128, 3)

    def _make_layer(self, block, planes, blocks, **options):
        self.inplanes = 16 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 4, blocks, **options)


def narrow_alexnet():
    """50 neurons for 4,096; it takes 63 × 63 or more."""
    model = models.alexnet(num_classes=10)
    model.classifier[1] = nn.Linear(256 * 36, 50)
    model.classifier[4] = nn.Linear(50, 50)
    model.classifier[6] = nn.Linear(50, 10)
    return model


#: Those for ImageNet, small.
SMALL = {
    "mobilenet": lambda: models.mobilenet_v2(num_classes=5, width_mult=0.25),
    "wider": lambda: models.mobilenet_v2(num_classes=3, width_mult=0.35),
    "mnasnet": lambda: models.mnasnet0_5(num_classes=3),
    "mobilenetv1": lambda: networks.build("mobilenetv1", classes=3),
    "proxylessnas": lambda: networks.build("proxylessnas-mobile", classes=3),
    "resnet18": Narrow,
    "alexnet": narrow_alexnet,
}
EVERY = [*NETWORKS, *SMALL]


def network(name):
    """In float64, with BatchNorm as if trained, and biases; in training mode."""
    torch.manual_seed(0)
    model = (SMALL[name]() if name in SMALL else networks.build(name)).double()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model


def shape_of(name):
    if name in SMALL:
        return (3, 64, 64) if name == "alexnet" else (3, 32, 32)
    return networks.INPUT_SHAPES[name]


def images(shape, n=2):
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(model, shape):
    return copy.deepcopy(model).eval()(images(shape))


def macs(model, shape):
    return accounting.macs(copy.deepcopy(model).float(), shape)


def some_filters(model, share=0.6, seed=2):
    """A mask for each prunable layer; one filter at least."""
    g = torch.Generator().manual_seed(seed)
    keep = {}
    for name in structured.prunable(model):
        keep[name] = torch.rand(len(model.get_submodule(name).weight), generator=g) < share
        keep[name][0] = True
    return keep


def counts(keep):
    return {name: int(kept.sum()) for name, kept in keep.items()}


@torch.no_grad()
def unread(model, keep):
    """The oracle: what reads removed filters has no weights for them.

    In all of these networks that is the next layer that is not depthwise.
    """
    model = copy.deepcopy(model)
    layers = [n for n in compressible(model) if getattr(model.get_submodule(n), "groups", 1) == 1]
    following = dict(pairwise(layers))
    for name, kept in keep.items():
        weight = model.get_submodule(following[name]).weight
        places = weight.shape[1] // len(kept)
        weight[:, ~kept.repeat_interleave(places)] = 0
    return model


@torch.no_grad()
def by_spectrum(model, change, scheme):
    """The oracle: weights whose singular values ``change(name, σ)`` changed, in the same layers."""
    model = copy.deepcopy(model)
    for name, weight in compressible(model).items():
        matrix = weight.flatten(1)
        if scheme == 2 and weight.ndim == 4:
            o, i, h, w = weight.shape
            matrix = torch.einsum("oihw->owih", weight).reshape(o * w, i * h)
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        low = u @ torch.diag(change(name, s)) @ vh
        if scheme == 2 and weight.ndim == 4:
            low = torch.einsum("owih->oihw", low.reshape(o, w, i, h))
        weight.copy_(low.reshape(weight.shape))
    return model


def truncated(model, ranks, scheme):
    """Weights of low rank."""
    keep = lambda name, s: s * (torch.arange(len(s)) < ranks.get(name, len(s)))  # noqa: E731
    return by_spectrum(model, keep, scheme)


def shrunk(model, keep, ranks, shape=(1, 28, 28), scheme=1):
    pruned = structured.remove_filters(model, keep, input_shape=shape)
    return structured.factor(pruned, ranks, scheme=scheme, input_shape=shape)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def sizes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


# Filters


@pytest.mark.parametrize("name", EVERY)
def test_removed_filters_leave_the_outputs_of_the_network_that_does_not_read_them(name):
    model, shape = network(name), shape_of(name)
    keep = some_filters(model)
    smaller = structured.remove_filters(model, keep, input_shape=shape)
    expected = outputs(unread(model, keep), shape)
    close(outputs(smaller, shape), expected)
    assert not torch.allclose(outputs(model, shape), expected, rtol=1e-2)
    kept = counts(keep)
    for layer, count in kept.items():
        assert len(smaller.get_submodule(layer).weight) == count
    found = structured.costs(model, input_shape=shape)
    assert sum(found.built(kept, {}).values()) == macs(smaller, shape)
    for layer, source in found.depthwise.items():
        module = smaller.get_submodule(layer)
        assert module.groups == module.in_channels == len(module.weight) == kept[source]


@pytest.mark.parametrize(("name", "scheme"), list(product(EVERY, (1, 2))))
def test_filters_then_ranks_of_what_is_left(name, scheme):
    """Counted before, built, and built once more from the shapes of the weights."""
    model, shape = network(name), shape_of(name)
    keep = some_filters(model)
    pruned = structured.remove_filters(model, keep, input_shape=shape)
    ranks = {
        layer: max(1, cost.most(scheme=scheme) // 3)
        for layer, cost in structured.layers(pruned, input_shape=shape).items()
        if cost.groups == 1
    }
    built = structured.factor(pruned, ranks, scheme=scheme, input_shape=shape)
    cut = {n: r for n, r in ranks.items() if isinstance(built.get_submodule(n), nn.Sequential)}
    assert len(cut) > len(ranks) / 2
    expected = outputs(truncated(pruned, cut, scheme), shape)
    close(outputs(built, shape), expected)
    found = structured.costs(model, input_shape=shape).built(counts(keep), ranks, scheme=scheme)
    assert list(found) == list(compressible(model))
    assert sum(found.values()) == macs(built, shape) < macs(pruned, shape) < macs(model, shape)
    again = structured.rebuild(network(name), built.state_dict())
    again.load_state_dict(built.state_dict())
    close(outputs(again, shape), expected)
    assert structured.ranks(network(name), built.state_dict()) == cut
    # filters of what is in factors stay
    assert not set(structured.prunable(built)) & set(cut)


BOTTLENECKS = {"layer1.0.conv1": range(20), "layer1.0.conv2": range(9), "layer4.2.conv2": [511]}


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [
        ("lenet5", "conv1", "fc1", 3),
        ("lenet300", "fc1", "fc2", 2),
        ("resnet8", "stage1.0.conv1", "stage3.0.conv1", 3),
        ("resnet50", "layer1.0.conv1", "layer4.2.conv2", 32),
        ("vgg16", "stage1.conv1", "stage5.conv3", 13),
        # 80 filters, which the last one alone reads; the first block, of 8 → 8, has a shortcut
        ("mobilenet", "features.2.conv.0.0", "features.18.0", 18),
        ("wider", "features.0.0", "features.18.0", 20),
        ("mnasnet", "layers.0", "layers.14", 20),
        ("mobilenetv1", "stem.conv", "blocks.12.pointwise.conv", 14),
        ("proxylessnas", "stem.conv", "mix.conv", 23),
        ("resnet18", "layer1.0.conv1", "layer4.1.conv1", 8),
        ("alexnet", "features.0", "classifier.4", 7),
    ],
)
def test_what_is_prunable(name, first, last, count):
    """A sum joins a block's outputs to its inputs: those of the part before stay too."""
    with torch.device("meta"):
        found = structured.prunable((networks.BUILDERS | SMALL)[name]())
    assert (found[0], found[-1], len(found)) == (first, last, count)


def test_what_is_prunable_of_other_networks_is_not_known():
    with pytest.raises(ValueError, match="Bilinear"):
        structured.prunable(nn.Bilinear(2, 2, 2))


def test_bottleneck_blocks():
    model = network("resnet50").float()
    masks = {n: torch.zeros(len(model.get_submodule(n).weight), dtype=bool) for n in BOTTLENECKS}
    for name, kept in BOTTLENECKS.items():
        masks[name][list(kept)] = True
    smaller = structured.remove_filters(model, BOTTLENECKS, input_shape=(3, 32, 32))
    small = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = unread(model, masks).eval()(small), smaller.eval()(small)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_indices_and_masks_are_the_same():
    model, shape = network("lenet5"), shape_of("lenet5")
    mask = torch.zeros(50, dtype=bool)
    mask[[3, 7, 49]] = True
    results = [
        outputs(structured.remove_filters(model, {"conv2": keep}, input_shape=shape), shape)
        for keep in (mask, mask.tolist(), [49, 3, 7], torch.tensor([7, 49, 3]))
    ]
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_channels_last():
    shape = shape_of("lenet5")
    model = network("lenet5").to(memory_format=torch.channels_last)
    keep = some_filters(model)
    smaller = structured.remove_filters(model, keep, input_shape=shape)
    close(outputs(smaller, shape), outputs(unread(model, keep), shape))


def test_keeping_everything_changes_nothing():
    model, shape = network("resnet8"), shape_of("resnet8")
    keep = {
        name: range(len(model.get_submodule(name).weight)) for name in structured.prunable(model)
    }
    for kept in ({}, keep):
        same = structured.remove_filters(model, kept, input_shape=shape)
        assert sizes(same) == sizes(model)
        assert torch.equal(outputs(same, shape), outputs(model, shape))


# Factors


@pytest.mark.parametrize("scheme", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 5), "stride": (1, 3), "padding": (2, 0), "bias": False},
        {"kernel_size": (5, 3), "dilation": (1, 2), "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=str,
)
def test_factors_of_any_convolution(options, scheme):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 12, **options)).double()
    shape = (8, 13, 17)
    smaller = structured.factor(model, {"0": 3}, scheme=scheme, input_shape=shape)
    assert len(list(compressible(smaller))) == 2
    close(outputs(smaller, shape), outputs(truncated(model, {"0": 3}, scheme), shape))
    found = structured.costs(model, filters=False, input_shape=shape)
    assert found.built({}, {"0": 3}, scheme=scheme) == {"0": macs(smaller, shape)}


def test_a_layer_stays_whole_where_factors_cost_as_much():
    """20 → 50, 5 × 5: 25,000 a place against r·(500 + 50), as much at no whole r; 45.45…

    4 → 12, 1 × 1: 48 against r·16, as much at r = 3.
    """
    model = networks.build("lenet5")
    cases = {45: 45 * 550, 46: 25_000, 50: 25_000}
    for rank, a_place in cases.items():
        smaller = structured.factor(model, {"conv2": rank}, input_shape=(1, 28, 28))
        assert isinstance(smaller.conv2, nn.Sequential) == (rank == 45)
        layers = structured.layers(smaller, input_shape=(1, 28, 28))
        parts = [layer.macs() for name, layer in layers.items() if name.startswith("conv2")]
        assert sum(parts) == 64 * a_place
    assert torch.equal(smaller.conv2.weight, model.conv2.weight)  # not truncated either
    model = nn.Sequential(nn.Conv2d(4, 12, 1))
    whole = structured.factor(model, {"0": 3}, input_shape=(4, 6, 6))
    assert isinstance(whole[0], nn.Conv2d)
    found = structured.costs(model, filters=False, input_shape=(4, 6, 6))
    assert found.built({}, {"0": 3}) == {"0": 36 * 48}


def test_a_rank_of_none_leaves_a_layer_whole():
    model = networks.build("lenet300")
    same = structured.factor(model, {"fc1": None, "fc2": 3}, input_shape=(1, 28, 28))
    assert isinstance(same.fc1, nn.Linear)
    assert [tuple(layer.weight.shape) for layer in same.fc2] == [(3, 300), (100, 3)]


# Costs


def test_macs_of_one_layer_by_hand():
    """stage2.0.conv1 of ResNet-8: 16 → 32, 3 × 3, stride 2, 16 × 16 → 8 × 8."""
    layer = structured.layers(networks.build("resnet8"), input_shape=(1, 16, 16))["stage2.0.conv1"]
    assert layer.macs() == 64 * 9 * 16 * 32 == 294_912
    assert layer.macs(rank=5) == 64 * 5 * (9 * 16 + 32)
    # k × 1 returns 8 rows of 16 columns; A·r·k·(s·c_in + c_out)
    assert layer.macs(rank=5, scheme=2) == 8 * 16 * 5 * 3 * 16 + 64 * 5 * 3 * 32
    assert layer.macs(rank=5, scheme=2) == 64 * 5 * 3 * (2 * 16 + 32)
    assert replace(layer, filters=7).macs(rank=5) == 64 * 5 * (9 * 16 + 7)
    assert replace(layer, filters=7, inputs=3).macs() == 64 * 9 * 3 * 7


def test_who_reads_the_filters_of_whom():
    assert structured.structure(networks.build("lenet5"), input_shape=(1, 28, 28)).feeds == {
        "conv2": (("conv1", 1),),
        "fc1": (("conv2", 16),),
        "fc2": (("fc1", 1),),
    }
    found = structured.structure(networks.build("resnet8"), input_shape=(1, 16, 16))
    assert found.feeds == {f"stage{i}.0.conv2": ((f"stage{i}.0.conv1", 1),) for i in (1, 2, 3)}


def test_who_follows_whom():
    model = network("wider")
    found = structured.structure(model, input_shape=(3, 32, 32))
    feeds, depthwise, norms = found.feeds, found.depthwise, found.norms
    assert feeds["features.1.conv.1"] == (("features.0.0", 1),)
    assert feeds["features.2.conv.2"] == (("features.2.conv.0.0", 1),)
    assert feeds["classifier.1"] == (("features.18.0", 1),)
    assert len(feeds) == len(structured.prunable(model)) == 20
    assert depthwise["features.1.conv.0.0"] == "features.0.0"
    assert depthwise["features.17.conv.1.0"] == "features.17.conv.0.0"
    assert len(depthwise) == 17
    assert norms["features.0.0"] == ["features.0.1", "features.1.conv.0.1"]
    assert norms["features.17.conv.2"] == ["features.17.conv.3"]
    found = structured.structure(network("alexnet"), input_shape=(3, 64, 64))
    assert found.feeds["classifier.1"] == (("features.10", 36),)


def test_sequences_of_sequences_and_of_what_is_not_known():
    """A module that may add what it reads: what is before it stays, and what it returns."""

    class Added(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)),
        nn.ReLU(),
        Added(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        nn.Conv2d(8, 4, 1),
        nn.Sequential(nn.Flatten(), nn.Linear(144, 10), nn.Dropout(), nn.Linear(10, 3)),
        nn.Softmax(1),
    )
    assert structured.prunable(model) == ["0.0", "3", "4.1"]
    found = structured.structure(model, input_shape=(3, 8, 8))
    # a forward pass says more: those that the sum joins leave together
    assert found.joined == {"2.0": "0.2"}
    assert list(found.sources) == ["0.0", "0.2", "3", "4.1"]
    assert found.feeds == {
        "0.2": (("0.0", 1),),
        "2.0": (("0.2", 1),),
        "3": (("0.2", 1),),
        "4.1": (("3", 36),),
        "4.3": (("4.1", 1),),
    }


def test_group_magnitude_counts_what_leaves_with_a_filter_but_depthwise_kernels():
    """Its weights, both normalisations' and what reads it."""
    model, shape = network("mobilenet"), shape_of("mobilenet")
    found = structured.group_magnitude(model, input_shape=shape)["features.5.conv.0.0"]
    block = model.features[5].conv
    parts = [block[0][0].weight, block[0][1].weight, block[1][1].weight]
    squares = sum(part.flatten(1).square().sum(1) if part.ndim > 1 else part**2 for part in parts)
    squares = squares + block[2].weight.square().sum((0, 2, 3))
    torch.testing.assert_close(found.double(), (squares / squares.mean()).detach())


@pytest.mark.parametrize("name", ["lenet5", "resnet8", "mobilenet"])
def test_group_magnitude_is_torch_pruning_s(name):
    model, shape = network(name).float(), shape_of(name)
    graph = torch_pruning.DependencyGraph().build_dependency(model, (images(shape).float(),))
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    for layer, score in structured.group_magnitude(model, input_shape=shape).items():
        module = model.get_submodule(layer)
        remove = graph.get_pruner_of_module(module).prune_out_channels
        group = graph.get_pruning_group(module, remove, list(range(len(module.weight))))
        assert torch.equal(score, importance(group).detach())


def test_latency_is_measured_without_a_trace():
    model = networks.build("lenet5").train()
    before = copy.deepcopy(model.state_dict())
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0 < structured.latency(model, (1, 28, 28), 2, seconds=0.02) < 5
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    for batch, seconds in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            structured.latency(model, (1, 28, 28), batch, seconds=seconds)


# The network built


def test_the_model_and_the_random_numbers_stay():
    model, shape = network("resnet8"), shape_of("resnet8")
    model.stem.bn.eval()
    model.stage1[0].conv1.weight.requires_grad_(False)
    model.stage1[0].bn1.requires_grad_(False)
    before, random = copy.deepcopy(model), torch.get_rng_state()
    with torch.no_grad():
        smaller = shrunk(model, {"stage1.0.conv1": range(8)}, {"stage1.0.conv1": 2}, shape)
        structured.costs(model, input_shape=shape)
    assert torch.equal(torch.get_rng_state(), random)
    assert str(model) == str(before)
    for (name, value), other in zip(
        model.state_dict().items(), before.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    for module, other in zip(model.modules(), before.modules(), strict=True):
        assert module.training == other.training
    for parameter, other in zip(model.parameters(), before.parameters(), strict=True):
        assert parameter.requires_grad == other.requires_grad
    # the smaller one is as the model was, and shares nothing with it
    assert not smaller.stem.bn.training
    assert smaller.stage1[0].conv1[1].training
    frozen = {name for name, p in smaller.named_parameters() if not p.requires_grad}
    names = ("conv1.0.weight", "conv1.1.weight", "bn1.weight", "bn1.bias")
    assert frozen == {f"stage1.0.{name}" for name in names}
    theirs = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in theirs for p in smaller.parameters())


# Errors


@pytest.mark.parametrize(
    ("name", "keep", "message"),
    [
        ("resnet8", {"stem.conv": range(12)}, r"stem\.conv"),  # joined by a sum
        ("resnet8", {"stage1.0.conv2": [0]}, r"stage1\.0\.conv2"),
        ("resnet18", {"layer2.0.downsample.0": [0]}, r"downsample\.0"),
        ("lenet5", {"fc2": [0]}, "'fc2'"),
        ("lenet5", {"conv3": [0]}, "'conv3'"),
        ("lenet5", {"conv1": []}, "conv1: no filter is kept"),
        ("lenet5", {"conv1": [False] * 20}, "conv1: no filter is kept"),
        ("lenet5", {"conv1": [True] * 19}, "conv1: a mask"),
        ("lenet5", {"conv1": [0, 20]}, r"conv1: .*0\.\.19"),
        ("lenet5", {"conv1": [-1]}, "conv1"),
        ("lenet5", {"conv1": [1, 1]}, "conv1"),
        ("lenet5", {"conv1": [0.5]}, "conv1"),
    ],
    ids=str,
)
def test_filters_that_cannot_be_kept(name, keep, message):
    with pytest.raises(ValueError, match=message):
        structured.remove_filters(network(name), keep, input_shape=shape_of(name))


@pytest.mark.parametrize(
    "between",
    [
        nn.Sigmoid(),  # 0 becomes ½
        nn.PixelShuffle(2),  # mixes channels
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Hardtanh(1, 2),  # 0 becomes 1
        nn.ConstantPad2d(1, 1.0),
        nn.ConstantPad3d((0, 0, 0, 0, 1, -1), 0.0),  # channels move
        nn.Softmax(1),
        nn.Linear(6, 6),  # of the width
    ],
    ids=lambda module: type(module).__name__,
)
def test_operations_that_mix_channels_or_make_something_of_zero(between):
    channels = 2 if isinstance(between, nn.PixelShuffle) else getattr(between, "out_channels", 8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.Conv2d(channels, 4, 1), nn.Flatten())
    with pytest.raises(ValueError, match="no single filter of '0' can leave this network, "):
        structured.remove_filters(model, {"0": range(4)}, input_shape=(3, 8, 8))


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"conv2": 0}, "'conv2' is 0"),
        ({"conv2": 51}, r"'conv2' is 51, which is not in 1\.\.50"),
        ({"conv2": 2.5}, "'conv2'"),
        ({"pool1": 1}, "'pool1'"),
    ],
    ids=str,
)
def test_ranks_that_cannot_be(ranks, message):
    model = networks.build("lenet5")
    with pytest.raises(ValueError, match=message):
        structured.factor(model, ranks, input_shape=(1, 28, 28))


def test_other_errors_name_the_layer():
    model = networks.build("lenet5")
    with pytest.raises(ValueError, match="scheme is 3"):
        structured.factor(model, {}, scheme=3, input_shape=(1, 28, 28))
    grouped = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2))
    with pytest.raises(ValueError, match="'0' is a convolution of 2 groups"):
        structured.factor(grouped, {"0": 1}, input_shape=(8, 9, 9))
    with pytest.raises(ValueError, match=r"'conv2' is 9, which is not in 1\.\.8"):
        shrunk(model, {"conv2": range(8)}, {"conv2": 9})
    with torch.no_grad():
        model.fc1.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="fc1"):
        structured.factor(model, {"fc1": 3}, input_shape=(1, 28, 28))


def test_nothing_needs_torch_pruning_or_waits_for_torchvision():
    script = """
import sys
sys.modules["torch_pruning"] = None  # which makes its import fail
from lib import networks, structured
if "torchvision" in sys.modules:  # it takes a second
    sys.exit(2)
model = networks.build("lenet5")
structured.factor(model, {"fc1": 3}, input_shape=(1, 28, 28))
structured.costs(model, filters=False, input_shape=(1, 28, 28)).built({}, {"fc1": 3})
structured.remove_filters(model, {"fc1": [3]}, input_shape=(1, 28, 28))
structured.group_magnitude(model, input_shape=(1, 28, 28))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
