"""Images that a training step takes per second of CPU time on one thread: float32 beside bfloat16.

    python results/benchmarks/scripts/measure_precisions.py

shows a row a network, and what the library computes in when a schedule asks for bfloat16. It is
emulated where the processor lacks it, so this may take minutes.
"""

import time

import torch

from lib import data, networks
from lib.optimizers import Method
from lib.training import Schedule, arithmetic
from lib.training.loop import _Loop

#: Networks and images of a step.
STEPS = {"lenet5": 256, "lenet300": 256, "resnet20": 128}


def images_a_second(network: str, batch: int, kind: torch.dtype) -> float:
    """Of the training loop's own step, after two untimed ones; three steps or a second of them."""
    few = data.noise(networks.INPUT_SHAPES[network], batch)
    schedule = Schedule(epochs=1, lr=0.01, batch=batch)
    loop = _Loop(networks.build(network), few, schedule, Method(), seed=0, stage=0)
    loop.dtype = kind
    index = torch.arange(batch)
    with arithmetic.threads(1):
        for _ in range(2):
            loop._step(index)
        steps, began = 0, time.process_time()
        while steps < 3 or time.process_time() - began < 1:
            loop._step(index)
            steps += 1
        return batch * steps / (time.process_time() - began)


if __name__ == "__main__":
    chosen = arithmetic.dtype("bfloat16", torch.device("cpu"))
    print("images of a training step per second of CPU time, one thread")
    print(f"{'network':10}{'batch':>6}{'float32':>10}{'bfloat16':>10}  chosen")
    for name, size in STEPS.items():
        kinds = (torch.float32, torch.bfloat16)
        found = "".join(f"{images_a_second(name, size, kind):10.0f}" for kind in kinds)
        print(f"{name:10}{size:6}{found}  {str(chosen).removeprefix('torch.')}")
