"""Every method, with settings that fit any network, for checks and measurements that try them all.

The settings are for cost and correctness: nothing is learned from what they reach.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lib import accounting, networks
from lib.layers import compressible
from lib.optimizers import METHODS, Method
from lib.optimizers.c_steps import COSTS
from lib.training import arithmetic

#: Methods that change the network once, before or after its epochs: a step with them is SGD's.
ONCE = ("fit-file", "filter-pruning", "low-rank")

#: Of each cost of LC.
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


def settings(network: str) -> dict[str, dict]:
    """Of each method of the registry, for a network of the workbook's of ten classes."""
    shape, model = networks.INPUT_SHAPES[network], networks.build(network)
    weights = sum(weight.numel() for weight in compressible(model).values())
    halved = {"budget": accounting.macs(model, shape) // 2, "input_shape": shape}
    named = {"network": network, "classes": 10, "channels": shape[0]}
    return {
        "sgd": {},
        "admm": {"budget": 32 * weights // 35},
        "tune-codebooks": {"bits": 3},
        "admm-file": {"file_bytes": 4 * weights // 20, "input_shape": shape, **named},
        "fit-file": {"file_bytes": 4 * weights * 15 // 100, **named},
        "lc": {"cost": "l0-constraint", "amount": AMOUNTS["l0-constraint"], "mu": 1e-4},
        "magnitude": {"keep": 0.3, "epochs": 1},
        "held-zeros": {},
        **dict.fromkeys(("df", "filter-pruning", "low-rank", "lc-ranks"), halved),
    }


def make(name: str, network: str) -> Method:
    """A method of :func:`names` for a network of the workbook's of ten classes."""
    if name.startswith("lc, "):
        cost = name.removeprefix("lc, ")
        return METHODS["lc"](cost=cost, amount=AMOUNTS[cost], mu=1e-4)
    return METHODS[name](**settings(network)[name])


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
