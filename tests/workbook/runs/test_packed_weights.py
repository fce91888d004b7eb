"""Weights files give back what was put in, or are refused by name."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from lib.workbook import runs

SHAPES = st.sampled_from([(), (0,), (1,), (255,), (256,), (3, 100), (20, 1, 5, 5), (0, 4)])
KINDS = st.sampled_from(
    ["dense", "sparse", "quantized", "both", "zero", "negative zero", "strange"]
)


def tensor(shape, kind, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if kind == "sparse":
        x = torch.where(x > 1, x, 0)
    elif kind == "quantized":
        x = x.round()
    elif kind == "both":
        x = torch.where(x.abs() > 1, x.sign(), 0)
    elif kind == "zero":
        x = torch.zeros(shape)
    elif kind == "negative zero":
        x = torch.where(x > 0, x, -0.0)
    elif kind == "strange":
        x = torch.where(x > 0, torch.inf, torch.where(x < -1, torch.nan, 1e-45))
    return x


@pytest.fixture
def packed(tmp_path):
    """A file with a tensor of each form: raw, sparse, and sparse with a codebook."""
    state = {
        "raw": torch.randn(10, generator=torch.Generator().manual_seed(0)),
        "sparse": tensor((30, 40), "sparse", 0),
        "quantized": tensor((30, 40), "both", 0),
    }
    file = tmp_path / "weights.safetensors"
    file.write_bytes(runs.packed_weights.pack(state))
    return file


def refused(file):
    with pytest.raises(ValueError, match=rf"{file} is not a whole weights file"):
        runs.packed_weights.unpack(file)


@given(st.lists(st.tuples(SHAPES, KINDS, st.integers(0, 99)), max_size=3))
def test_what_is_read_is_what_was_written(tmp_path_factory, parts):
    state = {f"layer{i}.weight": tensor(*part) for i, part in enumerate(parts)}
    state["steps"] = torch.tensor(12345678901)
    state["ids"] = torch.arange(300) % 7
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    file.write_bytes(runs.packed_weights.pack(state))
    found = runs.packed_weights.unpack(file)
    assert list(found) == list(state)
    for name, x in state.items():
        assert (found[name].shape, found[name].dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(found[name].numpy(), x.numpy())  # NaN equals NaN


@pytest.mark.parametrize("few_first", [True, False])
def test_values_are_counted_in_all_of_a_tensor_and_not_in_what_is_looked_at_first(few_first):
    many = tensor((runs.packed_weights.FIRST,), "sparse", 1)
    few = tensor((runs.packed_weights.FIRST,), "both", 2)
    x = torch.cat([few, many] if few_first else [many, few])
    stored = load(runs.packed_weights.pack({"x": x}))
    assert set(stored) == {"x|mask", "x|values"}
    assert torch.equal(runs.packed_weights.parse(runs.packed_weights.pack({"x": x}))["x"], x)
    assert set(load(runs.packed_weights.pack({"x": few}))) == {"x|mask", "x|codes", "x|codebook"}


def test_packing_twice_gives_the_same_bytes(packed):
    assert runs.packed_weights.pack(runs.packed_weights.unpack(packed)) == packed.read_bytes()


def test_a_transposed_weight_comes_back_in_place(tmp_path):
    x = tensor((30, 40), "both", 1).T
    (tmp_path / "w").write_bytes(runs.packed_weights.pack({"x": x}))
    assert torch.equal(runs.packed_weights.unpack(tmp_path / "w")["x"], x)


def test_every_truncated_file_is_refused(packed):
    content = packed.read_bytes()
    for length in [*range(64), *range(64, len(content), 97), len(content) - 1]:
        packed.write_bytes(content[:length])
        refused(packed)


def test_a_flipped_byte_is_refused_or_changes_a_value_only(packed):
    """A run folder's digest catches every flip; here none may lead to another kind of error."""
    content = packed.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    refusals = []
    for place in range(header + 32):
        changed = bytearray(content)
        changed[place] ^= (0x01, 0x04, 0x80, 0xFF)[place % 4]
        packed.write_bytes(changed)
        try:
            runs.packed_weights.unpack(packed)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > header / 2
    assert all(str(packed) in refusal for refusal in refusals)


@pytest.mark.parametrize(
    "shapes",
    [
        *({"sparse": shape} for shape in ([2**40], [2**32, 2**32], [-30, 40], [-1200], [1199])),
        *({"sparse": shape} for shape in ("3040", None, [30.0, 40.0])),
        *({"raw": [2**40, 2**40]}, {"absent": [1]}, ["sparse"], None),
    ],
)
def test_forged_shapes_are_refused(packed, shapes):
    tensors = load(packed.read_bytes())
    packed.write_bytes(save(tensors, metadata={"shapes": json.dumps(shapes)}))
    refused(packed)


@pytest.mark.parametrize(
    "part",
    [
        {"quantized|codes": torch.full((383,), 200, dtype=torch.uint8)},
        {"quantized|codebook": torch.zeros(0)},
        {"sparse|values": torch.zeros(1)},
        {"sparse|mask": torch.zeros(150)},
        {"sparse|mask": torch.full((150,), 255, dtype=torch.uint8)},
    ],
)
def test_forged_parts_are_refused(packed, part):
    shapes = {"sparse": [30, 40], "quantized": [30, 40]}
    tensors = load(packed.read_bytes()) | part
    packed.write_bytes(save(tensors, metadata={"shapes": json.dumps(shapes)}))
    refused(packed)


@pytest.mark.parametrize("length", [2**62, 10**9, 0])
def test_a_forged_header_length_is_refused(packed, length):
    packed.write_bytes(struct.pack("<Q", length) + packed.read_bytes()[8:])
    refused(packed)


def test_a_file_that_is_too_large_is_not_read(packed, monkeypatch):
    monkeypatch.setattr(runs.packed_weights, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"more than the 100 allowed"):
        runs.packed_weights.unpack(packed)
