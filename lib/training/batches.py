"""Data of one's own, in batches, as the training loop and the evaluation read a data set."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: More batches than this are taken for endless where the data have no length.
MOST = 100_000


class Batches:
    """Batches on the device of ``model`` and in its precision, ``count`` of them at most.

    A batch is (inputs, …, targets), or a mapping of the network's arguments by their names with
    ``labels`` among them. It is a data set and its training split at once, one without images to
    test on. An epoch is one pass over the batches, in the order in which they come; what a data
    set that never ends gives after ``count`` batches is not read.
    """

    test = None

    def __init__(self, data: Any, model: nn.Module, *, count: int | None = None):
        like = next(model.parameters())
        self.data, self.labels = data, torch.zeros(0, device=like.device)
        self.count = len(data) if count is None else count
        floats = {p.dtype for p in model.parameters() if p.is_floating_point()}
        # a network of several precisions takes its inputs as they come
        self.dtype = floats.pop() if len(floats) == 1 else None
        self.precise = torch.float64 if self.dtype == torch.float64 else torch.float32
        taken = inspect.signature(model.forward).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        self.reads_labels = "labels" in taken or open_ended

    @property
    def train(self) -> "Batches":
        return self

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in islice(self.data, self.count):
            yield self.placed(batch)

    def placed(self, batch: Any) -> tuple[Any, Any]:
        """(inputs, targets) of a batch on the device, floats in the network's precision.

        Raises ``ValueError`` for what is no batch.
        """
        device = self.labels.device
        if isinstance(batch, Mapping):
            if "labels" not in batch:
                raise ValueError(
                    f"a batch is a mapping of {', '.join(map(str, batch))}: its targets must be "
                    "called labels"
                )
            inputs: Any = dict(batch)
            targets = inputs["labels"] if self.reads_labels else inputs.pop("labels")
        elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) > 1:
            *inputs, targets = batch
        else:
            raise ValueError(
                "a batch of the data must be (inputs, targets), or with more inputs, or a mapping "
                f"with labels; it is of {type(batch).__name__}: where inputs are targets too, give "
                "(inputs, inputs)"
            )
        if not items((inputs, targets)):
            raise ValueError("a batch of the data must hold tensors or arrays of an item or more")
        inputs = _placed(inputs, device, self.dtype)
        return inputs, _placed(targets, device, self.precise)

    def steps(self, *order: Tensor, batch: int, seed: int) -> Iterator[tuple]:
        """What :meth:`take` needs for each step."""
        for inputs, targets in self:
            yield targets, inputs

    def take(self, targets: Any, inputs: Any, *, padding: int) -> tuple[Any, Any]:
        return inputs, targets

    def normalise(self, inputs: Any) -> Any:
        return inputs


def each_tensor(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """``value`` with ``function`` of every tensor or array in its mappings, lists and tuples."""
    if isinstance(value, np.ndarray | np.generic):
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: each_tensor(one, function) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [each_tensor(one, function) for one in value]
    return value


def _placed(value: Any, device: torch.device, floating: torch.dtype | None) -> Any:
    return each_tensor(value, lambda x: x.to(device, floating if x.is_floating_point() else None))


def items(value: Any) -> int:
    """How many items a batch has: the length of its first tensor."""
    found: list[int] = []
    each_tensor(value, lambda x: found.append(len(x)) if x.dim() else None)
    return found[0] if found else 0


def computed(model: nn.Module, inputs: Any) -> Any:
    """What the model makes of its inputs: one, several, or by their names."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


def right(outputs: Any, targets: Any) -> Any:
    """How many classes are right; None where the targets are no numbers of classes."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return None
    if outputs.dim() != 2 or targets.dim() != 1 or targets.is_floating_point():
        return None
    return (outputs.argmax(1) == targets).sum()
