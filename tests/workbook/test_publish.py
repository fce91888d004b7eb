"""One command alone writes what is published: blocks of the README, tables, figures, their data."""

import shutil
import subprocess

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lib.workbook import publish, report
from lib.workbook.cli import main

#: What is written of a figure.
KINDS = ("png", "svg", "csv")


def test_only_what_is_between_markers_changes(monkeypatch):
    monkeypatch.setitem(publish.BLOCKS, "one", lambda: "new")
    text = "before\n<!-- begin one -->\nold\nolder\n<!-- end one -->\nafter\n"
    assert publish.render(text) == "before\n<!-- begin one -->\nnew\n<!-- end one -->\nafter\n"
    with pytest.raises(ValueError, match="'nonsense' is unknown: choose table-3"):
        publish.render("<!-- begin nonsense -->\n<!-- end nonsense -->")


def test_table_4_of_runs_that_are_there(results, trained, monkeypatch):
    """Made of a small network's runs, as if they were the mirror's."""
    rows = {"cifar10": [], "cifar10-jpeg": [[trained]]}
    monkeypatch.setattr(report, "committed_rows_4", lambda: rows)
    monkeypatch.setattr(report.admm, "committed_rows_4", lambda: rows)
    block = publish.render("<!-- begin table-4 -->\n\n<!-- end table-4 -->")
    reported, ours = block.split("\nJPEG mirror of CIFAR-10, not its pixels:")
    assert reported.count("| resnet") == len(report.reported("admm_table4"))
    assert "**" not in reported
    assert ours.count("| lenet5 ") == 1
    table = results / "tables" / "admm-table-4-cifar10-jpeg.csv"
    figures = ("admm-table-4-rates", "admm-figure-3-lenet5-cifar10-jpeg")
    files = {results / "figures" / f"{name}.{kind}" for name in figures for kind in KINDS}
    assert publish.draw() == {table, *files}
    for file in files:
        assert file.stat().st_size > (500 if file.suffix == ".csv" else 10_000)
    assert len(pd.read_csv(table)) == 1


def test_table_4_without_runs_is_the_papers_and_a_line(results):
    block = publish.render("<!-- begin table-4 -->\n\n<!-- end table-4 -->")
    assert "| resnet50 | AMC | pruning only | 60.0 % |  | 1.7× | -0.11 |" in block
    assert "No run of Table 4 is committed yet" in block
    assert publish.draw() == set()
    assert not (results / "tables").exists()


def drawn(made):
    figure, axes = plt.subplots()
    axes.plot(made["made"]["a"], [2], label="one")
    yield "drawn", figure


@pytest.fixture
def repository(tmp_path, monkeypatch, trained):
    """A project of its own in git, with a README of one block and the runs of ``trained``."""
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- begin one -->\n<!-- end one -->\nafter\n")
    monkeypatch.setattr(publish, "README", readme)
    monkeypatch.setattr(publish, "BLOCKS", {"one": lambda: "a number"})
    monkeypatch.setattr(publish, "tables", lambda: {"made": pd.DataFrame({"a": [1]})})
    monkeypatch.setattr(publish, "figures", drawn)
    monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path / "results"))
    shutil.copytree(tmp_path / "digits" / "runs", tmp_path / "results" / "runs")
    for arguments in (["init", "-q"], ["add", "README.md"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_publishing_writes_everything_and_says_what_else_is_there(repository, capsys):
    tables = repository / "results" / "tables"
    tables.mkdir()
    (tables / "by-hand.csv").write_text("a\n2\n")
    first, *others = sorted(folder.name for folder in (repository / "results" / "runs").iterdir())
    subprocess.run(["git", "add", f"results/runs/{first}"], cwd=repository, check=True)
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]
    subprocess.run(["git", *commit], cwd=repository, check=True)
    assert main(["publish"]) == 0
    assert publish.README.read_text().splitlines()[2] == "a number"
    assert (tables / "made.csv").read_text() == "a\n1\n"
    assert (repository / "results" / "figures" / "drawn.csv").read_text().endswith(",one,1,2,,,\n")
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"not written by this command: {tables / 'by-hand.csv'}",
        *(f"shown but not committed yet: {name}" for name in others),
    ]


def test_a_block_that_fails_leaves_everything_as_it_was(repository, monkeypatch):
    def damaged():
        raise ValueError("a run is not whole")

    monkeypatch.setattr(publish, "BLOCKS", {"one": damaged})
    before = publish.README.read_text()
    assert main(["publish"]) == 1
    assert publish.README.read_text() == before
    assert not (repository / "results" / "tables").exists()
