"""ADMM's proximal step on a CPU: three reads and a write a weight, without a tensor in between."""

import torch
from torch import Tensor

from lib.projections.compiled import compiled


def pull(w: Tensor, anchor: Tensor, t: Tensor) -> None:
    """W ← W + t·(A − W), in place, each operation rounded as PyTorch rounds it; ``t`` is ()."""
    whole = w.is_contiguous() and anchor.is_contiguous()
    if whole and w.dtype == anchor.dtype and w.dtype in (torch.float32, torch.float64):
        flat, toward = (x.detach().view(-1).numpy() for x in (w, anchor))
        _pull(flat, toward, t.to(w.dtype).numpy()[()])
    else:
        w.add_((anchor - w).mul_(t))


@compiled
def _pull(w, anchor, t):
    for i in range(len(w)):
        w[i] += (anchor[i] - w[i]) * t
