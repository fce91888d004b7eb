"""Is the small network faster? ResNet-20 on a CPU, whole and made smaller in four ways.

``python results/benchmarks/scripts/latency.py`` writes ``results/benchmarks/latency-resnet20-cpu.csv``
in a minute, best on a machine that does nothing else: milliseconds of a forward pass of 1 and of 128
images, in PyTorch and in ONNX Runtime, one thread, each the median of turns. Times depend on shapes
and not on values, so the networks are not trained.

- ``filters gone``: the filters of the smallest norm, to half of the MACs;
- ``layers factored``: each layer in two of a lower rank, to half of the MACs;
- ``both``: filters to three quarters of the MACs, then factors to half of them all;
- ``weights quantized``: 16 values a layer, which are floats again when the network computes.
"""

import copy
import statistics
import tempfile
from pathlib import Path

import onnxruntime
import pandas as pd
import torch
from torch import nn

from lib import accounting, networks, paths
from lib.archive import onnx
from lib.layers import compressible
from lib.optimizers import FilterPruning, RankSelection
from lib.projections.codebook import assign, fit_codebooks
from lib.structured import latency
from lib.workbook import benchmarks

FILE = paths.ROOT / "results" / "benchmarks" / "latency-resnet20-cpu.csv"
NETWORK, SHAPE, BATCHES, TURNS = "resnet20", (3, 32, 32), (1, 128), 5


def smaller(model: nn.Module, *methods: tuple[type, float]) -> nn.Module:
    """What the methods leave, each of its share of the model's MACs."""
    whole, model = accounting.macs(model, SHAPE), copy.deepcopy(model)
    for kind, share in methods:
        method = kind(budget=int(share * whole), input_shape=SHAPE)
        method.start(model)
        method.finish()
    return model


@torch.no_grad()
def quantized(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for weight in compressible(model).values():
        books = fit_codebooks([weight], widest=[4], free_zero=False)
        weight.copy_(assign(weight, books.centres[0][3], free_zero=False))
    return model


def runtime(model: nn.Module, folder: Path) -> onnxruntime.InferenceSession:
    path = folder / "network.onnx"
    onnx.export(model, path, input_shape=SHAPE)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def seconds(session: onnxruntime.InferenceSession, batch: int) -> float:
    from torch.utils.benchmark import Timer

    images = {"images": torch.randn(batch, *SHAPE).numpy()}
    timer = Timer("session.run(None, images)", globals={"session": session, "images": images})
    timer.timeit(3)
    return timer.blocked_autorange(min_run_time=0.5).median


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dense = networks.build(NETWORK, classes=10, channels=3).eval()
    variants = {
        "dense": dense,
        "filters gone": smaller(dense, (FilterPruning, 0.5)),
        "layers factored": smaller(dense, (RankSelection, 0.5)),
        "both": smaller(dense, (FilterPruning, 0.75), (RankSelection, 0.5)),
        "weights quantized": quantized(dense),
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sessions = {name: runtime(model, Path(folder)) for name, model in variants.items()}
        times: dict[tuple, list[float]] = {}
        for _ in range(TURNS):  # in turn, so that a busy moment is nobody's alone
            for name, model in variants.items():
                for batch in BATCHES:
                    took = latency(model, SHAPE, batch, seconds=0.5)
                    times.setdefault((name, batch, "pytorch"), []).append(took)
                    took = seconds(sessions[name], batch)
                    times.setdefault((name, batch, "onnx"), []).append(took)
    for name, model in variants.items():
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        row = {
            "network": NETWORK,
            "variant": name,
            "macs": accounting.macs(model, SHAPE),
            "convolutions": len(convolutions),
        }
        for batch in BATCHES:
            for kind in ("pytorch", "onnx"):
                row[f"{kind}_{batch}_ms"] = 1e3 * statistics.median(times[name, batch, kind])
        rows.append(row | benchmarks.machine("cpu", threads=1))
    pd.DataFrame(rows).to_csv(FILE, index=False, float_format="%.4g")
    print(pd.DataFrame(rows).iloc[:, :8].to_string(index=False))


if __name__ == "__main__":
    main()
