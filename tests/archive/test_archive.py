"""The compressed file gives back what was put in, bit for bit, in no more than its entropy."""

import json
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib import archive, networks, structured
from lib.archive import positions
from lib.archive.coder import Decoder, Encoder, Meter
from lib.archive.header import DTYPES
from lib.archive.positions import STRENGTHS, code_positions
from lib.archive.symbols import code_symbols
from lib.archive.values import MOST_LEVELS, code_values
from lib.layers import compressible
from tests.structured.test_structured import network, shape_of, some_filters

GOLDEN = Path(__file__).parents[1] / "golden" / "version-1.cnet"

FLOATS = [name for name, dtype in DTYPES.items() if dtype.is_floating_point]


def same(found, tensor):
    """Equal in dtype, shape and every bit."""
    as_bytes = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (found, tensor)]
    return found.dtype == tensor.dtype and found.shape == tensor.shape and torch.equal(*as_bytes)


def comes_back(state, **options):
    found = archive.decode(archive.encode(state, **options)).state
    assert list(found) == list(state)
    # a zero has no sign in the file
    expected = {name: torch.where(t == 0, torch.zeros_like(t), t) for name, t in state.items()}
    assert all(same(found[name], tensor) for name, tensor in expected.items())
    return found


def test_zeros_of_a_mask_cost_as_little_as_others():
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    mask = weights.abs() > 1.5
    masked, clean = weights * mask, torch.where(mask, weights, 0)
    assert torch.signbit(masked[~mask]).any()
    assert archive.encode({"a": masked}) == archive.encode({"a": clean})


