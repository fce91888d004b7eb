"""torchvision's networks for ImageNet, small: inverted residuals, depthwise layers, AlexNet."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

import lib
from lib import accounting, networks, structured
from lib.optimizers import FilterPruning, LearnedRanks, RankSelection
from lib.optimizers.byte_budget import _graph, silence
from lib.optimizers.df import DF
from tests.structured.test_structured import close, images, some_filters, truncated


class Narrow(models.ResNet):
    """torchvision's ResNet-18 with a quarter of the channels."""

    def __init__(self):
        super().__init__(models.resnet.BasicBlock, [2, 2, 2, 2])
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(128, 3)

    def _make_layer(self, block, planes, blocks, **options):
        self.inplanes = 16 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 4, blocks, **options)


BUILDERS = {
    "mobilenet": lambda: models.mobilenet_v2(num_classes=5, width_mult=0.25),
    "wider": lambda: models.mobilenet_v2(num_classes=3, width_mult=0.35),
    "mnasnet": lambda: models.mnasnet0_5(num_classes=3),
    "mobilenetv1": lambda: networks.build("mobilenetv1", classes=3),
    "proxylessnas": lambda: networks.build("proxylessnas-mobile", classes=3),
    "resnet18": Narrow,
    "alexnet": lambda: models.alexnet(num_classes=10),
}
#: AlexNet takes 63 × 63 or more.
SHAPES = dict.fromkeys(BUILDERS, (3, 32, 32)) | {"alexnet": (3, 64, 64)}


def network(name):
    """In float64, BatchNorm as if trained; AlexNet with 50 neurons for 4,096."""
    torch.manual_seed(0)
    model = BUILDERS[name]()
    if name == "alexnet":
        model.classifier[1] = nn.Linear(256 * 36, 50)
        model.classifier[4] = nn.Linear(50, 50)
        model.classifier[6] = nn.Linear(50, 10)
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def outputs(model, shape):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images(shape))


def macs(model, shape):
    return accounting.macs(copy.deepcopy(model).float(), shape)


