"""LeNet-5 as the paper has it; ResNets and VGG-16 against formulas for shapes and counts."""

import hashlib
import inspect
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import accounting, networks
from lib.layers import compressible
from lib.networks.resnet import CifarResNet, ZeroPadShortcut, resnet50

#: Parameters, MACs, and the shape of an image; for 10 classes, or ImageNet's 1,000.
FACTS = {
    "lenet5": (431_080, 2_293_000, (1, 28, 28)),
    "lenet300": (266_610, 266_200, (1, 28, 28)),
    "lenet300-tanh": (266_610, 266_200, (1, 28, 28)),
    "resnet8": (75_002, 2_986_624, (1, 16, 16)),
    "resnet20": (269_722, 40_551_040, (3, 32, 32)),
    "resnet56": (853_018, 125_485_696, (3, 32, 32)),
    "resnet50": (23_520_842, 1_297_829_888, (3, 32, 32)),
    "vgg16": (14_987_210, 313_463_808, (3, 32, 32)),
    "alexnet": (61_100_840, 714_188_480, (3, 224, 224)),
    "resnet18-imagenet": (11_689_512, 1_814_073_344, (3, 224, 224)),
    "resnet50-imagenet": (25_557_032, 4_089_184_256, (3, 224, 224)),
    "mobilenetv1": (4_231_976, 568_740_352, (3, 224, 224)),
    "mobilenetv2": (3_504_872, 300_774_272, (3, 224, 224)),
    "mnasnet": (4_383_312, 314_415_872, (3, 224, 224)),
    "proxylessnas-mobile": (4_080_512, 320_427_584, (3, 224, 224)),
}


@pytest.fixture
def lenet5():
    torch.manual_seed(0)
    return networks.build("lenet5")


def images(n=4):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def test_lenet5_is_caffes_20_50_500_10(lenet5):
    shapes = {name: tuple(w.shape) for name, w in compressible(lenet5).items()}
    assert shapes == {
        "conv1": (20, 1, 5, 5),
        "conv2": (50, 20, 5, 5),
        "fc1": (500, 800),
        "fc2": (10, 500),
    }


@torch.no_grad()
def test_lenet5_is_these_eight_operations(lenet5):
    w = lenet5.state_dict()
    x = functional.conv2d(images(), w["conv1.weight"], w["conv1.bias"])
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))  # (20, 12, 12)
    x = functional.conv2d(x, w["conv2.weight"], w["conv2.bias"])
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).reshape(4, 800)
    x = (x @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0)
    x = x @ w["fc2.weight"].T + w["fc2.bias"]
    assert torch.allclose(lenet5(images()), x, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "digest"),
    [
        (10, "6eb10a9dbb402fc79b6471963545de7be5f03017ce374551241c4b0a302bb0f7"),
        (7, "a078cc6bfa424bf42d87f5eccd67eb41e37b272fd6b1f03dcd4001d7bc3ae599"),
    ],
)
def test_lenet5_starts_from_the_weights_that_committed_runs_started_from(classes, digest):
    torch.manual_seed(0)
    found = hashlib.sha256()
    for name, value in networks.build("lenet5", classes=classes).state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    assert found.hexdigest() == digest


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "activation"), [("lenet300", lambda x: x.clamp(min=0)), ("lenet300-tanh", torch.tanh)]
)
def test_lenet300_is_these_three_layers(name, activation):
    model = built(name)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # biases too
    shapes = {layer: tuple(w.shape) for layer, w in compressible(model).items()}
    assert shapes == {"fc1": (300, 784), "fc2": (100, 300), "fc3": (10, 100)}
    w = model.state_dict()
    x = activation(images().reshape(4, 784) @ w["fc1.weight"].T + w["fc1.bias"])
    x = activation(x @ w["fc2.weight"].T + w["fc2.bias"])
    x = x @ w["fc3.weight"].T + w["fc3.bias"]
    assert torch.allclose(model(images()), x, atol=1e-5)


