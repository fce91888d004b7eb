"""Accuracies of ``lib.compress`` on digits: LeNet-5, a budget of each kind, five seeds.

``python results/benchmarks/scripts/compress_accuracies.py [SEEDS [BUDGET …]]`` prints a CSV, in some
minutes of one thread; compare two checkouts by it. Dense networks are trained on all of the training
images, compressed on the first 512 of them, and measured on the test images.
"""

import sys

import torch
from torch.utils.data import DataLoader, TensorDataset

import lib
from lib import data, networks
from lib.training import Method, Schedule, train

BUDGETS = ("5 %", "30000 bits", "5 kB", "1 MMACs")
DENSE = Schedule(epochs=20, lr=0.02, warmup=2, clip=1.0, batch=64, weight_decay=5e-4)


def main(seeds: int, *budgets: str) -> None:
    torch.set_num_threads(1)
    digits = data.load("digits", size=networks.INPUT_SHAPES["lenet5"][1])
    trained, tested = (
        (digits.normalise(split.images), split.labels) for split in (digits.train, digits.test)
    )
    print("seed,budget,before,after,bytes")
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = networks.build("lenet5")
        train(model, digits, DENSE, Method(), seed=seed, quiet=True)
        for budget in budgets or BUDGETS:
            torch.manual_seed(seed)
            few = TensorDataset(*(one[:512] for one in trained))
            loader = DataLoader(few, batch_size=64, shuffle=True)
            found = lib.compress(model, loader, budget, validation=[tested], epochs=15, quiet=True)
            before, after = found.before["accuracy"], found.after["accuracy"]
            print(f"{seed},{budget},{before},{after},{found.after['bytes']}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, *sys.argv[2:])
