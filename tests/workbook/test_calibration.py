"""Times of the catalogue, scaled to the machine at hand, the same for every process."""

import json
import subprocess
import sys

import pytest

from lib import paths
from lib.training import arithmetic
from lib.workbook import calibration, experiments
from lib.workbook.calibration import measure  # the real one: conftest replaces the module's
from lib.workbook.cli import main

ROWS = {
    "digits": experiments.dense("digits", network="resnet8"),
    "lenet": experiments.dense("mnist", network="lenet300-tanh"),
    "convolutional": experiments.dense("cifar10", network="resnet20"),
}


@pytest.fixture
def measured(results):
    """A made measurement on another machine."""
    found = {
        "factors": {"digits": 2.0, "lenet": 3.0, "convolutional": 0.5},
        "processor": "an abacus",
        "instructions": "beads",
        "measured": "2020-01-01T00:00:00+00:00",
    }
    (results / "machine.json").write_text(json.dumps(found))
    calibration._read.cache_clear()
    yield found
    calibration._read.cache_clear()


def test_every_kind_of_run_has_its_probe(measured):
    assert {name: calibration.kind(row.network, row.dataset) for name, row in ROWS.items()} == {
        k: k for k in ROWS
    }
    assert set(ROWS) == set(calibration.PROBES)


def test_cpu_times_are_scaled_and_the_guess_for_a_gpu_is_not(results, measured, monkeypatch):
    scaled = {n: [experiments.seconds(r, d) for d in ("cpu", "cuda")] for n, r in ROWS.items()}
    monkeypatch.setenv("WORKBOOK_RESULTS", str(results / "elsewhere"))
    for name, row in ROWS.items():
        factor = measured["factors"][name]
        assert scaled[name][0] == pytest.approx(factor * experiments.seconds(row, "cpu"))
        assert scaled[name][1] == experiments.seconds(row, "cuda")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"factors": {"digits": 2}}', "null"])
def test_a_measurement_that_is_not_whole_is_none(results, content):
    (results / "machine.json").write_text(content)
    calibration._read.cache_clear()
    assert calibration.known() is None
    assert experiments.seconds(ROWS["lenet"], "cpu") == 27  # 30 epochs of 0.9 s


def test_list_says_where_its_times_are_from(results, measured, capsys):
    assert main(["list", "--dataset", "digits"]) == 0
    out = capsys.readouterr().out
    assert "scaled by what was measured on an abacus, beads (digits 2, lenet 3" in out
    assert "this is another machine: python -m lib calibrate measures it" in out


def test_measuring_is_kept_for_every_process(results, monkeypatch):
    monkeypatch.setattr(
        calibration,
        "PROBES",
        {name: ("lenet300", 8, 1, "float32", 1e-9) for name in calibration.PROBES},
    )
    found = measure()
    assert set(found["factors"]) == set(calibration.PROBES)
    assert all(value > 0 for value in found["factors"].values())
    assert found.items() >= arithmetic.machine("cpu").items()
    assert calibration.known() == found


def test_the_scheduler_reads_it_without_importing_torch(results, measured):
    script = (
        "import sys; from lib.workbook import calibration; "
        "print(calibration.described()); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "an abacus" in done.stdout
