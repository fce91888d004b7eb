"""A file is whole or as it was."""

import os

import pytest

from lib import atomic


def test_it_is_written_and_replaced(tmp_path):
    file = tmp_path / "a"
    for content in (b"one", b"", b"three"):
        atomic.write(file, content)
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_fails_leaves_what_was_there(tmp_path, monkeypatch, step):
    def full(*args):
        raise OSError(28, "No space left on device")

    file = tmp_path / "a"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(file, b"new")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"old"
