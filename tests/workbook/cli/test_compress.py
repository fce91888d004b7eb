"""`python -m lib compress`: a file of the size, or one line and no file."""

import pytest
import torch
from safetensors.torch import save_file

from lib import archive, networks
from lib.compression.job import FILLED
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
    return ["compress", network, *COMMON, *arguments]


def accuracy(lines):
    (row,) = [line.split() for line in lines if line.startswith("accuracy")]
    return row


def test_a_file_of_a_size_that_evaluates(results, weights, tmp_path, said):
    out = tmp_path / "small.cnet"
    lines = said(*compress("--weights", weights, "--budget", "90 kB", "--to", out))
    assert FILLED * 90_000 <= out.stat().st_size <= 90_000
    assert f"{out}: {out.stat().st_size:,} bytes" in lines
    assert "budget: 90 kB" in "\n".join(lines)
    assert archive.read(out).network == "resnet8"
    # the summary is what the file's network does
    again = accuracy(said("evaluate", out, "--dataset", "digits"))
    assert again[1] == f"{float(accuracy(lines)[2]):.2%},"


def test_it_starts_from_the_dense_run(results, tmp_path, monkeypatch, said):
    dense = experiments.recipes.dense("digits", network="resnet8", epochs=1)
    monkeypatch.setattr(experiments.recipes, "dense", lambda *names, **options: dense)
    out = tmp_path / "small.cnet"
    lines = said(*compress("--budget", "5 %", "--to", out))
    result = runs.read(runs.folder_of(dense, 0)).result
    assert accuracy(lines)[1] == f"{result['accuracy']:.4f}"
    said(*compress("--budget", "5 %", "--to", out, "--overwrite"))


@pytest.mark.parametrize(
    ("changed", "network", "message"),
    [
        ({"--budget": "9 B"}, "resnet8", "the least is"),
        ({"--budget": "9"}, "resnet8", "give '100 kB'"),
        ({"--method": "l1"}, "resnet8", "takes no budget of bytes"),
        ({}, "lenet5", "holds no weights of this network"),
        ({"--weights": "a.pt"}, "resnet8", "a.pt"),
        ({"--to": "a.zip"}, "resnet8", "must end in .cnet"),
        ({"--to": "no/a.cnet"}, "resnet8", "there is no folder"),
        ({"--to": "there.cnet"}, "resnet8", "say --overwrite"),
    ],
)
def test_what_is_wrong_is_one_line_and_no_file(
    results, weights, tmp_path, refused, monkeypatch, changed, network, message
):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "there.cnet"
    there.write_text("before")
    options = {"--weights": weights, "--to": "a.cnet", "--budget": "9 kB"} | changed
    words = [word for option in options.items() for word in option]
    assert message in refused(*compress(*words, network=network))
    assert list(tmp_path.rglob("*.cnet*")) == [there]
    assert there.read_text() == "before"


def test_an_unknown_network_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(compress("--budget", "3 kB", "--to", "a.cnet", network="lenet6"))
    assert caught.value.code == 2
