"""The file: a header that says what is coded, and one stream of coded tensors.

    offset  bytes
    0       4      the letters CNET
    4       1      version, 1
    5       4      CRC-32 of all that follows
    9       8      provenance: the first 8 bytes of a SHA-256 that the writer names, or zeros
    17      4      n, length of the header
    21      n      header: deflated JSON, [network, classes, channels] and, unless the tensors are
                   exactly those of that network, a table of them in their order:
                   [name, dtype, [sizes]], or [name, another's name] where two are one
    21 + n         words of 32 bits of a range coder (:mod:`lib.archive.coder`), numbers least
                   byte first throughout

The stream codes, in the table's order, each tensor of two dimensions or more as a matrix of its
first dimension by the others: whether any is zero, the positions of the nonzeros
(:mod:`lib.archive.positions`), their values (:mod:`lib.archive.values`); of four dimensions the
last two are kernels, in which neighbours tell of one another. All smaller tensors of one dtype
(biases, normalisation) are coded as one, after them. What is dead in one tensor is expected to be
dead in the next: columns by the rows of the matrix before, biases by those of their own. Nothing is
executed or pickled.
"""

import copy
import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import atomic, networks
from lib.archive.coder import Broken, Decoder, Encoder, Meter
from lib.archive.positions import code_flags, code_positions
from lib.archive.symbols import code_number
from lib.archive.values import code_values, spent
from lib.structured import rebuild

SUFFIX = ".cnet"
MAGIC, VERSION = b"CNET", 1
_PARTS = [
    *("name", "shape", "weights", "kept"),
    *("position_bits", "value_bits", "codebook_bits", "header_bits"),
]
_FIXED = struct.Struct("<4sBI8sI")

#: The longest header, deflated and not: some 20,000 tensors.
MOST_HEADER = 2**20

#: The most classes, or channels, of a network that is known by name.
MOST_CLASSES = 2**20

#: The largest network that is read unless more is allowed, in bytes as tensors.
MOST_BYTES = 2**31

#: What a tensor takes in memory beside its values, at least.
OVERHEAD = 2**10

#: What each place of a kernel counts as in each row, in bytes: places are read one after another,
#: so that a forged kernel of a thousand by a thousand would take as long as a large network.
PLACE = 2**7

#: What a tensor may be made of.
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
        *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
    )
}


class Unreadable(ValueError):
    """Not a whole file of this format, or one larger than allowed."""


@dataclass(frozen=True)
class Archive:
    """What a file holds. ``network`` is ``""`` where the architecture has no name here."""

    state: dict[str, Tensor]
    network: str = ""
    classes: int = 0
    channels: int = 0
    provenance: bytes = bytes(8)

    def model(self) -> nn.Module:
        """The network, on the CPU, in evaluation mode, with tensors of its own.

        Nothing is drawn from a random generator. Raises ``ValueError`` where the architecture has
        no name (load ``state`` into your own), or the tensors are not those of such a network.
        """
        if not self.network:
            raise ValueError(
                "the file names no architecture: build the network yourself and load .state into it"
            )
        with torch.device("meta"):  # whatever sizes the file names, only its tensors take memory
            model = networks.build(self.network, classes=self.classes, channels=self.channels)
        try:
            rebuild(model, self.state).load_state_dict(copy.deepcopy(self.state), assign=True)
        except (LookupError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"its tensors do not make a {self.network}: {error}") from error
        return model.eval()


@dataclass(frozen=True)
class _Tensor:
    """A line of the table."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    same_as: str | None = None

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def claim(self) -> int:
        """Bytes that it counts as before it is made: its memory, or time to read it in bytes.

        A dimension of 0 counts as 1: the strides of the others are products too.
        """
        if self.same_as is not None:
            return OVERHEAD
        own = math.prod(max(1, n) for n in self.shape) * self.pattern.itemsize
        places = math.prod(self.kernel)
        return OVERHEAD + own + (PLACE * self.shape[0] * places if places > 1 else 0)

    @property
    def pattern(self) -> np.dtype:
        """The unsigned integers of its width."""
        return np.dtype(f"u{DTYPES[self.dtype].itemsize}")

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of its kernels: the last two of four dimensions, one by one else."""
        return self.shape[-2:] if len(self.shape) == 4 else (1, 1)

    @property
    def large(self) -> bool:
        """Whether it is coded by itself."""
        return len(self.shape) > 1


