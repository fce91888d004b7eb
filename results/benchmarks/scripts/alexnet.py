"""A network of AlexNet's size to code: briefly trained, 5 % kept, 4 bits. It is never committed.

What matters for a coder is where training puts the nonzeros, not the accuracy, so half an hour on
one core is enough; weights that were only drawn would be spread evenly, and show nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import alexnet

from lib import data
from lib.layers import compressible
from lib.projections.codebook import codebook
from lib.projections.sparsity import l0_constraint

#: Side of the images, drawn up from the data set's; the network pools whatever comes to 6×6.
SIDE = 128
BATCH = 64
LEARNING_RATE = 3e-4


def build(dataset: str, *, steps: int, tuning: int, keep: float, bits: int, seed: int = 0):
    """torchvision's AlexNet, trained, pruned to ``keep`` of each layer, quantized to ``bits``.

    ``steps`` of Adam on the whole network, magnitude pruning within each layer, ``tuning`` steps
    of what is left, then in each layer the codebook of least squared error, 2ᵇ nonzero values.
    Returns (network on the CPU, accuracy on the first 1,000 test images). On one thread the same
    seed gives the same network. Cost: about 2 s a step on one core, 1.5 GB.
    """
    torch.manual_seed(seed)
    loaded = data.load(dataset)
    model = alexnet(num_classes=loaded.classes, dropout=0.0).to(memory_format=torch.channels_last)
    weights = compressible(model)
    for weight in weights.values():
        # He's start: PyTorch's own leaves signals too faint to learn by
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    _train(model, loaded, steps, masks={})
    with torch.no_grad():
        for weight in weights.values():
            (kept,) = l0_constraint([weight], keep=round(keep * weight.numel()))
            weight.copy_(kept)
    _train(model, loaded, tuning, masks={name: w != 0 for name, w in weights.items()})
    with torch.no_grad():
        for weight in weights.values():
            mask = weight != 0
            (values,) = codebook([weight[mask]], values=2**bits, free_zero=False)
            weight[mask] = values
    return model.eval(), _accuracy(model, loaded, images=1_000)


def _train(model: nn.Module, loaded: data.Dataset, steps: int, *, masks: dict[str, Tensor]) -> None:
    model.train()
    weights = compressible(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(steps):
        chosen = torch.randint(len(loaded.train), (BATCH,))
        scores = model(_images(loaded, loaded.train.images[chosen]))
        optimizer.zero_grad()
        F.cross_entropy(scores, loaded.train.labels[chosen]).backward()
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name].masked_fill_(~mask, 0)  # a product would leave negative zeros


@torch.no_grad()
def _accuracy(model: nn.Module, loaded: data.Dataset, *, images: int) -> float:
    model.eval()
    right = 0
    for part in torch.arange(min(images, len(loaded.test))).split(BATCH):
        scores = model(_images(loaded, loaded.test.images[part]))
        right += int((scores.argmax(1) == loaded.test.labels[part]).sum())
    return right / min(images, len(loaded.test))


def _images(loaded: data.Dataset, images: Tensor) -> Tensor:
    """(n, channels, height, width) uint8 → (n, 3, SIDE, SIDE) float32."""
    large = F.interpolate(loaded.normalise(images), size=SIDE, mode="bilinear")
    return large.expand(-1, 3, -1, -1)
