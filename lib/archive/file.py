"""The file: a header that says what is coded, and one stream of coded tensors.

    offset  bytes
    0       4      the letters CNET
    4       1      version, 1; 2 where a tensor is coded as a grid
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

In version 2 each tensor of two dimensions or more says first whether its values are coded so, or as
those of a grid, scale · number with one scale or one a row (:mod:`lib.archive.grid`): the scales,
and then the numbers (:mod:`lib.archive.integers`), zeros among them, or named before as above. The
writer looks for grids in the values, and takes the shorter of what it measures; a file that no grid
makes shorter is of version 1.
"""

import copy
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib import atomic
from lib.archive.coder import Broken, Decoder, Encoder
from lib.archive.grid import Grid, find
from lib.archive.header import (
    DTYPES,
    MOST_HEADER,
    Described,
    Entry,
    Unreadable,
    entries,
    packed,
    unpacked,
)
from lib.archive.positions import code_flags
from lib.archive.symbols import code_number
from lib.archive.tensor import PLAIN, WAYS, code_tensor, matrix_positions, way_of
from lib.structured.rebuild import rebuild

SUFFIX = ".cnet"
MAGIC, VERSIONS = b"CNET", (1, 2)
FIXED = struct.Struct("<4sBI8sI")

#: What grids save, as a share of the file, that no error of what was measured exceeds.
SURE = 1 / 50

#: The largest network that is read unless more is allowed, in bytes as tensors.
MOST_BYTES = 2**31


@dataclass(frozen=True)
class Archive(Described):
    """What a file holds."""

    state: dict[str, Tensor]
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
        model = self.built()  # whatever sizes the file names, only its tensors take memory
        try:
            rebuild(model, self.state).load_state_dict(copy.deepcopy(self.state), assign=True)
        except (LookupError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"its tensors do not make a {self.network}: {error}") from error
        return model.eval()


def write(path: Path, model: nn.Module | Mapping[str, Tensor], **described) -> int:
    """Writes a network to ``path`` and returns the file's size in bytes.

    ``described`` is as in :func:`encode`. The file is written beside its place and renamed, so an
    interruption or a full disk leaves an older file as it was. Raises ``ValueError`` as
    :func:`encode`, ``OSError`` where it cannot be written.
    """
    return save(path, encode(model, **described))


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
    model: nn.Module | Mapping[str, Tensor], *, provenance: bytes = bytes(8), **described
) -> bytes:
    """The file's content.

    Every bit is kept, but for the sign of a zero: −0.0, of which a product with a mask leaves many,
    comes back as 0.0.

    Parameters
    ----------
    provenance : 8 bytes of the reader's concern alone: of a run's hash, say.
    described : ``network``, ``classes`` and ``channels``, what :func:`lib.networks.build` takes;
        without them every tensor's name and shape is in the file, and whoever reads it brings the
        architecture.

    Cost: one core some 0.1 µs a weight, 0.3 µs on a grid, 0.7 µs in the small layers of a ResNet-8,
    of which grids take twice that, and the memory of the largest tensor twice. Raises
    ``ValueError`` for what no reader would take: a tensor that is not a dense one of ``DTYPES``, an
    unknown network, a provenance that is not of 8 bytes.
    """
    if len(provenance) != 8:
        raise ValueError(f"provenance has {len(provenance)} bytes; it must have 8")
    state, table = tabled(model)
    header = packed(Described(**described), table)
    version, stream = shortest(table, state)
    rest = provenance + struct.pack("<I", len(header)) + header + stream
    return MAGIC + bytes([version]) + struct.pack("<I", zlib.crc32(rest)) + rest


def decode(content: bytes | memoryview, *, most_bytes: int = MOST_BYTES) -> Archive:
    """What :func:`encode` was given. Raises :class:`Unreadable`."""
    if len(content) < FIXED.size:
        raise Unreadable(f"it has {len(content)} bytes, fewer than the {FIXED.size} of any file")
    magic, version, checksum, provenance, length = FIXED.unpack_from(content)
    if magic != MAGIC:
        raise Unreadable("it is not a compressed network: it does not begin with CNET")
    if version not in VERSIONS:
        raise Unreadable(f"its version is {version}; this program reads versions 1 and 2")
    content = memoryview(content)
    if zlib.crc32(content[9:]) != checksum:
        raise Unreadable("its checksum does not fit: it was damaged, or cut short")
    if length > len(content) - FIXED.size:
        raise Unreadable(f"it claims a header of {length:,} bytes and has {len(content):,} in all")
    body = FIXED.size + length
    described, table = unpacked(content[FIXED.size : body])
    claimed = sum(entry.claim for entry in table)
    if claimed > most_bytes:
        raise Unreadable(
            f"its tensors need {claimed:,} bytes, more than the {most_bytes:,} allowed"
        )
    try:
        coder = Decoder(content[body:])
        state = code(coder, table, ways={} if version > 1 else None)
        coder.finish()
    except Broken as error:
        raise Unreadable(str(error)) from error
    return Archive(state, provenance, **vars(described))