def write(
    path: Path,
    model: nn.Module | Mapping[str, Tensor],
    *,
    network: str = "",
    classes: int = 0,
    channels: int = 0,
    provenance: bytes = bytes(8),
) -> int:
    """Writes a network to ``path`` and returns the file's size in bytes.

    ``network``, ``classes`` and ``channels`` are what :func:`lib.networks.build` takes; without
    them every tensor's name and shape is in the file, and whoever reads it brings the
    architecture. ``provenance`` is 8 bytes of the reader's concern alone: of a run's hash, say.
    Every bit is kept, but for the sign of a zero: −0.0, of which a product with a mask leaves many,
    comes back as 0.0.

    The file is written beside its place and renamed, so an interruption or a full disk leaves an
    older file as it was. Raises ``ValueError`` as :func:`encode`, ``OSError`` where it cannot be
    written.
    """
    content = encode(
        model, network=network, classes=classes, channels=channels, provenance=provenance
    )
    return save(path, content)


def save(path: Path | str, content: bytes) -> int:
    """Puts an encoded network in ``path``, whole or not at all, and returns its size in bytes."""
    atomic.write(Path(path), content)
    return len(content)


def read(path: Path, *, most_bytes: int = MOST_BYTES) -> Archive:
    """The network in ``path``, exactly as it was written.

    ``most_bytes`` bounds the tensors before any is made, each counted with 1 KiB beside its values
    and 128 bytes for each place of its kernels in each row. So it bounds what a forged file can
    take, too: at most 0.5 µs and 8 bytes for each byte of ``most_bytes``, and 32 MiB for the
    header. An honest file of a large network takes some 20 ns a byte, and 2 bytes.

    Raises :class:`Unreadable` (a ``ValueError``) that names the file where it is not whole, or
    holds more than ``most_bytes`` of tensors; ``OSError`` where there is no such file.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > most_bytes + MOST_HEADER:
        raise Unreadable(f"{path} has {size:,} bytes, more than the {most_bytes:,} allowed")
    try:
        return decode(path.read_bytes(), most_bytes=most_bytes)
    except Unreadable as error:
        raise Unreadable(f"{path} cannot be read: {error}") from error


def encode(
    model: nn.Module | Mapping[str, Tensor],
    *,
    network: str = "",
    classes: int = 0,
    channels: int = 0,
    provenance: bytes = bytes(8),
) -> bytes:
    """The file's content: see :func:`write`.

    Cost: one core some 0.1 µs a weight, 0.7 µs in the small layers of a ResNet-8, and the memory of
    the largest tensor twice. Raises ``ValueError`` for what no reader would take: a tensor that is
    not a dense one of ``DTYPES``, an unknown network, a provenance that is not of 8 bytes.
    """
    if len(provenance) != 8:
        raise ValueError(f"provenance has {len(provenance)} bytes; it must have 8")
    state, table = _state(model)
    head = _head(network, classes, channels, table)
    coder = Encoder()
    _code(coder, table, state)
    rest = provenance + struct.pack("<I", len(head)) + head + coder.content()
    return MAGIC + bytes([VERSION]) + struct.pack("<I", zlib.crc32(rest)) + rest


def decode(content: bytes, *, most_bytes: int = MOST_BYTES) -> Archive:
    """What :func:`encode` was given. Raises :class:`Unreadable`."""
    if len(content) < _FIXED.size:
        raise Unreadable(f"it has {len(content)} bytes, fewer than the {_FIXED.size} of any file")
    magic, version, checksum, provenance, length = _FIXED.unpack_from(content)
    if magic != MAGIC:
        raise Unreadable("it is not a compressed network: it does not begin with CNET")
    if version != VERSION:
        raise Unreadable(f"its version is {version}; this program reads version {VERSION}")
    content = memoryview(content)
    if zlib.crc32(content[9:]) != checksum:
        raise Unreadable("its checksum does not fit: it was damaged, or cut short")
    if length > len(content) - _FIXED.size:
        raise Unreadable(f"it claims a header of {length:,} bytes and has {len(content):,} in all")
    body = _FIXED.size + length
    network, classes, channels, table = _header(content[_FIXED.size : body])
    claimed = sum(tensor.claim for tensor in table)
    if claimed > most_bytes:
        raise Unreadable(
            f"its tensors need {claimed:,} bytes, more than the {most_bytes:,} allowed"
        )
    try:
        coder = Decoder(content[body:])
        state = _code(coder, table)
        coder.finish()
    except Broken as error:
        raise Unreadable(str(error)) from error
    return Archive(state, network, classes, channels, provenance)


def sizes(archive: Archive) -> pd.DataFrame:
    """What each part takes in the file, in bits: a table whose bits sum to the file's size.

    Columns ``name``, ``shape``, ``weights``, ``kept``, ``position_bits``, ``value_bits``,
    ``codebook_bits``, ``header_bits``. The tensors that are coded as one are one line, named after
    the first and their number; the last line is the header and all else before the stream. A sum
    of information: the file is longer by less than 64 bits, and rounding in the coder adds 0.1 %.
    Counted by coding the network once more.
    """
    rows: list[dict] = []
    state, table = _state(archive.state)
    _code(Meter(), table, state, rows)
    head = _head(archive.network, archive.classes, archive.channels, table)
    header = dict.fromkeys(_PARTS, 0) | {"name": "header", "shape": ""}
    rows.append(header | {"header_bits": 8 * (_FIXED.size + len(head))})
    return pd.DataFrame(rows, columns=_PARTS).fillna({"header_bits": 0})


def _head(network: str, classes: int, channels: int, table: list[_Tensor]) -> bytes:
    """The deflated header. Raises ``ValueError`` where no reader would take it."""
    _check(network, classes, channels)
    header = [network, classes, channels]
    if not network or table != _known(network, classes, channels):
        header.append([_line(tensor) for tensor in table])
    said = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    _parsed(said)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(said) + deflate.flush()


def _header(packed: bytes) -> tuple[str, int, int, list[_Tensor]]:
    """Network, classes, channels and the table; ``Unreadable`` where they are not well formed."""
    try:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        said = inflate.decompress(packed, MOST_HEADER + 1)
        if not inflate.eof or inflate.unused_data:
            raise ValueError("it does not end where it should")
        return _parsed(said)
    except (ValueError, TypeError, RecursionError, zlib.error) as error:
        raise Unreadable(f"its header is not one: {error}") from error


def _parsed(said: bytes) -> tuple[str, int, int, list[_Tensor]]:
    """What the header's JSON says. ``ValueError``, ``TypeError`` where it is not well formed."""
    if len(said) > MOST_HEADER:
        raise ValueError(f"it has {len(said):,} bytes, more than the {MOST_HEADER:,} allowed")
    network, classes, channels, *listed = json.loads(said)
    if len(listed) > 1:
        raise ValueError("its parts are not those of a header")
    _check(network, classes, channels)
    table = _listed(listed[0]) if listed else _known(network, classes, channels)
    return network, classes, channels, table