def readers(model):
    """Layer → the next that is not depthwise, which reads its filters in all of these networks."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and getattr(module, "groups", 1) == 1
    ]
    return dict(pairwise(names))


@torch.no_grad()
def unread(model, keep):
    """The oracle: what reads removed filters has no weights for them."""
    model = copy.deepcopy(model)
    following = readers(model)
    for name, kept in keep.items():
        weight = model.get_submodule(following[name]).weight
        places = weight.shape[1] // len(kept)
        weight[:, ~kept.repeat_interleave(places)] = 0
    return model


# Which filters


def test_what_is_prunable():
    """A sum joins a block's outputs to its inputs: those of the part before stay too."""
    blocks = [f"features.{i}.conv.0.0" for i in range(2, 18)]
    # 80 filters, which the last convolution alone reads; the first block, of 8 → 8, has a shortcut
    ends = ["features.17.conv.2", "features.18.0"]
    assert structured.prunable(BUILDERS["mobilenet"]()) == [*blocks, *ends]
    wider = BUILDERS["wider"]()
    assert structured.prunable(wider) == ["features.0.0", "features.1.conv.1", *blocks, *ends]
    found = structured.prunable(BUILDERS["mnasnet"]())
    assert found[:3] == ["layers.0", "layers.6", "layers.8.0.layers.0"]
    assert found[-3:] == ["layers.13.0.layers.0", "layers.13.0.layers.6", "layers.14"]
    assert len(found) == 20
    found = structured.prunable(BUILDERS["mobilenetv1"]())
    assert found == ["stem.conv", *(f"blocks.{i}.pointwise.conv" for i in range(13))]
    found = structured.prunable(BUILDERS["proxylessnas"]())
    assert found[:3] == ["stem.conv", "stages.0.0.project.conv", "stages.1.0.expand.conv"]
    assert found[-2:] == ["stages.6.0.project.conv", "mix.conv"]
    assert len(found) == 19 + 4
    stages = [f"layer{i}.{j}.conv1" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert structured.prunable(BUILDERS["resnet18"]()) == stages
    with torch.device("meta"):
        found = structured.prunable(models.alexnet())
    assert found == [*(f"features.{i}" for i in (0, 3, 6, 8, 10)), "classifier.1", "classifier.4"]


def test_who_follows_whom():
    place = {"input_shape": (3, 32, 32)}
    model = BUILDERS["wider"]()
    feeds, depthwise = structured.feeds(model, **place), structured.depthwise(model, **place)
    assert feeds["features.1.conv.1"] == ("features.0.0", 1)
    assert feeds["features.2.conv.2"] == ("features.2.conv.0.0", 1)
    assert feeds["classifier.1"] == ("features.18.0", 1)
    assert len(feeds) == len(structured.prunable(model)) == 20
    assert depthwise["features.1.conv.0.0"] == "features.0.0"
    assert depthwise["features.17.conv.1.0"] == "features.17.conv.0.0"
    assert len(depthwise) == 17
    norms = structured.norms(model, **place)
    assert norms["features.0.0"] == ("features.0.1", "features.1.conv.0.1")
    assert norms["features.17.conv.2"] == ("features.17.conv.3",)
    feeds = structured.feeds(network("alexnet"), input_shape=(3, 64, 64))
    assert feeds["classifier.1"] == ("features.10", 36)


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
    assert structured.feeds(model, input_shape=(3, 8, 8)) == {
        "0.2": ("0.0", 1),
        "4.1": ("3", 36),
        "4.3": ("4.1", 1),
    }


# Removed filters


@pytest.mark.parametrize("name", BUILDERS)
def test_removed_filters_leave_the_outputs_of_the_masked_network(name):
    model, shape = network(name), SHAPES[name]
    keep = some_filters(model)
    smaller = structured.remove_filters(model, keep, input_shape=shape)
    expected = outputs(unread(model, keep), shape)
    close(outputs(smaller, shape), expected)
    assert not torch.allclose(outputs(model, shape), expected, rtol=1e-2)
    kept = {n: int(k.sum()) for n, k in keep.items()}
    predicted = structured.predicted_macs(model, filters=kept, input_shape=shape)
    assert sum(predicted.values()) == macs(smaller, shape)
    for layer, source in structured.depthwise(model, input_shape=shape).items():
        module = smaller.get_submodule(layer)
        assert module.groups == module.in_channels == len(module.weight) == kept[source]
    again = structured.rebuild(network(name), smaller.state_dict())
    again.load_state_dict(smaller.state_dict())
    close(outputs(again, shape), expected)


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
    model, shape = network("mobilenet"), SHAPES["mobilenet"]
    names = {f"features.{i}.conv.0.0": [3] for i in (3, 4)}
    smaller = structured.remove_filters(model, names, input_shape=shape)
    between = "features.4.conv.1.0"
    assert smaller.get_submodule(between).groups == 1
    place = {"scheme": scheme, "input_shape": shape}
    ranks = structured.choose_ranks(
        smaller,
        lambda _, matrix: torch.linalg.svdvals(matrix),
        budget=macs(smaller, shape) // 2,
        **place,
    )
    assert between not in ranks
    built = structured.factor(smaller, ranks | {between: 1}, **place)
    assert isinstance(built.get_submodule(between), nn.Conv2d)
    predicted = structured.predicted_macs(smaller, ranks=ranks | {between: 1}, **place)
    assert sum(predicted.values()) == macs(built, shape) <= macs(smaller, shape) // 2
    again = structured.rebuild(network("mobilenet"), built.state_dict())
    again.load_state_dict(built.state_dict())
    close(outputs(again, shape), outputs(built, shape))


def test_group_magnitude_counts_what_leaves_with_a_filter_but_depthwise_kernels():
    """Its weights, both normalisations' and what reads it."""
    model, shape = network("mobilenet"), SHAPES["mobilenet"]
    found = structured.group_magnitude(model, input_shape=shape)["features.5.conv.0.0"]
    block = model.features[5].conv
    parts = [block[0][0].weight, block[0][1].weight, block[1][1].weight]
    squares = sum(part.flatten(1).square().sum(1) if part.ndim > 1 else part**2 for part in parts)
    squares = squares + block[2].weight.square().sum((0, 2, 3))
    torch.testing.assert_close(found.double(), (squares / squares.mean()).detach())


# Factors


@pytest.mark.parametrize(
    ("name", "scheme"), [("mobilenet", 1), ("mobilenet", 2), ("mnasnet", 2), ("alexnet", 1)]
)
def test_filters_then_ranks_of_what_is_left(name, scheme):
    """1 × 1 convolutions and linear layers too, where it pays."""
    model, shape = network(name), SHAPES[name]
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
    close(outputs(built, shape), outputs(truncated(pruned, cut, scheme), shape))
    predicted = structured.predicted_macs(
        model,
        filters={n: int(k.sum()) for n, k in keep.items()},
        ranks=ranks,
        scheme=scheme,
        input_shape=shape,
    )
    assert sum(predicted.values()) == macs(built, shape)
    # filters of what is in factors stay
    assert not set(structured.prunable(built)) & set(cut)


# DF


def decide(method, keep):
    """M at 0 or 1, and a sigmoid so steep that its values are too."""
    method.mu.fill_(1e4)
    with torch.no_grad():
        for name, m in method.m.items():
            m.copy_(keep[name])


@pytest.mark.parametrize(
    ("name", "statistics"),
    [("wider", "running"), ("wider", "batch"), ("mobilenetv1", "running"), ("resnet18", "batch")],
)
def test_hard_masks_compute_what_the_built_network_does(name, statistics):
    """Both normalisations of an inverted residual have their shifts masked."""
    model, shape = network(name), SHAPES[name]
    keep = some_filters(model)
    built = structured.remove_filters(model, keep, input_shape=shape)
    method = DF(
        budget=macs(model, shape) // 2, input_shape=shape, mode="filters", statistics=statistics
    )
    surrogate = method.start(model)
    decide(method, keep)
    for module in built.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.training = statistics == "batch"
    with torch.no_grad():
        close(surrogate(images(shape, 4)), built(images(shape, 4)))
        assert method.spent * method.dense == pytest.approx(macs(built, shape))


def test_gradients_are_those_of_finite_differences():
    """Also of a tall matrix, 240 × 40 and 1280 × 80 here, which is decomposed by its columns."""
    model, shape = network("mobilenet"), SHAPES["mobilenet"]
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
        step, values = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                leaf.view(-1)[0] += sign * step
                values.append(float(loss()))
                leaf.view(-1)[0] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert float(leaf.grad.view(-1)[0]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(("name", "steps"), [("mobilenet", 12), ("resnet18", 10)])
def test_df_from_masks_to_a_network_within_its_budget(name, steps):
    """Filters and ranks are chosen, built and counted; what is built is the masked network."""
    model, shape = network(name), SHAPES[name]
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
    assert set(ranks).isdisjoint(structured.depthwise(whole, input_shape=shape))
    close(outputs(model, shape), outputs(truncated(pruned, ranks, 1), shape))
    again = structured.rebuild(network(name), model.state_dict())
    again.load_state_dict(model.state_dict())
    close(outputs(again, shape), outputs(model, shape))
    # the file needs no graph either
    drawn = structured.shrink_like(whole, model.state_dict(), input_shape=shape)
    assert [p.shape for p in drawn.parameters()] == [p.shape for p in model.parameters()]


# Baselines


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("mobilenet", FilterPruning, {"score": "l1"}),
        ("mobilenet", FilterPruning, {"score": "group-magnitude"}),
        ("mnasnet", FilterPruning, {"score": "group-magnitude"}),
        ("mobilenet", RankSelection, {"criterion": "uniform"}),
        ("mnasnet", RankSelection, {"criterion": "energy"}),
        ("mobilenet", LearnedRanks, {"mu": 0.1}),
    ],
)
def test_baselines_use_their_budget(name, kind, options):
    model, shape = network(name).float(), SHAPES[name]
    between = structured.depthwise(model, input_shape=shape)
    before = copy.deepcopy(model)
    dense = macs(model, shape)
    method = kind(budget=int(0.7 * dense), input_shape=shape, **options)
    method.start(model)
    assert method.finish()
    assert 0.68 * dense < macs(model, shape) <= 0.7 * dense
    for layer in between:
        weight = model.get_submodule(layer).weight
        if kind is FilterPruning:
            assert len(weight) <= len(before.get_submodule(layer).weight)
        else:
            assert torch.equal(weight, before.get_submodule(layer).weight)


