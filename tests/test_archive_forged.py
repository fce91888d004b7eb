"""A file that is damaged is refused; one that is forged costs no more than a file may cost."""

import pytest

from tests import forge_archive
from tests.forge_archive import MOST_PEAK, MOST_SECONDS

COUNT = 500


@pytest.fixture(scope="module")
def damaged():
    return forge_archive.outcomes(forge_archive.damaged, COUNT)


@pytest.fixture(scope="module")
def forged():
    return forge_archive.outcomes(forge_archive.forged, COUNT)


def test_every_damaged_file_is_refused_within_a_second(damaged):
    assert {each.kind for each in damaged} == {"refused"}
    assert max(each.seconds for each in damaged) < 1
    assert all(each.reason for each in damaged)


def test_forged_files_are_read_or_refused(forged):
    kinds = [each.kind for each in forged]
    assert kinds.count("refused") > COUNT / 4  # those that claim what cannot be
    assert kinds.count("read") > 0  # those whose words were exchanged for others


def test_no_forged_file_takes_more_time_or_memory_than_was_allowed(damaged, forged):
    assert max(each.seconds for each in forged) < MOST_SECONDS
    assert max(each.peak for each in damaged + forged) < MOST_PEAK
