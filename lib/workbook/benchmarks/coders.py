"""How others code the same quantized weights: Deep Compression and zstd, and the codes as numbers.

All of it is lossless and of one task: positions, values and codebooks of the weights, without
biases, names and shapes. Each coder gets the best of the choices that it leaves open.
"""

import math
from collections.abc import Mapping

import constriction
import numpy as np
import pandas as pd
from torch import Tensor

from lib.accounting import WIDEST

#: Deep Compression's jumps have 8 bits in convolutions, 5 or 4 in fully connected layers. Here each
#: layer has the best of them.
JUMP_BITS = (4, 5, 8)


def codes(weight: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A layer as whole numbers and a codebook: (codes, levels).

    ``codes`` is int32 of the layer's shape: 0 is zero, 1, 2, … the positive levels from zero
    outwards, −1, −2, … the negative ones; ``levels`` float32, ascending, without zero. Exact, but
    for the sign of zeros.
    Raises ``ValueError`` where the layer has more than 256 nonzero levels: quantize it first.
    """
    flat = weight.detach().cpu().numpy()
    levels, inverse = np.unique(flat[flat != 0], return_inverse=True)
    if len(levels) > 2**WIDEST:
        raise ValueError(f"a layer of {len(levels):,} levels; at most {2**WIDEST}: quantize first")
    negative = int((levels < 0).sum())
    numbers = np.concatenate([np.arange(-negative, 0), np.arange(1, len(levels) - negative + 1)])
    found = np.zeros(flat.shape, np.int32)
    found[flat != 0] = numbers[inverse]
    return found, levels


# ------------------------------------------------------------------------------- Deep Compression


def deep_compression(weights: Mapping[str, Tensor]) -> pd.DataFrame:
    """Bits a layer as Deep Compression codes it: relative positions, two Huffman codes, a codebook.

    Columns ``name``, ``jump_bits``, ``position_bits``, ``value_bits``, ``codebook_bits``, as
    :func:`lib.archive.sizes`. The Huffman codes' tables are counted with what they code. Exact: the
    lengths are those that :func:`huffman_encode` writes. Cost O(n) a layer.

    Han, Mao, Dally, Deep Compression (ICLR 2016, arXiv:1510.00149), sections 2 to 4.
    """
    rows = []
    for name, weight in weights.items():
        numbers, levels = codes(weight)
        options = [(_huffman_bits(*relative(numbers, b)), b) for b in JUMP_BITS]
        (positions, values), width = min(options, key=lambda option: sum(option[0]))
        rows.append(
            {
                "name": name,
                "jump_bits": width,
                "position_bits": positions,
                "value_bits": values,
                "codebook_bits": 32 * len(levels),
            }
        )
    return pd.DataFrame(rows)


def relative(numbers: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions as jumps: (jumps − 1, numbers at their ends), both (symbols,).

    A jump is 1 … 2ᵇ entries from the last; a longer way has filler zeros on it, 2ᵇ apart. What lies
    after the last nonzero is not coded.
    """
    flat = numbers.reshape(-1)
    places = np.flatnonzero(flat)
    ways = np.diff(places, prepend=-1)
    fillers = (ways - 1) // 2**bits
    ends = np.cumsum(fillers + 1) - 1  # where each nonzero stands among the symbols
    jumps = np.full(int((fillers + 1).sum()), 2**bits - 1, np.int64)
    jumps[ends] = (ways - 1) % 2**bits
    found = np.zeros(len(jumps), np.int64)
    found[ends] = flat[places]
    return jumps, found


def absolute(jumps: np.ndarray, numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What :func:`relative` was given."""
    flat = np.zeros(math.prod(shape), np.int32)
    flat[np.cumsum(jumps + 1) - 1] = numbers
    return flat.reshape(shape)


def huffman_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's code word, for symbols that occur ``counts`` times, all of them > 0.

    Optimal among prefix codes. One symbol alone has a word of no bits.
    """
    tree = constriction.symbol.huffman.EncoderHuffmanTree(np.asarray(counts, np.float64))
    lengths = []
    for symbol in range(len(counts)):
        coder = constriction.symbol.QueueEncoder()
        coder.encode_symbol(symbol, tree)
        lengths.append(coder.get_compressed_and_bitrate()[1])
    return np.array(lengths)


def huffman_encode(symbols: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, int]:
    """The code of ``symbols``, 0 … len(lengths) − 1: (32-bit words, bits of them).

    The code follows from the lengths alone, which are what a file has to hold: frequencies 2⁻ˡ have
    no other optimal lengths.
    """
    tree = constriction.symbol.huffman.EncoderHuffmanTree(2.0 ** -np.asarray(lengths))
    coder = constriction.symbol.QueueEncoder()
    for symbol in symbols.tolist():
        coder.encode_symbol(symbol, tree)
    return coder.get_compressed_and_bitrate()


def huffman_decode(words: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` symbols that :func:`huffman_encode` was given."""
    tree = constriction.symbol.huffman.DecoderHuffmanTree(2.0 ** -np.asarray(lengths))
    coder = constriction.symbol.QueueDecoder(words)
    return np.array([coder.decode_symbol(tree) for _ in range(count)], np.int64)


def _huffman_bits(*streams: np.ndarray) -> tuple[int, ...]:
    """Bits of each stream under a Huffman code of its own, its table included.

    The table: a bit for every number from the least to the largest, whether it occurs; 5 bits that
    say how wide the lengths are; the length of each that occurs.
    """
    found = []
    for stream in streams:
        if len(stream) == 0:
            found.append(0)
            continue
        present, counts = np.unique(stream, return_counts=True)
        lengths = huffman_lengths(counts)
        table = int(present[-1] - present[0]) + 1 + 5
        table += len(present) * int(lengths.max()).bit_length()
        found.append(int(counts @ lengths) + table)
    return tuple(found)


# ------------------------------------------------------------------------------------------- zstd


def zstd(weights: Mapping[str, Tensor], *, level: int = 19) -> dict[str, int]:
    """Layout → bytes that zstd makes of it; all layers are one input.

    ``floats`` are the weights as they are; ``codes`` a byte a weight and the codebooks; ``mask and
    codes`` a bit a weight, a byte a nonzero and the codebooks. Raises ``ModuleNotFoundError``
    without the package ``zstandard``. Cost: seconds a megabyte at such a level.
    """
    import zstandard

    layers = [codes(weight) for weight in weights.values()]
    books = b"".join(levels.tobytes() for _, levels in layers)
    # 256 levels and zero are one more than a byte holds: a layer of so many is not coded this way
    dense = [numbers.reshape(-1) for numbers, _ in layers]
    layouts = {
        "floats": b"".join(w.detach().cpu().numpy().tobytes() for w in weights.values()),
        "mask and codes": b"".join(
            np.packbits(flat != 0).tobytes() + flat[flat != 0].astype(np.uint8).tobytes()
            for flat in dense
        )
        + books,
    }
    if all(len(levels) < 2**WIDEST for _, levels in layers):
        layouts["codes"] = b"".join(flat.astype(np.uint8).tobytes() for flat in dense) + books
    compressor = zstandard.ZstdCompressor(level=level)
    return {name: len(compressor.compress(content)) for name, content in layouts.items()}