def _check(network: str, classes: int, channels: int) -> None:
    """Raises ``ValueError`` where no network is of such sizes."""
    if not isinstance(network, str):
        raise ValueError(f"network is {network!r}; it must be a name, or empty")
    least = 1 if network else 0
    if not all(type(n) is int and least <= n <= MOST_CLASSES for n in (classes, channels)):
        raise ValueError(
            f"{classes!r} classes and {channels!r} channels; both must be of {least} to "
            f"{MOST_CLASSES:,}"
        )


def _listed(lines: list) -> list[_Tensor]:
    table: dict[str, _Tensor] = {}
    for name, *rest in lines:
        if not isinstance(name, str) or name in table:
            raise ValueError(f"a tensor {name!r} that has no name of its own")
        if len(rest) == 1:
            if rest[0] not in table:
                raise ValueError(f"{name} is said to be {rest[0]!r}, which does not come before it")
            first = table[rest[0]]
            table[name] = _Tensor(name, first.dtype, first.shape, same_as=first.name)
            continue
        dtype, shape = rest
        if dtype not in DTYPES or not isinstance(shape, list) or len(shape) > 16:
            raise ValueError(f"{name} of dtype {dtype!r} and shape {shape!r}")
        if not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise ValueError(f"{name} of shape {shape!r}")
        table[name] = _Tensor(name, dtype, tuple(shape))
    return list(table.values())


