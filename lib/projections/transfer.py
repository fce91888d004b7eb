"""Many small tensors in one copy from a device, or to it, because each copy is waited for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def fetched(parts: Sequence[Tensor]) -> list[np.ndarray]:
    """The tensors, which are of one dtype, on the host."""
    if not parts:
        return []
    host = torch.cat([part.flatten() for part in parts]).cpu().numpy()
    pieces = np.split(host, np.cumsum([part.numel() for part in parts])[:-1])
    return [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def sent(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The host's tensors, which are of one dtype, on the device."""
    if not parts:
        return []
    there = torch.cat([part.flatten() for part in parts]).to(device)
    pieces = there.split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
