"""How many trainings pay side by side on one GPU: epochs of ResNet-20 in several processes.

``python tests/gpu/side_by_side.py [PROCESSES …]``, 1, 4 and 8 where none are named. Without MPS
(NVIDIA's multi-process service) the processes take turns; where its command is found, the same
again with it.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

#: Where NVIDIA's container tools put its programs.
ELSEWHERE = "/usr/local/nvidia/bin"


def epoch(network: str, images: int, device: str) -> float:
    """The seconds of the fastest of two epochs of SGD, after the one that records the graph."""
    import torch

    from lib import data, networks, training
    from lib.workbook import benchmarks, experiments

    torch.set_num_threads(1)
    schedule = replace(
        experiments.recipes.dense_schedule("cifar10", network), epochs=3, warmup=0, lr=1e-3
    )
    drawn = data.noise(networks.INPUT_SHAPES[network], images).to(torch.device(device))
    model = networks.build(network).to(device)
    method = benchmarks.every_method.make("sgd", network)
    history = training.train(model, drawn, schedule, method, seed=0, quiet=True)
    return min(row["seconds"] for row in history[1:])


def together(processes: int, network: str, images: int, device: str) -> list[float]:
    """:func:`epoch` of each of several processes at once."""
    asked = [sys.executable, __file__, "--epoch", network, str(images), device]
    running = [
        subprocess.Popen(asked, stdout=subprocess.PIPE, text=True, env=environment())
        for _ in range(processes)
    ]
    said = [process.communicate()[0] for process in running]
    return [float(text) for text in said]


def environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return os.environ | {"PYTHONPATH": str(root)}


@contextlib.contextmanager
def mps() -> Iterator[bool]:
    """NVIDIA's service for the processes started meanwhile; false where it is not found."""
    control = shutil.which("nvidia-cuda-mps-control") or shutil.which(
        "nvidia-cuda-mps-control", path=ELSEWHERE
    )
    if control is None:
        yield False
        return
    with tempfile.TemporaryDirectory() as folder:
        names = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
        os.environ.update(dict.fromkeys(names, folder))
        try:
            subprocess.run([control, "-d"], check=True)
            yield True
        finally:
            subprocess.run([control], input="quit\n", text=True)
            for name in names:
                del os.environ[name]


def show(processes: list[int], network: str, images: int, device: str) -> None:
    """A line for each number of processes."""
    for count in processes:
        slowest = max(together(count, network, images, device))
        speed = count * images / slowest
        print(f"{count} at once: an epoch {slowest:.2f} s, {speed:,.0f} images/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("processes", nargs="*", type=int, default=[1, 4, 8])
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epoch", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.epoch:
        network, images, device = options.epoch
        print(epoch(network, int(images), device))
        return
    what = (options.processes, options.network, options.images, options.device)
    show(*what)
    if options.device == "cpu":
        return
    with mps() as there:
        print("with MPS:" if there else "MPS was not found")
        if there:
            show(*what)


if __name__ == "__main__":
    main()
