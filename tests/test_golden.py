"""What was frozen before the code was rearranged is still so: experiments, committed networks.

``python -m tests.golden_check`` compares all of it, and what training gives.
"""

import random

from tests import golden_check


def test_every_experiment_is_there_with_its_place_and_what_it_needs():
    found = golden_check.catalogue()
    assert not golden_check.gone("catalogue", found)
    assert not golden_check.differences("catalogue", found)


def test_the_files_of_a_dozen_committed_networks_are_the_same_to_the_byte():
    drawn = random.Random(0).sample(sorted(golden_check.frozen("files")), 12)
    assert not golden_check.differences("files", golden_check.files(drawn))
