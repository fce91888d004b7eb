"""A notebook refuses what it does not declare before it does anything."""

import os
import re
import subprocess
import sys

import matplotlib
import nbformat
import pandas as pd
import pytest
import torch

from lib import paths
from lib.workbook import notebook

DECLARED = """\
dataset: str = "digits"  # or mnist
epochs: int | None = None
seeds: tuple = (0, 1)
"""


@pytest.fixture(autouse=True)
def style():
    """Leaves matplotlib as it was."""
    with matplotlib.rc_context():
        yield


def cells(injected, *, declared=DECLARED):
    return ["", "import torch", declared.strip(), injected.strip(), "begin()"]


@pytest.mark.parametrize(
    "injected",
    [
        '# Parameters\ndataset = "mnist"\n',
        '# Parameters\ndataset = "mnist"\nepochs = 3\nseeds = [0]\n',
        "# Parameters\n",
        "undeclared = 1\n",  # a cell of the notebook's own
    ],
)
def test_declared_parameters_pass(injected):
    notebook.refuse_undeclared(cells(injected))


@pytest.mark.parametrize(
    "injected", ["epoch = 3", "dataset = 'mnist'\nepoch = 3", "epoch: int = 3"]
)
def test_an_undeclared_parameter_is_named_beside_the_declared(injected):
    message = r"unknown parameter epoch: this notebook declares dataset, epochs, seeds"
    with pytest.raises(ValueError, match=message):
        notebook.refuse_undeclared(cells(f"# Parameters\n{injected}\n"))


OF_TYPES = 'dataset: str = "digits"\nepochs: int = 3\nrate: float = 0.5\nfull: bool = False'


@pytest.mark.parametrize(
    "variables", [{}, {"epochs": 4}, {"rate": 2}, {"full": True, "dataset": "mnist"}]
)
def test_parameters_of_their_types_pass(variables):
    notebook.refuse_other_types(["", OF_TYPES], variables)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("epochs", "3", "int"),
        ("epochs", 3.0, "int"),
        ("epochs", True, "int"),
        ("epochs", [3], "int"),
        ("rate", "0.5", "float"),
        ("rate", None, "float"),
        ("full", 1, "bool"),
        ("full", "False", "bool"),
        ("dataset", 3, "str"),
    ],
)
def test_a_parameter_of_another_type_is_named_with_its_own(name, value, kind):
    message = rf"{name} = {re.escape(repr(value))} is of .*: this notebook declares {kind}"
    with pytest.raises(ValueError, match=message):
        notebook.refuse_other_types(["", OF_TYPES], {name: value})


def test_a_notebook_that_declares_nothing_takes_nothing():
    """Without a cell tagged `parameters`, papermill puts its own first."""
    with pytest.raises(ValueError, match="unknown parameter dataset"):
        notebook.refuse_undeclared(["", "# Parameters\ndataset = 'mnist'", "begin()"])


def test_begin_seeds_and_says_what_it_runs_on():
    said = notebook.begin(dataset="digits", seed=3)
    assert f"torch {torch.__version__}" in said
    assert "digits" in said
    first = torch.rand(3)
    notebook.begin(dataset="digits", seed=3)
    assert torch.equal(torch.rand(3), first)


def test_begin_refuses_what_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="dataset = 'svhn': this notebook is about digits, mnist"):
        notebook.begin(dataset="svhn")
    notebook.begin(dataset="cifar10-jpeg")
    with pytest.raises(ValueError, match="'cifar10': this notebook is about digits, mnist; choose"):
        notebook.begin(dataset="cifar10", datasets=("digits", "mnist"))
    with pytest.raises(ValueError, match=r"device = 'cuda:1' but no GPU is visible"):
        notebook.begin(dataset="digits", device="cuda:1")


