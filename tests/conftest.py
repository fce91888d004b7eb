"""Every test has results of its own and one thread; a few finished runs are trained once."""

import shutil

import pytest
import torch

from lib.training import Schedule
from lib.workbook import calibration, runs
from lib.workbook.experiments import Experiment, Stage


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_calibration(monkeypatch):
    """No command measures the machine, which takes seconds; the test of the measurement does."""
    monkeypatch.setattr(calibration, "measure", lambda: None)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty results folder, for this process and the ones it starts."""
    monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path))
    runs.dataset_of.cache_clear()
    return tmp_path


@pytest.fixture(scope="session")
def tiny():
    """An experiment of half a second, with a parent and a control of half a second each."""
    schedule = Schedule(epochs=1, lr=0.02, batch=64, weight_decay=5e-4)
    sgd = Stage(method="sgd", schedule=schedule)
    admm = Stage(method="admm", schedule=schedule, options=(("budget", 68_880),))
    common = {"dataset": "digits", "network": "lenet5"}
    dense = Experiment(slug="tiny-dense", stages=(sgd,), **common)
    return Experiment(
        slug="tiny-admm", stages=(admm,), parent=dense, mode="joint", budget=68_880, **common
    )


@pytest.fixture(scope="session")
def trained_once(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_RESULTS", str(root))
        runs.get(tiny, 0, device="cpu", threads=1, quiet=True)
    return root


@pytest.fixture
def trained(results, trained_once, tiny):
    """The finished run of ``tiny``, its parent and control beside it, for the test to spoil."""
    shutil.copytree(trained_once / "digits", results / "digits")
    return runs.read(runs.folder_of(tiny, 0))
