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
import math
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
from lib.archive.positions import code_flags, code_positions
from lib.archive.symbols import code_number
from lib.archive.values import code_values, spent
from lib.structured.rebuild import rebuild

SUFFIX = ".cnet"
MAGIC, VERSION = b"CNET", 1
FIXED = struct.Struct("<4sBI8sI")

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

    Cost: one core some 0.1 µs a weight, 0.7 µs in the small layers of a ResNet-8, and the memory of
    the largest tensor twice. Raises ``ValueError`` for what no reader would take: a tensor that is
    not a dense one of ``DTYPES``, an unknown network, a provenance that is not of 8 bytes.
    """
    if len(provenance) != 8:
        raise ValueError(f"provenance has {len(provenance)} bytes; it must have 8")
    state, table = tabled(model)
    header = packed(Described(**described), table)
    coder = Encoder()
    code(coder, table, state)
    rest = provenance + struct.pack("<I", len(header)) + header + coder.content()
    return MAGIC + bytes([VERSION]) + struct.pack("<I", zlib.crc32(rest)) + rest


def decode(content: bytes | memoryview, *, most_bytes: int = MOST_BYTES) -> Archive:
    """What :func:`encode` was given. Raises :class:`Unreadable`."""
    if len(content) < FIXED.size:
        raise Unreadable(f"it has {len(content)} bytes, fewer than the {FIXED.size} of any file")
    magic, version, checksum, provenance, length = FIXED.unpack_from(content)
    if magic != MAGIC:
        raise Unreadable("it is not a compressed network: it does not begin with CNET")
    if version != VERSION:
        raise Unreadable(f"its version is {version}; this program reads version {VERSION}")
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
        state = code(coder, table)
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


def code(
    coder,
    table: list[Entry],
    state: Mapping[str, Tensor] | None = None,
    rows: list[dict] | None = None,
) -> dict[str, Tensor]:
    """Codes all tensors; reads them where ``state`` is ``None``. ``rows`` gets what each took."""
    found = {t.name: torch.empty(t.shape, dtype=DTYPES[t.dtype]) for t in table if not t.count}
    coded = [tensor for tensor in table if tensor.same_as is None and tensor.count]

    def as_one(entry: Entry, members: list[Entry], place: Callable[..., np.ndarray]) -> np.ndarray:
        flat = (
            None
            if state is None
            else _patterns([state[each.name] for each in members], entry.pattern)
        )
        flat = _code_tensor(coder, entry, flat, rows, place)
        ends = np.cumsum([each.count for each in members])
        for each, part in zip(members, np.split(flat, ends[:-1]), strict=True):
            found[each.name] = _tensor(part.copy() if len(members) > 1 else part, each)
        return flat

    alive: dict[str, np.ndarray] = {}  # the rows of each matrix, whether they hold a nonzero
    fed = None
    for tensor in coded:
        if tensor.large:
            flat = as_one(tensor, [tensor], _matrix_positions(tensor, fed))
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


def _matrix_positions(tensor: Entry, fed: np.ndarray | None):
    """How the positions of a matrix are coded; ``fed``: the rows of the matrix before it.

    Where those divide its columns they are taken for what feeds them: column j is read from row
    j·rows // columns. That is so in a chain of layers; elsewhere the coder learns that it is not.
    """
    height, width = tensor.shape[0], math.prod(tensor.shape[1:])
    likely = None
    if fed is not None and len(fed) and width % len(fed) == 0:
        likely = np.repeat(fed, width // len(fed))

    def place(coder, count: int, mask: np.ndarray | None = None) -> np.ndarray:
        given = None if mask is None else mask.reshape(height, width)
        found = code_positions(coder, height, width, given, fed=likely, kernel=tensor.kernel)
        return found.reshape(count)

    return place


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


def _code_tensor(
    coder,
    tensor: Entry,
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
    values, levels, book = code_values(coder, kernels, tensor.pattern, values)
    if rows is not None:
        rows.append(
            {
                "name": tensor.name,
                "shape": "×".join(map(str, tensor.shape)),
                "weights": tensor.count,
                "kept": len(values),
                "levels": levels,
                "bits": max(1, math.ceil(math.log2(levels))) if levels else 8 * values.itemsize,
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


def _tensor(flat: np.ndarray, tensor: Entry) -> Tensor:
    bits = torch.from_numpy(np.ascontiguousarray(flat).view(np.uint8))
    return bits.view(DTYPES[tensor.dtype]).reshape(tensor.shape)
