"""Losses, accuracies and predictions of a network on a split, and BatchNorm's statistics anew."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.data import Dataset, Split, Streamed
from lib.training import distributed
from lib.training.batches import Batches, computed, right

#: Images evaluated at once. ResNet-20 took 1.6 to 1.9 times as long with a thousand (float32, one
#: thread): tensors of more than 32 MB are asked of the system, and given back, layer by layer.
EVALUATION_BATCH = 250


def training_images(dataset: Dataset | Batches) -> Iterator[Tensor | list[Tensor]]:
    """The training split in batches, as the network reads it, neither cropped nor flipped.

    Of several processes, this one's share of them.
    """
    for images, _ in _batches(dataset, dataset.train):
        yield images


def _batches(dataset: Any, split: Any) -> Iterator[tuple[Any, Tensor]]:
    """This process's share of a split in batches, as the network reads it, and the classes."""
    if isinstance(split, Batches):
        yield from split
        return
    mine = split[distributed.block(len(split), EVALUATION_BATCH)]
    if len(mine):
        for images, labels in mine.batches(EVALUATION_BATCH):
            yield dataset.normalise(images), labels


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]]) -> None:
    """Measures BatchNorm's running statistics anew; weights stay, and no label is looked at.

    They were gathered from the weights as they were before the last compression. Each mean and
    variance becomes its average over all ``batches`` of inputs, training images as they are, not
    cropped; a network of several inputs takes a list of them. A network without BatchNorm is left
    alone, and no batch is asked for. Of several processes each gives its share of the batches.
    """
    kind: Any = nn.modules.batchnorm._BatchNorm
    norms = [m for m in model.modules() if isinstance(m, kind)]
    if not norms:
        return
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    calls = dict.fromkeys(norms, 0)

    def averaged(norm: Any, _: object) -> None:
        # a plain average, as a momentum of None, which asks the device for the number of batches
        calls[norm] += 1
        norm.momentum = 1 / calls[norm]

    hooks = [norm.register_forward_pre_hook(averaged) for norm in norms]
    for norm in norms:
        norm.train().reset_running_stats()
    count = 0
    for inputs in batches:
        computed(model, inputs)
        count += 1
    distributed.average((x for n in norms for x in (n.running_mean, n.running_var)), count)
    for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
        norm.num_batches_tracked.copy_(distributed.total(norm.num_batches_tracked))
        norm.momentum = momentum
        hook.remove()
    model.train(was_training)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: Dataset | Batches,
    split: Split | Streamed | Batches,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[float, Any]:
    """Mean loss and accuracy (a fraction) of ``model`` on ``split``.

    ``loss`` is a mean over a batch, cross-entropy where it is None. The accuracy is None where
    targets are no numbers of classes. Raises ``ValueError`` for data without a batch.
    """
    was_training = model.training
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=split.labels.device)
    seen, classes = 0, True
    for inputs, labels in _batches(dataset, split):
        outputs = computed(model, inputs)
        if loss is None:
            totals[0] += functional.cross_entropy(outputs, labels, reduction="sum")
        else:
            outputs = outputs.float() if isinstance(outputs, Tensor) else outputs
            totals[0] += loss(outputs, labels) * len(labels)
        found, seen = right(outputs, labels), seen + len(labels)
        classes = classes and found is not None
        totals[1] += found if classes else 0
    model.train(was_training)
    seen = seen if isinstance(split, Batches) else len(split)  # by all processes
    if not seen:
        raise ValueError("the validation data hold no batch: give a DataLoader or a list")
    mean, accuracy = (distributed.total(totals) / seen).tolist()
    return mean, accuracy if classes else None


@torch.no_grad()
def predict(model: nn.Module, dataset: Dataset, split: Split | Streamed) -> Tensor:
    """The class that ``model`` gives each image of ``split``, (images,) int64."""
    classes = torch.zeros_like(split.labels)
    return _of_each_image(model, dataset, split, lambda logits, _: logits.argmax(1), classes)


@torch.no_grad()
def image_losses(model: nn.Module, dataset: Dataset, split: Split | Streamed) -> Tensor:
    """The cross-entropy of ``model`` on each image of ``split``, (images,) float32."""
    losses = torch.zeros(len(split), device=split.labels.device)
    loss = partial(functional.cross_entropy, reduction="none")
    return _of_each_image(model, dataset, split, loss, losses)


def _of_each_image(model, dataset, split, measure, out: Tensor) -> Tensor:
    """``measure(logits, labels)`` of each image, written into ``out``, zeros as long as the split.

    All processes have all of them.
    """
    was_training = model.training
    model.eval()
    mine = out[distributed.block(len(split), EVALUATION_BATCH)].split(EVALUATION_BATCH)
    batches = _batches(dataset, split)
    for found, (images, labels) in zip(mine, batches, strict=False):  # empty is one
        found.copy_(measure(model(images), labels))
    model.train(was_training)
    return distributed.total(out)
