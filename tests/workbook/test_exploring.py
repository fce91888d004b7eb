"""Exploring a notebook changes nothing that is published, whatever it is about.

Every notebook that saves anything is executed on a real data set's name, with made images and with
made runs: each is the catalogue's, trained for an epoch of a few steps. Those of ImageNet's
networks are executed with another parameter, on the runs of its sample, where these were trained.
"""

import contextlib
import hashlib
import io
import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from lib import archive, paths
from lib.data import catalogue
from lib.data.dataset import Dataset, Split
from lib.workbook import experiments, notebook, runs

FILES = [
    file
    for file in sorted(paths.NOTEBOOKS.glob("*.ipynb"))
    if "notebook.save(" in file.read_text(encoding="utf-8")
]

#: What is published, in a results folder.
PUBLISHED = ("tables", "figures", "benchmarks")

#: What makes a notebook short, besides the data set.
SHORTER = {
    **{number: {"seeds": 1} for number in ("12", "23", "24")},
    "30": {"length": "short"},
    "31": {"steps": 1, "repeats": 1, "epochs": 1},
    "40": {"images": 20},
    **{number: {"length": "short"} for number in ("41", "42", "43", "44", "45")},
    "51": {"epochs": 2},
    "90": {
        **{"largest": 10_000, "clustered": 1_000, "widest": 2, "filed": 1_000},
        **{"repeats": 1, "epochs": 1},
    },
    "91": {"side": 64, "batch": 2, "repeats": 1, "largest": 100_000},
}

read_images = catalogue._read

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar10-jpeg": (3, 32, 32)}


#: What notebooks that save full measurements alone do with them.
MEASURED = {
    number: 'full = True\nsave(pd.DataFrame({"a": [1]}), "sizes")' for number in ("90", "91")
}

#: Notebooks whose networks are too large to be made here, and what takes long there.
LARGE = ("60", "61")
SLOW = ("file_parts(", "latencies(")


def made_images(name, size):
    """So few that an epoch has 16 steps of four; every class equally often."""
    if name == "imagenet-sample":
        return read_images(name, size)
    shape = (1, size or 28, size or 28) if name == "digits" else SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (100, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.arange(100) % 10
    middle = (0.5,) * shape[0]
    train, test = Split(images[:64], labels[:64]), Split(images[64:], labels[64:])
    return Dataset(name, train, test, middle, middle, classes=10, fingerprint="made")


def shortly(train):
    """The training loop, for one epoch of few images at most."""

    def trained(model, dataset, schedule, method, **options):
        short = replace(schedule, epochs=min(1, schedule.epochs), warmup=0, batch=4)
        method.trials = 2  # of a search
        return train(model, dataset, short, method, **options)

    return trained


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    """A results folder with what is published and no runs."""
    root = tmp_path_factory.mktemp("explored")
    for kind in PUBLISHED:
        shutil.copytree(paths.ROOT / "results" / kind, root / kind)
    return root


def unread(run, state):
    """The run's file, not read back: other tests do."""
    return archive.encode(state, **run.architecture)


@pytest.fixture
def made(explored, monkeypatch):
    monkeypatch.setenv("WORKBOOK_RESULTS", str(explored))
    monkeypatch.setattr(catalogue, "_read", made_images)
    monkeypatch.setattr(catalogue, "HELD_OUT", dict.fromkeys(catalogue.HELD_OUT, 20))
    monkeypatch.setattr(runs.Run, "file", unread)
    monkeypatch.setattr(runs.train, "train", shortly(runs.train.train))
    monkeypatch.setattr(runs.train, "search", shortly(runs.train.search))
    monkeypatch.setattr(runs.search, "train", shortly(runs.search.train))
    usual = experiments.dense_schedule
    monkeypatch.setattr(experiments, "dense_schedule", lambda *n: replace(usual(*n), batch=8))
    few = tuple(row for row in experiments.admm_table_4.TABLE_4 if row["network"] == "resnet20")
    monkeypatch.setattr(experiments.admm_table_4, "TABLE_4", few)
    monkeypatch.setattr(notebook, "_folder", None)
    runs.dataset_of.cache_clear()
    yield explored
    runs.dataset_of.cache_clear()
    plt.close("all")


def digests(*folders):
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def execute(book, parameters, afterwards, without):
    """Runs the notebook with these parameters, to the last cell that saves; what failed of those.

    Cells that show committed rows are left out, and those that say ``without``: they take long.
    """
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(history_load_length=0)
    injected = "# Parameters\n" + "\n".join(f"{k} = {v!r}" for k, v in parameters.items())
    failed = []
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        cells = [cell for cell in book.cells if cell.cell_type == "code"]
        last = max(i for i, cell in enumerate(cells) if "notebook.save(" in cell.source)
        for cell in cells[: last + 1]:
            tags = cell.metadata.get("tags", [])
            if any(call in cell.source for call in without) or any(
                tag.startswith("committed-") for tag in tags
            ):
                continue
            done = shell.run_cell(cell.source, store_history=True)
            if "parameters" in tags:
                shell.run_cell(injected, store_history=True)
            plt.close("all")
            if "notebook.save(" in cell.source and not done.success:
                failed.append((cell.source, done.error_in_exec or done.error_before_exec))
        if afterwards:
            shell.run_cell(afterwards).raise_error()
    InteractiveShell.clear_instance()
    return failed, said.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_exploring_changes_nothing_published(file, made):
    book = nbformat.read(file, as_version=4)
    number, datasets = file.stem[:2], book.metadata["workbook"]["datasets"]
    if number in LARGE:
        dataset, shorter = "imagenet-sample", {"device": "cpu"}
        trained = paths.ROOT / "results" / dataset
        if not (trained / "runs").exists():
            pytest.skip("the runs of imagenet-sample are not there: make test trains them")
        for part in ("runs", "weights"):
            (made / dataset).mkdir(exist_ok=True)
            if not (made / dataset / part).exists():
                (made / dataset / part).symlink_to(trained / part)
    else:
        dataset = next(name for name in datasets if name not in paths.APART)
        shorter = SHORTER.get(number, {})
    parameters = {"dataset": dataset} | shorter
    published = [folder / kind for folder in (made, paths.ROOT / "results") for kind in PUBLISHED]
    before = digests(*published)
    without = SLOW if number in LARGE else ()
    failed, said = execute(book, parameters, MEASURED.get(number), without)
    assert not failed, said[-3000:]
    assert digests(*published) == before
    saved = notebook._folder
    assert saved.parent == paths.notebooks(dataset)
    assert saved.is_relative_to(made)
    assert list(saved.iterdir())
