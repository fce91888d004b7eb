"""Scale times whole number: found to the bit, coded below entropy, read back, never longer."""

import contextlib
import lzma

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import archive
from lib.archive.coder import Broken, Decoder, Encoder, Meter
from lib.archive.file import code, tabled
from lib.archive.grid import find
from lib.archive.integers import AT_ONCE, MOST_BITS, code_integers
from lib.projections.precision import round_to


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_grid(weight, bits, *, rows, dtype=torch.float32):
    """The nearest values of a symmetric grid, as anybody would round them; and the numbers."""
    most = 2 ** (bits - 1) - 1
    flat = weight.flatten(1).abs()
    largest = flat.amax(1) if rows else flat.max().expand(len(flat))
    scale = (largest / most).reshape(-1, *[1] * (weight.dim() - 1))
    numbers = (weight / scale).round().clamp(-most, most)
    return (numbers * scale).to(dtype), numbers


def as_version_1(state):
    """Bytes of the stream without grids."""
    coder = Encoder()
    tensors, table = tabled(state)
    code(coder, table, tensors)
    return len(coder.content())


def comes_back(state):
    content = archive.encode(state)
    found = archive.decode(content).state
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    return content


# What is found


@pytest.mark.parametrize("bits", [3, 4, 5, 6, 7, 8, 10])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (40, 30), (12, 9, 5), (8, 8, 2, 2, 2)])
def test_a_grid_is_found_in_the_values_and_gives_every_bit_back(bits, rows, shape):
    weight, numbers = on_grid(drawn(*shape), bits, rows=rows)
    grid = find(weight)
    assert grid is not None
    assert len(grid.scales) == (shape[0] if rows else 1)
    np.testing.assert_array_equal(grid.numbers, numbers.flatten(1).numpy())
    assert comes_back({"a": weight})[4] == 2


@pytest.mark.parametrize(
    ("dtype", "rows"), [(torch.float16, False), (torch.float16, True), (torch.bfloat16, False)]
)
def test_a_grid_of_halves_is_found_where_its_numbers_are_small(dtype, rows):
    weight, numbers = on_grid(drawn(32, 64), 4, rows=rows, dtype=dtype)
    grid = find(weight)
    assert grid is not None
    np.testing.assert_array_equal(grid.numbers, numbers.numpy())
    comes_back({"a": weight})


def test_a_row_of_zeros_and_scales_of_any_size_are_on_a_grid():
    numbers = torch.randint(-100, 101, (6, 50), generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([1e-40, 1e-30, 0.3, 7.0, 1e30, 0.0])
    weight = numbers * scales[:, None]
    assert find(weight) is not None
    comes_back({"a": weight})


def test_ties_of_the_last_bit_do_not_hide_the_scale():
    """3 · a scale of 24 bits lies half way between two floats as often as not."""
    for seed in range(20):
        scale = drawn(1, seed=seed).abs()
        numbers = torch.tensor([[3.0, 5.0, -3.0, 7.0, 6.0, -5.0, 1.0, 2.0] * 8])
        assert find(numbers * scale) is not None


@pytest.mark.parametrize(
    "weight",
    [
        drawn(20, 30),
        drawn(20, 30).half(),
        round_to(drawn(20, 300), 3),  # floats of few bits are multiples of the least, too
        drawn(20, 30).sign(),
        torch.tensor([[1.0, float("nan"), 3.0, 4.0, 5.0, 6.0]]),
        torch.tensor([[1.0, float("inf"), 3.0, 4.0, 5.0, 6.0]]),
        torch.zeros(3, 4),
        torch.zeros(0, 4),
        torch.zeros(3, 0),
        torch.eye(8, dtype=torch.bool),
        torch.randint(-(2**40), 2**40, (9, 9)),
    ],
    ids=(
        *("floats", "halves", "few bits", "signs", "nan", "inf", "zeros", "no rows", "empty"),
        *("bool", "wide"),
    ),
)
def test_what_is_on_no_grid_is_a_file_of_version_1(weight):
    assert find(weight) is None
    content = archive.encode({"a": weight})
    assert content[4] == 1
    assert len(content) - 21 - int.from_bytes(content[17:21], "little") == as_version_1(
        {"a": weight}
    )


# What it takes


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [False, True])
def test_a_grid_takes_less_than_xz_and_no_more_than_its_entropy(bits, rows):
    weight, numbers = on_grid(drawn(64, 32, 3, 3), bits, rows=rows)
    content = comes_back({"a": weight})
    as_bytes = numbers.to(torch.int8).numpy().tobytes()
    scales = 4 * (64 if rows else 1)
    assert (
        len(content) < 0.99 * len(lzma.compress(as_bytes, preset=9 | lzma.PRESET_EXTREME)) + scales
    )
    counts = np.unique(numbers, return_counts=True)[1]
    entropy = (counts * np.log2(counts.sum() / counts)).sum() / 8
    assert len(content) < 1.01 * entropy + scales + 120  # independent draws: no less is possible


