"""Checkpoints survive a kill at any moment, and damage is seen."""

import os
import pickle

import pytest
import torch

from lib.workbook.runs.checkpoints import Checkpoint


@pytest.fixture
def checkpoint(results):
    (results / "checkpoints").mkdir()
    return Checkpoint("a-run-s0")


def state(n):
    return {"loop": {"w": torch.full((3,), float(n))}, "rows": [{"epoch": n, "loss": 0.5}]}


def flip(file, place=-1):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def loaded(checkpoint):
    return checkpoint.load()["rows"][0]["epoch"]


def test_the_newest_state_is_loaded(checkpoint):
    assert not checkpoint.exists()
    assert checkpoint.load() is None
    for n in (1, 2, 3):
        checkpoint.save(state(n))
        found = checkpoint.load()
        assert found["rows"] == state(n)["rows"]
        assert torch.equal(found["loop"]["w"], state(n)["loop"]["w"])
    assert checkpoint.exists()
    checkpoint.delete()
    assert not checkpoint.exists()


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_save_that_is_cut_short_leaves_a_whole_state(checkpoint, monkeypatch, calls):
    """Cut before the first, between the two, and after both renames."""
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    left, replace = [calls], os.replace

    def cut(*files):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(*files)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        if calls < 2:
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(state(3))
        else:
            checkpoint.save(state(3))
    assert checkpoint.exists()
    assert loaded(checkpoint) == (3 if calls == 2 else 2)
    checkpoint.save(state(4))
    assert loaded(checkpoint) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: flip(file, 0),
        lambda file: flip(file, 40),
        lambda file: flip(file, -1),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes() + b"0"),
    ],
    ids=["digest", "payload", "last byte", "empty", "truncated", "longer"],
)
def test_a_damaged_newest_is_refused_and_the_previous_used(checkpoint, damage):
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    damage(checkpoint.file)
    with pytest.warns(UserWarning, match=r"a-run-s0\.pt is damaged and not used"):
        assert loaded(checkpoint) == 1


@pytest.mark.filterwarnings("ignore:the checkpoint")
def test_both_damaged_is_an_error_that_names_them(checkpoint):
    checkpoint.save(state(1))
    checkpoint.save(state(2))
    flip(checkpoint.file)
    flip(checkpoint.previous)
    with pytest.raises(ValueError, match="delete to start") as error:
        checkpoint.load()
    assert str(checkpoint.file) in str(error.value)
    assert str(checkpoint.previous) in str(error.value)


def test_nothing_in_a_checkpoint_is_executed(checkpoint, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    checkpoint.save({"bomb": Bomb()})
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load()
    assert not (tmp_path / "executed").exists()
