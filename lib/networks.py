"""The networks that are compressed, by name."""

from collections import OrderedDict

from torch import Tensor, nn


def lenet5(classes: int = 10) -> nn.Sequential:
    """Caffe's LeNet-5, 20-50-500-10: 430,500 weights and 580 biases, for 1×28×28 images.

    The convolutions are followed by pooling alone, no ReLU: the one non-linearity besides the
    pooling is after the first fully connected layer.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),  # (20, 24, 24)
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),  # (50, 8, 8)
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),  # (800,)
            fc1=nn.Linear(800, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )


BUILDERS = {"lenet5": lenet5}

#: Channels, height and width of what each network reads.
INPUT_SHAPES = {"lenet5": (1, 28, 28)}


def build(name: str, *, classes: int = 10) -> nn.Module:
    """A freshly initialised network. Raises ``ValueError`` for an unknown name."""
    if name not in BUILDERS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(BUILDERS)}")
    return BUILDERS[name](classes)


def compressible(model: nn.Module) -> dict[str, Tensor]:
    """Layer name → weight of every convolution and linear layer, in the network's order.

    Biases and normalisation are left out: they stay in 32 bits, as in the papers.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return {
        name: module.weight for name, module in model.named_modules() if isinstance(module, kinds)
    }
