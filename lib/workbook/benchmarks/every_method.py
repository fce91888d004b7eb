"""Every method, with settings that fit any network, for checks and measurements that try them all.

The settings are for cost and correctness: nothing is learned from what they reach.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lib import accounting, data, networks
from lib.layers import compressible
from lib.optimizers import METHODS, Method
from lib.optimizers.c_steps import COSTS
from lib.training import arithmetic

#: Methods that change the network once, before or after its epochs: a step with them is SGD's.
ONCE = ("fit-file", "filter-pruning", "low-rank")

#: Pixels are drawn from 0 to 255, so that these normalise them.
MEAN, STD = 0.5, 0.29


class Sizes(NamedTuple):
    """What settings depend on: the network's name, its weights, its MACs, an image's shape."""

    network: str
    weights: int
    macs: int
    shape: tuple[int, int, int]

    @property
    def halved(self) -> dict:
        """Half of the MACs."""
        return {"budget": self.macs // 2, "input_shape": self.shape}

    def file(self, percent: int) -> dict:
        """A share of the bytes of the dense weights."""
        classes = {"network": self.network, "classes": 10, "channels": self.shape[0]}
        return {"file_bytes": 4 * self.weights * percent // 100, **classes}


#: Of each method of the registry, and of each cost of LC.
SETTINGS: dict[str, Callable[[Sizes], dict]] = {
    "sgd": lambda of: {},
    "admm": lambda of: {"budget": 32 * of.weights // 35},
    "tune-codebooks": lambda of: {"bits": 3},
    "admm-file": lambda of: {"input_shape": of.shape, **of.file(5)},
    "fit-file": lambda of: of.file(15),
    "lc": lambda of: {"cost": "l0-constraint", "amount": 0.1, "mu": 1e-4},
    "magnitude": lambda of: {"keep": 0.3, "epochs": 1},
    "held-zeros": lambda of: {},
    "df": lambda of: of.halved,
    "filter-pruning": lambda of: of.halved,
    "low-rank": lambda of: of.halved,
    "lc-ranks": lambda of: of.halved,
}
AMOUNTS: dict[str, float | tuple[int, float]] = {
    "l0-constraint": 0.1,
    "l1-constraint": 0.3,
    "l2-constraint": 0.5,
    "l0-penalty": 1e-4,
    "l1-penalty": 1e-4,
    "l2-penalty": 1e-4,
    "codebook": 4,
    "rank-constraint": 0.5,
    "rank-penalty": 1e-6,
    "codebook+l0": (2, 0.05),
}


def names() -> list[str]:
    """Every method, LC once more with each other cost."""
    return [*METHODS, *(f"lc, {cost}" for cost in COSTS if cost != "l0-constraint")]


def make(name: str, network: str) -> Method:
    """A method of :func:`names` for a network of the workbook's of ten classes."""
    if name.startswith("lc, "):
        cost = name.removeprefix("lc, ")
        return METHODS["lc"](cost=cost, amount=AMOUNTS[cost], mu=1e-4)
    shape = networks.INPUT_SHAPES[network]
    model = networks.build(network)
    weights = sum(weight.numel() for weight in compressible(model).values())
    return METHODS[name](
        **SETTINGS[name](Sizes(network, weights, accounting.macs(model, shape), shape))
    )


def drawn(network: str, images: int) -> data.Dataset:
    """Images drawn at random in the shape that the network reads, a fifth as many to test on."""
    generator = torch.Generator().manual_seed(0)
    shape = networks.INPUT_SHAPES[network]
    train, test = (
        data.Split(
            torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator),
            torch.randint(10, (count,), generator=generator),
        )
        for count in (images, max(10, images // 5))
    )
    return data.Dataset("drawn", train, test, (MEAN,) * shape[0], (STD,) * shape[0], 10, "")


def step_of(
    method: Method,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    precision: str = "float32",
) -> Callable[[], None]:
    """A training step of ``model``, on one batch again and again, once ``method`` has started.

    The step of the training loop, without reading images and adding up losses. The learning rate is
    small, so that nothing diverges; it changes no cost.
    """
    network = method.start(model) or model
    lr = torch.tensor(1e-6, device=images.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD([{"params": trained}], lr=lr, momentum=0.9, fused=True)
    dtype = arithmetic.dtype(precision, images.device)
    network.train()

    def step() -> None:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = cross_entropy(network(images), labels)
        penalty = method.penalty()
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        method.after_step(lr)

    return step
