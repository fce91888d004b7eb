"""Rounding alone against a uniform grid a tensor: our dense ResNet-20 on CIFAR-10, 4 to 8 bits.

``python results/benchmarks/scripts/rounding.py`` writes ``results/benchmarks/rounding-resnet20.csv``,
in some minutes of one thread. The grid is symmetric, to the largest weight of each tensor; its file,
of the same format, sets the bytes that :func:`lib.optimizers.rounding.round_to_size` may take. That
reads the first 512 training images, without labels. ``held_out`` is the accuracy on the last 5,000
training images, on which all choices in the method were made (the network was trained on them);
``test`` on the 10,000 test images; ``error`` the standard error of its difference from the row
before, image by image, which is the grid's in rows of rounding. ``moved``: the outputs' mean squared change on the held-out
images, by their variance. ``seconds`` are the processor's.
"""

import copy
import csv
import time

import torch
from torch import nn

from lib import archive, data
from lib.optimizers.rounding import ITEMS, round_to_size
from lib.paths import results
from lib.training.evaluation import evaluate, predict
from lib.workbook import runs
from lib.workbook.experiments import recipes

HELD_OUT = 5000
DESCRIBED = {"network": "resnet20", "classes": 10, "channels": 3}
COLUMNS = ("method", "bits", "bytes", "moved", "held_out", "test", "error", "seconds")


@torch.no_grad()
def grid(model: nn.Module, bits: int) -> None:
    for value in model.state_dict().values():
        if value.dim() > 1:
            step = value.abs().max() / (2 ** (bits - 1) - 1)
            value.copy_((value / step).round() * step)


def main() -> None:
    torch.set_num_threads(1)
    cifar = data.load("cifar10")
    dense = recipes.dense("cifar10", network="resnet20", epochs=100)
    model = runs.get(dense, 0, with_weights=True).model().eval()
    calibration = cifar.train[torch.arange(ITEMS)]
    held_out = cifar.train[torch.arange(len(cifar.train) - HELD_OUT, len(cifar.train))]
    images = cifar.normalise(held_out.images)
    with torch.no_grad():
        before = torch.cat([model(part) for part in images.split(250)])
    with (results("cifar10") / "benchmarks" / "rounding-resnet20.csv").open(
        "w", newline=""
    ) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)

        last: list[torch.Tensor] = []

        def measured(method: str, bits: int, rounded: nn.Module, seconds: float) -> int:
            with torch.no_grad():
                after = torch.cat([rounded(part) for part in images.split(250)])
            moved = float((after - before).square().mean() / before.var())
            size = len(archive.encode(rounded, **DESCRIBED))
            held = evaluate(rounded, cifar, held_out)[1]
            right = (predict(rounded, cifar, cifar.test) == cifar.test.labels).double()
            last.append(right)
            error = float((right - last[-2]).std()) / len(right) ** 0.5 if len(last) > 1 else 0
            row = [method, bits, size, f"{moved:.3g}", held, round(float(right.mean()), 4)]
            table.writerow([*row, f"{error:.5f}", f"{seconds:.1f}"])
            file.flush()
            return size

        measured("dense", 32, model, 0)
        for bits in (8, 7, 6, 5, 4):
            taken, ours = copy.deepcopy(model), copy.deepcopy(model)
            grid(taken, bits)
            size = measured("grid", bits, taken, 0)
            began = time.process_time()
            batches = [cifar.normalise(part) for part, _ in calibration.batches(128)]
            round_to_size(ours, size, batches, described=DESCRIBED)
            measured("rounding", bits, ours, time.process_time() - began)


if __name__ == "__main__":
    main()
