"""``lib.compress`` on ResNet-20 and CIFAR-10 beside what one would do by hand, trained alike.

``python results/benchmarks/scripts/compress_resnet20.py`` adds what is missing to
``results/benchmarks/compress-resnet20-trials.csv`` and writes ``compress-resnet20.csv`` from it: some
two hours of one thread. The dense network is the catalogue's, seed 0. All train on the same 10,000
training images, with the same crops, flips, batches of 64, epochs and learning rates. Two rates (and
of a method its options) are tried at 4 epochs, and that with the least loss on 5,000 other training
images is taken, at 12 epochs too; what is chosen is measured on the 10,000 test images.

A file at a sixteenth of the float32 values:

- ``compress``: ``lib.compress(…, "16x")``;
- ``magnitude, grid, xz``: the largest weights of all layers stay, at once, and are trained; then a
  uniform grid of k bits for each tensor, and xz on the integers and everything else in float32.

Half of the MACs:

- ``compress, group-magnitude``, ``compress, df``: ``lib.compress(…, "… MACs", method=…)``;
- ``Torch-Pruning``: its ``GroupNormPruner``, filters removed at once to half of the MACs.
"""

import copy
import lzma
import math
import sys
import time
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import lib
from lib import accounting, data, paths
from lib.data.augmentation import crop_and_flip, draw
from lib.layers import compressible
from lib.optimizers import HeldZeros, MagnitudePruning
from lib.training import Method, Schedule, train
from lib.workbook import runs
from lib.workbook.experiments import recipes

TRIALS = paths.ROOT / "results" / "benchmarks" / "compress-resnet20-trials.csv"
TABLE = TRIALS.with_name("compress-resnet20.csv")
IMAGES, HELD, BATCH, SHAPE = 10_000, 5_000, 64, (3, 32, 32)
EPOCHS, RATES, BITS = (4, 12), (0.1, 0.03), (4, 8)
METHODS = ("group-magnitude", "df")
RATIO = 16


