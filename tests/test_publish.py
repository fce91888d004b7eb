"""No number in the README is typed by hand, and one command alone writes what is published."""

import shutil
import subprocess

import pandas as pd
import pytest

from lib import paths, publish, report
from lib.__main__ import main


def test_the_readme_says_what_the_runs_say():
    text = publish.README.read_text()
    assert publish.render(text) == text, "run: python -m lib publish"


def test_only_what_is_between_markers_changes(monkeypatch):
    monkeypatch.setitem(publish.BLOCKS, "one", lambda: "new")
    text = "before\n<!-- begin one -->\nold\nolder\n<!-- end one -->\nafter\n"
    assert publish.render(text) == "before\n<!-- begin one -->\nnew\n<!-- end one -->\nafter\n"


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match="'nonsense' is unknown: choose table-3"):
        publish.render("<!-- begin nonsense -->\n<!-- end nonsense -->")


def test_table_4_of_runs_that_are_there(results, trained, monkeypatch):
    """Made of a small network's runs, as if they were the mirror's."""
    monkeypatch.setattr(report, "committed_rows_4", lambda: [[trained]])
    block = publish.render("<!-- begin table-4 -->\n\n<!-- end table-4 -->")
    reported, ours = block.split("Ours, JPEG mirror of CIFAR-10, not its pixels:")
    assert reported.count("| resnet") == len(report.reported("admm_table4"))
    assert ours.count("| lenet5 ") == 1
    publish._draw_table_4()
    assert (results / "tables" / "admm-table-4-cifar10-jpeg.csv").exists()
    for name in ("admm-table-4-rates-cifar10-jpeg", "admm-figure-3-lenet5-cifar10-jpeg"):
        for kind in ("png", "svg"):
            assert (results / "figures" / f"{name}.{kind}").stat().st_size > 10_000


def test_table_4_without_runs_is_the_papers_and_a_line(results):
    block = publish.render("<!-- begin table-4 -->\n\n<!-- end table-4 -->")
    assert "| resnet50 | AMC | pruning only | 60.0 % |  | 1.7× | -0.11 |" in block
    assert "No run of Table 4 is committed yet" in block
    publish._draw_table_4()
    assert not (results / "tables").exists()


def test_the_committed_tables_and_figures_are_the_runs(results):
    committed = paths.ROOT / "results"
    for part in ("runs", "benchmarks"):
        shutil.copytree(committed / part, results / part)
    written = sorted(file.name for file in publish.draw())
    there = [file.name for kind in ("tables", "figures") for file in (committed / kind).iterdir()]
    assert written == sorted(there), "run: python -m lib publish, remove what it does not write"
    for table in ("admm-table-3.csv", "admm-figure-2.csv"):
        made, kept = (folder / "tables" / table for folder in (results, committed))
        assert made.read_text() == kept.read_text(), "run: python -m lib publish"
    figures = ("admm-table-3-rates", "admm-figure-2", "admm-figure-3")
    for name in (f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")):
        assert (results / "figures" / name).stat().st_size > 10_000
        assert (committed / "figures" / name).exists()


@pytest.fixture
def repository(tmp_path, monkeypatch, trained):
    """A project of its own in git, with a README of one block and the runs of ``trained``."""
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- begin one -->\n<!-- end one -->\nafter\n")
    monkeypatch.setattr(publish, "README", readme)
    monkeypatch.setattr(publish, "BLOCKS", {"one": lambda: "a number"})
    for part in ("table_3", "table_4", "comparison", "df", "benchmarks"):
        monkeypatch.setattr(publish, f"_draw_{part}", lambda: None)
    made = pd.DataFrame({"a": [1]})
    monkeypatch.setattr(publish, "_draw_files", lambda: publish._table(made, "made"))
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
