"""How the learning rate and what else is set go over a training."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.training import arithmetic


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Momentum SGD whose learning rate rises linearly, then falls as a cosine, step by step.

    ``epochs`` counts both parts, ``warmup`` the first; ``batch`` is the images of a step, those of
    all processes together. ``weight_decay`` acts on tensors of two or more dimensions: weights, not
    biases or normalisation. ``clip`` is the largest norm of the whole gradient, beyond which it is
    scaled down; ``None`` for no limit. ``precision`` is what forward and backward passes compute
    in: ``float32``, or ``bfloat16`` where the device has instructions for it and float32 elsewhere
    (:mod:`lib.training.arithmetic`; the weights, the optimizer and every evaluation stay in
    float32). ``crop`` pads images by so many pixels and cuts them to their size at random; ``flip``
    mirrors every other one, at random. Raises ``ValueError`` for another precision, a limit that is
    not positive, and a negative ``crop``.
    """

    epochs: int
    lr: float
    batch: int = 256
    warmup: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float | None = None
    precision: str = "float32"
    crop: int = 0
    flip: bool = False

    def __post_init__(self):
        if self.precision not in arithmetic.PRECISIONS:
            raise ValueError(f"precision = {self.precision!r} must be float32 or bfloat16")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip = {self.clip} must be positive, or None for no limit")
        if self.crop < 0:
            raise ValueError(f"crop = {self.crop} must be 0 pixels or more")

    def rates(self, steps_per_epoch: int) -> Tensor:
        """The learning rate of every step, (epochs·steps_per_epoch,) float32."""
        total, warm = self.epochs * steps_per_epoch, self.warmup * steps_per_epoch
        step = torch.arange(total, dtype=torch.float64)
        # αₜ = α·(t+1)/warm while t < warm, then α·½(1 + cos π(t − warm)/(total − warm))
        rising = (step + 1) / max(1, warm)
        falling = 0.5 * (1 + torch.cos(math.pi * (step - warm) / max(1, total - warm)))
        return (self.lr * torch.where(step < warm, rising, falling)).float()
