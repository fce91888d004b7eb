"""Trains what the queue has of ResNet-20 on CIFAR-10 by the schedules for a CPU, side by side.

``python tests/gpu/train.py [SECONDS [JOBS]]``: minutes of a GPU; the same command goes on with what
the time was too short for. CIFAR-10 must be at hand (``python -m lib fetch cifar10``).
"""

import json
import subprocess
import sys
from collections.abc import Iterable


def chosen(rows: Iterable[dict]) -> list[str]:
    """Of what ``python -m lib list --json`` says the runs to train, in the queue's order.

    The first priority alone: the start, the methods, their controls.
    """
    return [
        row["id"]
        for row in rows
        if row["id"].startswith("resnet20-")
        and not row["gpu"]
        and row["status"] in ("missing", "partial")
        and row["priority"] <= 1
    ]


def main(seconds: str = "380", jobs: str = "5") -> int:
    lib = [sys.executable, "-m", "lib"]
    said = subprocess.run(
        [*lib, "list", "--dataset", "cifar10", "--json"], check=True, stdout=subprocess.PIPE
    ).stdout
    names = chosen(json.loads(said))
    if not names:
        print("nothing is left to train")
        return 0
    how = ["--device", "cuda", "--threads", "1", "--jobs", jobs, "--time-limit", seconds]
    return subprocess.run([*lib, "run", *names, *how]).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
