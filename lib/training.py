"""The one training loop: data on the device, schedule, evaluation, checkpoints. It knows no method.

Data held on the device are gathered there by each step, streamed ones come to it in batches: a
split knows which. Inside an epoch nothing waits for the device. Every epoch draws its order (and
whatever a network draws at random) from the run's seed, the stage and the epoch alone, so a run
that was resumed is, on a CPU, bit for bit the run that was not interrupted.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from lib.augmentation import draw
from lib.cuda_graph import CudaGraph
from lib.data import Dataset, Split, Streamed
from lib.networks import compressible
from lib.optimizers.method import Method

#: Images evaluated at once. ResNet-20 took 1.6 to 1.9 times as long with a thousand (float32, one
#: thread): tensors of more than 32 MB are asked of the system, and given back, layer by layer.
EVALUATION_BATCH = 250

#: A traced run's losses are taken over this many images of the training split, its first ones.
TRACED = 10_000

#: Epochs shorter than this (seconds) share a checkpoint: writing one would cost more than it saves.
CHECKPOINT_SECONDS = 1.0


class Diverged(Exception):
    """The loss became NaN or infinite."""


class OutOfTime(Exception):
    """The next epoch would pass the time limit; all before it is in the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Momentum SGD whose learning rate rises linearly, then falls as a cosine, step by step.

    ``epochs`` counts both parts, ``warmup`` the first; ``weight_decay`` acts on tensors of two or
    more dimensions: weights, not biases or normalisation. ``clip`` is the largest norm of the
    whole gradient, beyond which it is scaled down; ``None`` for no limit. ``precision`` is what
    forward and backward passes compute in, ``float32`` or ``bfloat16`` (autocast; the weights, the
    optimizer and every evaluation stay in float32). ``crop`` pads images by so many pixels and cuts
    them to their size at random; ``flip`` mirrors every other one, at random. Raises ``ValueError``
    for another precision, a limit that is not positive, and a negative ``crop``.
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
        if self.precision not in ("float32", "bfloat16"):
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


def train(
    model: nn.Module,
    dataset: Dataset,
    schedule: Schedule,
    method: Method,
    *,
    seed: int,
    stage: int = 0,
    resume: dict | None = None,
    save: Callable[[dict], None] = lambda state: None,
    deadline: float = math.inf,
    trace: bool = False,
    description: str = "",
    quiet: bool = False,
) -> list[dict[str, float]]:
    """Trains ``model`` in place, lets ``method`` finish it, and returns a history row an epoch.

    Where finishing changes the weights, BatchNorm's statistics are measured anew.

    ``model`` and ``dataset`` lie on the same device. ``resume`` is a state that ``save`` was given
    by an earlier call. ``deadline`` is a time of ``time.monotonic()``: rather than pass it, the
    loop saves its state and raises ``OutOfTime``. With ``trace`` a row also holds the training
    loss (over its first 10,000 images) of the weights, and of the weights as they would be
    compressed, after the epoch.
    Raises ``Diverged`` when the loss is no longer a number.
    """
    loop = _Loop(model, dataset, schedule, method, seed=seed, stage=stage)
    if resume is not None:
        loop.load_state_dict(resume)
    bar = tqdm(
        desc=description,
        total=schedule.epochs * loop.steps,
        initial=loop.epoch * loop.steps,
        unit="step",
        mininterval=1.0,
        disable=quiet,
        dynamic_ncols=True,
    )
    saved, longest = time.monotonic(), 0.0
    with bar:
        while loop.epoch < schedule.epochs and not method.done:
            began = time.monotonic()
            if began + 1.2 * longest > deadline:
                save(loop.state_dict())
                raise OutOfTime(f"stopped after {loop.epoch} of {schedule.epochs} epochs")
            row = loop.run_epoch(bar)
            row["test_loss"], row["test_accuracy"] = evaluate(loop.network, dataset, dataset.test)
            if trace:
                row |= _trace(model, dataset, method)
            loop.history.append(row | method.metrics())
            bar.set_postfix(loss=f"{row['train_loss']:.4f}", accuracy=f"{row['test_accuracy']:.2%}")
            now = time.monotonic()
            ended = loop.epoch == schedule.epochs or method.done
            if now - saved > CHECKPOINT_SECONDS or ended:
                save(loop.state_dict())
                saved = now
            longest = max(longest, time.monotonic() - began)
    if method.finish():
        recalibrate(model, training_images(dataset))
    return loop.history


