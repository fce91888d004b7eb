"""A run as the tables read it, made up: it has every result that one of them asks for."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

RESULT = {
    **{"network": "resnet8", "dataset": "digits", "mode": "joint", "seed": 0, "parent": None},
    **{"method": "df", "held_out_accuracy": None},
    **{"kept_fraction": 0.05, "mean_bits": 1.5, "nominal_bits": 32 * 50, "nominal_rate": 2.0},
    **{"entropy_rate": 100.0, "file_bytes": 1234, "parameters": 100},
    **{"macs": 500, "dense_macs": 1000, "test_loss": 0.1, "train_loss": 0.05},
    **{"epochs": 25, "train_seconds": 1800.0, "images": 200},
}


OPTIONS = {"budget": 480, "penalty": 10.0}
HISTORY = {"stage": [0, 0, 1], "macs_share": [0.9, 0.46, np.nan], "mu": [6, 10, np.nan]}


def run(accuracy=0.9, *, dense=0.90, control=0.92, method="df", options=OPTIONS, lr=0.1, **known):
    """One that gets its first images right.

    ``known`` are results, or what a run has besides: ``layers``, ``history``, ``correct``, …
    """
    stage = {"method": method, "options": list(options.items()), "schedule": {"epochs": 4}}
    start = {"method": "sgd", "schedule": {"epochs": 20, "lr": lr}}
    made = {
        "experiment": {"stages": [stage], "parent": {"stages": [start]}},
        "computed_in": "float32",
        "correct": np.arange(200) < 200 * (accuracy or 0),
        "layers": pd.DataFrame({"name": ["fc1", "fc2"], "weights": [100, 10], "kept": [5, 4]}),
        "history": pd.DataFrame(HISTORY),
    }
    results = {"accuracy": accuracy, "dense_accuracy": dense, "control_accuracy": control}
    beside = {name: value for name, value in known.items() if name not in RESULT}
    results |= {name: value for name, value in known.items() if name in RESULT}
    return SimpleNamespace(result=RESULT | results, **made | beside)
