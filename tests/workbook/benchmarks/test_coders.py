"""Other coders: textbook Huffman and entropy as oracles, and everything is decoded again."""

import heapq
import math
import sys
from importlib import import_module
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lib import paths
from lib.layers import compressible
from lib.workbook import benchmarks


def layer(*, shape=(40, 50), keep=0.1, levels=7, seed=0):
    """A layer with some nonzeros of few values, of both signs."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(levels, generator=generator)
    weight = values[torch.randint(levels, shape, generator=generator)]
    return weight * (torch.rand(shape, generator=generator) < keep)


def entropy_bits(symbols):
    _, occurrences = np.unique(symbols, return_counts=True)
    return float((occurrences * np.log2(occurrences.sum() / occurrences)).sum())


def textbook_bits(counts):
    """The length of an optimal prefix code: the sum of all inner nodes of Huffman's tree."""
    heap, total = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


def test_codes_count_outwards_from_zero():
    weight = torch.tensor([[0.0, 2.0, -1.0], [0.5, -3.0, 2.0]])
    numbers, levels = benchmarks.coders.codes(weight)
    assert numbers.tolist() == [[0, 2, -1], [1, -2, 2]]
    assert levels.tolist() == [-3.0, -1.0, 0.5, 2.0]


@pytest.mark.parametrize(
    "weight",
    [
        *(layer(), layer(shape=(4, 3, 3, 3), levels=1), -layer(levels=3).abs()),
        *(layer(shape=(64, 64), keep=0.9, levels=256), torch.zeros(3, 4), torch.ones(2, 2)),
    ],
    ids=["both signs", "kernel", "negative", "256 levels", "zeros", "one value"],
)
def test_codes_and_levels_are_the_layer_again(weight):
    numbers, levels = benchmarks.coders.codes(weight)
    negative = int((levels < 0).sum())
    lookup = np.concatenate([levels[:negative], np.zeros(1, np.float32), levels[negative:]])
    assert torch.equal(torch.from_numpy(lookup[numbers + negative]), weight)


def test_a_layer_that_is_not_quantized_is_refused():
    with pytest.raises(ValueError, match="300 levels; at most 256: quantize first"):
        benchmarks.coders.codes(torch.arange(1.0, 301.0))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60))
def test_huffman_is_as_short_as_the_textbooks_and_fills_its_tree(counts):
    lengths = benchmarks.coders.huffman_lengths(counts)
    assert int(np.array(counts) @ lengths) == textbook_bits(counts)
    assert sum(2.0 ** -int(length) for length in lengths) == 1


@given(st.lists(st.integers(0, 30), min_size=1, max_size=400))
def test_huffman_returns_what_it_was_given_in_so_many_bits(drawn):
    _, symbols, counts = np.unique(drawn, return_inverse=True, return_counts=True)
    lengths = benchmarks.coders.huffman_lengths(counts)
    words, bits = benchmarks.coders.huffman_encode(symbols, lengths)
    assert bits == counts @ lengths <= 32 * len(words)
    assert np.array_equal(benchmarks.coders.huffman_decode(words, lengths, len(symbols)), symbols)
    assert entropy_bits(symbols) <= bits + 1e-6
    assert bits <= entropy_bits(symbols) + len(symbols)


def test_the_papers_own_example_of_jumps():
    """Figure 2 of Deep Compression: jumps of 3 bits; on a way of 11 a filler zero comes after 8."""
    numbers = np.zeros(16, np.int32)
    numbers[[0, 3, 14]] = 5, 6, 7
    jumps, ends = benchmarks.coders.relative(numbers, 3)
    assert (jumps + 1).tolist() == [1, 3, 8, 3]
    assert ends.tolist() == [5, 6, 0, 7]


@given(st.lists(st.sampled_from([0] * 40 + [-2, 1]), max_size=600), st.sampled_from([1, 3, 4, 8]))
def test_jumps_return_what_they_were_given(drawn, bits):
    numbers = np.array(drawn, np.int32)
    jumps, ends = benchmarks.coders.relative(numbers, bits)
    assert ((jumps >= 0) & (jumps < 2**bits)).all()
    assert np.array_equal(benchmarks.coders.absolute(jumps, ends, numbers.shape), numbers)