# Where else the graph is asked


def test_units_that_a_depthwise_layer_does_not_let_through_are_silenced():
    model, shape = network("mobilenet"), SHAPES["mobilenet"]
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
    model, shape = network(name).float(), SHAPES[name]
    data = [(images(shape, 8).float(), torch.arange(8) % 3)]
    dense = macs(model, shape)
    found = lib.compress(model, data, f"{dense // 2} MACs", method=method, epochs=2, quiet=True)
    assert found.before["macs"] == dense
    assert 0.49 * dense < found.after["macs"] == macs(found.model, shape) <= dense // 2


# What cannot be


def test_layers_that_cannot_change_are_named():
    model, shape = BUILDERS["mobilenet"](), SHAPES["mobilenet"]
    for layer in ("features.5.conv.1.0", "features.5.conv.2", "features.0.0"):
        with pytest.raises(ValueError, match=f"no single filter of '{layer}' can leave"):
            structured.remove_filters(model, {layer: [0]}, input_shape=shape)
    with pytest.raises(ValueError, match=r"'features\.5\.conv\.1\.0' is a convolution of 48 group"):
        structured.factor(model, {"features.5.conv.1.0": 1}, input_shape=shape)
    with pytest.raises(ValueError, match="filters of a DenseNet may leave is not known"):
        DF(budget=1, input_shape=shape).start(models.DenseNet(4, (1, 1), 8))
    with pytest.raises(ValueError, match=r"filters of 'layer1\.0\.conv1' cannot be removed: layer"):
        DF(budget=10**9, input_shape=shape).start(
            models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], 3, groups=2, width_per_group=8)
        )
    with pytest.raises(ValueError, match=r"cannot be met: one filter and .* in 'features"):
        DF(budget=1000, input_shape=shape).start(model)
