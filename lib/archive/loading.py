"""A network back from a file: ``lib.load``."""

from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from lib.archive import convert
from lib.archive.file import MOST_BYTES, SUFFIX, Archive, read
from lib.layers import clone
from lib.structured.rebuild import rebuild

Network = TypeVar("Network", bound=nn.Module)


def load(path: Path | str, into: nn.Module | None = None, *, most_bytes: int = MOST_BYTES):
    """The network in a file, in evaluation mode.

    Parameters
    ----------
    path : path
        A ``.cnet``, ``.safetensors`` or PyTorch file (``.pt``, ``.pth``, ``.bin``) of tensors.
    into : Module, optional
        A network of the file's architecture, on any device; without it, the one that the file
        names. It takes over the file's weights and their dtypes, and is rebuilt in place where
        filters left or layers are in factors. Where it does not fit it stays as it was.
    most_bytes : int
        The most that a ``.cnet`` may hold, as tensors.

    Returns
    -------
    Module
        ``into``, or the network that the file names, on the CPU.

    Raises
    ------
    ValueError
        For a damaged file, one that names no network where ``into`` is not given, and tensors that
        are not the network's; ``OSError`` where there is no such file.
    """
    path = Path(path)
    found = read(path, most_bytes=most_bytes) if path.suffix == SUFFIX else convert.load(path)
    if into is None:
        return _named(path, found)
    trial = clone(into)  # what does not fit leaves ``into`` as it was
    try:
        _fill(trial, found.state)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no weights of this network: {reason}") from error
    return _fill(into, found.state)


def _named(path: Path, found: Archive) -> nn.Module:
    if not found.network:
        raise ValueError(
            f"{path} names no network: build yours and say lib.load(path, into=network)"
        )
    try:
        return found.model()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _fill(model: Network, state: dict[str, Tensor]) -> Network:
    """Puts the tensors in the network, as they are; shared ones stay shared."""
    rebuild(model, state)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in state:
            tensor.data = tensor.data.to(state[name].dtype)
    model.load_state_dict(state)
    return model.eval()
