"""A training step at ImageNet's size: plain, with ADMM, with DF; its seconds are notebook 91's."""

from collections.abc import Callable

import torch

from lib import accounting, networks
from lib.layers import compressible
from lib.optimizers import ADMM, DF, Method
from lib.training import recalibrate
from lib.workbook.benchmarks import every_method, measure


def prepared(
    name: str, method: str, side: int, batch: int, device: str, precision: str
) -> tuple[Callable[[], None], Method]:
    """A step of ``method``, "plain", "ADMM" or "DF", on a network of 1,000 classes; its object.

    The network is freshly drawn, its BatchNorm statistics measured on the batch. ADMM's budget is
    a fortieth of 32 bits a weight; DF's half of the MACs, with masks below 1 and thresholds above
    0, as in the midst of learning.
    """
    torch.manual_seed(0)
    shape = (3, side, side)
    model = networks.build(name, classes=1000).to(device)
    images = torch.randn(batch, *shape, device=device)
    labels = torch.randint(1000, (batch,), device=device)
    recalibrate(model, [images])
    if method == "ADMM":
        weights = sum(w.numel() for w in compressible(model).values())
        compression = ADMM(budget=32 * weights // 40)
    elif method == "DF":
        compression = DF(budget=accounting.macs(model, shape) // 2, input_shape=shape)
    else:
        compression = Method()
    step = every_method.step_of(compression, model, images, labels, precision=precision)
    with torch.no_grad():
        if method == "DF":
            for m in compression.m.values():
                m.uniform_(0.5, 1)
            for gamma in compression.gamma.values():
                gamma.uniform_(0.05, 0.3)
    return step, compression


def memory(threads: int, *arguments: str | int, apart: bool = True) -> float:
    """The most bytes that :func:`prepared` of these arguments and two of its steps take.

    On a GPU of this process, which must hold no other network there; on a CPU of one of its own,
    unless it is not ``apart``.
    """
    if apart and torch.device(arguments[-2]).type == "cpu":
        return measure.alone(memory, threads, *arguments, apart=False)
    torch.set_num_threads(threads)

    def work() -> None:
        step, _ = prepared(*arguments)
        for _ in range(2):
            step()

    return measure.peak(work, arguments[-2])


def floor_seconds(name: str, side: int, images: int, *, operations_per_second: float) -> float:
    """The least that a plain step computes: three passes of two operations a MAC.

    Forward, and backward with respect to the activations and to the weights. The speed is that of
    the step's own precision (:func:`lib.workbook.benchmarks.measure.operations_per_second`).
    """
    model = networks.build(name, classes=1000)
    return 6 * accounting.macs(model, (3, side, side)) * images / operations_per_second
