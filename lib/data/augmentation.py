"""Random crops and flips of whole batches, where the images lie."""

import torch
from torch import Tensor
from torch.nn import functional


def draw(images: int, *, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Row shift, column shift and whether to flip, for each image: (images, 3) int64, on the CPU.

    Shifts are uniform on 0 … 2·``padding``; a flip has probability ½, or 0 without ``flip``.
    """
    shifts = torch.randint(2 * padding + 1, (images, 2), generator=generator)
    flips = torch.randint(1 + flip, (images, 1), generator=generator)
    return torch.cat([shifts, flips], 1)


def crop_and_flip(images: Tensor, drawn: Tensor, *, padding: int) -> Tensor:
    """Each image padded with black, cut to its old size at its shift, then perhaps mirrored.

    ``images`` (batch, channels, height, width) of any dtype, ``drawn`` (batch, 3) as ``draw`` makes
    it, on the same device. One gather for the whole batch, whose result lies channels last.

    He et al. (CVPR 2016), Section 4.2: 4 pixels of padding, a random crop, a random flip.
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, 4 * [padding])
    rows = torch.arange(height, device=images.device) + drawn[:, :1]  # (batch, height)
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    columns = torch.where(drawn[:, 2:] == 1, width - 1 - columns, columns)
    columns = columns + drawn[:, 1:2]  # (batch, width)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    cut = padded[batch, :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)  # (batch, channels, height, width)
