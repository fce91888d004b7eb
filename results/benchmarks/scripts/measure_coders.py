"""What other coders make of the committed networks and of one of AlexNet's size.

    python results/benchmarks/scripts/measure_coders.py FOLDER

measures them (AlexNet is trained first: half an hour on one core) into FOLDER/coders.csv, and
writes their codes beside it for ``code_with_nncodec.py``, whose table is nncodec.csv.
``python -m lib publish --measured FOLDER`` takes both over.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import alexnet
import numpy as np
import pandas as pd
from torch import Tensor

from lib.layers import compressible
from lib.workbook import benchmarks, report

#: How the network of AlexNet's size is made.
ALEXNET = {"dataset": "cifar10-jpeg", "steps": 1000, "tuning": 200, "keep": 0.05, "bits": 4}


def export(weights: Mapping[str, Tensor], file) -> None:
    """Writes every layer's codes and levels as NumPy's .npz."""
    parts = {}
    for name, weight in weights.items():
        parts[f"{name}|codes"], parts[f"{name}|levels"] = benchmarks.coders.codes(weight)
    np.savez_compressed(file, **parts)


def main(folder: str) -> None:
    """Measures all networks, and writes their codes."""
    Path(folder).mkdir(parents=True, exist_ok=True)  # before half an hour's work
    models = {
        run.id: (label, run.model(), run.architecture, run.result["accuracy"])
        for label, run in report.coders.committed_runs().items()
    }
    model, accuracy = alexnet.build(**ALEXNET)
    models["alexnet"] = ("AlexNet, 5 % at 4 bits", model, {}, accuracy)
    rows = []
    for network, (label, model, said, accuracy) in models.items():
        export(compressible(model), Path(folder) / f"{network}.npz")
        start = {"network": network, "label": label, "accuracy": accuracy}
        rows.append(start | report.coders.coders(model, **said))
    report.save(pd.DataFrame(rows), "coders", Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
