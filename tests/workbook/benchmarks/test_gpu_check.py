"""``gpu-check``: one table, whose checks pass here, and which says what failed or was left out."""

import argparse
import math
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch

from lib import training
from lib.optimizers import METHODS
from lib.training import arithmetic
from lib.workbook import benchmarks
from lib.workbook.benchmarks import gpu_check, gpu_parts
from lib.workbook.benchmarks.gpu_parts import Found, Sizes
from lib.workbook.cli import main
from tests import pretend

CPU = torch.device("cpu")
TINY = Sizes(
    weights=20_000, rows=(4, 8), repeats=1, network="resnet8", images=64, epochs=2, replayed=64
)


def test_on_a_cpu_everything_runs_and_passes_into_one_table(results, monkeypatch, capsys):
    monkeypatch.setitem(gpu_check.SIZES, "cpu", TINY)
    monkeypatch.setattr(gpu_parts, "tests", lambda device: iter([Found(0, "tests failed", 0)]))
    monkeypatch.setattr(
        benchmarks.every_method, "names", lambda: ["sgd", "admm", "fit-file", "lc, codebook"]
    )
    assert main(["gpu-check", "--device", "cpu"]) == 0
    (file,) = (results / "benchmarks").glob("*.csv")
    assert file.name == "gpu-check-cpu.csv"
    assert str(file) in capsys.readouterr().out
    made = pd.read_csv(file)
    found = made.groupby("part", sort=False)["what"].unique().map(list).to_dict()
    assert found == {
        "tests": ["pytest"],
        "projections": ["20,000 weights"],
        "eigenproblems": ["4 rows", "8 rows"],
        "replayed": ["sgd", "admm", "lc, codebook"],
        "epochs": ["sgd", "admm"],
    }
    assert {"device", "cpu", "threads", "torch", "python", "cuda", "commit"} <= set(made)
    assert set(made["verdict"].dropna()) == {"passed"}
    assert (made.loc[made["part"] == "replayed", "value"] == 0).all()
    units = set(made.loc[made["part"] == "projections", "unit"])
    assert {"times sort and cumsum", "times a copy", "ms, choosing the bits"} <= units
    sgd = made[(made["part"] == "epochs") & (made["what"] == "sgd")]
    assert sgd.set_index("unit").loc["times SGD", "value"] == 1


def test_what_fails_is_said_and_the_rest_is_measured(results, monkeypatch, capsys):
    def broken():
        raise RuntimeError("no kernel image\nand more")
        yield

    wanted = [
        gpu_check.Item("one", "a", broken),
        gpu_check.Item("one", "b", lambda: iter([Found(3, "waits", 2), Found(1, "s")])),
        gpu_check.Item("one", "c", lambda: iter([Found(2, "waits", 2)])),
    ]
    monkeypatch.setattr(gpu_check, "items", lambda device, sizes: wanted)
    assert gpu_check.run(argparse.Namespace(device="cpu")) == 1
    made = pd.read_csv(results / "benchmarks" / "gpu-check-cpu.csv", keep_default_na=False)
    assert made["verdict"].tolist() == ["FAILED", "FAILED", "", "passed"]
    said = capsys.readouterr().out
    assert "FAILED: one, a: nan error RuntimeError: no kernel image\n" in said
    assert "FAILED: one, b: 3 waits" in said


def test_what_there_is_no_time_for_is_left_out(monkeypatch):
    never = gpu_check.Item("one", "a", lambda: 1 / 0)
    monkeypatch.setattr(gpu_check, "items", lambda device, sizes: [never])
    made = gpu_check.table(CPU, replace(TINY, seconds=-1))
    assert made["unit"].tolist() == ["left out"]
    assert made["verdict"].tolist() == [""]


def test_every_method_that_trains_is_replayed_and_timed():
    found = gpu_check.items(CPU, TINY)
    trained = set(benchmarks.every_method.names()) - set(benchmarks.every_method.ONCE)
    assert {item.what for item in found if item.part == "replayed"} == trained
    assert {item.what for item in found if item.part == "epochs"} == {
        name for name in trained if name in METHODS
    }


@pytest.mark.parametrize(
    ("value", "most", "verdict"),
    [(1, 1, "passed"), (1.1, 1, "FAILED"), (math.nan, 1, "FAILED"), (9, math.nan, "")],
)
def test_a_number_is_judged_where_something_is_asked_of_it(value, most, verdict):
    assert Found(value, "", most).verdict == verdict


