"""A file is whole or as it was."""

import io
import os
from pathlib import Path

import pytest

from lib import atomic


def test_it_is_written_and_replaced(tmp_path):
    file = tmp_path / "a"
    for content in (b"one", b"", b"three"):
        atomic.write(file, content)
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_what_fails_leaves_what_was_there(tmp_path, monkeypatch, step, failure):
    def full(*args):
        raise failure

    class Full(io.FileIO):
        """A file on a full disk: half is written."""

        def write(self, content):
            super().write(content[: len(content) // 2])
            raise failure

    file = tmp_path / "a"
    file.write_bytes(b"old")
    if step in ("open", "write"):
        monkeypatch.setattr(Path, "open", full if step == "open" else lambda *args: Full(*args))
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(type(failure)) as raised:
        atomic.write(file, b"new")
    monkeypatch.undo()
    assert raised.value is failure
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"old"