def test_papermill_exits_non_zero_before_anything_runs(tmp_path):
    parameters = nbformat.v4.new_code_cell(DECLARED, metadata={"tags": ["parameters"]})
    begin = "from lib.workbook import notebook\n\nnotebook.begin(dataset=dataset)"
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# A lesson"),
            parameters,
            nbformat.v4.new_code_cell(begin),
            nbformat.v4.new_code_cell(f"open({str(tmp_path / 'ran')!r}, 'w').close()"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    nbformat.write(book, tmp_path / "lesson.ipynb")
    homes = ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "lesson.ipynb", "done.ipynb", "-p", "epoch", "3"],
        cwd=tmp_path,
        env=os.environ
        | {home: str(tmp_path / "home") for home in homes}
        | {"PYTHONPATH": str(paths.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "unknown parameter epoch: this notebook declares dataset, epochs, seeds" in done.stderr
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------ what is saved


TYPED = (
    'dataset: str = "mnist"  # or digits\nepochs: int = 3  # of each\nrate: float = 2.5  # asked'
)


@pytest.fixture
def kernel(results, monkeypatch):
    """Begins a notebook whose parameters have these values, injected or typed in."""

    def begin(dataset="mnist", cells=("", TYPED, "begin()"), **values):
        variables = {"dataset": dataset, "epochs": 3, "rate": 2.5} | values
        monkeypatch.setattr(notebook, "_kernel", lambda: (list(cells), variables))
        return notebook.begin(dataset=dataset)

    return begin


def test_what_is_saved_lies_in_a_folder_of_its_parameters(kernel, results):
    figure = matplotlib.figure.Figure()
    said = kernel()
    notebook.save(figure, "drawn")
    notebook.save(pd.DataFrame({"a": [1]}), "table")
    folder = results / "notebooks" / "mnist" / "epochs=3,rate=2.5"
    assert said.endswith(f"saved in {folder}")
    assert sorted(file.name for file in folder.iterdir()) == ["drawn.png", "drawn.svg", "table.csv"]


def test_a_sweep_overwrites_nothing(kernel, results):
    for dataset in ("digits", "mnist"):
        for epochs in (1, 2):
            kernel(dataset, epochs=epochs)
            notebook.save(pd.DataFrame({"a": [epochs]}), "table")
    found = {file.relative_to(results).parts[:-1] for file in results.rglob("table.csv")}
    assert found == {
        ("digits", "notebooks", "epochs=1,rate=2.5"),
        ("digits", "notebooks", "epochs=2,rate=2.5"),
        ("notebooks", "mnist", "epochs=1,rate=2.5"),
        ("notebooks", "mnist", "epochs=2,rate=2.5"),
    }


def test_saved_in_the_checkout_it_is_ignored_by_git(kernel, monkeypatch):
    monkeypatch.delenv("WORKBOOK_RESULTS")
    for dataset in ("digits", "mnist", "imagenet", "imagenet-sample", "cifar10"):
        said = kernel(dataset)
        folder = said.rpartition(" ")[2]
        assert folder.startswith("results/")
        ignored = subprocess.run(["git", "check-ignore", "-q", f"{folder}/a.csv"], cwd=paths.ROOT)
        assert ignored.returncode == 0


def test_parameters_are_those_of_the_cell_that_ran_last():
    older = 'dataset: str = "digits"  # a\nepoch: int = 1  # b'
    cells = ["", older, TYPED, "%matplotlib inline", "x: int = 3", "begin()"]
    assert list(notebook.declared(cells)) == ["dataset", "epochs", "rate"]
    assert list(notebook.declared([*cells, older])) == ["dataset", "epoch"]
    assert not notebook.declared(["", "x = 3"])


def test_any_value_makes_a_folder_of_its_own():
    names = [
        notebook.folder_name({"dataset": "mnist", "limit": limit})
        for limit in ("12 kB", "12_kB", "12/kB", "../up", "a" * 300, "a" * 299 + "b", "ρ")
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.,=+-]{1,200}", name, flags=re.ASCII) for name in names)
    assert notebook.folder_name({"dataset": "mnist"}) == "no-parameters"


def test_nothing_is_saved_before_the_notebook_has_begun(monkeypatch):
    monkeypatch.setattr(notebook, "_folder", None)
    with pytest.raises(ValueError, match=r"notebook.begin\(dataset=...\) first"):
        notebook.save(pd.DataFrame(), "table")