@pytest.mark.parametrize("name", ["lenet300", "lenet300-tanh"])
def test_weights_start_as_glorot_draws_them(name):
    model = built(name)
    for layer, weight in compressible(model).items():
        outputs, inputs = weight.shape
        bound = (6 / (inputs + outputs)) ** 0.5
        assert 0.99 * bound < weight.abs().max().item() <= bound, layer
        # the standard error of a uniform's deviation is (4/5)^½/2 of it, over √n
        error = 5 * 0.45 * weight.numel() ** -0.5
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=error), layer
    assert not any(model.get_submodule(layer).bias.any() for layer in ("fc1", "fc2", "fc3"))


def batch(name, n=2, *, channels=None, size=None):
    usual, height, width = networks.INPUT_SHAPES[name]
    shape = (n, usual if channels is None else channels, size or height, size or width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def built(name, **options):
    torch.manual_seed(0)
    return networks.build(name, **options)


def with_statistics(model):
    """``model`` in evaluation mode, its BatchNorm with statistics, scale and shift drawn anew."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for value in (module.weight.data, module.running_var):
                value.uniform_(0.5, 1.5)
            for value in (module.bias.data, module.running_mean):
                value.normal_()
    return model.eval()


def executed(model, images):
    """Name, weight and output of each convolution and linear layer, in the order they run."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda module, _, y, name=name: found.append((name, module.weight, y))
            )
    with torch.no_grad():
        model.eval()(images)
    return found


def test_names():
    assert {name: shape for name, (*_, shape) in FACTS.items()} == networks.INPUT_SHAPES
    assert list(FACTS) == list(networks.BUILDERS)


