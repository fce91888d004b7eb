"""Damaged and forged files of a compressed network: what comes of reading them."""

import copy
import json
import random
import struct
import time
import tracemalloc
import zlib
from dataclasses import dataclass

import torch
import torchvision  # noqa: F401 — else the first file that names a network of its waits for it

from lib import archive

#: What is allowed to the reader here, in bytes of tensors; and the bounds that follow from it.
MOST_BYTES = 2**19
MOST_SECONDS = 2.0
MOST_PEAK = 8 * MOST_BYTES + 2**25

#: What stands in a forged header where something sensible stood.
ODD = (
    *(None, True, False, -1, 0, 1, 2, 1000, 2**20, 2**31, 2**39, 2**40, 2**63, 2**200, -(2**63)),
    *(0.5, 1e300, float("nan"), float("inf"), "", "a", "conv", "\ud800", "\0", "ü" * 1000, "1"),
    *("float32", "float64", "bfloat16", "bool", "int64", "complex64", "object", "requires_grad"),
    *("lenet5", "resnet8", "resnet56", "resnet50", "vgg16", "__class__"),
    *([], {}, [[]], {"a": 1}, [0], [1], [-1], [1.0], [True], [2**39], [0, 2**39], [2**39, 0]),
    *([2**39, 2**39, 0], [2**39] * 16, [0] * 16, [1] * 16, [1] * 17, [2**20, 1], [1, 2**20]),
    *([512, 512], [512, 256], [256, 512], [2**17], [2**18], [2**16, 2], [2, 2**16], ["a"], [None]),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a file: "read" or "refused" and why; processor's seconds; bytes at the most."""

    kind: str
    reason: str
    seconds: float
    peak: int


def sample() -> bytes:
    """A file with a tensor of every kind that the format treats apart; fewer than 2,000 bytes."""
    draw = torch.Generator().manual_seed(0)
    conv = torch.randn(8, 3, 3, 3, generator=draw).round().exp2() - 1  # on no uniform grid
    line = torch.randn(10, 72, generator=draw)
    state = {
        "conv.weight": torch.where(conv == 0, torch.zeros(()), conv),
        "conv.bias": torch.randn(8, generator=draw),
        "line.weight": torch.where(line > 1, line, 0),
        "half": torch.randn(4, 5, generator=draw).bfloat16(),
        "flags": torch.eye(3, dtype=torch.bool),
        "steps": torch.tensor(12345),
        "none": torch.empty(0, 3),
    }
    return archive.encode({**state, "tied": state["line.weight"]}, provenance=b"8 bytes.")


def gridded() -> bytes:
    """A file of version 2: grids of a tensor, of rows, with zeros apart, and of whole numbers."""
    draw = torch.Generator().manual_seed(0)
    state = {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=draw).mul(5).round() * 0.1,
        "line.weight": torch.randn(16, 40, generator=draw).mul(9).round() * 0.01,
        "sparse": torch.randn(16, 40, generator=draw).round(),
        "numbers": torch.randint(-90, 90, (20, 20), generator=draw).short(),
        "half": torch.randn(12, 20, generator=draw).mul(6).round().half() / 64,
        "bias": torch.randn(8, generator=draw),
    }
    state["line.weight"] *= torch.rand(16, 1, generator=draw)
    content = archive.encode(state, provenance=b"8 bytes.")
    assert content[4] == 2
    return content


def damaged(content: bytes, draw: random.Random) -> bytes:
    """With bits flipped, or cut, or lengthened: what happens to files. Never ``content`` itself."""
    kind = draw.choice(("flipped", "cut", "lengthened"))
    if kind == "cut":
        return content[: draw.randrange(len(content))]
    if kind == "lengthened":
        more = draw.randbytes(draw.choice((1, 4, 100, 10_000)))
        at = draw.choice((len(content), draw.randrange(len(content))))
        return content[:at] + more + content[at:]
    spoilt = bytearray(content)
    for at in draw.sample(range(len(content)), draw.choice((1, 1, 2, 10, 100))):
        spoilt[at] ^= draw.randrange(1, 256)
    return bytes(spoilt)


