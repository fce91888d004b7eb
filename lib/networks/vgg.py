"""VGG-16 for CIFAR."""

from collections import OrderedDict

from torch import Tensor, nn

from lib.networks.initialisation import he_

#: Channels of the convolutions, stage by stage; max pooling halves the image after each.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG-16 with BatchNorm as the CIFAR pruning literature has it: 13 convolutions, 512-512-10.

    14,977,728 weights in the convolutions and linear layers (the literature's 14.98 M), 14,987,210
    parameters with BatchNorm and biases, 313,463,808 MACs, for 10 classes and images of 3×32×32.
    With one linear layer instead of the two it would be 14.72 M. No dropout; layers that BatchNorm
    follows have no bias. Images of 32×32 or larger, (images, channels, height, width) →
    (images, classes); in training at least two images, for the BatchNorm between the linear layers.

    Simonyan and Zisserman (ICLR 2015), configuration D; for CIFAR: Li et al., "Pruning Filters for
    Efficient ConvNets" (ICLR 2017), Section 4.1.
    """

    def __init__(self, *, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        inputs = channels
        for number, outputs in enumerate(STAGES, 1):
            # (outputs, height/2ⁿ, width/2ⁿ) after stage n
            self.add_module(f"stage{number}", _stage(inputs, outputs))
            inputs = outputs[-1]
        self.fc1 = nn.Linear(512, 512, bias=False)
        self.bn = nn.BatchNorm1d(512)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(512, classes)
        he_(self)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for number in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"stage{number}")(x)
        x = x.mean((2, 3))  # one place at 32×32: nothing is averaged there
        x = self.relu(self.bn(self.fc1(x)))
        return self.fc2(x)


def _stage(inputs: int, outputs: tuple[int, ...]) -> nn.Sequential:
    """3×3 convolutions, each with BatchNorm and ReLU, and a max pooling: conv1, bn1, relu1, …"""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (wide, filters) in enumerate(zip((inputs, *outputs), outputs, strict=False), 1):
        layers[f"conv{number}"] = nn.Conv2d(wide, filters, 3, padding=1, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm2d(filters)
        layers[f"relu{number}"] = nn.ReLU()
    layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)
