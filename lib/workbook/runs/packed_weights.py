"""A network's weights in the compact form in which runs keep them.

A tensor with zeros, or with at most 256 distinct nonzero values, is kept as a bit mask of its
nonzeros, one byte a nonzero and a codebook; other tensors as they are. Writing then reading gives
exactly the same numbers. (The smallest possible file is another matter; this one is plain
safetensors that any tool can open.)
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

#: A weights file larger than this is refused before it is read.
MOST_BYTES = 2 * 2**30

#: Weights that are looked at first.
FIRST = 10_000

#: What reading a file may raise that is not as it was written: weights, or a result.
MALFORMED = (
    *(SafetensorError, OSError),
    *(AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)


def pack(state: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file that holds ``state``, each float tensor in its least form."""
    tensors, shapes = {}, {}
    for name, tensor in state.items():
        parts = _parts(tensor.detach().cpu().contiguous())
        tensors |= {f"{name}|{kind}": part for kind, part in parts.items()}
        shapes[name] = list(tensor.shape)
    return save(tensors, metadata={"shapes": json.dumps(shapes)})


def unpack(file: Path) -> dict[str, Tensor]:
    """The state that :func:`pack` was given, on the CPU.

    Raises ``ValueError`` that names the file where it is not such a file.
    """
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{file} has {size:,} bytes, more than the {MOST_BYTES:,} allowed")
    try:
        return parse(file.read_bytes())
    except MALFORMED as error:
        raise ValueError(f"{file} is not a whole weights file: {error}") from error


def parse(content: bytes) -> dict[str, Tensor]:
    """The state whose :func:`pack` is ``content``; a negative zero may have lost its sign.

    Raises one of several errors where it is not: see :func:`unpack`.
    """
    shapes = _shapes(content)
    tensors = load(content)
    state = {}
    for name, shape in shapes.items():
        kinds = ("raw", "mask", "values", "codes", "codebook")
        parts = {k: tensors[f"{name}|{k}"] for k in kinds if f"{name}|{k}" in tensors}
        state[name] = _whole(parts, shape)
    return state


def _parts(tensor: Tensor) -> dict[str, Tensor]:
    if tensor.dtype != torch.float32 or tensor.numel() < 256:
        return {"raw": tensor}
    flat = tensor.flatten()
    mask = flat != 0
    values = flat[mask]
    kept = {"values": values}
    # the first ones tell of most tensors that they have more values than a codebook holds
    if len(torch.unique(values[:FIRST])) <= 256:
        codebook, codes = torch.unique(values, return_inverse=True)
        if len(codebook) <= 256:
            kept = {"codes": codes.to(torch.uint8), "codebook": codebook}
    parts = {"mask": torch.from_numpy(np.packbits(mask.numpy())), **kept}
    smaller = sum(part.nbytes for part in parts.values()) < tensor.nbytes
    return parts if smaller else {"raw": tensor}


def _whole(parts: dict[str, Tensor], shape: list[int]) -> Tensor:
    if "raw" in parts:
        return parts["raw"].reshape(shape)
    count = int(np.prod(shape, dtype=np.int64))
    if parts["mask"].numel() != -(-count // 8):
        raise ValueError(f"a mask of {parts['mask'].numel()} bytes for {count} weights")
    mask = torch.from_numpy(np.unpackbits(parts["mask"].numpy(), count=count)).bool()
    values = parts["values"] if "values" in parts else parts["codebook"][parts["codes"].long()]
    if len(values) != int(mask.sum()):
        raise ValueError(f"{len(values)} values for {int(mask.sum())} nonzeros")
    return torch.zeros(count).masked_scatter_(mask, values).reshape(shape)


def _shapes(content: bytes) -> dict[str, list[int]]:
    """safetensors' own loader drops the metadata; they are in the header's JSON."""
    stream = io.BytesIO(content)
    length = int.from_bytes(stream.read(8), "little")
    if length > len(content):
        raise ValueError(f"a header of {length} bytes in a file of {len(content)}")
    return json.loads(json.loads(stream.read(length))["__metadata__"]["shapes"])
