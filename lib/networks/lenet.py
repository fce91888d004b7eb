"""The LeNets, for MNIST."""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from lib.networks.initialisation import glorot_


def lenet5(*, classes: int = 10, channels: int = 1) -> nn.Sequential:
    """Caffe's LeNet-5, 20-50-500-10: 430,500 weights and 580 biases, for 1×28×28 images.

    2,293,000 MACs. The convolutions are followed by pooling alone, no ReLU: the one non-linearity
    besides the pooling is after the first fully connected layer.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 20, 5),  # (20, 24, 24)
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),  # (50, 8, 8)
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),  # (800,)
            fc1=nn.Linear(800, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )


def lenet300(
    *, classes: int = 10, channels: int = 1, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """LeNet-300-100, 784-300-100-10: 266,200 weights and 410 biases, for 1×28×28 images.

    266,610 parameters, 266,200 MACs: each weight is used once. The LC authors' public
    implementation has tanh in its classical version, and draws the weights as Glorot does.
    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition"
    (Proceedings of the IEEE, 1998), Section III.
    """
    model = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),  # (784,)
            fc1=nn.Linear(channels * 28 * 28, 300),
            activation1=activation(),
            fc2=nn.Linear(300, 100),
            activation2=activation(),
            fc3=nn.Linear(100, classes),
        )
    )
    glorot_(model)
    return model
