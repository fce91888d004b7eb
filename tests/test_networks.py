"""LeNet-5 as the paper has it."""

import pytest
import torch
from torch.nn import functional

from lib import networks


@pytest.fixture
def lenet5():
    torch.manual_seed(0)
    return networks.build("lenet5")


def images(n=4):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def test_lenet5_is_caffes_20_50_500_10(lenet5):
    shapes = {name: tuple(w.shape) for name, w in networks.compressible(lenet5).items()}
    assert shapes == {
        "conv1": (20, 1, 5, 5),
        "conv2": (50, 20, 5, 5),
        "fc1": (500, 800),
        "fc2": (10, 500),
    }
    weights = sum(w.numel() for w in networks.compressible(lenet5).values())
    assert weights == 500 + 25_000 + 400_000 + 5_000 == 430_500
    assert sum(p.numel() for p in lenet5.parameters()) - weights == 580
    assert lenet5(images()).shape == (4, 10)


@torch.no_grad()
def test_no_relu_follows_the_convolutions(lenet5):
    """Without a ReLU a bias passes through the pooling as it is; with one, −1000 stops there."""
    convolutions = lenet5[: list(dict(lenet5.named_children())).index("fc1")]
    before = convolutions(images())
    lenet5.conv1.bias -= 1000
    lenet5.conv2.bias += 1000 * lenet5.conv2.weight.sum(dim=(1, 2, 3))
    assert torch.allclose(convolutions(images()), before, atol=1e-2)
    assert before.min() < 0


@torch.no_grad()
def test_a_relu_follows_the_first_linear_layer(lenet5):
    lenet5.fc1.bias -= 1000
    assert torch.equal(lenet5(images()), lenet5.fc2.bias.expand(4, 10))


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


def test_every_network_reads_its_input_shape():
    assert set(networks.BUILDERS) == set(networks.INPUT_SHAPES)
    for name, shape in networks.INPUT_SHAPES.items():
        assert networks.build(name, classes=7)(torch.zeros(1, *shape)).shape == (1, 7)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"unknown network 'lenet6': choose one of .*lenet5"):
        networks.build("lenet6")