class Images:
    """The first training images in batches, drawn, cropped and flipped anew in every epoch."""

    def __init__(self, split: data.Split, dataset: data.Dataset):
        self.split, self.dataset = split, dataset

    def __len__(self) -> int:
        return math.ceil(len(self.split) / BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        order = torch.randperm(len(self.split), generator=generator)
        drawn = draw(len(order), padding=4, flip=True, generator=generator)
        for part in order.split(BATCH):
            images = crop_and_flip(self.split.images[part], drawn[part], padding=4)
            yield self.dataset.normalise(images), self.split.labels[part]


def batches(split: data.Split, dataset: data.Dataset) -> list[tuple[Tensor, Tensor]]:
    return [(dataset.normalise(images), labels) for images, labels in split.batches(250)]


@torch.no_grad()
def outcome(model: nn.Module, found: list[tuple[Tensor, Tensor]]) -> tuple[float, np.ndarray]:
    """Mean loss, and whether each image is right."""
    model = copy.deepcopy(model).eval()
    outputs = torch.cat([model(images) for images, _ in found])
    labels = torch.cat([labels for _, labels in found])
    loss = float(functional.cross_entropy(outputs, labels))
    return loss, (outputs.argmax(1) == labels).numpy()


# --------------------------------------------------------------------------------- the others' ways


def trained(model: nn.Module, method: Method, images: Images, epochs: int, lr: float) -> nn.Module:
    """Training as the last part of ``lib.compress`` is: momentum, a cosine, a limit of 1."""
    schedule = Schedule(epochs=epochs, lr=lr, clip=1.0, weight_decay=5e-4, batch=BATCH)
    train(model, images, schedule, method, seed=0, stage=1, quiet=True)
    return model


def grid(model: nn.Module, bits: int) -> tuple[nn.Module, int]:
    """Each weight on a uniform grid of ``bits`` bits, and the bytes of all by xz."""
    model, parts = copy.deepcopy(model), []
    weights = {weight.data_ptr() for weight in compressible(model).values()}
    for value in model.state_dict().values():
        if value.data_ptr() in weights:
            top = 2 ** (bits - 1) - 1
            scale = value.abs().max() / top
            codes = (value / scale).round()
            value.copy_(codes * scale)
            parts += [codes.to(torch.int8).numpy().tobytes(), scale.numpy().tobytes()]
        elif value.is_floating_point():
            parts.append(value.numpy().tobytes())
    return model, len(lzma.compress(b"".join(parts), preset=9 | lzma.PRESET_EXTREME))


def pruned(model: nn.Module, keep: float) -> nn.Module:
    """The largest weights of all layers."""
    model = copy.deepcopy(model)
    MagnitudePruning(keep=keep).start(model)
    return model


def largest(model: nn.Module, bits: int, size: int) -> float:
    """The largest share of the weights that fits in ``size`` bytes."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        fits = grid(pruned(model, middle), bits)[1] <= size
        low, high = (middle, high) if fits else (low, middle)
    return low


def by_hand(model: nn.Module, images: Images, size: int, epochs: int, lr: float, bits: int):
    """Magnitude pruning at once, training, a grid, xz."""
    share = largest(model, bits, size)
    found = trained(pruned(model, share), HeldZeros(), images, epochs, lr)
    if grid(found, bits)[1] > size:  # training has made it longer
        found = pruned(found, largest(found, bits, size))
    return grid(found, bits)


def torch_pruning(model: nn.Module, images: Images, macs: int, epochs: int, lr: float):
    """Its group pruner in steps until the MACs are met, then training."""
    import torch_pruning as tp

    model = copy.deepcopy(model).eval()
    example = torch.zeros(1, *SHAPE)
    # the sums' filters stay: on its zero-padding shortcuts the graph removes the wrong ones
    inner = [m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "conv1" in n]
    stay = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in inner]
    stay += [m for n, m in model.named_modules() if n in ("conv1", "conv")]
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.GroupNormPruner(
        *(model, example),
        importance=importance,
        global_pruning=True,
        pruning_ratio=0.95,
        iterative_steps=200,
        ignored_layers=stay,
    )
    while accounting.macs(model, SHAPE) > macs:
        pruner.step()
    return trained(model.train(), Method(), images, epochs, lr), accounting.macs(model, SHAPE)


# ------------------------------------------------------------------------------------- the trials


def compressed(model, images, budget, held, epochs, lr, method=None):
    """Ours, and what it takes of the budget."""
    found = lib.compress(
        *(model, images, budget),
        **{"method": method, "validation": held, "epochs": epochs, "lr": lr},
        **{"seed": 0, "quiet": True},
    )
    return found.model, found.after["macs"] if "MACs" in budget else found.after["bytes"]


def trials(model: nn.Module, size: int, macs: int, epochs: int) -> Iterator[tuple]:
    """(budget, way, epochs, rate, option) → what makes the network."""
    for lr in RATES:
        place = (epochs, lr)
        yield ("file", "compress", *place, ""), lambda images, held, lr=lr: (
            compressed(model, images, f"{size} B", held, epochs, lr)
        )
        for bits in BITS:
            yield (
                ("file", "magnitude, grid, xz", *place, f"{bits} bits"),
                lambda images, _, lr=lr, b=bits: by_hand(model, images, size, epochs, lr, b),
            )
        for method in METHODS:
            yield (
                ("macs", f"compress, {method}", *place, ""),
                lambda images, held, lr=lr, m=method: compressed(
                    model, images, f"{macs} MACs", held, epochs, lr, m
                ),
            )
        yield ("macs", "Torch-Pruning", *place, ""), lambda images, _, lr=lr: (
            torch_pruning(model, images, macs, epochs, lr)
        )


NAMES = ["budget", "way", "epochs", "rate", "option"]


def main(only: str = "") -> None:
    torch.set_num_threads(1)
    run = runs.get(recipes.dense("cifar10", network="resnet20", epochs=100), 0, with_weights=True)
    model, dataset = run.model(), data.load("cifar10")
    images = Images(dataset.train[:IMAGES], dataset)
    held = batches(dataset.train[IMAGES : IMAGES + HELD], dataset)
    tested = batches(dataset.test, dataset)
    values = sum(v.numel() for v in model.state_dict().values() if v.is_floating_point())
    size, macs = 4 * values // RATIO, accounting.macs(model, SHAPE) // 2
    done = pd.read_csv(TRIALS, keep_default_na=False) if TRIALS.exists() else pd.DataFrame()
    known = set(map(tuple, done[NAMES].to_numpy().tolist())) if len(done) else set()
    for place, make in chain.from_iterable(trials(model, size, macs, e) for e in EPOCHS):
        if place in known or only not in " ".join(map(str, place)):
            continue
        if place[2] != EPOCHS[0] and place[3:] != chosen(*place[:2]):
            continue
        began = time.process_time()
        found, spent = make(images, held)
        loss, right = outcome(found, held)
        test_loss, test_right = outcome(found, tested)
        row = dict(zip(NAMES, place, strict=True)) | {
            "spent": spent,
            "held_out_loss": loss,
            "held_out_accuracy": right.mean(),
            "test_loss": test_loss,
            "test_right": "".join(f"{byte:02x}" for byte in np.packbits(test_right)),
            "seconds": round(time.process_time() - began),
        }
        pd.DataFrame([row]).to_csv(TRIALS, mode="a", header=not TRIALS.exists(), index=False)
        print(*place, spent, f"{loss:.4f}", f"{right.mean():.2%}", flush=True)
    report(model, size, macs, tested)


def chosen(budget: str, way: str) -> tuple[float, str]:
    """The rate and option with the least loss on the held-out images, at the fewest epochs."""
    every = pd.read_csv(TRIALS, keep_default_na=False)
    own = every[(every["budget"] == budget) & (every["way"] == way)]
    best = own.loc[own[own["epochs"] == EPOCHS[0]]["held_out_loss"].idxmin()]
    return float(best["rate"]), best["option"]


def report(model: nn.Module, size: int, macs: int, tested: list) -> None:
    """Of each way the trial with the least loss on the held-out images, on the test images."""
    every = pd.read_csv(TRIALS, keep_default_na=False)
    dense = outcome(model, tested)[1]
    rows = []
    for (budget, way, epochs), group in every.groupby(["budget", "way", "epochs"], sort=False):
        best = group.loc[group["held_out_loss"].idxmin()]
        right = np.unpackbits(np.frombuffer(bytes.fromhex(best["test_right"]), np.uint8))[:10_000]
        rows.append(
            {
                "budget": budget,
                "asked": size if budget == "file" else macs,
                **best[["way", "epochs", "rate", "option", "spent"]],
                "test_accuracy": right.mean(),
                "dense_accuracy": dense.mean(),
                "right": right,
            }
        )
    table = pd.DataFrame(rows)
    for budget, epochs in table[["budget", "epochs"]].drop_duplicates().to_numpy():
        place = (table["budget"] == budget) & (table["epochs"] == epochs)
        others = table[place & ~table["way"].str.startswith("compress")]
        if not len(others):
            continue
        other = others.iloc[0]["right"].astype(int)
        for row in table[place].index:
            gained = table.loc[row, "right"].astype(int) - other
            table.loc[row, "ahead"] = gained.mean()  # of the other way
            table.loc[row, "standard_error"] = gained.std(ddof=1) / math.sqrt(len(gained))
    table.drop(columns="right").to_csv(TABLE, index=False, float_format="%.6g")
    print(table.drop(columns="right").to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
