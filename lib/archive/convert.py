"""A compressed network to and from formats that other tools read: safetensors, PyTorch's own.

Both are exact, tensor by tensor. In a safetensors file the network's name, classes, channels and
provenance stand in the metadata; a PyTorch file is a state dict and nothing else. What others have
saved is read too: a checkpoint that holds a state dict, and names with a wrapper's prefix.
"""

import io
import json
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from lib import atomic
from lib.archive.file import Archive
from lib.archive.header import Unreadable, entries

#: The formats, by the ending of a file's name; and others that PyTorch's own goes by.
FORMATS = (".safetensors", ".pt")
ALSO = (".pth", ".bin")

#: What a training loop's checkpoint calls its state dict.
INSIDE = ("state_dict", "model_state_dict", "model")

#: What ``DataParallel`` and ``torch.compile`` put before every name.
PREFIXES = ("module.", "_orig_mod.")

#: What is raised for what is no file of tensors, or has other metadata than :func:`save` writes.
_MALFORMED = (
    *(SafetensorError, pickle.UnpicklingError, EOFError),
    *(AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)


def save(archive: Archive, path: Path) -> None:
    """Writes the network to ``path``, whole or not at all, in the format that its ending names.

    Raises ``ValueError`` for another ending, ``OSError`` where it cannot be written.
    """
    form = _format(path, FORMATS)
    atomic.write(path, _safetensors(archive) if form == ".safetensors" else _pt(archive))


def load(path: Path, *, said: Callable[[str], Any] = warnings.warn) -> Archive:
    """The network in ``path``: what :func:`save` wrote, or any state dict of dense tensors.

    A state dict inside a training loop's checkpoint is found, and the prefix of a wrapper is taken
    off all names; ``said`` is told so. What the file does not say (another tool wrote it, or it is
    PyTorch's) is empty: no name, no provenance. Nothing is unpickled but tensors. Raises
    ``ValueError`` for another ending, ``Unreadable`` (a ``ValueError``) that names the file and
    the remedy where it holds something else, or is damaged.
    """
    read = _from_safetensors if _format(path, FORMATS + ALSO) == ".safetensors" else _from_pt
    try:
        found = read(path)
        state = _within(found.state, path, said)
        return Archive(_bare(state, path, said), found.provenance, **_described(found))
    except _MALFORMED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreadable(f"{path} cannot be read: {reason}") from error


def _described(found: Archive) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ("network", "classes", "channels")}


def _within(state: Mapping[str, Any], path: Path, said: Callable[[str], Any]) -> dict[str, Tensor]:
    """The state dict itself, out of a checkpoint that holds it beside other things."""
    for name in INSIDE:
        if isinstance(state.get(name), Mapping):
            said(f"{path}: the state dict is read from its {name!r}; it also holds other things")
            state = state[name]
            break
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name!r} in it is of {type(value).__name__}: save a state dict of tensors, "
                "torch.save(model.state_dict(), …)"
            )
    return dict(state)


def _bare(state: dict[str, Tensor], path: Path, said: Callable[[str], Any]) -> dict[str, Tensor]:
    """The tensors by their own names, without the prefixes that all of them have."""
    for prefix in (one for _ in PREFIXES for one in PREFIXES):  # either may be around the other
        if state and all(name.startswith(prefix) for name in state):
            said(f"{path}: the prefix {prefix!r} of a wrapper is taken off the names")
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _format(path: Path, formats: tuple[str, ...]) -> str:
    if path.suffix not in formats:
        raise ValueError(f"{path}: its name must end in {' or '.join(formats)}")
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which is refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        if "TorchScript" in str(error):
            reason = "it is a TorchScript archive"
        elif "Weights only load failed" in str(error):
            reason = "it pickles more than tensors, a whole module say, and would run code"
        else:
            raise
        raise ValueError(
            f"{reason}: save its tensors, torch.save(model.state_dict(), …)"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(
            f"it holds a {type(state).__name__}: save a state dict, "
            "torch.save(model.state_dict(), …)"
        )
    return Archive(dict(state))
