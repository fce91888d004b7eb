"""What the code gives, compared with what it gave before it was rearranged.

``python -m tests.golden_check``, from the project's folder, compares the catalogue, the files of
all committed networks, the networks that some runs on ``digits`` train, the committed tables and
figures and the README's blocks, in some three minutes. ``--freeze NAME`` writes one of the CSVs in
``tests/golden`` anew from the code at hand, for a change that is meant; the difference is to be
read, and said in the commit. Ids of runs that are removed on purpose stand in ``REMOVED``.
"""

import argparse
import csv
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import pytest
import torch

from lib import paths
from lib.training import arithmetic
from lib.workbook import experiments, runs

GOLDEN = Path(__file__).parent / "golden"
RUNS = paths.ROOT / "results" / "runs"

#: Ids of runs that are no longer there. These four had each a second folder of another slug, with
#: the same hash, seed and weights; what is kept has the slug that the catalogue gives.
REMOVED = {
    "lenet300-tanh-mnist-gradual-0.01-until0.25-60ep-held-out-8040bb22-s0",
    "lenet300-tanh-mnist-gradual-0.01-60ep-held-out-d44af334-s0",
    "lenet300-tanh-mnist-gradual-0.01-per-layer-until0.25-60ep-held-out-2c8987f3-s0",
    "lenet300-tanh-mnist-gradual-0.01-per-layer-60ep-held-out-61cbf3db-s0",
}

#: What is trained anew with what it needs: each method, on the smallest networks.
TRAINED = (
    "lenet300-tanh-digits-lc-l0-constraint-0.02-40ep-d19989d3-s0",
    "lenet300-tanh-digits-lc-l1-penalty-0.0005-40ep-e7f771bd-s0",
    "lenet300-digits-admm-200x-40ep-fde0c118-s0",
    "lenet300-digits-ye-200x-40ep-9e9b9635-s0",
    "lenet300-digits-gradual-200x-40ep-1eb5758b-s0",
    "lenet300-digits-kmeans-2bits-40ep-2a9dd72f-s0",
    "lenet300-digits-search-200x-10x2ep-f6b6f2a9-s0",
    "lenet300-digits-allocation-scratch-200x-a1cbf88e-s0",
    "lenet300-tanh-digits-lc-l0-constraint-0.02-40ep-traced-1400cab3-s0",
    "lenet5-digits-file-3000B-16+4ep-81e15a8d-s0",
    "resnet8-digits-admm-quantize-16x-10ep-49cead52-s0",
    "resnet8-digits-df-hybrid-50pct-6+4ep-6054b2b7-s0",
    "resnet8-digits-group-magnitude-50pct-6+4ep-b77533b8-s0",
    "resnet8-digits-svd-energy-50pct-6+4ep-f4c820a3-s0",
    "resnet8-digits-lc-ranks-50pct-6+4ep-17ec92e5-s0",
)

#: Of a result.json, what differs each time.
VOLATILE = ("commit", "trained_by", "code_hash", "finished", "train_seconds", "versions")

#: Tests of what is committed and published, by their names.
PUBLISHED = "every_cell_is or every_file_is or readme_says"

Row = tuple[str, ...]


def catalogue() -> dict[str, Row]:
    """Id → priority, ``gpu`` or nothing, parent, like, control; also of what no row asks for."""
    found = {}
    listed = [
        (*run, str(entry.place(run[1])[0]), "gpu" * entry.gpu)
        for dataset in experiments.DATASETS
        for entry in experiments.catalogue(dataset)
        for run in entry.runs
    ]
    for experiment, seed, *place in listed:  # which grows by what they need
        if experiment.id(seed) not in found:
            needed = (experiment.parent, experiment.like, experiment.control)
            found[experiment.id(seed)] = (*place, *(one.id(seed) if one else "" for one in needed))
            listed += [(one, seed, "", "") for one in needed if one]
    return found


def files(ids: Iterable[str]) -> dict[str, Row]:
    """Id → bytes and SHA-256 of the committed network's archive."""
    found = {}
    for id in ids:
        run = runs.read(RUNS / id)
        content = run.file(run.state())
        found[id] = (str(len(content)), hashlib.sha256(content).hexdigest())
    return found