def entropy(symbols):
    """Zero-order, in bits, of all of them together."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(counts.sum() / counts)).sum())


def overhead(content):
    """Bytes before the coded stream."""
    return 21 + int.from_bytes(content[17:21], "little")


def coded(code, data, *sizes):
    """The stream of ``code(coder, *sizes, data)``, once it was read back; its metered bits."""
    encoder, meter = Encoder(), Meter()
    code(encoder, *sizes, data)
    code(meter, *sizes, data)
    content = encoder.content()
    decoder = Decoder(content)
    found = code(decoder, *sizes)
    decoder.finish()
    for part, given_part in zip(np.atleast_1d(found), np.atleast_1d(data), strict=True):
        np.testing.assert_array_equal(part, given_part)
    return 8 * len(content), meter.spent


def code_all(dtype, coder, count, data=None):
    """Values in so many places, none of which is zero."""
    return code_values(coder, np.ones((count, 1, 1), bool), dtype, data)[0]


# Whole files


SHAPES = st.one_of(
    st.sampled_from([(), (0,), (1,), (0, 4), (4, 0), (2, 0, 3), (1, 1), (1, 300), (300, 1)]),
    st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
KINDS = st.sampled_from(["bits", "zeros", "one value", "few", "sparse", "dead", "no zeros"])


def tensor(shape, dtype, kind, seed):
    """Patterns of bits, so that NaN, −0.0 and subnormal numbers occur in every dtype."""
    draw = np.random.default_rng(seed)
    width = DTYPES[dtype].itemsize
    size = math.prod(shape)
    bits = draw.integers(0, 2 if dtype == "bool" else 256, (size, width)).astype(np.uint8)
    if kind == "zeros":
        bits[:] = 0
    elif kind == "one value":
        bits[:] = bits[:1]
    elif kind == "few":
        bits = bits[draw.integers(0, 5, size) % max(1, size)]
    elif kind == "sparse":
        bits[draw.random(size) < 0.9] = 0
    elif kind == "dead" and len(shape) > 1 and size:
        grid = bits.reshape(shape[0], -1, width)
        grid[draw.random(shape[0]) < 0.5] = 0
        grid[:, draw.random(grid.shape[1]) < 0.5] = 0
    elif kind == "no zeros":
        bits[:, 0] |= 1
    return torch.from_numpy(bits.reshape(-1)).view(DTYPES[dtype]).reshape(shape)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(SHAPES, st.sampled_from(sorted(DTYPES)), KINDS, st.integers(0, 99)), max_size=4
    )
)
def test_what_is_read_is_what_was_written(parts):
    comes_back({f"layer{i}.weight": tensor(*part) for i, part in enumerate(parts)})


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(12,), (3, 4)])
def test_numbers_that_are_no_numbers_come_back(dtype, shape):
    strange = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, 1e-45, 1e-310, 1, 2, 3, 4]
    comes_back({"a": torch.tensor(strange, dtype=DTYPES[dtype]).reshape(shape)})


@pytest.mark.parametrize("levels", [1, 2, 16, 255, 256, 257, 1000])
@pytest.mark.parametrize("zeros", [False, True])
def test_any_number_of_levels_comes_back(levels, zeros):
    codes = np.random.default_rng(0).integers(0, levels, 20_000)
    weights = torch.from_numpy(codes).float().add(1).reshape(100, 200)
    if zeros:
        weights[::3, 1::2] = 0
    comes_back({"a": weights, "b": weights.flatten()[:300].clone()})


def test_strided_tensors_come_back():
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "turned": base.T,
        "every other": base[::2, 1::2],
        "expanded": torch.ones(1, 5).expand(3, 5),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "grown": nn.Parameter(base.clone()),
    }
    comes_back(state)


def test_tied_tensors_cost_nothing_and_stay_tied():
    weight = torch.randn(50, 60, generator=torch.Generator().manual_seed(0))
    alone = archive.encode({"a": weight})
    both = archive.encode({"a": weight, "b": weight, "c": nn.Parameter(weight)})
    assert len(both) - overhead(both) == len(alone) - overhead(alone)
    found = comes_back({"a": weight, "b": weight})
    assert found["a"].data_ptr() == found["b"].data_ptr()


def test_views_that_share_memory_are_not_taken_for_one():
    base = torch.arange(36.0).reshape(6, 6)
    found = comes_back({"a": base, "b": base.T, "c": base[1:], "d": base[:1], "e": base.view(-1)})
    assert len({tensor.data_ptr() for tensor in found.values()}) == len(found)


def test_nothing_at_all_comes_back():
    assert archive.decode(archive.encode({})).state == {}


def test_provenance_and_names_come_back(tmp_path):
    file = tmp_path / "a.cnet"
    state = {"ünï.weight": torch.ones(2, 2), "": torch.zeros(3)}
    assert archive.write(file, state, provenance=b"12345678") == file.stat().st_size
    found = archive.read(file)
    assert (found.provenance, found.network) == (b"12345678", "")
    assert list(found.state) == list(state)
    with pytest.raises(ValueError, match="names no architecture"):
        found.model()


# Networks known by name


@pytest.mark.parametrize("name", ["lenet5", "lenet300-tanh", "resnet8", "resnet20"])
def test_a_network_known_by_name_comes_back_as_a_model(name):
    torch.manual_seed(0)
    model = networks.build(name).eval()
    channels = shape_of(name)[0]
    drawn = torch.get_rng_state()
    content = archive.encode(model, network=name, classes=10, channels=channels)
    found = archive.decode(content).model()
    assert torch.equal(torch.get_rng_state(), drawn)
    images = torch.randn(2, *shape_of(name))
    assert torch.equal(found(images), model(images))
    assert not found.training
    assert overhead(content) < 60


def test_a_model_shares_no_memory_with_its_archive():
    model = networks.build("lenet5")
    found = archive.decode(archive.encode(model, network="lenet5", classes=10, channels=1))
    before = {name: tensor.clone() for name, tensor in found.state.items()}
    with torch.no_grad():
        for parameter in found.model().parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in found.state.items())


@pytest.mark.parametrize("scheme", [1, 2])
def test_a_network_of_fewer_filters_and_factors_comes_back_as_a_model(scheme):
    model = network("lenet5").float().eval()
    shape = shape_of("lenet5")
    model = structured.remove_filters(model, some_filters(model), input_shape=shape)
    ranks = {name: 2 for name in compressible(model)}
    model = structured.factor(model, ranks, scheme=scheme, input_shape=shape).eval()
    content = archive.encode(model, network="lenet5", classes=10, channels=1)
    images = torch.randn(2, *shape)
    assert torch.equal(archive.decode(content).model()(images), model(images))
    assert overhead(content) <= 200  # a table of its own


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"conv1.weight": torch.ones(3)},
        {"conv1.weight": torch.ones(20, 1, 5, 5, dtype=torch.int64)},
        {f"{layer}.weight": torch.ones(1, 1) for layer in ("conv1", "conv2", "fc1", "fc2")},
    ],
)
def test_tensors_of_another_network_make_no_model(state):
    content = archive.encode(state, network="lenet5", classes=2**20, channels=2**20)
    found = archive.decode(content)
    with pytest.raises(ValueError, match="do not make a lenet5"):
        found.model()


# What it costs


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (7, 33), (300, 40), (64, 576)])
def test_every_strength_reads_what_it_wrote(strength, size, monkeypatch):
    monkeypatch.setattr(positions, "STRENGTHS", (strength,))
    draw = np.random.default_rng(0)
    density = draw.random((size[0], 1)) * draw.random((1, size[1]))
    stream, spent = coded(code_positions, draw.random(size) < density, *size)
    assert spent - 1 <= stream <= 1.001 * spent + 64


@pytest.mark.parametrize("density", [0.01, 0.05, 0.5, 0.95])
def test_positions_alike_cost_their_entropy(density):
    mask = np.random.default_rng(0).random((1000, 1000)) < density
    stream, _ = coded(code_positions, mask, *mask.shape)
    assert stream < 1.005 * entropy(mask) + 200


def test_positions_in_few_rows_and_columns_cost_less_than_their_entropy():
    draw = np.random.default_rng(0)
    mask = draw.random((300, 400)) < 0.3
    mask[draw.random(300) < 0.7] = False
    mask[:, draw.random(400) < 0.7] = False
    inner = mask[mask.any(1)][:, mask.any(0)]
    stream, _ = coded(code_positions, mask, *mask.shape)
    assert stream < entropy(inner) + entropy(mask.any(1)) + entropy(mask.any(0)) + 200
    assert stream < 0.5 * entropy(mask)


def test_positions_of_one_row_cost_their_flags_alone():
    flags = np.random.default_rng(0).random(5000) < 0.1
    stream, _ = coded(code_positions, flags[None], 1, 5000)
    assert stream < 1.01 * entropy(flags) + 64


@pytest.mark.parametrize("alphabet", [2, 16, 256])
def test_symbols_cost_their_entropy(alphabet):
    draw = np.random.default_rng(0)
    symbols = np.minimum(draw.geometric(min(0.4, 4 / alphabet), 50_000), alphabet) - 1
    stream, _ = coded(code_symbols, symbols, alphabet, len(symbols))
    learnt = 0.5 * alphabet * math.log2(len(symbols))
    assert stream < entropy(symbols) + 1.2 * learnt + 64


@pytest.mark.parametrize("levels", [1, 2, 16, MOST_LEVELS])
def test_values_cost_a_codebook_and_their_entropy(levels):
    draw = np.random.default_rng(0)
    book = draw.integers(1, 2**32, levels).astype(np.uint32)
    values = book[draw.integers(0, levels, 50_000)]
    stream, _ = coded(partial(code_all, values.dtype), values, len(values))
    learnt = 0.5 * levels * math.log2(len(values))
    assert stream < entropy(values) + 32 * levels + 1.2 * learnt + 100


def smooth_kernels(shape, seed=0):
    """Signs and zeros that neighbours in a kernel share, as trained ones do, (…, height, width)."""
    draw = np.random.default_rng(seed)
    whole_kernels = draw.normal(size=(2, *shape[:2], 1, 1))
    sign, place = draw.normal(size=(2, *shape)) + 2 * whole_kernels
    return torch.from_numpy(np.where(place > 1, np.sign(sign), 0)).float()


@pytest.mark.parametrize("shape", [(8, 1, 5, 5), (16, 12, 3, 3), (40, 2, 1, 3), (3, 50, 7, 1)])
@pytest.mark.parametrize("zeros", [False, True])
def test_kernels_come_back(shape, zeros):
    weights = smooth_kernels(shape)
    comes_back({"a": weights if zeros else torch.where(weights == 0, 0.5, weights)})


def test_neighbours_in_a_kernel_tell_positions_and_signs():
    weights = smooth_kernels((64, 32, 3, 3))
    shuffled = weights.flatten()[torch.randperm(weights.numel())].reshape(weights.shape)
    told, untold = (archive.sizes(archive.Archive({"a": w})).iloc[0] for w in (weights, shuffled))
    for part in ("position_bits", "value_bits"):
        assert told[part] < 0.95 * untold[part]
    signs = entropy(weights[weights != 0].numpy())
    assert signs < untold["value_bits"] < 1.01 * signs


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_values_of_every_width_come_back(count, dtype):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, count, dtype)
    coded(partial(code_all, values.dtype), values, count)


def quantized(seed=0):
    """Two layers at 5 and 20 % of 16 levels, and biases."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape, kept in (("a", (64, 27), 0.2), ("b", (300, 800), 0.05)):
        levels = torch.randn(16, generator=draw)
        weight = levels[torch.randint(16, shape, generator=draw)]
        mask = torch.rand(shape, generator=draw) < kept
        state[f"{name}.weight"] = torch.where(mask, weight, 0)
        state[f"{name}.bias"] = torch.randn(shape[0], generator=draw)
    return state


