"""No number in the README is typed by hand."""

import shutil

import pytest

from lib import paths, readme, report


def test_the_readme_says_what_the_runs_say():
    text = readme.README.read_text()
    assert readme.render(text) == text, "run: python -m lib readme"


def test_only_what_is_between_markers_changes(monkeypatch):
    monkeypatch.setitem(readme.BLOCKS, "one", lambda: "new")
    text = "before\n<!-- begin one -->\nold\nolder\n<!-- end one -->\nafter\n"
    assert readme.render(text) == "before\n<!-- begin one -->\nnew\n<!-- end one -->\nafter\n"


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match="'nonsense' is unknown: choose table-3"):
        readme.render("<!-- begin nonsense -->\n<!-- end nonsense -->")


def test_table_4_of_runs_that_are_there(results, trained, monkeypatch):
    """Made of a small network's runs, as if they were the mirror's."""
    monkeypatch.setattr(report, "committed_rows_4", lambda: [[trained]])
    block = readme.render("<!-- begin table-4 -->\n\n<!-- end table-4 -->")
    reported, ours = block.split("Ours, JPEG mirror of CIFAR-10, not its pixels:")
    assert reported.count("| resnet") == len(report.reported("admm_table4"))
    assert ours.count("| lenet5 ") == 1
    readme._draw_table_4()
    assert (results / "tables" / "admm-table-4-cifar10-jpeg.csv").exists()
    for name in ("admm-table-4-rates-cifar10-jpeg", "admm-figure-3-lenet5-cifar10-jpeg"):
        for kind in ("png", "svg"):
            assert (results / "figures" / f"{name}.{kind}").stat().st_size > 10_000


def test_table_4_without_runs_is_the_papers_and_a_line(results):
    block = readme.render("<!-- begin table-4 -->\n\n<!-- end table-4 -->")
    assert "| resnet50 | AMC | pruning only | 60.0 % |  | 1.7× | -0.11 |" in block
    assert "No run of Table 4 is committed yet" in block
    readme._draw_table_4()
    assert not (results / "tables").exists()


def test_the_committed_tables_and_figures_are_the_runs(results):
    committed = paths.ROOT / "results"
    shutil.copytree(committed / "runs", results / "runs")
    readme.draw()
    for table in ("admm-table-3.csv", "admm-figure-2.csv"):
        made, kept = (folder / "tables" / table for folder in (results, committed))
        assert made.read_text() == kept.read_text(), "run: python -m lib readme"
    figures = ("admm-table-3-rates", "admm-figure-2", "admm-figure-3")
    for name in (f"{figure}.{kind}" for figure in figures for kind in ("png", "svg")):
        assert (results / "figures" / name).stat().st_size > 10_000
        assert (committed / "figures" / name).exists()
