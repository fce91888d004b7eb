"""The command ``compress``: a network of the workbook's within a budget, written as a file."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from lib import archive, data, networks
from lib.archive.loading import load
from lib.compression import compress, parse
from lib.workbook import experiments, runs
from lib.workbook.cli import files


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; ``command(name, function)`` makes one and returns its parser."""
    parser = command("compress", run)
    parser.add_argument("network", choices=networks.BUILDERS, metavar="NETWORK")
    parser.add_argument("--dataset", required=True, help="its name, or a folder of images")
    parser.add_argument("--budget", required=True, help='"3 kB", "30x", "80000 bits", "5 %%" …')
    parser.add_argument("--to", type=Path, required=True, metavar="OUT.cnet")
    parser.add_argument("--overwrite", action="store_true", help="what is there already")
    parser.add_argument("--method", help="default: the usual one for the budget")
    parser.add_argument("--weights", type=Path, metavar="IN", help="default: the dense run's")
    parser.add_argument("--epochs", type=int, default=30, help="default: 30")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> int:
    """Compresses a network to a budget and writes the file; trains it first where need be."""
    files.free(options.to, options, ending=archive.SUFFIX)
    if not options.to.parent.is_dir():
        raise ValueError(f"{options.to}: there is no folder {options.to.parent}")
    dataset = runs.dataset_of(options.dataset, options.network, False, torch.device("cpu"))
    images = {"classes": dataset.classes, "channels": dataset.shape[0]}
    blank = networks.build(options.network, **images)
    # what is wrong is said before anything is trained
    parse(options.budget, blank)
    files.read_macs(blank, dataset, options.network)
    model = load(options.weights, into=blank).float() if options.weights else _trained(options)
    torch.manual_seed(options.seed)
    found = compress(
        model,
        dataset,
        options.budget,
        method=options.method,
        epochs=options.epochs,
        described={"network": options.network, **images},
        quiet=options.quiet,
    )
    size = found.write(options.to)
    print(f"{options.network} on {data.describe(options.dataset)}, measured on its test split")
    print(found)
    print(f"{options.to}: {size:,} bytes")
    return 0


def _trained(options: argparse.Namespace) -> nn.Module:
    """The catalogue's dense network; it is trained where its run is not there."""
    if options.dataset not in experiments.DATASETS:
        raise ValueError(f"no network is trained on {options.dataset} here: give --weights")
    dense = experiments.recipes.dense(options.dataset, network=options.network)
    return runs.get(dense, options.seed, quiet=options.quiet, with_weights=True).model()
