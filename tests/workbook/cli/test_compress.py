"""`python -m lib compress`: a file of the size, or one line and no file."""

import pytest
import torch
from safetensors.torch import save_file

from lib import archive, networks
from lib.compression import FILLED
from lib.workbook import experiments, runs
from lib.workbook.cli import main

COMMON = ["--dataset", "digits", "--epochs", "2", "--quiet"]


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "dense.safetensors"
    save_file(networks.build("resnet8").state_dict(), file)
    return file


def compress(*arguments, network="resnet8"):
    return main(["compress", network, *COMMON, *map(str, arguments)])


def refused(capsys, *arguments, **options):
    """The one line that is said instead."""
    assert compress(*arguments, **options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_file_of_a_size_that_evaluates(results, weights, tmp_path, capsys):
    out = tmp_path / "small.cnet"
    assert compress("--weights", weights, "--budget", "90 kB", "--to", out) == 0
    assert FILLED * 90_000 <= out.stat().st_size <= 90_000
    said = capsys.readouterr().out
    assert f"{out}: {out.stat().st_size:,} bytes" in said
    assert "budget: 90 kB" in said
    assert archive.read(out).network == "resnet8"
    # the summary is what the file's network does
    (row,) = [line.split() for line in said.splitlines() if line.startswith("accuracy")]
    assert main(["evaluate", str(out), "--dataset", "digits"]) == 0
    (again,) = [w for w in capsys.readouterr().out.splitlines() if w.startswith("accuracy")]
    assert again.split()[1] == f"{float(row[2]):.2%},"


def test_it_starts_from_the_dense_run(results, tmp_path, monkeypatch, capsys):
    dense = experiments.recipes.dense("digits", network="resnet8", epochs=1)
    monkeypatch.setattr(experiments.recipes, "dense", lambda *names, **options: dense)
    out = tmp_path / "small.cnet"
    assert compress("--budget", "5 %", "--to", out) == 0
    accuracy = runs.read(runs.folder_of(dense, 0)).result["accuracy"]
    (row,) = [w.split() for w in capsys.readouterr().out.splitlines() if w.startswith("accuracy")]
    assert row[1] == f"{accuracy:.4f}"
    assert compress("--budget", "5 %", "--to", out, "--overwrite") == 0


def test_what_is_wrong_is_one_line_and_no_file(results, weights, tmp_path, capsys):
    out = tmp_path / "small.cnet"
    start = ["--weights", weights, "--to", out]
    assert "the least is" in refused(capsys, *start, "--budget", "9 B")
    assert "give '100 kB'" in refused(capsys, *start, "--budget", "9")
    assert "takes no budget of bytes" in refused(
        capsys, *start, "--budget", "9 kB", "--method", "l1"
    )
    other = refused(capsys, *start, "--budget", "9 kB", network="lenet5")
    assert "holds no weights of this network" in other
    missing = refused(capsys, "--budget", "9 kB", "--to", out, "--weights", tmp_path / "a.pt")
    assert "a.pt" in missing
    ending = refused(capsys, *start[:2], "--budget", "9 kB", "--to", tmp_path / "a.zip")
    assert "must end in .cnet" in ending
    folder = refused(capsys, *start[:2], "--budget", "9 kB", "--to", tmp_path / "no" / "a.cnet")
    assert "there is no folder" in folder
    assert sorted(tmp_path.rglob("*.cnet*")) == []
    out.write_text("before")
    assert "say --overwrite" in refused(capsys, *start, "--budget", "9 kB")
    assert out.read_text() == "before"


def test_an_unknown_network_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        compress("--budget", "3 kB", "--to", "a.cnet", network="lenet6")
    assert caught.value.code == 2