def training_images(dataset: Dataset) -> Iterator[Tensor]:
    """The training split in batches, as the network reads it, neither cropped nor flipped."""
    for images, _ in dataset.train.batches(EVALUATION_BATCH):
        yield dataset.normalise(images)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]]) -> None:
    """Measures BatchNorm's running statistics anew; weights stay, and no label is looked at.

    They were gathered from the weights as they were before the last compression. Each mean and
    variance becomes its average over all ``batches`` of inputs, training images as they are, not
    cropped; a network of several inputs takes a list of them. A network without BatchNorm is left
    alone, and no batch is asked for.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # a plain average
    for inputs in batches:
        model(*inputs) if isinstance(inputs, Sequence) else model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Dataset, split: Split | Streamed) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) of ``model`` on ``split``."""
    was_training = model.training
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=split.labels.device)
    for images, labels in split.batches(EVALUATION_BATCH):
        logits = model(dataset.normalise(images))
        totals[0] += functional.cross_entropy(logits, labels, reduction="sum")
        totals[1] += (logits.argmax(1) == labels).sum()
    model.train(was_training)
    loss, accuracy = (totals / len(split)).tolist()
    return loss, accuracy


@torch.no_grad()
def predict(model: nn.Module, dataset: Dataset, split: Split | Streamed) -> Tensor:
    """The class that ``model`` gives each image of ``split``, (images,) int64."""
    was_training = model.training
    model.eval()
    batches = split.batches(EVALUATION_BATCH)
    classes = torch.cat([model(dataset.normalise(images)).argmax(1) for images, _ in batches])
    model.train(was_training)
    return classes


class _Loop:
    """Model, optimizer and method of one stage, and how far they have come."""

    def __init__(self, model, dataset, schedule, method, *, seed, stage):
        self.model, self.dataset, self.method = model, dataset, method
        self.schedule, self.seed, self.stage = schedule, seed, stage
        self.history: list[dict[str, float]] = []
        self.steps = math.ceil(len(dataset.train) / schedule.batch)
        self.device = dataset.train.labels.device
        self.rates = schedule.rates(self.steps).to(self.device)
        self.lr = torch.zeros((), device=self.device)
        self.totals = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss, correct
        recorded = self.device.type == "cuda" and method.recordable
        self.graph = CudaGraph(self.device) if recorded else None
        if stage:
            # What the method draws must not depend on where the run was interrupted; in its first
            # stage the generator is as the caller has seeded it.
            torch.manual_seed(self._derived("start"))
        self.network = method.start(model) or model
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

    def run_epoch(self, bar: tqdm) -> dict[str, float]:
        """One pass over the training split."""
        began = time.monotonic()
        steps = self.dataset.train.steps(
            *self._order(), batch=self.schedule.batch, seed=self._derived(self.epoch)
        )
        rates = self.rates[self.epoch * self.steps :]
        step = self._step if self.graph is None else partial(self.graph, self._step)
        self.network.train()
        self.totals.zero_()
        for i, inputs in enumerate(steps):
            self.lr.copy_(rates[i])
            step(*inputs)
            if i in self.period_ends:
                self._refuse_divergence()
                self.method.after_period()
            bar.update(1)
        loss, accuracy = (self.totals / len(self.dataset.train)).tolist()
        return {
            "epoch": self.epoch + 1,
            "lr": float(rates[self.steps - 1]),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "seconds": time.monotonic() - began,
        }

    def _step(self, *inputs: Tensor) -> None:
        """One optimizer step on what the split gives for it; nothing here waits for the device."""
        images, labels = self.dataset.train.take(*inputs, padding=self.schedule.crop)
        images = self.dataset.normalise(images)
        half = self.schedule.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits = self.network(images)
            loss = functional.cross_entropy(logits, labels)
        penalty = self.method.penalty()
        self.optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        if self.schedule.clip is not None:
            nn.utils.clip_grad_norm_(self.momenta, self.schedule.clip)
        self.optimizer.step()
        self.method.after_step(self.lr)
        self.totals[0] += loss.detach() * len(labels)
        self.totals[1] += (logits.detach().argmax(1) == labels).sum()

    def _refuse_divergence(self) -> None:
        loss = float(self.totals[0])
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss was {loss} in epoch {self.epoch + 1}: lower the learning rate "
                f"(at most {float(self.rates.max()):g} here) or lengthen the warm-up"
            )

    def _order(self) -> list[Tensor]:
        """The epoch's order of the training images, and how each is cropped and flipped, if it is.

        It also seeds what the network draws.
        """
        seed = self._derived(self.epoch)
        torch.manual_seed(seed)
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

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "momenta": list(self.momenta.values()),
            "method": self.method.state_dict(),
            "history": self.history,
        }

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
    weights = compressible(model)
    before = {name: weight.clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.copy_(compressed[name])
    row["compressed_loss"] = evaluate(model, dataset, traced)[0]
    row["compressed_test_accuracy"] = evaluate(model, dataset, dataset.test)[1]
    for name, weight in weights.items():
        weight.copy_(before[name])
    return row