def forged(content: bytes, draw: random.Random) -> bytes:
    """With header, its length or stream changed, and a checksum that fits: what an enemy makes."""
    (length,) = struct.unpack_from("<I", content, 17)
    packed, stream = content[21 : 21 + length], content[21 + length :]
    parts = draw.choice(("header", "header", "stream", "both", "length", "deflated"))
    if parts in ("header", "both"):
        packed = deflated(_forged_header(zlib.decompress(packed, -zlib.MAX_WBITS), draw))
    if parts == "deflated":
        packed = draw.choice(
            (
                b"",
                damaged(packed, draw),
                deflated(b"[" * 10 ** draw.randrange(1, 7)),
                deflated(b"[" + b"[]," * 2 ** draw.randrange(10, 20) + b"[]]"),
                deflated(b'["",0,0,[' + b"0" * 2 ** draw.randrange(10, 24) + b"]]"),
                deflated(bytes(2 ** draw.randrange(10, 24))),
            )
        )
    if parts in ("stream", "both"):
        stream = _forged_stream(stream, draw)
    claimed = len(packed)
    if parts == "length":
        claimed = draw.choice((0, 1, length - 1, length + 1, length + 4, 2**31, 2**32 - 1))
    return checked(packed, stream, claimed, version=content[4])


def checked(
    packed: bytes, stream: bytes = b"", claimed: int | None = None, *, version: int = 1
) -> bytes:
    """A file of a deflated header and a stream, its checksum right; ``claimed``: n as it says."""
    length = len(packed) if claimed is None else claimed
    rest = bytes(8) + struct.pack("<I", length) + packed + stream
    return b"CNET" + bytes([version]) + struct.pack("<I", zlib.crc32(rest)) + rest


def outcome(content: bytes) -> Outcome:
    """Reads it. Whatever is neither an archive nor ``Unreadable`` is raised."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    began = time.process_time()  # of the processor: others may be using it too
    kind, reason = "read", ""
    try:
        archive.decode(content, most_bytes=MOST_BYTES)
    except archive.Unreadable as error:
        kind, reason = "refused", str(error)
    seconds = time.process_time() - began
    return Outcome(kind, reason, seconds, tracemalloc.get_traced_memory()[1] - before)


def outcomes(change, count: int, seed: int = 0) -> list[Outcome]:
    """Of ``count`` files that ``change(content, draw)`` makes of samples, file i of seed i."""
    contents = sample(), gridded()
    tracemalloc.start()
    try:
        return [outcome(change(contents[i % 2], random.Random(seed + i))) for i in range(count)]
    finally:
        tracemalloc.stop()


def deflated(said: bytes) -> bytes:
    """As a header is."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(said) + deflate.flush()


def _forged_header(said: bytes, draw: random.Random) -> bytes:
    header = json.loads(said)
    if draw.random() < 0.2:  # a network known by name, perhaps of a size that nobody has
        sizes = (0, 1, 3, 10, 1000, 2**20, 2**20 + 1, -1, True)
        name = draw.choice(("resnet8", "resnet20", "lenet5", "resnet56", "vgg16", "resnet50"))
        header = [name, draw.choice(sizes), draw.choice(sizes), *header[3:]][: draw.choice((3, 4))]
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        _spoil(header, draw)
    if draw.random() < 0.05:
        lines = [[str(i), draw.choice(("bool", "float64")), [3, 5]] for i in range(450)]
        header = ["", 0, 0, lines * draw.choice((1, 2))]
    said = json.dumps(header).encode()
    if draw.random() < 0.1:
        at = draw.randrange(len(said))
        more = (b"9" * 5000, b"[" * 200_000, b"\xff", b"NaN", b"1e999", b'"', b"\\ud800", b"}")
        said = said[:at] + draw.choice(more) + said[at:]
    return said


def _spoil(tree: list, draw: random.Random) -> None:
    """Changes one thing in nested lists, at any depth."""
    while tree and isinstance(tree[-1], list | dict) and draw.random() < 0.9:
        inner = [part for part in tree if isinstance(part, list)]
        if not inner:
            break
        tree = draw.choice(inner)
    how = draw.choice(("replace", "replace", "remove", "insert", "repeat", "swap"))
    at = draw.randrange(len(tree) + 1)
    if how == "insert" or not tree:
        tree.insert(at, copy.deepcopy(draw.choice(ODD)))
        return
    at = min(at, len(tree) - 1)
    if how == "replace":
        tree[at] = copy.deepcopy(draw.choice(ODD))
    elif how == "remove":
        del tree[at]
    elif how == "repeat":
        tree.insert(at, copy.deepcopy(tree[at]))
    else:
        draw.shuffle(tree)


def _forged_stream(stream: bytes, draw: random.Random) -> bytes:
    words = draw.choice((0, 1, 2, 100, 10_000))
    return draw.choice(
        (
            b"",
            damaged(stream, draw),
            draw.randbytes(4 * words),
            bytes(4 * words),
            b"\xff" * (4 * words),
            stream[: 4 * draw.randrange(len(stream) // 4)],
            stream + bytes(4 * words),
            stream + draw.randbytes(4 * words),
            stream[4:],
            stream[:-1],
        )
    )