@pytest.mark.parametrize("name", FACTS)
def test_counts_are_those_that_the_docstrings_state(name):
    parameters, macs, shape = FACTS[name]
    with torch.device("meta"):  # without values, which takes no time
        model = networks.build(name, classes=1000 if shape[1] == 224 else 10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert accounting.macs(model, shape) == macs
    builder = networks.BUILDERS[name]
    text = inspect.getdoc(getattr(builder, "func", builder))
    stated = [macs] if name == "lenet5" else [parameters, macs]
    assert all(f"{count:,}" in text for count in stated)


@pytest.mark.parametrize("name", FACTS)
def test_every_network_does_what_a_network_does(name):
    """It reads images, its layers run in their order, and a gradient reaches every parameter."""
    model = built(name, classes=7)
    size = 64 if FACTS[name][2][1] == 224 else None
    images = batch(name, 4, size=size)
    layers = compressible(model)
    ran = executed(model, images)
    assert [layer for layer, *_ in ran] == list(layers)
    assert all(weight is layers[layer] for layer, weight, _ in ran)
    # a convolution uses each of its weights once for each place of its output
    macs = sum(weight.numel() * output[0, 0].numel() for _, weight, output in ran)
    assert accounting.macs(model, images.shape[1:]) == macs
    with torch.no_grad():
        assert model.eval()(images[:1]).shape == (1, 7)
    functional.cross_entropy(model.train()(images), torch.arange(4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", [name for name, (count, *_) in FACTS.items() if count < 2e7])
def test_the_seed_determines_the_weights_and_they_survive_pickling(name):
    first = built(name)
    for other in (built(name), pickle.loads(pickle.dumps(first))):
        assert all(map(torch.equal, first.state_dict().values(), other.state_dict().values()))


@torch.no_grad()
@pytest.mark.parametrize("name", ["lenet5", "lenet300", "resnet8", "resnet50", "vgg16"])
def test_images_may_have_any_number_of_channels_and_lie_channels_last(name):
    for channels in (1, 3, 4):
        model = built(name, channels=channels).to(memory_format=torch.channels_last)
        images = batch(name, channels=channels).to(memory_format=torch.channels_last)
        (_, first, _), *others = ran = executed(model, images)
        assert first.shape[1] == channels * (784 if name == "lenet300" else 1)
        assert others[-1][2].shape == (2, 10)
        for layer, _, output in ran:
            if name != "lenet5" and output.dim() == 4 and output[0, 0].numel() > 1:
                assert output.is_contiguous(memory_format=torch.channels_last), layer


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet8", (4, 15, 28)),
        ("resnet20", (1, 17, 48)),
        ("resnet50", (15, 48)),
        ("vgg16", (33, 64)),
    ],
)
def test_images_may_have_other_sizes(name, sizes):
    model = built(name).eval()
    for size in sizes:
        assert model(batch(name, size=size)).shape == (2, 10)


@pytest.mark.parametrize("depth", [8, 20, 32, 56, 110])
def test_resnets_by_the_papers_formula(depth):
    """6n + 2 layers, 2n in each of the stages of 16, 32, 64 channels at 32², 16², 8²."""
    n = (depth - 2) // 6
    per_stage = {16: 32, 32: 16, 64: 8}
    weights = {c: (2 * n - 1) * 9 * c * c for c in per_stage}  # all but a stage's first
    weights[16] += 9 * 3 * 16 + 9 * 16 * 16
    weights[32] += 9 * 16 * 32
    weights[64] += 9 * 32 * 64
    normalised = 16 + 2 * n * (16 + 32 + 64)

    model = CifarResNet(depth)
    layers = compressible(model)
    assert sum(w.numel() for w in layers.values()) == sum(weights.values()) + 640
    total = sum(p.numel() for p in model.parameters())
    assert total == sum(weights.values()) + 2 * normalised + 640 + 10
    assert accounting.macs(model, (3, 32, 32)) == 640 + sum(
        weights[c] * size**2 for c, size in per_stage.items()
    )
    assert len(layers) == depth


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 32), (32, 64), (3, 8), (4, 4)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2)])
def test_shortcut_a_copies_every_second_place_and_puts_zeros_around(inputs, outputs, size):
    x = torch.randn(2, inputs, *size)
    y = ZeroPadShortcut(inputs, outputs, 2)(x)
    assert y.shape == (2, outputs, (size[0] + 1) // 2, (size[1] + 1) // 2)
    before = (outputs - inputs) // 2
    for channel in range(outputs):
        for row in range(y.shape[2]):
            for column in range(y.shape[3]):
                place = (
                    x[:, channel - before, 2 * row, 2 * column]
                    if (before <= channel < before + inputs)
                    else torch.zeros(2)
                )
                assert torch.equal(y[:, channel, row, column], place)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_a_resnet_is_its_equations(name):
    model = with_statistics(built(name))
    w = model.state_dict()

    def normal(x, layer):
        mean, var, scale, shift = (
            w[f"{layer}.{key}"].view(1, -1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return scale * (x - mean) / (var + 1e-5).sqrt() + shift

    def convolve(x, layer, stride=1):
        kernel = w[f"{layer}.weight"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    images = batch(name, 3)
    x = normal(convolve(images, "stem.conv"), "stem.bn").clamp(min=0)
    for stage in (1, 2, 3):
        for number in range((int(name.removeprefix("resnet")) - 2) // 6):
            block, stride = f"stage{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            y = normal(convolve(x, f"{block}.conv1", stride), f"{block}.bn1").clamp(min=0)
            y = normal(convolve(y, f"{block}.conv2"), f"{block}.bn2")
            if stride == 1:
                y = y + x
            else:
                quarter = y.shape[1] // 4
                y[:, quarter : 3 * quarter] += x[:, :, ::2, ::2]
            x = y.clamp(min=0)
    logits = x.flatten(2).mean(2) @ w["fc.weight"].T + w["fc.bias"]
    torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)


def test_resnet50_is_torchvisions_but_for_the_stem():
    model = resnet50()
    ran = executed(model, batch("resnet50"))
    assert ran[0][2].shape == (2, 64, 32, 32)
    sizes = [output.shape[-1] for *_, output in ran if output.dim() == 4]
    assert sizes[-1] == 4
    assert max(sizes[1:]) == 32  # stage 1 sees the whole image: nothing is pooled before it
    assert len(ran) == 1 + 3 * 16 + 4 + 1


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_weights_start_as_he_draws_them(name):
    for layer, weight in compressible(built(name)).items():
        n = weight[0].numel()  # fan-in
        deviation = weight.numel() ** -0.5
        assert weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=5 * deviation), layer
        assert abs(weight.mean().item()) < 5 * deviation * (2 / n) ** 0.5, layer


@pytest.mark.parametrize("depth", [-4, 2, 9])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=rf"depth {depth} is not 6n \+ 2: choose 8, 14"):
        CifarResNet(depth)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"unknown network 'lenet6': choose one of .*lenet5") as e:
        networks.build("lenet6")
    assert all(name in str(e.value) for name in networks.BUILDERS)