def committed() -> list[str]:
    """Ids of the runs whose weights are committed."""
    found = (runs.read(file.parent) for file in RUNS.glob("[!.]*/result.json"))
    return [run.id for run in found if run.weights.parent == run.folder]


def trained() -> dict[str, Row]:
    """Id → the machine, and SHA-256 of what the run is, trained anew here on one thread."""
    folder = tempfile.TemporaryDirectory()
    with folder as root, mock.patch.dict(os.environ, WORKBOOK_RESULTS=root):
        for id in TRAINED:
            ((experiment, seed),) = experiments.find(id)
            runs.get(experiment, seed, device="cpu", threads=1, quiet=True)
        return {run.id: (*machine(), *digests(run)) for run in runs.finished("digits")}


def machine() -> Row:
    """What arithmetic depends on: elsewhere the same training ends a little differently."""
    return *arithmetic.machine("cpu").values(), torch.__version__


def digests(run: runs.Run) -> Row:
    """SHA-256 of the weights, the other files, the history but for its times, and the result."""
    result = {k: v for k, v in run.result.items() if k not in VOLATILE}
    named = result.pop("files")
    del named["history.csv"]
    history = run.history.drop(columns="seconds", errors="ignore").to_csv(index=False)
    texts = (json.dumps(named, sort_keys=True), history, json.dumps(result, sort_keys=True))
    others = (hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return named["weights.safetensors"], *others


COLUMNS = {
    "catalogue": ("id", "priority", "gpu", "parent", "like", "control"),
    "files": ("id", "bytes", "sha256"),
    "trained": (
        "id",
        "processor",
        "instructions",
        "torch",
        "weights",
        "files",
        "history",
        "result",
    ),
}


def frozen(name: str) -> dict[str, Row]:
    """What was frozen, but for ``REMOVED``."""
    with (GOLDEN / f"{name}.csv").open(newline="") as file:
        (_, *rows) = csv.reader(file)
    return {id: tuple(row) for id, *row in rows if id not in REMOVED}


def freeze(name: str, found: dict[str, Row]) -> None:
    with (GOLDEN / f"{name}.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS[name])
        table.writerows([id, *row] for id, row in sorted(found.items()))


def differences(name: str, found: dict[str, Row]) -> list[str]:
    """What of ``found`` is not as it was frozen, a line each; what is new is as it should be."""
    before = frozen(name)
    return [
        f"{id}: {column} is {value or 'none'}, was {old or 'none'}"
        for id in sorted(found.keys() & before.keys())
        for column, value, old in zip(COLUMNS[name][1:], found[id], before[id], strict=True)
        if value != old
    ]


def gone(name: str, found: dict[str, Row]) -> list[str]:
    """Frozen ids that are not there any more."""
    return sorted(frozen(name).keys() - found.keys())


def here(name: str) -> dict[str, Row]:
    """What is frozen by this name, from the code at hand."""
    if name == "files":
        return files(sorted(frozen(name)) if (GOLDEN / "files.csv").exists() else committed())
    return {"catalogue": catalogue, "trained": trained}[name]()


def check(name: str) -> list[str]:
    """The lines that tell of a difference; a machine that trains otherwise is told, and skipped."""
    if name == "trained" and (made := {row[:3] for row in frozen(name).values()}) != {machine()}:
        print(f"trained: skipped, on {machine()}; what is frozen was trained on {made}")
        return []
    found = here(name)
    new = sorted(found.keys() - frozen(name).keys())
    print(f"{name}: {len(found)} compared", f"new: {new}" if new else "")
    return differences(name, found) + [f"{id}: is gone" for id in gone(name, found)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--freeze", choices=COLUMNS, metavar="NAME")
    if name := parser.parse_args().freeze:
        freeze(name, catalogue() if name == "catalogue" else here(name))
        return 0
    failed = False
    for name in COLUMNS:
        began = time.monotonic()
        found = check(name)
        failed |= bool(found)
        print(*found, f"{name}: {time.monotonic() - began:.0f} s", sep="\n", flush=True)
    tests = map(str, GOLDEN.parent.rglob("test_published.py"))
    return pytest.main(["-q", "-p", "no:xdist", "-k", PUBLISHED, *tests]) or failed


if __name__ == "__main__":
    sys.exit(main())
