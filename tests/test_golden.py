"""What was frozen before the code was rearranged is still so: catalogue, files, unfinished runs.

``python -m tests.golden_check`` compares more of it, and what training gives.
"""

import csv
import random

import pytest

from lib.optimizers import METHODS
from lib.workbook.runs.checkpoints import Checkpoint
from tests import golden_check
from tests.make_checkpoints import (
    CASES,
    ENDED,
    NUMBERS,
    experiment,
    finish,
    kept,
    narrowed,
    reached,
)

ROWS = {row["case"]: row for row in csv.DictReader(ENDED.read_text().splitlines())}


def test_every_experiment_is_there_with_its_place_and_what_it_needs():
    found = golden_check.catalogue()
    assert not golden_check.gone("catalogue", found)
    assert not golden_check.differences("catalogue", found)


def test_the_files_of_a_dozen_committed_networks_are_the_same_to_the_byte():
    drawn = random.Random(0).sample(sorted(golden_check.frozen("files")), 12)
    assert not golden_check.differences("files", golden_check.files(drawn))


def test_a_run_of_every_method_was_left_half_way():
    methods = {method for _, stages in CASES.values() for method, *_ in stages}
    assert methods == {*METHODS, "black-box"}
    assert list(ROWS) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_what_older_code_left_half_way_ends_as_it_did(case):
    """Bit for bit on a machine of the same kind.

    Where instructions differ, losses were within 5e-7 of these (AVX2) or 2e-4 (SSE4.1, of ADMM, one
    weight of which had another value), all else was the same; a weight or two may differ.
    """
    wanted = dict(ROWS[case])
    with narrowed():
        checkpoint = Checkpoint(experiment(case).id(0))
        checkpoint.file.parent.mkdir(parents=True)
        checkpoint.file.write_bytes(kept(case).read_bytes())
        found = reached(finish(case))
    assert (found["id"], found["seconds"]) == (wanted["id"], wanted["seconds"])  # it was resumed
    made = tuple(wanted.pop(name) for name in ("processor", "instructions", "torch"))
    if made == golden_check.machine():
        assert {"case": case} | found == wanted
    for name in NUMBERS:
        assert float(found[name]) == pytest.approx(float(wanted[name]), rel=5e-3), name
    assert abs(int(found["correct"]) - int(wanted["correct"])) <= 2
