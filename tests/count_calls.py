"""Counts on the pretend GPU what projections, steps and periods ask of a GPU, into one table.

``python -m tests.count_calls``, from the project's folder, writes the rows ``after`` of
``results/benchmarks/counted.csv`` from the code at hand; with ``--before FOLDER`` the rows
``before`` from the code of an older checkout.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent

#: Weights of ResNet-50's layers here: waits depend on the number of layers, bytes are per weight.
WEIGHTS = 500_000

#: Images of a step: few, so that the network's own bytes leave the method's to be seen.
BATCH = 8

NETWORK = "resnet20"

COLUMNS = ["launches", "waits", "uploads", "bytes per weight"]


def projections() -> Iterator[tuple[str, int, Callable[[], object]]]:
    """What each projection is called, the weights it reads, and a call of it on the device."""
    import torch

    from lib import networks
    from lib.layers import compressible
    from lib.projections import sparsity
    from lib.projections.codebook import assign, fit_codebooks
    from lib.projections.knapsack import project_fixed_bitwidth
    from lib.workbook import benchmarks

    torch.manual_seed(0)
    wide, _ = benchmarks.projection_costs.random_layers(WEIGHTS, "cpu")
    small = [w.detach() for w in compressible(networks.build(NETWORK)).values()]
    for name, layers in (("ResNet-50", wide), ("ResNet-20", small)):
        bits = [1 + i % 8 for i in range(len(layers))]
        count = sum(w.numel() for w in layers)
        limit = benchmarks.projection_costs.bits_of(layers, bits) // 10
        for what, given in (("", layers), (", ties", [(30 * w).round() / 30 for w in layers])):
            there = [w.to("cuda") for w in given]
            out = [torch.empty_like(w) for w in there]
            project = partial(project_fixed_bitwidth, there, bits, budget=limit, out=out)
            yield f"{name}: choosing the weights{what}", count, project
        there = [w.to("cuda") for w in layers]
        yield f"{name}: codebooks", count, partial(fit_codebooks, there, free_zero=True)
        books = fit_codebooks(there, free_zero=True).centres

        def assigned(there=there, books=books):
            return [assign(w, b[2], free_zero=True) for w, b in zip(there, books, strict=True)]

        yield f"{name}: every weight assigned", count, assigned
        radius = float(sum(w.abs().sum(dtype=torch.float64) for w in layers)) / 3
        for cost, work in {
            "ℓ0 constraint": partial(sparsity.l0_constraint, there, keep=count // 10),
            "ℓ1 constraint": partial(sparsity.l1_constraint, there, radius=radius),
            "ℓ2 constraint": partial(sparsity.l2_constraint, there, radius=1.0),
            "ℓ0 penalty": partial(sparsity.l0_penalty, there, alpha=1e-4, mu=1.0),
            "ℓ1 penalty": partial(sparsity.l1_penalty, there, alpha=1e-4, mu=1.0),
            "ℓ2 penalty": partial(sparsity.l2_penalty, there, alpha=1e-4, mu=1.0),
        }.items():
            yield f"{name}: {cost}", count, work


def prepared(name: str):
    """A step of a method, the method, and its network's weights."""
    import torch

    from lib import data, networks
    from lib.layers import compressible
    from lib.workbook import benchmarks

    torch.manual_seed(0)
    model = networks.build(NETWORK).to("cuda")
    images = data.noise(networks.INPUT_SHAPES[NETWORK], BATCH).to(torch.device("cuda"))
    pixels, labels = images.normalise(images.train.images), images.train.labels
    method = benchmarks.every_method.make(name, NETWORK)
    step = benchmarks.every_method.step_of(method, model, pixels, labels)
    step()  # momentum, and whatever a first step makes
    return step, method, sum(w.numel() for w in compressible(model).values())


def counted(work: Callable[[], object], weights: int) -> dict[str, float | str]:
    """The four numbers of one call, or what it ends with."""
    from tests import pretend

    try:
        with pretend.counted() as tally:
            work()
    except Exception as error:
        return crash(error)
    found = [tally.launches, tally.waits, tally.uploads, tally.bytes / weights]
    return dict(zip(COLUMNS, found, strict=True)) | {"note": ""}


def crash(error: Exception) -> dict[str, float | str]:
    return dict.fromkeys(COLUMNS, math.nan) | {"note": f"crashes: {type(error).__name__}"}


def methods(names: Iterable[str]) -> Iterator[tuple[str, dict]]:
    """A step of each method beyond the first's, SGD's, and what each does at a period's end."""
    plain: dict[str, float] = {}
    for name in names:
        try:
            step, method, weights = prepared(name)
        except Exception as error:
            yield f"step: {name}", crash(error)
            continue
        found = counted(step, weights)
        if not name.startswith("lc, "):  # LC's step is the same with every cost
            yield f"step: {name}", found | {c: found[c] - plain.get(c, 0) for c in COLUMNS}
        plain = plain or {column: found[column] for column in COLUMNS}
        if name != "sgd":
            yield f"period: {name}", counted(method.after_period, weights)


def trained() -> list[str]:
    """Every method that has steps of its own, SGD first."""
    from lib.workbook import benchmarks

    return [
        name for name in benchmarks.every_method.names() if name not in benchmarks.every_method.ONCE
    ]


def table() -> pd.DataFrame:
    """A row each, numbers as on the device."""
    from tests import pretend

    with pretend.gpu():
        rows = [{"what": what} | counted(work, n) for what, n, work in projections()]
        rows += [{"what": what} | found for what, found in methods(trained())]
    steps_first = sorted(rows, key=lambda row: row["what"].startswith("period"))
    return pd.DataFrame(steps_first)


def write(code: str) -> Path:
    """Takes the place of the rows of ``code``, ``before`` or ``after``; the others stay."""
    file = ROOT / "results" / "benchmarks" / "counted.csv"
    others = pd.read_csv(file, keep_default_na=False) if file.exists() else pd.DataFrame()
    if len(others):
        others = others[others["code"] != code]
    made = pd.concat([others, table().assign(code=code)], ignore_index=True)
    made.sort_values("code", ascending=False, kind="stable").to_csv(file, index=False)
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="an older checkout")
    options = parser.parse_args()
    if options.before:
        sys.path.insert(0, str(options.before))
        import lib

        lib.__path__.append(str(ROOT / "lib"))  # what only this checkout has
    import torch

    torch.set_num_threads(1)
    print(write("before" if options.before else "after"))
