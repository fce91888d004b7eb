"""Data of one's own, in batches, as the training loop and the evaluation read a data set."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Batches:
    """Batches (inputs, …, targets) of tensors, on the device of ``model`` and in its precision.

    It is a data set and its training split at once, one without images to test on. An epoch is one
    pass over the batches, in the order in which they come.
    """

    test = None

    def __init__(self, data: Any, model: nn.Module):
        like = next(model.parameters())
        self.data, self.labels = data, torch.zeros(0, device=like.device)
        self.place = {"device": like.device, "dtype": like.dtype}

    @property
    def train(self) -> "Batches":
        return self

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        device = self.place["device"]
        for *inputs, targets in self.data:
            there = [x.to(**self.place) if x.is_floating_point() else x.to(device) for x in inputs]
            yield there, targets.to(device)

    def steps(self, *order: Tensor, batch: int, seed: int) -> Iterator[tuple]:
        """What :meth:`take` needs for each step; where the data have more, they are cut off."""
        for _, (inputs, targets) in zip(range(len(self)), self, strict=False):
            yield targets, *inputs

    def take(self, targets: Tensor, *inputs: Tensor, padding: int) -> tuple[list[Tensor], Tensor]:
        return list(inputs), targets

    def normalise(self, inputs: list[Tensor]) -> list[Tensor]:
        return inputs


def computed(model: nn.Module, inputs: Tensor | Sequence[Tensor]) -> Any:
    """What the model makes of its inputs, one or several."""
    return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


def right(outputs: Any, targets: Tensor) -> Any:
    """How many classes are right; None where the targets are no numbers of classes."""
    classes = isinstance(outputs, Tensor) and outputs.dim() == 2 and targets.dim() == 1
    if not classes or targets.is_floating_point():
        return None
    return (outputs.argmax(1) == targets).sum()