def tabled(model: nn.Module | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Entry]]:
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
    return {name: tensor.detach().cpu() for name, tensor in state.items()}, entries(state)


def shortest(table: list[Entry], state: Mapping[str, Tensor]) -> tuple[int, bytes]:
    """The version whose stream is the shorter, and that stream, of tensors on the CPU."""
    streams = {}
    ways, saved = ways_of(table, state)
    if saved:
        coder = Encoder()
        code(coder, table, state, ways=ways)
        streams[2] = coder.content()
    # unless it is beyond any doubt of what was measured, and of what it costs to say the ways
    if not saved or saved < 2 * len(table) + 64 + SURE * 8 * len(streams[2]):
        coder = Encoder()
        code(coder, table, state)
        streams[1] = coder.content()
    return min(streams.items(), key=lambda item: (len(item[1]), item[0]))


def ways_of(
    table: list[Entry], state: Mapping[str, Tensor]
) -> tuple[dict[str, tuple[int, Grid]], float]:
    """Of the tensors that are shorter as grids: which way, the grid; and the bits saved in all."""
    ways, saved = {}, 0.0
    for entry in table:
        grid = (
            find(state[entry.name]) if entry.large and entry.count and not entry.same_as else None
        )
        if grid is not None:
            flat = _patterns([state[entry.name]], entry.pattern)
            way, bits = way_of(entry, flat, grid)
            if bits > 0:
                ways[entry.name] = way, grid
                saved += bits
    return ways, saved


def code(
    coder,
    table: list[Entry],
    state: Mapping[str, Tensor] | None = None,
    rows: list[dict] | None = None,
    *,
    ways: Mapping[str, tuple[int, Grid]] | None = None,
) -> dict[str, Tensor]:
    """Codes all tensors; reads them where ``state`` is ``None``. ``rows`` gets what each took.

    ``ways``: of the tensors that are coded as grids, how; ``None`` in version 1.
    """
    found = {t.name: torch.empty(t.shape, dtype=DTYPES[t.dtype]) for t in table if not t.count}
    coded = [tensor for tensor in table if tensor.same_as is None and tensor.count]

    def as_one(entry: Entry, members: list[Entry], place: Callable[..., np.ndarray]) -> np.ndarray:
        flat = (
            None
            if state is None
            else _patterns([state[each.name] for each in members], entry.pattern)
        )
        way, grid = PLAIN, None
        if ways is not None and entry.large:
            way, grid = ways.get(entry.name, (PLAIN, None))
            way = code_number(coder, WAYS, None if flat is None else way)
        flat = code_tensor(coder, entry, flat, rows, place, way, grid)
        ends = np.cumsum([each.count for each in members])
        for each, part in zip(members, np.split(flat, ends[:-1]), strict=True):
            found[each.name] = _tensor(part.copy() if len(members) > 1 else part, each)
        return flat

    alive: dict[str, np.ndarray] = {}  # the rows of each matrix, whether they hold a nonzero
    fed = None
    for tensor in coded:
        if tensor.large:
            flat = as_one(tensor, [tensor], matrix_positions(tensor, fed))
            fed = alive[tensor.name] = (flat != 0).reshape(tensor.shape[0], -1).any(axis=1)
    likely = _likely(coded, alive)
    for dtype in DTYPES:
        small = [tensor for tensor in coded if not tensor.large and tensor.dtype == dtype]
        if small:
            name = small[0].name + (f" and {len(small) - 1} more" if len(small) > 1 else "")
            pool = Entry(name, dtype, (sum(tensor.count for tensor in small),))
            place = partial(code_flags, likely=np.concatenate([likely[t.name] for t in small]))
            as_one(pool, small, place)
    return {tensor.name: found[tensor.same_as or tensor.name] for tensor in table}


def _likely(coded: list[Entry], alive: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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


def _patterns(tensors: list[Tensor], pattern: np.dtype) -> np.ndarray:
    """The bits of the tensors, one after the other, as unsigned integers (n,)."""
    whole = torch.cat([t.contiguous().reshape(-1) for t in tensors])
    whole[whole == 0] = 0  # −0.0 too
    return whole.view(torch.uint8).numpy().view(pattern)


def _tensor(flat: np.ndarray, tensor: Entry) -> Tensor:
    bits = torch.from_numpy(np.ascontiguousarray(flat).view(np.uint8))
    return bits.view(DTYPES[tensor.dtype]).reshape(tensor.shape)
