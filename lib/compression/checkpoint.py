"""How far a call of ``lib.compress`` has come, so that the same call goes on."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib import atomic


class Checkpoint:
    """A file of one budget's training, whole or not there; ``None`` for a path keeps nothing.

    ``call`` says what is asked for: a file of another call is refused.
    """

    def __init__(self, path: Path | None, call: str):
        self.path, self.call = path, call
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent} for the checkpoint")

    def load(self) -> dict[str, Any] | None:
        """What was saved last, None where nothing was.

        Raises ``ValueError`` for a file that is damaged, or of another call.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            call = state["call"]
        except Exception as error:  # whatever the reader meets in a damaged file
            raise ValueError(
                f"{self.path} is no checkpoint of lib.compress: delete it, or name another"
            ) from error
        if call != self.call:
            raise ValueError(
                f"{self.path} is the checkpoint of another call (model, budget or options): "
                "delete it, or name another"
            )
        return state

    def save(self, **state: Any) -> None:
        if self.path is not None:
            buffer = io.BytesIO()
            torch.save(state | {"call": self.call}, buffer)
            atomic.write(self.path, buffer.getvalue())


def fingerprint(model: nn.Module, **asked: Any) -> str:
    """A SHA-256 of a model's tensors and of what is asked."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    digest.update(repr(sorted((name, _plain(value)) for name, value in asked.items())).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """What tells one value from another, without addresses in memory."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return [(str(name), _plain(one)) for name, one in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str | int | float | None):
        return value
    return type(value).__name__, _plain(getattr(value, "__dict__", {}))


def generators(data: Any) -> list[Tensor]:
    """The states of the generators that a ``DataLoader`` shuffles by, where it has its own."""
    return [generator.get_state() for generator in _own_generators(data)]


def set_generators(data: Any, states: list[Tensor]) -> None:
    for generator, state in zip(_own_generators(data), states, strict=True):
        generator.set_state(state)


def _own_generators(data: Any) -> list[torch.Generator]:
    loader = getattr(data, "data", None)
    owners = loader, getattr(loader, "sampler", None)
    found = (getattr(owner, "generator", None) for owner in owners)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
