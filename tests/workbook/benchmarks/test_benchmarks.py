"""Tables of measurements: published with their machine, and missing where no GPU has measured."""

import json
import re

import pandas as pd
import pytest

from lib import paths
from lib.workbook import benchmarks, publish, report
from lib.workbook.benchmarks import gpu_check
from lib.workbook.cli import main


def test_measurements_are_taken_over_from_the_folder_that_is_named(results, tmp_path):
    assert benchmarks.committed("sizes").empty
    table = pd.DataFrame({"seconds": [1.5, 2.5]})
    measured = table.assign(**benchmarks.machine("cpu", threads=2))
    folder = tmp_path / "notebooks" / "mnist" / "full=True"
    report.save(measured, "sizes-cpu", folder)
    report.save(table, "speed-digits-cpu", folder)  # of embedded data: not published
    report.save(table, "another-cpu", folder)
    assert [file.name for file in publish.take_measured(folder)] == ["sizes-cpu.csv"]
    found = benchmarks.committed("sizes")
    assert found["seconds"].tolist() == [1.5, 2.5]
    assert list(found) == ["seconds", "device", "cpu", "cores", "threads", "torch"]
    assert set(found["device"]) == {"cpu"}
    assert set(found["threads"]) == {2}


def test_a_folder_without_measurements_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match="holds no table of measurements"):
        publish.take_measured(tmp_path)


def saved_by(notebook):
    """The tables that the notebook saves, in its order."""
    cells = json.loads((paths.NOTEBOOKS / f"{notebook}.ipynb").read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells)
    return re.findall(r'^ *save\(.*, "([\w-]+)"\)$', source, flags=re.MULTILINE)


def test_what_no_gpu_has_measured_is_listed_with_its_command(results, capsys):
    assert len(benchmarks.missing_on_gpu()) == 1 + len(benchmarks.FULL)
    (results / "benchmarks").mkdir()
    for table in saved_by("90-benchmarks"):
        for device in ("cpu", "cuda:0"):
            if name := benchmarks.file_name(table, device):
                (results / "benchmarks" / f"{name}.csv").touch()
    check, left = benchmarks.missing_on_gpu()
    assert check == "python -m lib gpu-check"
    assert left.startswith("papermill notebooks/91-training-steps.ipynb")
    assert main(["list", "--dataset", "digits"]) == 0
    assert f"not measured on a GPU: {left}" in capsys.readouterr().out


@pytest.mark.parametrize("notebook", benchmarks.FULL)
def test_a_notebook_is_measured_on_a_gpu_once_its_last_table_of_one_is_there(notebook):
    """A table that is the CPU's everywhere would never be there, or be the wrong machine's."""
    on_gpu = [table for table in saved_by(notebook) if benchmarks.file_name(table, "cuda")]
    assert benchmarks.FULL[notebook][1] == on_gpu[-1]


def test_a_table_of_the_cpu_is_not_saved_as_a_gpus():
    assert benchmarks.file_name("file", "cpu") == "file-cpu"
    assert benchmarks.file_name("file", "cuda") is None
    assert benchmarks.file_name("sizes", "cuda:1") == "sizes-cuda"
    assert set(benchmarks.OF_CPU) <= set(saved_by("90-benchmarks"))


def checked(device, cuda, verdicts=("passed", "FAILED", "passed")):
    table = pd.DataFrame(
        {
            "part": ["projections", "epochs", "epochs"],
            "what": ["25,502,912 weights", "admm", "sgd"],
            "value": [0.21, 1.153, 1.0],
            "unit": ["times sort and cumsum", "times SGD", "times SGD"],
            "verdict": verdicts,
        }
    )
    return table.assign(device=device, torch="2.11.0", cuda=cuda, commit="0123456789")


def test_until_a_gpu_has_run_the_check_the_readme_says_that_no_number_is_ours(results):
    gpu_check.save(checked("cpu", None))
    assert benchmarks.gpu_said().startswith("**No number of a GPU is ours**")
    assert benchmarks.missing_on_gpu()[0] == "python -m lib gpu-check"
    gpu_check.save(checked("Some GPU", "13.0"))
    assert benchmarks.gpu_said() == (
        "- Some GPU: 2 checks passed, 1 failed; choosing the weights takes 0.21 times sort and "
        "cumsum; an epoch of ADMM 1.15 times SGD (torch 2.11.0, commit 0123456)"
    )
    assert "python -m lib gpu-check" not in benchmarks.missing_on_gpu()


def test_counts_are_shown_before_and_after(results):
    assert "Not counted yet" in benchmarks.committed_counted()
    (results / "benchmarks").mkdir()
    table = pd.DataFrame(
        [
            ("one", 310, 15, "", "before"),
            ("two", None, None, "crashes: TypeError", "before"),
            ("one", 27, 3, "", "after"),
            ("three", 1234.4, 0, "", "after"),
        ],
        columns=["what", "launches", "waits", "note", "code"],
    )
    table.to_csv(results / "benchmarks" / "counted.csv", index=False)
    heading, *rows = benchmarks.committed_counted().splitlines()
    assert heading.split() == ["what", "launches", "waits"]
    assert [" ".join(row.split()) for row in rows] == [
        "one 310 → 27 15 → 3",
        "two × → – × → –",
        "three – → 1,234 – → 0",
    ]
