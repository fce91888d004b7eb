"""Losses, accuracies and predictions of a network on a split, and BatchNorm's statistics anew."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    for images, _ in batches(dataset, dataset.train):
        yield images


def batches(dataset: Any, split: Any) -> Iterator[tuple[Any, Any]]:
    """This process's share of a split in batches, as the network reads it, and the classes."""
    if isinstance(split, Batches):
        yield from split
        return
    mine = split[distributed.block(len(split), EVALUATION_BATCH)]
    if len(mine):
        for images, labels in mine.batches(EVALUATION_BATCH):
            yield dataset.normalise(images), labels


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor | Sequence | Mapping]) -> None:
    """Measures BatchNorm's running statistics anew; weights stay, and no label is looked at.

    They were gathered from the weights as they were before the last compression. Each mean and
    variance becomes its average over all ``batches`` of inputs, training images as they are, not
    cropped; a network of several inputs takes a list of them. A network without BatchNorm is left
    alone, and no batch is asked for; so is a layer that keeps no statistics, or stays as it came
    (:func:`lib.layers.hold`). Of several processes each gives its share of the batches.
    """
    kind: Any = nn.modules.batchnorm._BatchNorm
    norms = [
        module
        for module in model.modules()
        if isinstance(module, kind)
        and module.running_mean is not None  # it may keep none
        and not getattr(module, "held", False)
    ]
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
def evaluate(model: nn.Module, dataset: Dataset, split: Split | Streamed) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) of ``model`` on ``split``."""
    was_training = model.training
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=split.labels.device)
    for images, labels in batches(dataset, split):
        outputs = model(images)
        totals[0] += functional.cross_entropy(outputs, labels, reduction="sum")
        totals[1] += right(outputs, labels)
    model.train(was_training)
    loss, accuracy = (distributed.total(totals) / len(split)).tolist()
    return loss, accuracy


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
    parts = zip(mine, batches(dataset, split), strict=False)  # empty is one
    for found, (images, labels) in parts:
        found.copy_(measure(model(images), labels))
    model.train(was_training)
    return distributed.total(out)