def test_the_tests_run_in_a_process_of_their_own(monkeypatch, tmp_path):
    """Those of tests/gpu that try the CPU; one that fails is counted and named."""
    folder = tmp_path / "tests" / "gpu"
    folder.mkdir(parents=True)
    (folder / "test_one.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('on', ['cpu', 'cuda'])\n"
        "def test_fails(on): assert on == 'cuda'\n"
        "@pytest.mark.parametrize('on', ['cpu', 'cuda'])\n"
        "def test_passes(on): assert on == 'cpu'\n"
    )
    monkeypatch.setattr(gpu_parts.paths, "ROOT", tmp_path)
    failed, seconds = gpu_parts.tests(CPU)
    assert failed.value == 1
    assert failed.verdict == "FAILED"
    assert "1 failed, 1 passed, 2 deselected" in failed.note
    assert "test_fails[cpu]" in failed.note
    assert seconds.value > 0


def timed(places):
    """Rows of the table: by size the milliseconds on the host and on the device."""
    return pd.DataFrame(
        [
            {"part": part, "what": f"{rows} rows", "unit": f"ms, {place}", "value": value}
            for part, rows, pair in [("projections", 1, (1, 2)), *places]
            for place, value in zip(("host", "device"), pair, strict=True)
        ]
    ).assign(device="Some GPU", note="4 matrices")


def test_the_faster_place_by_size_is_written_as_the_projections_read_it():
    sizes = {16: (3, 2), 32: (1, 2), 64: (2, 3), 128: (9, 4), 256: (30, 8)}
    found = gpu_check.solved_on(timed([("eigenproblems", n, pair) for n, pair in sizes.items()]))
    assert found["rows_up_to"].tolist() == ["16", "64", "inf"]
    assert found["solved_on"].tolist() == ["device", "host", "device"]
    assert found["why"].unique().tolist() == ["measured: Some GPU, 4 matrices"]
    one = gpu_check.solved_on(timed([("eigenproblems", 8, (1, 2)), ("eigenproblems", 9, (1, 2))]))
    assert one[["rows_up_to", "solved_on"]].values.tolist() == [["inf", "host"]]
    assert gpu_check.solved_on(timed([])).empty


def test_a_gpus_table_is_named_for_it(results):
    made = pd.DataFrame({"device": ["NVIDIA A100-SXM4-80GB"]})
    assert gpu_check.save(made).name == "gpu-check-nvidia-a100-sxm4-80gb.csv"
    assert benchmarks.folder("mnist") == results / "benchmarks"


@pytest.fixture
def pretended(monkeypatch):
    """The pretend GPU, with what PyTorch would say of a real one."""
    monkeypatch.setattr(benchmarks.measure, "wait", lambda device: None)
    monkeypatch.setattr(
        benchmarks.measure, "counts", lambda work, device: {"launches": 9, "waits": 2}
    )
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda kind: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Pretend")
    monkeypatch.setattr(
        training.loop, "CudaGraph", lambda device: lambda step, *inputs: step(*inputs)
    )
    with pretend.gpu() as device:
        yield device


def test_on_a_gpu_no_part_mixes_its_tensors_with_the_cpus(results, monkeypatch, pretended):
    monkeypatch.setattr(gpu_parts, "tests", lambda device: iter([Found(0, "tests failed", 0)]))
    monkeypatch.setattr(benchmarks.every_method, "names", lambda: ["sgd", "admm", "df"])
    made = gpu_check.table(pretended, TINY)
    assert not made["unit"].isin(["error", "left out"]).any(), made["note"].tolist()
    right = made[made["unit"].str.startswith("weights")]
    assert set(right["value"]) == {0}
    aims = made.dropna(subset="at most")["unit"]
    assert {"times sort and cumsum", "times SGD", "waits"} <= set(aims)
    assert (made["unit"] == "launches a step, one by one").sum() == 3
    assert gpu_check.save(made).name == "gpu-check-pretend.csv"
    assert gpu_check.solved_on(made)["rows_up_to"].iloc[-1] == "inf"


def test_a_gpu_writes_where_eigenproblems_are_best_solved(results, monkeypatch, pretended, capsys):
    items = [
        gpu_check.Item("eigenproblems", f"{n} rows", partial(gpu_parts.eigenproblem, n, CPU, TINY))
        for n in TINY.rows
    ]
    monkeypatch.setattr(gpu_check, "items", lambda device, sizes: items)
    monkeypatch.setattr(gpu_check.runs, "place", lambda name: pretended)
    assert gpu_check.run(argparse.Namespace(device="cuda")) == 0
    written = results / "benchmarks" / "eigenproblems-pretend.csv"
    assert (
        f"written: {written}, to be committed as lib/projections/eigen" in capsys.readouterr().out
    )
    table = pd.read_csv(written)
    assert table.columns.tolist() == ["rows_up_to", "solved_on", "why"]
    assert table["rows_up_to"].iloc[-1] == math.inf
    assert table["why"].str.startswith("measured: Pretend, 4 matrices of ").all()
