"""What a file's bytes are spent on, tensor by tensor."""

import math

import pandas as pd
import torch
from torch import Tensor

from lib.archive.file import _FIXED, Archive, decode, sizes

#: Bytes of the checksum, which stands in the header.
CHECKSUM = 4

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def parts(content: bytes) -> pd.DataFrame:
    """A row a part of the file ``content``, which :func:`lib.archive.encode` made.

    Columns: ``name``; ``shape``, ``weights`` and ``kept`` (nonzeros) of a tensor; ``levels`` of its
    codebook, 0 without one; ``bits``, max(1, ⌈log₂ levels⌉), or the dtype's without a codebook;
    ``values``, ``positions``, ``codebook`` and their sum ``total``, in bytes; ``share`` of the
    file. After the tensors come ``header``, ``checksum`` and ``rounding``: what the coded stream,
    of whole words, has beyond the information in it. The totals sum to the file's size.

    Cost: reading the network, and coding it once more. Raises ``Unreadable`` as
    :func:`lib.archive.decode`.
    """
    archive = decode(content)
    table = sizes(archive).iloc[:-1]  # the header follows, with the checksum apart
    coded = table[["value_bits", "position_bits", "codebook_bits"]] / 8
    coded.columns = ["values", "positions", "codebook"]
    coded_as = [_tensors(name, archive) for name in table["name"]]
    levels = [
        _levels(tensors) if book else 0
        for tensors, book in zip(coded_as, table["codebook_bits"], strict=True)
    ]
    widths = [8 * tensors[0].itemsize for tensors in coded_as]
    tensors = pd.DataFrame(
        {
            **table[["name", "shape", "weights", "kept"]],
            "levels": levels,
            "bits": [
                max(1, math.ceil(math.log2(count))) if count else width
                for count, width in zip(levels, widths, strict=True)
            ],
            **coded,
            "total": coded.sum(axis=1),
        }
    )
    header = _FIXED.size + _FIXED.unpack_from(content)[-1]
    rest = {
        "header": header - CHECKSUM,
        "checksum": CHECKSUM,
        "rounding": len(content) - header - tensors["total"].sum(),
    }
    others = pd.DataFrame({"name": rest.keys(), "total": rest.values()})
    whole = pd.concat([tensors, others], ignore_index=True)
    return whole.assign(share=whole["total"] / len(content))


def _tensors(row: str, archive: Archive) -> list[Tensor]:
    """What a row is of: one tensor, or all of a dtype that are coded as one."""
    if row in archive.state:
        return [archive.state[row]]
    dtype = archive.state[row.rpartition(" and ")[0]].dtype
    return [t for t in archive.state.values() if t.dim() < 2 and t.dtype == dtype]


def _levels(tensors: list[Tensor]) -> int:
    """How many bit patterns there are that are not zero."""
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors])
    patterns = whole.view(_INTEGERS[whole.itemsize])
    return len(torch.unique(patterns[patterns != 0]))