def _line(tensor: _Tensor) -> list:
    if tensor.same_as is not None:
        return [tensor.name, tensor.same_as]
    return [tensor.name, tensor.dtype, list(tensor.shape)]


def _known(network: str, classes: int, channels: int) -> list[_Tensor]:
    """The tensors of a network that is known by name, as it is built. ``ValueError`` otherwise."""
    with torch.device("meta"):
        return _table(networks.build(network, classes=classes, channels=channels).state_dict())


def _state(model: nn.Module | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[_Tensor]]:
    """The tensors on the CPU, and their table. Raises ``ValueError`` for what cannot be written."""
    state = model.state_dict() if isinstance(model, nn.Module) else dict(model)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is of {type(tensor).__name__}; tensors can be written")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(
                f"{name} is a {tensor.layout} tensor of {dtype} on {tensor.device}; "
                f"dense ones of {', '.join(DTYPES)} that hold values can be written"
            )
    return {name: tensor.detach().cpu() for name, tensor in state.items()}, _table(state)


def _table(state: Mapping[str, Tensor]) -> list[_Tensor]:
    seen: dict[tuple, str] = {}
    table = []
    for name, tensor in state.items():
        where = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        shared = tensor.device.type != "meta" and tensor.numel() > 0
        first = seen.setdefault(where, name) if shared else name
        dtype = str(tensor.dtype).removeprefix("torch.")
        same_as = first if first != name else None
        table.append(_Tensor(name, dtype, tuple(tensor.shape), same_as))
    return table


def _code(
    coder,
    table: list[_Tensor],
    state: Mapping[str, Tensor] | None = None,
    rows: list[dict] | None = None,
) -> dict[str, Tensor]:
    """Codes all tensors; reads them where ``state`` is ``None``. ``rows`` gets what each took."""
    found = {t.name: torch.empty(t.shape, dtype=DTYPES[t.dtype]) for t in table if not t.count}
    coded = [tensor for tensor in table if tensor.same_as is None and tensor.count]
    alive: dict[str, np.ndarray] = {}  # the rows of each matrix, whether they hold a nonzero
    fed = None
    for tensor in coded:
        if tensor.large:
            flat = None if state is None else _patterns([state[tensor.name]], tensor.pattern)
            place = _matrix_positions(tensor, fed)
            flat = _code_tensor(coder, tensor, flat, rows, place)
            found[tensor.name] = _tensor(flat, tensor)
            fed = alive[tensor.name] = (flat != 0).reshape(tensor.shape[0], -1).any(axis=1)
    likely = _likely(coded, alive)
    for dtype in DTYPES:
        small = [tensor for tensor in coded if not tensor.large and tensor.dtype == dtype]
        if not small:
            continue
        count = sum(tensor.count for tensor in small)
        pool = None
        if state is not None:
            pool = _patterns([state[tensor.name] for tensor in small], small[0].pattern)
        name = small[0].name + (f" and {len(small) - 1} more" if len(small) > 1 else "")
        place = partial(code_flags, likely=np.concatenate([likely[t.name] for t in small]))
        pool = _code_tensor(coder, _Tensor(name, dtype, (count,)), pool, rows, place)
        ends = np.cumsum([tensor.count for tensor in small])
        for tensor, part in zip(small, np.split(pool, ends[:-1]), strict=True):
            found[tensor.name] = _tensor(part.copy(), tensor)
    return {tensor.name: found[tensor.same_as or tensor.name] for tensor in table}


