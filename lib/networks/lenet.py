"""LeNet-5, for MNIST."""

from collections import OrderedDict

from torch import nn


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