def test_a_network_costs_its_entropy_and_what_is_itemised():
    state = quantized()
    content = archive.encode(state)
    table = archive.sizes(archive.decode(content)).set_index("name")
    for name in ("a.weight", "b.weight"):
        flat = state[name].numpy().ravel()
        bound = entropy(flat != 0) + entropy(flat[flat != 0])
        line = table.loc[name]
        assert (line["weights"], line["kept"]) == (flat.size, np.count_nonzero(flat))
        assert line["position_bits"] + line["value_bits"] < 1.005 * bound + 250
        assert line["codebook_bits"] <= 16 * 32 + 250


@pytest.mark.parametrize("make", [quantized, lambda: networks.build("resnet8"), dict])
def test_sizes_sum_to_the_file(make):
    content = archive.encode(make())
    table = archive.sizes(archive.decode(content))
    bits = table.filter(like="_bits").to_numpy().sum()
    assert bits - 1 <= 8 * len(content) <= 1.001 * bits + 64
    assert table.iloc[-1]["header_bits"] == 8 * overhead(content)


# What cannot be written, and what must not be lost


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.ones(2, dtype=torch.complex64)}, "complex64"),
        ({"a": torch.eye(3).to_sparse()}, "sparse"),
        ({"a": torch.empty(3, device="meta")}, "meta"),
        ({"a": "text"}, "a is of str"),
        ({"a": torch.ones([1] * 17)}, "shape"),
        ({1: torch.ones(1)}, "name"),
        ({f"layer{i}": torch.ones(1) for i in range(60_000)}, "more than the"),
    ],
)
def test_what_no_reader_would_take_is_not_written(state, message):
    with pytest.raises(ValueError, match=message):
        archive.encode(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "lenet6", "classes": 10, "channels": 3}, "unknown network 'lenet6'"),
        ({"network": "lenet5", "classes": 2**21, "channels": 1}, "2097152 classes.*1 to 1,048,576"),
        ({"network": "lenet5", "classes": 10, "channels": True}, "True channels"),
        ({"provenance": b"short"}, "5 bytes; it must have 8"),
    ],
)
def test_options_that_are_wrong_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        archive.encode({"a": torch.ones(1)}, **options)


