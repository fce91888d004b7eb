"""ImageNet's networks against the literature's counts, torchvision's layers and their equations."""

import copy
import functools
import subprocess
import sys

import pytest
import torch
from torch.nn import functional
from torchvision import models

from lib import archive, networks
from lib.layers import compressible

TORCHVISION = {
    "alexnet": models.alexnet,
    "resnet18-imagenet": models.resnet18,
    "resnet50-imagenet": models.resnet50,
    "mobilenetv2": models.mobilenet_v2,
    "mnasnet": models.mnasnet1_0,
}

#: Those that are small enough to be read and written many times.
SMALL = ("mobilenetv1", "mobilenetv2", "mnasnet", "proxylessnas-mobile")


def shapes(name, **options):
    """The network without values, which takes no time."""
    with torch.device("meta"):
        return networks.build(name, **options)


@functools.cache
def built(name):
    """The network for five classes, in evaluation mode; not to be changed."""
    torch.manual_seed(0)
    return networks.build(name, classes=5).eval()


def copied(name):
    return copy.deepcopy(built(name))


def batch(n=2, size=64, channels=3):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", autouse=True)
def forget():
    yield
    built.cache_clear()


@pytest.mark.parametrize("name", networks.imagenet.NETWORKS)
def test_images_may_have_another_number_of_channels(name):
    channels = 4
    model, usual = shapes(name, channels=channels, classes=7), shapes(name, classes=7)
    assert model(torch.empty(2, channels, 64, 64, device="meta")).shape == (2, 7)
    first, *others = compressible(model).values()
    was, *same = compressible(usual).values()
    assert (first.shape[0], *first.shape[2:]) == (was.shape[0], *was.shape[2:])
    assert first.shape[1] == channels
    assert [w.shape for w in others] == [w.shape for w in same]
    assert list(model.state_dict()) == list(usual.state_dict())


@pytest.mark.parametrize("name", ["resnet18-imagenet", "mobilenetv2", "mnasnet"])
def test_a_first_layer_of_other_channels_is_drawn_as_torchvision_draws(name):
    torch.manual_seed(0)
    weight = next(iter(compressible(networks.build(name, channels=8)).values()))
    fan_out = weight.shape[0] * weight[0, 0].numel()
    assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", TORCHVISION)
def test_layers_are_named_as_torchvisions(name):
    with torch.device("meta"):
        theirs = TORCHVISION[name](weights=None)
    ours = shapes(name, classes=1000).state_dict()
    assert list(ours) == list(theirs.state_dict())
    assert all(ours[key].shape == value.shape for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("name", ["mobilenetv2", "mnasnet"])
def test_torchvisions_weights_from_the_same_seed(name):
    torch.manual_seed(0)
    theirs = TORCHVISION[name](weights=None, num_classes=5).eval()
    ours = built(name)
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    with torch.no_grad():
        assert torch.equal(ours(batch()), theirs(batch()))


def test_alexnet_drops_half_before_both_hidden_layers():
    layers = list(shapes("alexnet").classifier)
    places = [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.Dropout)]
    assert [(layers[i].p, type(layers[i + 1])) for i in places] == [(0.5, torch.nn.Linear)] * 2


def with_statistics(name):
    """The network's tensors, its BatchNorm with statistics, scale and shift drawn anew."""
    model = copied(name)
    generator = torch.Generator().manual_seed(2)
    for key, value in model.state_dict().items():
        if value.dim() == 1 and key != "fc.bias":
            value.uniform_(0.5, 1.5, generator=generator)
            if key.endswith(("bias", "mean")):
                value.sub_(1)
    return model, model.state_dict()


def normal(x, w, layer):
    mean, var, scale, shift = (
        w[f"{layer}.bn.{key}"].view(1, -1, 1, 1)
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return scale * (x - mean) / (var + 1e-3).sqrt() + shift


def same_padded(x, w, layer, stride):
    """A convolution that pads as TensorFlow's SAME: what is missing, the odd one at the end."""
    kernel = w[f"{layer}.conv.weight"]
    k, size = kernel.shape[-1], x.shape[-1]
    missing = max(0, (-(-size // stride) - 1) * stride + k - size)
    before, after = missing // 2, missing - missing // 2
    x = functional.pad(x, (before, after, before, after))
    return functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] // kernel.shape[1])


@torch.no_grad()
def test_mobilenetv1_is_its_table():
    """Table 1 of the paper, in TensorFlow's terms."""
    model, w = with_statistics("mobilenetv1")
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    x = normal(same_padded(batch(), w, "stem", 2), w, "stem").clamp(0, 6)
    for block, stride in enumerate(strides):
        for unit, step in (("depthwise", stride), ("pointwise", 1)):
            layer = f"blocks.{block}.{unit}"
            x = normal(same_padded(x, w, layer, step), w, layer).clamp(0, 6)
    assert x.shape == (2, 1024, 2, 2)
    scores = x.flatten(2).mean(2) @ w["fc.weight"].T + w["fc.bias"]
    torch.testing.assert_close(model(batch()), scores, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_proxylessnas_is_its_blocks():
    model, w = with_statistics("proxylessnas-mobile")

    def unit(x, layer, stride=1):
        kernel = w[f"{layer}.conv.weight"]
        options = {"padding": kernel.shape[-1] // 2, "groups": x.shape[1] // kernel.shape[1]}
        return normal(functional.conv2d(x, kernel, stride=stride, **options), w, layer)

    # kernel, channels and stride as the authors list them, in the order of the network
    kernels = [3, 5, 3, 7, 3, 5, 5, 7, 5, 5, 5, 5, 5, 5, 5, 7, 7, 7, 7, 7]
    channels = [16] + [32] * 2 + [40] * 4 + [80] * 4 + [96] * 4 + [192] * 4 + [320]
    halved = {1, 3, 7, 15}
    layers = [f"stages.{s}.{b}" for s, n in enumerate((1, 2, 4, 4, 4, 4, 1)) for b in range(n)]
    x = unit(batch(), "stem", 2).clamp(0, 6)
    for number, layer in enumerate(layers):
        y = x
        if f"{layer}.expand.conv.weight" in w:
            y = unit(y, f"{layer}.expand").clamp(0, 6)
        assert w[f"{layer}.depthwise.conv.weight"].shape[-1] == kernels[number]
        y = unit(y, f"{layer}.depthwise", 2 if number in halved else 1).clamp(0, 6)
        y = unit(y, f"{layer}.project")
        assert y.shape[1] == channels[number]
        x = x + y if y.shape == x.shape else y
    x = unit(x, "mix").clamp(0, 6)
    scores = x.flatten(2).mean(2) @ w["fc.weight"].T + w["fc.bias"]
    torch.testing.assert_close(model(batch()), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_an_archive_gives_the_network_back(name):
    """Most filters zero, which is fast; the others of three values."""
    model = copied(name)
    with torch.no_grad():
        for weight in compressible(model).values():
            few = torch.where(weight.abs() > weight.std(), weight.sign(), 0)
            few[4:] = few[:, 8:] = 0
            weight.copy_(few)
    content = archive.encode(model, network=name, classes=5, channels=3)
    assert len(content) < 12_000
    same(archive.decode(content), model)


@torch.no_grad()
def same(found, model):
    state = model.state_dict()
    assert list(found.state) == list(state)
    assert all(torch.equal(found.state[key], value) for key, value in state.items())
    assert torch.equal(found.model()(batch()), model(batch()))


def test_networks_are_there_without_torchvision():
    """It takes a second, which nothing that needs none of its networks should wait for."""
    code = "import sys; from lib import networks; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