def test_kernels_that_are_smooth_take_less_than_their_entropy():
    smooth = drawn(64, 32, 1, 1) + 0.5 * drawn(64, 32, 3, 3, seed=1)
    weight, numbers = on_grid(smooth, 5, rows=False)
    counts = np.unique(numbers, return_counts=True)[1]
    entropy = (counts * np.log2(counts.sum() / counts)).sum() / 8
    assert len(comes_back({"a": weight})) < 0.85 * entropy


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=5),
    st.integers(0, 2**32 - 1),
    st.integers(2, 9),
    st.booleans(),
    st.floats(0, 1),
)
def test_grids_of_any_shape_come_back_and_are_never_longer(shape, seed, bits, rows, kept):
    weight = drawn(*shape, seed=seed)
    weight, _ = on_grid(weight * (drawn(*shape, seed=seed + 1).abs() <= 3 * kept), bits, rows=rows)
    state = {"a": weight.nan_to_num(), "b": drawn(3, 5, seed=seed)}
    content = comes_back(state)
    stream = len(content) - 21 - int.from_bytes(content[17:21], "little")
    assert stream <= as_version_1(state)


def test_the_parts_of_a_file_with_grids_sum_to_it():
    state = {
        "a": on_grid(drawn(16, 8, 3, 3), 6, rows=True)[0],
        "b": drawn(10, 10),
        "c": on_grid(drawn(30, 40) * (drawn(30, 40, seed=1) > 1), 5, rows=True)[0],
        "bias": drawn(16),
    }
    content = archive.encode(state)
    assert content[4] == 2
    parts = archive.parts(content).set_index("name")
    assert parts["total"].sum() == pytest.approx(len(content))
    assert abs(parts.loc["rounding", "total"]) < 16
    assert parts.loc["a", "kept"] == state["a"].count_nonzero()
    assert parts.loc["a", "positions"] == 0
    assert parts.loc["c", "positions"] > 0
    assert 16 * 2 < parts.loc["a", "codebook"] < 16 * 5
    table = archive.sizes(archive.Archive(state))
    bits = table.filter(like="_bits").to_numpy().sum()
    assert bits == pytest.approx(8 * len(content), abs=150)


# The numbers alone


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 12)),
    st.integers(0, 2**32 - 1),
    st.integers(0, MOST_BITS - 1),
    st.booleans(),
    st.sampled_from([1.0, 0.3, 10.0]),
)
def test_numbers_are_read_as_they_were_written_and_metered(size, seed, bits, apart, spread):
    draw = np.random.default_rng(seed)
    most = 2**bits - 1
    numbers = np.clip(np.rint(draw.normal(size=size) * most * spread / 3), -most, most)
    numbers = numbers.astype(np.int32)
    mask = numbers != 0 if apart else None
    encoder, meter = Encoder(), Meter()
    code_integers(encoder, size, numbers, mask=mask)
    code_integers(meter, size, numbers, mask=mask)
    content = encoder.content()
    assert 8 * len(content) < 1.001 * meter.spent + 100
    decoder = Decoder(content)
    np.testing.assert_array_equal(code_integers(decoder, size, mask=mask), numbers)
    decoder.finish()


def test_more_numbers_than_are_coded_at_once():
    numbers = (drawn(AT_ONCE // 50, 101).numpy() * 20).round().astype(np.int32)[..., None]
    encoder = Encoder()
    code_integers(encoder, numbers.shape, numbers)
    found = code_integers(Decoder(encoder.content()), numbers.shape)
    np.testing.assert_array_equal(found, numbers)


def test_no_stream_of_numbers_breaks_the_reader():
    """Numbers beyond any bound are numbers; what they make is bounded by the header."""
    read = 0
    for seed in range(60):
        noise = np.random.default_rng(seed).bytes(400)
        with contextlib.suppress(Broken):
            assert code_integers(Decoder(noise), (3, 4, 9)).shape == (3, 4, 9)
            read += 1
    assert read
