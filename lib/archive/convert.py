"""A compressed network to and from formats that other tools read: safetensors, PyTorch's own.

Both are exact, tensor by tensor. In a safetensors file the network's name, classes, channels and
provenance stand in the metadata; a PyTorch file is a state dict and nothing else.
"""

import io
import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from lib import atomic
from lib.archive.file import Archive
from lib.archive.header import Unreadable, entries

#: The formats, by the ending of a file's name.
FORMATS = (".safetensors", ".pt")

#: What is raised for what is no file of tensors, or has other metadata than :func:`save` writes.
_MALFORMED = (
    *(SafetensorError, pickle.UnpicklingError, EOFError),
    *(AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)


def save(archive: Archive, path: Path) -> None:
    """Writes the network to ``path``, whole or not at all, in the format that its ending names.

    Raises ``ValueError`` for another ending, ``OSError`` where it cannot be written.
    """
    atomic.write(path, _safetensors(archive) if _format(path) == ".safetensors" else _pt(archive))


def load(path: Path) -> Archive:
    """The network in ``path``: what :func:`save` wrote, or any state dict of dense tensors.

    What the file does not say (another tool wrote it, or it is PyTorch's) is empty: no name, no
    provenance. Nothing is unpickled but tensors. Raises ``ValueError`` for another ending,
    ``Unreadable`` (a ``ValueError``) that names the file where it is damaged.
    """
    read = _from_safetensors if _format(path) == ".safetensors" else _from_pt
    try:
        return read(path)
    except _MALFORMED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreadable(f"{path} cannot be read: {reason}") from error


def _format(path: Path) -> str:
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: its name must end in {' or '.join(FORMATS)}")
    return path.suffix


def _safetensors(archive: Archive) -> bytes:
    """Tensors that are one are written once; the order is kept in the metadata."""
    written_as = {entry.name: entry.same_as or entry.name for entry in entries(archive.state)}
    metadata = {
        "network": archive.network,
        "classes": str(archive.classes),
        "channels": str(archive.channels),
        "provenance": archive.provenance.hex(),
        "tensors": json.dumps(written_as),
    }
    tensors = {name: archive.state[name].contiguous() for name in written_as.values()}
    return to_safetensors(tensors, metadata)


def _from_safetensors(path: Path) -> Archive:
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    written_as = json.loads(said["tensors"]) if "tensors" in said else dict.fromkeys(tensors)
    return Archive(
        {name: tensors[other or name] for name, other in written_as.items()},
        bytes.fromhex(said.get("provenance", "00" * 8)),
        network=said.get("network", ""),
        classes=int(said.get("classes", 0)),
        channels=int(said.get("channels", 0)),
    )


def _pt(archive: Archive) -> bytes:
    buffer = io.BytesIO()
    torch.save(archive.state, buffer)
    return buffer.getvalue()


def _from_pt(path: Path) -> Archive:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError("it is not a state dict: names and tensors, nothing else")
    return Archive(dict(state))
