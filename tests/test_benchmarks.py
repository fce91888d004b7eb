"""Tables of measurements: published with their machine, and missing where no GPU has measured."""

import pandas as pd
import pytest

from lib import benchmarks, paths, publish, report
from lib.__main__ import main


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


def test_what_no_gpu_has_measured_is_listed_with_its_command(results, capsys):
    assert len(benchmarks.missing_on_gpu()) == len(benchmarks.FULL)
    (results / "benchmarks").mkdir()
    for kind in ("cpu", "cuda"):
        (results / "benchmarks" / f"file-{kind}.csv").touch()
    (left,) = benchmarks.missing_on_gpu()
    assert left.startswith("papermill notebooks/91-training-steps.ipynb")
    assert main(["list", "--dataset", "digits"]) == 0
    assert f"not measured on a GPU: {left}" in capsys.readouterr().out


@pytest.mark.parametrize("notebook", benchmarks.FULL)
def test_the_notebooks_are_there_and_save_the_tables(notebook):
    source = (paths.NOTEBOOKS / f"{notebook}.ipynb").read_text()
    assert f', \\"{benchmarks.FULL[notebook][1]}\\"' in source
