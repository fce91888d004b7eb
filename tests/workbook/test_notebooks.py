"""What is committed under notebooks/: executed, in order, declared, small, from no machine."""

import ast
import os
import re
import subprocess
import sys

import nbformat
import pytest

from lib import paths
from lib.workbook import experiments, report

FILES = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
MOST_BYTES = 1_000_000

HOME = re.compile(r"/(?:home|Users|root)\b/?|[A-Z]:\\\\?Users|/tmp/", re.IGNORECASE)


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def texts(cell):
    """Everything that a cell's outputs say in words."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        else:
            data = output.get("data", {})
            yield from (text for kind, text in data.items() if kind.startswith("text/"))


def test_there_are_notebooks():
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_small(file):
    assert file.stat().st_size < MOST_BYTES


def test_valid(notebook):
    nbformat.validate(notebook)


def test_executed_from_the_first_cell_to_the_last(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_errors_and_nothing_on_stderr(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", cell.source


def test_parameters_come_first_with_types_and_comments(notebook):
    first, *others = code_cells(notebook)
    assert "parameters" in tags(first)
    assert not any("parameters" in tags(cell) for cell in others)
    lines = first.source.splitlines()
    names = []
    for statement in ast.parse(first.source).body:
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        assert statement.value is not None
        ast.literal_eval(statement.value)  # independent: no other parameter, no call
        assert "  # " in lines[statement.end_lineno - 1], ast.unparse(statement)
        names.append(statement.target.id)
    assert "dataset" in names  # the batch sets it in every notebook


def test_begins_by_checking_its_parameters(notebook):
    assert "notebook.begin(" in code_cells(notebook)[1].source


def test_says_which_data_sets_it_is_about(notebook):
    """The batch chooses notebooks by their metadata; a reader is stopped by the second cell."""
    datasets = notebook.metadata["workbook"]["datasets"]
    # one that everybody has
    assert set(datasets) & set(paths.APART)
    assert set(datasets) <= set(experiments.DATASETS)
    checks = [
        node
        for node in ast.walk(ast.parse(code_cells(notebook)[1].source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "notebook.begin"
    ]
    (check,) = checks
    (checked,) = [word.value for word in check.keywords if word.arg == "datasets"]
    assert list(ast.literal_eval(checked)) == datasets


@pytest.mark.parametrize("dataset", experiments.DATASETS)
def test_the_batch_runs_the_notebooks_of_its_data_set(dataset, results):
    wanted = {
        file.stem
        for file in FILES
        if dataset in nbformat.read(file, as_version=4).metadata["workbook"]["datasets"]
    }
    assert wanted or dataset == "cifar100"  # its rows stand in a notebook about others
    entries = experiments.catalogue(dataset)
    gpus = int(any(entry.gpu for entry in entries))  # without one, these rows are left out
    options = f"--dry-run --cores 1 --nolock --config dataset={dataset} gpus={gpus}".split()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options],
        cwd=paths.ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(results / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    books = re.findall(r"output: \S*/([\w-]+)\.ipynb", said)
    assert set(books) == wanted
    # a job waits for what its runs need: two that make the same run would delete each other's
    jobs = re.findall(r"(?:input: (.*)\n +)?output: (\S*/result\.json.*)\n", said)
    result = re.compile(r"([\w.+-]+)/result\.json")
    there = {
        id: result.findall(files + made) for files, made in jobs for id in result.findall(made)
    }
    for entry in entries:
        for experiment, seed in entry.runs:
            needed = {other.id(seed) for other in experiment.needs}
            assert needed <= set(there[experiment.id(seed)])
    assert not any(set(result.findall(files)) & set(result.findall(made)) for files, made in jobs)


def test_outputs_name_no_place_on_a_machine(notebook):
    for cell in code_cells(notebook):
        for text in texts(cell):
            assert not HOME.search(text), text


def test_images_and_committed_rows_are_not_compared_by_nbval(notebook):
    for cell in code_cells(notebook):
        drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
        shows_rows = any(tag.startswith("committed-") for tag in tags(cell))
        if drawn or shows_rows:
            assert "nbval-ignore-output" in tags(cell), cell.source


def committed_cells():
    for file in FILES:
        for cell in code_cells(nbformat.read(file, as_version=4)):
            for tag in tags(cell):
                if tag.startswith("committed-"):
                    name = tag.removeprefix("committed-")
                    yield pytest.param(name, cell, id=f"{file.stem}-{name}")


@pytest.mark.parametrize(("name", "cell"), list(committed_cells()))
def test_committed_rows_are_what_the_run_folders_say(name, cell, monkeypatch):
    monkeypatch.delenv("WORKBOOK_RESULTS", raising=False)
    assert "".join(texts(cell)).strip() == report.committed(name).strip()
