"""A file that is damaged is refused; one that is forged costs no more than a file may cost."""

import json

import pytest
import torch

from lib import archive
from tests.archive import forge_archive
from tests.archive.forge_archive import MOST_PEAK, MOST_SECONDS, checked, deflated

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


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["", 0, 0, [["a", "bool", [2**31]]]], "2,147,484,672 bytes, more than"),
        (["", 0, 0, [["a", "bool", [0, 2**39]]]], "bytes, more than"),  # flags of 2³⁹ columns
        (["", 0, 0, [["a", "bool", [2**39, 2**39, 0]]]], "bytes, more than"),  # strides overflow
        (["", 0, 0, [[str(i), "bool", []] for i in range(600)]], "bytes, more than"),
        (["", 0, 0, [["a", "bool", [2**40]]]], "shape"),
        (["", 0, 0, [["a", "bool", [True]]]], "shape"),
        (["", 0, 0, [["a", "bool", [1] * 17]]], "shape"),
        (["", 0, 0, [["a", "complex64", [1]]]], "dtype 'complex64'"),
        (["", 0, 0, [["a", [], [1]]]], "header"),
        (["", 0, 0, [["a", "bool", [1]], ["a", "bool", [1]]]], "no name of its own"),
        (["", 0, 0, [["a", "b"], ["b", "bool", [1]]]], "does not come before it"),
        (["", 0, 0, [], []], "parts"),
        (["", 0.0, 0], "classes"),
        (["resnet1000", 10, 3], "unknown network"),
        (["resnet8", 2**20, 1], "bytes, more than"),
        (["resnet8", 2**21, 1], "2097152 classes"),
        (["lenet5", 10, float("nan")], "nan channels"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_forged_header_is_refused_by_name(header, message):
    content = checked(deflated(json.dumps(header).encode()))
    with pytest.raises(archive.Unreadable, match=message):
        archive.decode(content, most_bytes=forge_archive.MOST_BYTES)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xff" * 10,
        deflated(b"[" * 10**5),
        deflated(bytes(2**26)),
        deflated(b'["",0,' + b"9" * 5000 + b"]"),
        deflated(b"[]") + b"more",
        deflated(b"{}"),
        deflated(b"\xff\xfe"),
    ],
    ids=["empty", "noise", "nested", "bomb", "number", "more", "object", "letters"],
)
def test_what_is_no_header_is_refused(packed):
    with pytest.raises(archive.Unreadable, match="its header is not one"):
        archive.decode(checked(packed))


def test_a_stream_that_goes_on_is_refused():
    content = forge_archive.sample()
    end = 21 + int.from_bytes(content[17:21], "little")
    with pytest.raises(archive.Unreadable, match="goes on after the last tensor"):
        archive.decode(checked(content[21:end], content[end:] + bytes([1, 2, 3, 4]) * 4))
    with pytest.raises(archive.Unreadable, match="not one of whole words"):
        archive.decode(checked(content[21:end], content[end:] + b"x"))


def test_large_kernels_are_refused_before_they_are_read():
    """Places of a kernel are read one by one; honest kernels are far from the bound."""
    kernels = torch.zeros(2, 1, 200, 200, dtype=torch.uint8)
    kernels[:, :, ::2] = 1
    content = archive.encode({"a": kernels})
    assert kernels.numel() < forge_archive.MOST_BYTES
    with pytest.raises(archive.Unreadable, match="need"):
        archive.decode(content, most_bytes=forge_archive.MOST_BYTES)
    honest = {"a": torch.ones(64, 64, 3, 3)}
    archive.decode(archive.encode(honest), most_bytes=2 * honest["a"].nbytes)