def test_deep_compression_counts_what_would_be_written():
    weights = {"dense": layer(keep=0.3), "sparse": layer(keep=0.01), "empty": torch.zeros(5, 5)}
    table = benchmarks.coders.deep_compression(weights).set_index("name")
    for name in ("dense", "sparse"):
        numbers, levels = benchmarks.coders.codes(weights[name])
        row, written = table.loc[name], {}
        streams = zip(
            ("position_bits", "value_bits"),
            benchmarks.coders.relative(numbers, row["jump_bits"]),
            strict=True,
        )
        for column, stream in streams:
            present, symbols, counts = np.unique(stream, return_inverse=True, return_counts=True)
            lengths = benchmarks.coders.huffman_lengths(counts)
            _, payload = benchmarks.coders.huffman_encode(symbols, lengths)
            # which symbols occur, how wide the lengths are, the lengths
            width = math.floor(math.log2(lengths.max())) + 1
            written[column] = payload + np.ptp(present) + 1 + 5 + len(present) * width
            assert entropy_bits(stream) < written[column]
        assert row[list(written)].to_dict() == written
        assert row["codebook_bits"] == 32 * len(levels)
    assert table.loc["empty", ["position_bits", "value_bits", "codebook_bits"]].sum() == 0


def test_zstd_reads_back_and_takes_every_layout():
    zstandard = pytest.importorskip("zstandard")
    weights = {"a": layer(keep=0.05), "b": layer(shape=(30, 3, 3, 3), seed=1)}
    sizes = benchmarks.coders.zstd(weights, level=3)
    floats = b"".join(w.numpy().tobytes() for w in weights.values())
    assert sizes["floats"] == len(zstandard.ZstdCompressor(level=3).compress(floats))
    bound = sum(entropy_bits(benchmarks.coders.codes(w)[0]) for w in weights.values()) / 8
    assert all(size > bound for size in sizes.values())
    wide = {"w": layer(shape=(64, 64), keep=0.9, levels=256)}
    assert set(sizes) - set(benchmarks.coders.zstd(wide, level=3)) == {"codes"}


# ------------------------------------------------------- the scripts that made the committed table


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(paths.ROOT / "results" / "benchmarks" / "scripts")
    return import_module


def test_nncodecs_table_is_of_streams_that_gave_the_codes_back(script, monkeypatch, tmp_path):
    """By a stand-in whose streams are looked up by their bytes, and get shorter with each."""
    made, lengths = {}, count(100, -1)

    def compress(codes, **options):
        assert all(c.dtype == np.int32 and c.ndim == 2 for c in codes.values())
        stream = bytes(next(lengths))
        made[stream] = codes
        return stream

    nnc = SimpleNamespace(compress=compress, decompress=made.__getitem__)
    monkeypatch.setitem(sys.modules, "nncodec", SimpleNamespace(nnc=nnc))
    coding = script("code_with_nncodec")
    monkeypatch.setattr(coding, "version", lambda name: "0")
    file, table = tmp_path / "net.npz", tmp_path / "sizes.csv"
    weight = layer(shape=(4, 3, 3, 3), keep=1, levels=2)
    script("measure_coders").export({"conv": weight}, file)
    coding.main(str(file), str(table))
    assert table.read_text() == "network,stream_bytes,codebook_bytes,nncodec\nnet,99,8,0\n"
    numbers, levels = benchmarks.coders.codes(weight)
    assert np.array_equal(made[bytes(99)]["conv"], numbers.reshape(4, -1))
    assert len(levels) == 2
    nnc.decompress = lambda stream: {"conv": np.zeros((4, 27), np.int32)}
    with pytest.raises(ValueError, match="did not return the codes it was given"):
        coding.main(str(file), str(table))


def test_alexnet_is_pruned_and_quantized_as_asked(script, monkeypatch):
    def small(*, num_classes, dropout):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, num_classes)
        )

    alexnet = script("alexnet")
    monkeypatch.setattr(alexnet, "alexnet", small)
    monkeypatch.setattr(alexnet, "SIDE", 8)
    model, accuracy = alexnet.build("digits", steps=2, tuning=2, keep=0.25, bits=2)
    assert 0 <= accuracy <= 1
    for weight in compressible(model).values():
        assert int((weight != 0).sum()) == round(0.25 * weight.numel())
        assert len(weight[weight != 0].unique()) == 4
