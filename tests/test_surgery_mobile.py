"""torchvision's networks for ImageNet, small: inverted residuals, depthwise layers, AlexNet."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

import lib
from lib import budget, surgery
from lib.optimizers import FilterPruning, LearnedRanks, RankSelection
from lib.optimizers.differentiable import DF
from lib.optimizers.file_budget import _graph, silence
from tests.test_surgery import close, images, masked, some_filters, truncated

BUILDERS = {
    "mobilenet": lambda: models.mobilenet_v2(num_classes=5, width_mult=0.25),
    "mnasnet": lambda: models.mnasnet0_5(num_classes=3),
    "resnet18": lambda: models.resnet18(num_classes=3),
    "alexnet": lambda: models.alexnet(num_classes=10),
}
#: 63 is the least that AlexNet takes.
SHAPES = dict.fromkeys(BUILDERS, (3, 32, 32)) | {"alexnet": (3, 64, 64)}


def network(name):
    """In float64, BatchNorm as if trained; AlexNet with 100 neurons for 4,096."""
    torch.manual_seed(0)
    model = BUILDERS[name]()
    if name == "alexnet":
        model.classifier[1] = nn.Linear(256 * 36, 100)
        model.classifier[4] = nn.Linear(100, 100)
        model.classifier[6] = nn.Linear(100, 10)
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
