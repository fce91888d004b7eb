"""The scripts for the first minutes on a GPU, as far as a CPU tries them."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from lib import paths
from lib.workbook import experiments
from lib.workbook.cli import main

FOLDER = paths.ROOT / "tests" / "gpu"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_trained_is_the_queues_first_rows_for_a_cpu(results, capsys):
    """The dense start first, with each of its rows and controls; each name is one that runs."""
    assert main(["list", "--dataset", "cifar10", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = script("train").chosen(rows)
    by_id = {row["id"]: row for row in rows}
    assert "dense" in names[0]
    for name in names:
        experiments.find(name)
        assert by_id[name]["parent"] in (None, names[0])
        assert not by_id[name]["gpu"]
        assert name.endswith("-s0")
    methods = {re.match(r"resnet20-cifar10-(\w+)", name)[1] for name in names}
    assert methods == {"dense", "admm", "df"}
    done = [row | {"status": "done"} for row in rows]
    assert script("train").chosen(done) == []


def test_an_epoch_in_a_process_of_its_own():
    asked = [sys.executable, str(FOLDER / "side_by_side.py"), "1", "--device", "cpu"]
    asked += ["--network", "resnet8", "--images", "32"]
    said = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert re.fullmatch(r"1 at once: an epoch \d+\.\d\d s, [\d,]+ images/s\n", said)


@pytest.mark.parametrize("name", ["train.py", "side_by_side.py"])
def test_the_text_names_every_script(name):
    assert f"tests/gpu/{name}" in (FOLDER / "README.md").read_text()
