"""What a file's bytes are spent on, tensor by tensor, as coding the network once more counts them.

The tensors that are coded as one are one line, named after the first and their number.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from lib.archive.coder import Meter
from lib.archive.file import FIXED, Archive, code, decode, shortest, tabled, ways_of
from lib.archive.header import Entry, packed

if TYPE_CHECKING:  # a file is read without it
    import pandas as pd

#: Bytes of the checksum, which stands in the header.
CHECKSUM = 4

#: A line's columns: what a tensor is, how its values are coded, and the bits of each part; in
#: bytes the parts have the names beside them.
TENSOR = ["name", "shape", "weights", "kept"]
CODED = ["levels", "bits"]
PARTS = {"position_bits": "positions", "value_bits": "values", "codebook_bits": "codebook"}


def sizes(archive: Archive) -> "pd.DataFrame":
    """What each part takes in the file, in bits: a table whose bits sum to the file's size.

    Columns ``name``, ``shape``, ``weights``, ``kept`` (nonzeros), ``position_bits``,
    ``value_bits``, ``codebook_bits``, ``header_bits``. The last line is the header and all else
    before the stream. A sum of information: the file is longer by less than 64 bits, and rounding
    in the coder adds 0.1 %.
    """
    import pandas as pd

    columns = [*TENSOR, *PARTS]
    header = dict.fromkeys(columns, 0) | {"name": "header", "shape": ""}
    state, tensors = tabled(archive.state)
    lines = _lines(state, tensors, shortest(tensors, state)[0])
    table = pd.DataFrame([*lines, header], columns=columns).assign(header_bits=0.0)
    head = packed(archive, tensors)
    table.loc[len(table) - 1, "header_bits"] = 8 * (FIXED.size + len(head))
    return table


def parts(content: bytes) -> "pd.DataFrame":
    """A row a part of the file ``content``, which :func:`lib.archive.encode` made.

    Columns: ``name``; ``shape``, ``weights`` and ``kept`` (nonzeros) of a tensor; ``levels`` of its
    codebook, 0 without one; ``bits``, max(1, ⌈log₂ levels⌉), or the dtype's without a codebook;
    ``values``, ``positions``, ``codebook`` and their sum ``total``, in bytes; ``share`` of the
    file. After the tensors come ``header``, ``checksum`` and ``rounding``: what the coded stream,
    of whole words, has beyond the information in it. The totals sum to the file's size.

    Cost: reading the network, and coding it once more. Raises ``Unreadable`` as
    :func:`lib.archive.decode`.
    """
    import pandas as pd

    lines = _lines(*tabled(decode(content).state), content[4])
    tensors = pd.DataFrame(lines, columns=[*TENSOR, *CODED, *PARTS])
    tensors = tensors.rename(columns=PARTS)
    in_bytes = tensors[["values", "positions", "codebook"]] / 8
    tensors = tensors[TENSOR + CODED].join(in_bytes).assign(total=in_bytes.sum(axis=1))
    header = FIXED.size + FIXED.unpack_from(content)[-1]
    rest = {
        "header": header - CHECKSUM,
        "checksum": CHECKSUM,
        "rounding": len(content) - header - tensors["total"].sum(),
    }
    others = pd.DataFrame({"name": rest.keys(), "total": rest.values()})
    whole = pd.concat([tensors, others], ignore_index=True)
    return whole.assign(share=whole["total"] / len(content))


def _lines(state: dict[str, Tensor], table: list[Entry], version: int) -> list[dict]:
    """A line for each tensor that is coded by itself, and one for the others of each dtype."""
    lines: list[dict] = []
    ways = ways_of(table, state)[0] if version > 1 else None
    code(Meter(), table, state, lines, ways=ways)
    return lines
