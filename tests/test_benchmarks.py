"""Tables of measurements: kept with their machine, and missing where no GPU has measured."""

import pandas as pd
import pytest

from lib import benchmarks, paths
from lib.__main__ import main


def test_a_table_is_kept_with_its_machine(results):
    assert benchmarks.committed("steps").empty
    table = pd.DataFrame({"seconds": [1.5, 2.5]})
    benchmarks.save(table, "steps", dataset="mnist", device="cpu", threads=2)
    benchmarks.save(table, "steps", dataset="digits", device="cpu", threads=2)  # not committed
    found = benchmarks.committed("steps")
    assert found["seconds"].tolist() == [1.5, 2.5]
    assert list(found) == ["seconds", "device", "cpu", "cores", "threads", "torch"]
    assert set(found["device"]) == {"cpu"}
    assert set(found["threads"]) == {2}


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
