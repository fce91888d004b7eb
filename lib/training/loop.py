"""The one training loop: data on the device, schedule, evaluation, checkpoints. It knows no method.

Data held on the device are gathered there by each step, streamed ones come to it in batches: a
split knows which. Inside an epoch nothing waits for the device. Every epoch draws its order (and
whatever a network draws at random) from the run's seed, the stage and the epoch alone, so a run
that was resumed is, on a CPU, bit for bit the run that was not interrupted.

Of several processes (:mod:`lib.training.distributed`) each takes its share of every step's images,
and of every evaluation's. Their gradient is that of the whole batch, so they train as one process
does, to rounding; but for two things: BatchNorm's statistics are those of each share (running ones
process 0's), and dropout is drawn by each process for itself.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from lib import layers
from lib.data import Dataset
from lib.data.augmentation import draw
from lib.layers import compressible
from lib.training import arithmetic, distributed
from lib.training.batches import Batches, computed, items, right
from lib.training.cuda_graph import CudaGraph
from lib.training.evaluation import evaluate, recalibrate, training_images
from lib.training.method import Method
from lib.training.schedule import Schedule

#: A traced run's losses are taken over this many images of the training split, its first ones.
TRACED = 10_000

#: Epochs share a checkpoint until so many seconds have passed, and ten for every one that the last
#: checkpoint took to write: more would cost more than they save.
CHECKPOINT_SECONDS = 1.0


class Diverged(Exception):
    """The loss became NaN or infinite."""


class OutOfTime(Exception):
    """The next epoch would pass the time limit; all before it is in the checkpoint."""


def train(
    model: nn.Module,
    data: Dataset | Iterable,
    schedule: Schedule,
    method: Method,
    *,
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy,
    network: nn.Module | None = None,
    seed: int,
    stage: int = 0,
    resume: dict | None = None,
    save: Callable[[dict], None] = lambda state: None,
    every_epoch: bool = False,
    deadline: float = math.inf,
    trace: bool = False,
    description: str = "",
    quiet: bool = False,
) -> list[dict[str, float]]:
    """Trains ``model`` in place, lets ``method`` finish it, and returns a history row an epoch.

    Where finishing changes the weights, BatchNorm's statistics are measured anew.

    ``data`` is a data set on the model's device; or batches (inputs, …, targets) with a length, a
    DataLoader say, whose sizes then count and not the schedule's. ``loss`` makes a scalar of what
    the network returns and the targets. ``network`` is what computes with the model's weights,
    where that is not the model. ``resume`` is a state that ``save`` was given by an earlier call;
    it is given one at most once a second, or ``every_epoch``. ``deadline`` is a time of
    ``time.monotonic()``: rather than pass it, the loop saves its state and raises ``OutOfTime``.
    With ``trace`` a row also holds the training loss (over its first 10,000 images) of the
    weights, and of the weights as they would be compressed, after the epoch.
    Raises ``Diverged`` when the loss is no longer a number.
    """
    dataset: Any = data
    if not isinstance(data, Dataset):
        dataset = data if isinstance(data, Batches) else Batches(data, model)
        schedule = replace(schedule, batch=1)  # a step is a batch
    asked: Any = {"seed": seed, "stage": stage, "loss": loss, "network": network}
    loop = _Loop(model, dataset, schedule, method, **asked)
    if resume is not None:
        loop.load_state_dict(resume)
    distributed.check(loop.tensors)
    bar = loop.bar(description, quiet=quiet)
    saved, writing, longest, unsaved = time.monotonic(), 0.0, 0.0, False
    with bar:
        while loop.epoch < schedule.epochs and not method.done:
            began = time.monotonic()
            if distributed.agree(partial(bool, began + 1.2 * longest > deadline)):
                if unsaved:
                    save(loop.state_dict())
                raise OutOfTime(f"stopped after {loop.epoch} of {schedule.epochs} epochs")
            row = loop.run_epoch(bar)
            if dataset.test is not None:
                found = evaluate(loop.network, dataset, dataset.test)
                row["test_loss"], row["test_accuracy"] = found
                bar.set_postfix(loss=f"{row['train_loss']:.4f}", accuracy=f"{found[1]:.2%}")
            else:
                bar.set_postfix(loss=f"{row['train_loss']:.4f}")
            if trace:
                row |= _trace(model, dataset, method)
            loop.history.append(row | method.metrics())
            now, unsaved = time.monotonic(), True
            ended = loop.epoch == schedule.epochs or method.done
            due = CHECKPOINT_SECONDS * max(1, 10 * writing)
            if now - saved > due or ended or every_epoch:
                save(loop.state_dict())
                saved, unsaved = time.monotonic(), False
                writing = saved - now
            longest = max(longest, time.monotonic() - began)
    if method.finish():
        recalibrate(network or model, training_images(dataset))
    distributed.check(model.state_dict)
    return loop.history


class _Loop:
    """Model, optimizer and method of one stage, and how far they have come."""

    def __init__(
        self,
        model,
        dataset,
        schedule,
        method,
        *,
        seed,
        stage,
        loss=functional.cross_entropy,
        network=None,
    ):
        self.model, self.dataset, self.method, self.loss = model, dataset, method, loss
        self.schedule, self.seed, self.stage = schedule, seed, stage
        self.history: list[dict[str, float]] = []
        self.steps = math.ceil(len(dataset.train) / schedule.batch)
        self._refuse_empty_shares()
        self.device = dataset.train.labels.device
        self.dtype = arithmetic.dtype(schedule.precision, self.device)
        self.rates = schedule.rates(self.steps).to(self.device)
        self.lr = torch.zeros((), device=self.device)
        self.weight = 1.0  # of this process's share of a step
        self.totals = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss, correct
        alone = distributed.processes() == 1  # no step with others is recorded
        known = isinstance(dataset, Dataset)  # of others, a loss may wait for the device
        captured = self.device.type == "cuda" and known and method.capturable and alone
        self.graph = CudaGraph(self.device) if captured else None
        if stage:
            # What the method draws must not depend on where the run was interrupted; in its first
            # stage the generator is as the caller has seeded it.
            torch.manual_seed(self._derived("start"))
        self.network = method.start(model) or network or model
        self.parallel = distributed.parallel(self.network)  # which takes a step
        # Momentum that starts at zero is the same recursion, and is there to be checkpointed.
        self.momenta = {p: torch.zeros_like(p) for p in model.parameters() if p.requires_grad}
        self.optimizer = self._sgd()
        # The last step of each of an epoch's periods.
        periods = method.periods_per_epoch
        if periods > self.steps:
            raise ValueError(
                f"periods_per_epoch = {periods} is more than the {self.steps} steps of an epoch"
            )
        self.period_ends = {self.steps * (i + 1) // periods - 1 for i in range(periods)}

    def _sgd(self) -> torch.optim.SGD:
        decayed = [p for p in self.momenta if p.dim() >= 2]
        others = [p for p in self.momenta if p.dim() < 2]
        optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": self.schedule.weight_decay},
                {"params": others},
            ],
            lr=self.lr,
            momentum=self.schedule.momentum,
            fused=True,
        )
        for parameter, momentum in self.momenta.items():
            optimizer.state[parameter]["momentum_buffer"] = momentum
        return optimizer

    @property
    def epoch(self) -> int:
        return len(self.history)

    def bar(self, description: str, *, quiet: bool) -> tqdm:
        return tqdm(
            desc=description,
            total=self.schedule.epochs * self.steps,
            initial=self.epoch * self.steps,
            unit="step",
            mininterval=1.0,
            disable=quiet,
            dynamic_ncols=True,
        )

    def run_epoch(self, bar: tqdm) -> dict[str, float]:
        """One pass over the training split."""
        began = time.monotonic()
        images, batch = len(self.dataset.train), self.schedule.batch
        order = [distributed.share(part, batch) for part in self._order()]
        steps = self.dataset.train.steps(
            *order, batch=len(distributed.of_step(batch)), seed=self._derived(self.epoch)
        )
        rates = self.rates[self.epoch * self.steps :]
        step = self._step if self.graph is None else partial(self.graph, self._step)
        layers.train(self.network)
        self.totals.zero_()
        seen, i = 0, -1
        for i, inputs in enumerate(steps):
            self.lr.copy_(rates[i])
            self.weight = distributed.weight(min(batch, images - i * batch))
            step(*inputs)
            seen += items(inputs)
            if i in self.period_ends:
                self._end_period()
            bar.update(1)
        if not isinstance(self.dataset, Dataset):
            self._make_up(i)
        seen = images if isinstance(self.dataset, Dataset) else seen  # by all processes
        loss, accuracy = (distributed.total(self.totals) / seen).tolist()
        return {
            "epoch": self.epoch + 1,
            "lr": float(rates[self.steps - 1]),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "seconds": time.monotonic() - began,
        }

    def _end_period(self) -> None:
        self._refuse_divergence()
        distributed.same_statistics(self.model)
        self.method.after_period()
        distributed.check(self.tensors)

    def _make_up(self, last: int) -> None:
        """The periods of an epoch that held fewer batches than the first, so that none is lost."""
        if last < 0:
            raise ValueError(
                f"epoch {self.epoch + 1} held no batch: the data are used up after one pass, give "
                "a list or a DataLoader"
            )
        for _ in range(sum(end > last for end in self.period_ends)):
            self._end_period()

    def _step(self, *inputs: Any) -> None:
        """One optimizer step on what the split gives for it; nothing here waits for the device."""
        images, labels = self.dataset.train.take(*inputs, padding=self.schedule.crop)
        images = self.dataset.normalise(images)
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=half):
            outputs = computed(self.parallel, images)
            loss = self.loss(outputs, labels)
        share = loss if self.weight == 1 else self.weight * loss
        penalty = self.method.penalty()
        self.optimizer.zero_grad()
        (share if penalty is None else share + penalty).backward()
        if self.schedule.clip is not None:
            nn.utils.clip_grad_norm_(self.momenta, self.schedule.clip)
        self.optimizer.step()
        self.method.after_step(self.lr)
        self.totals[0] += loss.detach() * items((labels, images))
        if (found := right(outputs, labels)) is not None:
            self.totals[1] += found

    def _refuse_divergence(self) -> None:
        loss = float(distributed.total(self.totals)[0])
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss was {loss} in epoch {self.epoch + 1}: lower the learning rate "
                f"(at most {float(self.rates.max()):g} here) or lengthen the warm-up"
            )

    def _refuse_empty_shares(self) -> None:
        last = len(self.dataset.train) - (self.steps - 1) * self.schedule.batch
        if min(last, self.schedule.batch) < distributed.processes():
            raise ValueError(
                f"a step of {min(last, self.schedule.batch)} images is too small for "
                f"{distributed.processes()} processes: use fewer, or another batch than "
                f"{self.schedule.batch} of {len(self.dataset.train):,} images"
            )

    def _order(self) -> list[Tensor]:
        """The epoch's order of the training images, and how each is cropped and flipped, if it is.

        It also seeds what the network draws, which no two processes share.
        """
        seed, rank = self._derived(self.epoch), distributed.rank()
        torch.manual_seed(self._derived(f"{self.epoch}/{rank}") if rank else seed)
        generator = torch.Generator().manual_seed(seed)
        images, schedule = len(self.dataset.train), self.schedule
        order = [torch.randperm(images, generator=generator)]
        if schedule.crop or schedule.flip:
            drawn = draw(images, padding=schedule.crop, flip=schedule.flip, generator=generator)
            order.append(drawn)
        return order

    def _derived(self, part: int | str) -> int:
        """A seed of its own for a part of the stage."""
        label = f"{self.seed}/{self.stage}/{part}".encode()
        return int.from_bytes(hashlib.sha256(label).digest()[:7], "big")

    def tensors(self) -> dict:
        """What every process holds alike."""
        return {
            "model": self.model.state_dict(),
            "momenta": list(self.momenta.values()),
            "method": self.method.state_dict(),
        }

    def state_dict(self) -> dict:
        return self.tensors() | {"history": self.history}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        for momentum, saved in zip(self.momenta.values(), state["momenta"], strict=True):
            momentum.copy_(saved)
        self.method.load_state_dict(state["method"])
        self.history = list(state["history"])


@torch.no_grad()
def _trace(model: nn.Module, dataset: Dataset, method: Method) -> dict[str, float]:
    """The training loss of the weights, and of the weights as they would be compressed."""
    traced = dataset.train[:TRACED]
    row = {"loss": evaluate(model, dataset, traced)[0]}
    compressed = method.compressed()
    if compressed is None:
        return row
    weights = {name: w for name, w in compressible(model).items() if name in compressed}
    before = {name: weight.clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.copy_(compressed[name])
    row["compressed_loss"] = evaluate(model, dataset, traced)[0]
    row["compressed_test_accuracy"] = evaluate(model, dataset, dataset.test)[1]
    for name, weight in weights.items():
        weight.copy_(before[name])
    return row