def test_a_network_larger_than_allowed_is_refused_before_any_of_it_is_made():
    content = archive.encode({"a": torch.zeros(1000, 1000)})
    with pytest.raises(archive.Unreadable, match="4,001,024 bytes, more than the 4,001,000"):
        archive.decode(content, most_bytes=4_001_000)
    assert archive.decode(content, most_bytes=4_001_024).state["a"].shape == (1000, 1000)


def test_an_unreadable_file_is_named(tmp_path):
    file = tmp_path / "b.cnet"
    file.write_bytes(archive.encode({"a": torch.ones(1)})[:-1])
    with pytest.raises(archive.Unreadable, match=r"b\.cnet.*checksum"):
        archive.read(file)
    file.write_bytes(bytes(2**20 + 101))
    with pytest.raises(archive.Unreadable, match=r"b\.cnet has 1,048,677 bytes"):
        archive.read(file, most_bytes=100)


# The format


def golden():
    """Tensors from integers alone, alike everywhere; of each kind that the format treats apart."""
    step = torch.arange(600).reshape(20, 30)
    sparse = torch.where((step * 7) % 5 == 0, (step % 3 + 1) / 4, 0.0)
    sparse[5:9] = 0
    sparse[:, 20:] = 0
    return {
        "sparse": sparse,
        "dense": (step[:4, :6] - 7) / 8,
        "half": (step[:3, :3] / 2).half(),
        "bias": torch.where(torch.arange(20) % 4 == 0, 0.0, 1.5),
        "tied": sparse,
        "steps": torch.tensor(10**12),
        "none": torch.empty(0, 3, dtype=torch.int8),
        "kernels": (torch.arange(72).reshape(2, 4, 3, 3) % 7 - 3) / 4,
        "strange": torch.tensor([torch.inf, torch.nan, 1e-45], dtype=torch.float64),
    }


def test_a_file_of_version_1_is_still_read():
    """Should this fail after a release, files in the world are lost: raise the version, read both.

    Before the first release the format may still change, and this file with it.
    The file was made by ``archive.write(GOLDEN, golden(), provenance=b"golden 1")``.
    """
    found = archive.read(GOLDEN)
    state = golden()
    assert list(found.state) == list(state)
    assert all(same(found.state[name], tensor) for name, tensor in state.items())
    assert found.provenance == b"golden 1"
    assert GOLDEN.stat().st_size < 600


def test_the_header_is_as_documented():
    content = GOLDEN.read_bytes()
    assert content[:5] == b"CNET\x01"
    assert int.from_bytes(content[5:9], "little") == zlib.crc32(content[9:])
    assert content[9:17] == b"golden 1"
    header = json.loads(zlib.decompress(content[21 : overhead(content)], -15))
    assert header[:3] == ["", 0, 0]
    assert header[3][0] == ["sparse", "float32", [20, 30]]
    assert header[3][4] == ["tied", "sparse"]
    assert (len(content) - overhead(content)) % 4 == 0


def test_another_version_is_refused_by_its_number():
    content = bytearray(GOLDEN.read_bytes())
    content[4] = 3
    with pytest.raises(archive.Unreadable, match="its version is 3; this program reads versions 1"):
        archive.decode(bytes(content))
