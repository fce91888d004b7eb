"""A file's header: the network that it is of, or a table of the tensors in it.

Nothing of it is trusted: names, sizes and lengths are bounded before anything is made of them.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lib import networks

#: The longest header, deflated and not: some 20,000 tensors.
MOST_HEADER = 2**20

#: The most classes, or channels, of a network that is known by name.
MOST_CLASSES = 2**20

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


@dataclass(frozen=True, kw_only=True)
class Described:
    """What :func:`lib.networks.build` takes; ``network`` is ``""`` where it has no name here."""

    network: str = ""
    classes: int = 0
    channels: int = 0

    def check(self) -> None:
        """Raises ``ValueError`` where no network is of such sizes."""
        if not isinstance(self.network, str):
            raise ValueError(f"network is {self.network!r}; it must be a name, or empty")
        least = 1 if self.network else 0
        sizes = self.classes, self.channels
        if not all(type(n) is int and least <= n <= MOST_CLASSES for n in sizes):
            raise ValueError(
                f"{self.classes!r} classes and {self.channels!r} channels; both must be of {least} "
                f"to {MOST_CLASSES:,}"
            )

    def built(self) -> nn.Module:
        """The network, whose tensors take no memory. ``ValueError`` for an unknown name."""
        with torch.device("meta"):
            return networks.build(self.network, classes=self.classes, channels=self.channels)


@dataclass(frozen=True)
class Entry:
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


def packed(described: Described, table: list[Entry]) -> bytes:
    """The deflated header. Raises ``ValueError`` where no reader would take it."""
    described.check()
    header: list = [described.network, described.classes, described.channels]
    if not described.network or table != entries(described.built().state_dict()):
        header.append([_line(entry) for entry in table])
    said = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    _parsed(said)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflate.compress(said) + deflate.flush()


def unpacked(header: bytes | memoryview) -> tuple[Described, list[Entry]]:
    """What :func:`packed` was given; ``Unreadable`` where it is not well formed."""
    try:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        said = inflate.decompress(header, MOST_HEADER + 1)
        if not inflate.eof or inflate.unused_data:
            raise ValueError("it does not end where it should")
        return _parsed(said)
    except (ValueError, TypeError, RecursionError, zlib.error) as error:
        raise Unreadable(f"its header is not one: {error}") from error


def entries(state: Mapping[str, Tensor]) -> list[Entry]:
    """The table of a state's tensors, in their order."""
    seen: dict[tuple, str] = {}
    table = []
    for name, tensor in state.items():
        where = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        shared = tensor.device.type != "meta" and tensor.numel() > 0
        first = seen.setdefault(where, name) if shared else name
        dtype = str(tensor.dtype).removeprefix("torch.")
        same_as = first if first != name else None
        table.append(Entry(name, dtype, tuple(tensor.shape), same_as))
    return table


def _parsed(said: bytes) -> tuple[Described, list[Entry]]:
    """What the header's JSON says. ``ValueError``, ``TypeError`` where it is not well formed."""
    if len(said) > MOST_HEADER:
        raise ValueError(f"it has {len(said):,} bytes, more than the {MOST_HEADER:,} allowed")
    network, classes, channels, *listed = json.loads(said)
    if len(listed) > 1:
        raise ValueError("its parts are not those of a header")
    described = Described(network=network, classes=classes, channels=channels)
    described.check()
    return described, _listed(*listed) if listed else entries(described.built().state_dict())


def _listed(lines: list) -> list[Entry]:
    table: dict[str, Entry] = {}
    for name, *rest in lines:
        if not isinstance(name, str) or name in table:
            raise ValueError(f"a tensor {name!r} that has no name of its own")
        if len(rest) == 1:
            if rest[0] not in table:
                raise ValueError(f"{name} is said to be {rest[0]!r}, which does not come before it")
            first = table[rest[0]]
            table[name] = Entry(name, first.dtype, first.shape, same_as=first.name)
            continue
        dtype, shape = rest
        if dtype not in DTYPES or not isinstance(shape, list) or len(shape) > 16:
            raise ValueError(f"{name} of dtype {dtype!r} and shape {shape!r}")
        if not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise ValueError(f"{name} of shape {shape!r}")
        table[name] = Entry(name, dtype, tuple(shape))
    return list(table.values())


def _line(tensor: Entry) -> list:
    if tensor.same_as is not None:
        return [tensor.name, tensor.same_as]
    return [tensor.name, tensor.dtype, list(tensor.shape)]
