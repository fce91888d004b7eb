"""What the benchmark chapter shows as counted on the pretend GPU is what the code asks for."""

from itertools import islice

import pandas as pd
import pytest

from lib import paths
from lib.optimizers import METHODS
from lib.workbook import benchmarks
from tests import count_calls, pretend


@pytest.fixture(scope="module")
def counted():
    """The committed rows of the code as it is."""
    table = pd.read_csv(paths.ROOT / "results" / "benchmarks" / "counted.csv")
    return table[table["code"] == "after"].set_index("what")


def test_the_committed_counts_are_the_codes(counted):
    """After a change of them: ``python -m tests.count_calls``, then notebook 90 again."""
    with pretend.gpu():
        weights = islice(count_calls.projections(), 2)  # without ties and with
        found = {what: count_calls.counted(work, number) for what, number, work in weights}
        found |= dict(count_calls.methods(["sgd", "admm", "lc", "df"]))
    columns = count_calls.COLUMNS
    for what, numbers in found.items():
        committed = counted.loc[what, columns].astype(float).to_dict()
        assert {c: float(numbers[c]) for c in columns} == pytest.approx(committed), what


def test_every_method_is_counted_and_none_crashes(counted):
    steps = {f"step: {name}" for name in METHODS if name not in benchmarks.every_method.ONCE}
    assert steps <= set(counted.index)
    assert counted["note"].isna().all()