def _matrix_positions(tensor: _Tensor, fed: np.ndarray | None):
    """How the positions of a matrix are coded; ``fed``: the rows of the matrix before it.

    Where those divide its columns they are taken for what feeds them: column j is read from row
    j·rows // columns. That is so in a chain of layers; elsewhere the coder learns that it is not.
    """
    height, width = tensor.shape[0], math.prod(tensor.shape[1:])
    chained = fed is not None and len(fed) and width % len(fed) == 0
    likely = np.repeat(fed, width // len(fed)) if chained else None

    def place(coder, count: int, mask: np.ndarray | None = None) -> np.ndarray:
        given = None if mask is None else mask.reshape(height, width)
        found = code_positions(coder, height, width, given, fed=likely, kernel=tensor.kernel)
        return found.reshape(count)

    return place


def _likely(coded: list[_Tensor], alive: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which values of each small tensor are likely to be nonzero: those of rows that are.

    A bias or a scale belongs to the rows of the last matrix before it that has as many.
    """
    latest: dict[int, np.ndarray] = {}
    likely = {}
    for tensor in coded:
        if tensor.large:
            latest[tensor.shape[0]] = alive[tensor.name]
        else:
            likely[tensor.name] = latest.get(tensor.count, np.ones(tensor.count, bool))
    return likely


def _code_tensor(
    coder,
    tensor: _Tensor,
    flat: np.ndarray | None,
    rows: list[dict] | None,
    place: Callable[..., np.ndarray],
) -> np.ndarray:
    """Codes the patterns of one tensor, (n,) unsigned; what it took becomes one of ``rows``."""
    start = spent(coder)
    mask = None if flat is None else flat != 0
    zeros = code_number(coder, 2, None if mask is None else int(not mask.all()))
    if zeros:
        mask = place(coder, tensor.count, mask)
    elif mask is None:
        mask = np.ones(tensor.count, bool)
    placed = spent(coder)
    values = None if flat is None else (flat[mask] if zeros else flat)
    kernels = mask.reshape(-1, *tensor.kernel)
    values, book = code_values(coder, kernels, tensor.pattern, values)
    if rows is not None:
        rows.append(
            {
                "name": tensor.name,
                "shape": "×".join(map(str, tensor.shape)),
                "weights": tensor.count,
                "kept": len(values),
                "position_bits": placed - start,
                "value_bits": spent(coder) - placed - book,
                "codebook_bits": book,
            }
        )
    if flat is not None:
        return flat
    if not zeros:
        return values
    flat = np.zeros(tensor.count, tensor.pattern)
    flat[mask] = values
    return flat


def _patterns(tensors: list[Tensor], pattern: np.dtype) -> np.ndarray:
    """The bits of the tensors, one after the other, as unsigned integers (n,)."""
    whole = torch.cat([t.contiguous().reshape(-1) for t in tensors])
    whole[whole == 0] = 0  # −0.0 too
    return whole.view(torch.uint8).numpy().view(pattern)


def _tensor(flat: np.ndarray, tensor: _Tensor) -> Tensor:
    bits = torch.from_numpy(np.ascontiguousarray(flat).view(np.uint8))
    return bits.view(DTYPES[tensor.dtype]).reshape(tensor.shape)
