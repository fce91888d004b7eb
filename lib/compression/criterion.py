"""The loss of a network's outputs, and how many of them are right."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.training.batches import computed, each_tensor, items

#: What cross-entropy passes over, as PyTorch has it.
IGNORED = -100


class Criterion:
    """The loss that is trained and shown, and the share of right classes beside it.

    Without a ``loss`` it is the network's own, where its outputs carry one (``.loss``), else the
    cross-entropy of its outputs, or of their ``.logits``. ``correct`` makes of outputs and targets
    how many are right, or whether each is; without it classes are counted where the loss is a
    cross-entropy, and nothing elsewhere, since shapes do not tell what a number means.
    """

    def __init__(self, loss: Callable | None, correct: Callable | None):
        self.loss, self.correct = loss, correct
        #: Whether the loss sums over a batch: it is then divided by the batch's items.
        self.sums = False

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        if self.loss is not None:
            found = self.loss(outputs, targets)
            if not isinstance(found, Tensor) or found.dim() or not found.is_floating_point():
                raise ValueError(
                    f"the loss is {_said(found)}: give one that returns a scalar, a mean say"
                )
            return found / max(1, items(targets)) if self.sums else found
        own = _field(outputs, "loss")
        if own is not None:
            return own
        scores = _scores(outputs)
        if not isinstance(targets, Tensor):
            raise ValueError(
                f"the targets are {_said(targets)}: give loss=, a function of outputs and targets"
            )
        if targets.is_floating_point() or targets.shape == scores.shape:
            return functional.cross_entropy(scores, targets)
        # a batch without any label has a loss of 0 and not of 0/0
        whole = functional.cross_entropy(scores, targets, reduction="sum")
        return whole / (targets != IGNORED).sum().clamp(min=1)

    def weight(self, targets: Any, size: int) -> Any:
        """What a batch of ``size`` items counts for in the mean of all: its labels."""
        passed = self._passed_over()
        if passed is None or not isinstance(targets, Tensor) or targets.is_floating_point():
            return size
        return (targets != passed).sum() * (size / max(1, targets.numel()))

    def right(self, outputs: Any, targets: Any) -> tuple[Any, Any] | None:
        """How many are right, and of how many; None where that is not known."""
        if self.correct is not None:
            found = torch.as_tensor(self.correct(outputs, targets))
            return (found.sum(), found.numel()) if found.dim() else (found, items(targets))
        passed = self._passed_over()
        try:
            scores = _scores(outputs)
        except ValueError:
            return None
        classes = passed is not None and isinstance(targets, Tensor) and targets.dim() == 1
        if not classes or targets.is_floating_point() or scores.dim() != 2 or len(scores.T) < 2:
            return None
        return (scores.argmax(1) == targets).sum(), (targets != passed).sum()

    def _passed_over(self) -> int | None:
        """The target that cross-entropy passes over; None where the loss is none."""
        loss = self.loss
        if loss is None or loss in (functional.cross_entropy, functional.nll_loss):
            return IGNORED
        if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
            return loss.ignore_index
        if isinstance(loss, partial) and loss.func in (
            functional.cross_entropy,
            functional.nll_loss,
        ):
            return loss.keywords.get("ignore_index", IGNORED)
        return None

    @torch.no_grad()
    def look(self, compute: Callable[[Any], Any], inputs: Any, targets: Any) -> float:
        """The loss of a batch; notes whether it is a sum, by that of its halves.

        A mean of means is a mean again: L(batch) = ½(L(half) + L(half)); a sum is their sum.
        """
        whole, size = float(self(compute(inputs), targets)), items((targets, inputs))
        half = size // 2
        if self.loss is not None and half:
            parts = []
            for part in (slice(0, half), slice(half, 2 * half)):
                some = each_tensor([inputs, targets], partial(_taken, size=size, part=part))
                parts.append(float(self(compute(some[0]), some[1])))
            both = each_tensor([inputs, targets], partial(_taken, size=size, part=slice(2 * half)))
            of_both = float(self(compute(both[0]), both[1]))
            near = 1e-3 * max(abs(of_both), *map(abs, parts))
            self.sums = abs(of_both - sum(parts)) < near < abs(of_both - sum(parts) / 2)
        return whole


@torch.no_grad()
def evaluated(
    model: nn.Module, found: Iterable, criterion: Criterion
) -> tuple[float | None, float | None]:
    """The mean loss of an item, and the share of those judged that are right.

    None where no item has a label, or nothing is judged.
    """
    total, seen, right, judged = 0.0, 0.0, 0.0, 0.0
    classes = True
    for inputs, targets in found:
        outputs = computed(model, inputs)
        outputs = outputs.float() if isinstance(outputs, Tensor) else outputs
        weight = float(criterion.weight(targets, items((targets, inputs))))
        if weight:
            total += float(criterion(outputs, targets)) * weight
        seen += weight
        score = criterion.right(outputs, targets)
        classes = classes and score is not None
        if score is not None:
            right, judged = right + float(score[0]), judged + float(score[1])
    loss = total / seen if seen else None
    return loss, right / judged if classes and judged else None


def _taken(tensor: Tensor, *, size: int, part: slice) -> Tensor:
    """Of a tensor with an entry for each item, those of a part."""
    return tensor[part] if tensor.dim() and len(tensor) == size else tensor


def _field(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _scores(outputs: Any) -> Tensor:
    """The scores of classes among the outputs. ``ValueError`` where there are none by that name."""
    found = outputs if isinstance(outputs, Tensor) else _field(outputs, "logits")
    if not isinstance(found, Tensor):
        raise ValueError(
            f"the model returns {_said(outputs)}: give loss=, a function of that and the targets"
        )
    return found


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor of shape {tuple(value.shape)} and dtype {dtype}"
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
