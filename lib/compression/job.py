"""A network to compress, its data, and what is done with both, from the first look to the file."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lib import accounting, archive, layers
from lib.compression.budgets import dense_bytes
from lib.compression.checkpoint import Checkpoint, generators, set_generators
from lib.compression.choices import chosen
from lib.compression.criterion import Criterion, evaluated
from lib.compression.result import Compressed
from lib.compression.source import counted
from lib.compression.spent import OverBudget, check
from lib.compression.working import Working
from lib.data import Dataset
from lib.layers import clone, compressible
from lib.optimizers import METHODS
from lib.optimizers.byte_budget import FitFile, impossible, key, least_bytes, refill
from lib.optimizers.rounding import round_to_size
from lib.projections.precision import each
from lib.structured import rebuild
from lib.training import Diverged, Schedule, recalibrate, train
from lib.training.batches import Batches, computed, each_tensor, items
from lib.training.evaluation import batches, training_images
from lib.training.method import Method

#: Images of a step of a data set: a short schedule needs many steps.
BATCH = 64

#: Of the epochs, the share that compresses; the rest trains on what is left.
COMPRESSING = 2 / 3

#: The share of a budget in bytes that the file takes at least.
FILLED = 0.97

#: Significant bits of the weights that fill it up, tried in turn.
REFILLED = (8, 12, 16, 24)

#: Rounding alone is enough for a budget in bytes where it moves the outputs by no more than this
#: share of their variance, and is worth a comparison with what was trained up to that one.
LOSSLESS, MOVED = 0.001, 0.05


@dataclass(frozen=True)
class Training:
    """How long and how fast: what ``lib.compress`` is asked for."""

    epochs: int
    lr: float
    weight_decay: float
    seed: int

    def schedules(self, first: Method) -> tuple[Schedule, Schedule]:
        """Of the method that compresses, and of the training that follows it."""
        options: Any = {"weight_decay": self.weight_decay, "clip": 1.0, "batch": BATCH}
        if first.at_once:
            none = Schedule(epochs=0, lr=self.lr, **options)
            return none, replace(none, epochs=self.epochs)
        compressing = max(1, round(COMPRESSING * self.epochs))
        return (
            Schedule(epochs=compressing, lr=self.lr, **options),
            Schedule(epochs=self.epochs - compressing, lr=self.lr / 10, **options),
        )


class Job:
    """A copy of the model, and the data that it is trained and measured on."""

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        *,
        criterion: Criterion,
        validation: Any,
        ignored: Iterable[str],
        described: dict[str, Any],
        quiet: bool,
    ):
        self.quiet, self.described, self.criterion = quiet, described, criterion
        self.came, self.working = model, Working(model, ignored)
        self.model = self.working.model
        self.stopped = ""  # in what training, where Ctrl-C has ended it
        self.rounded_only: set[int] = set()  # sizes that nothing but rounding reaches
        self.in_float = ""  # why it is measured in float32, where it is not in its own precision
        self.data: Any = data
        if isinstance(data, Dataset):
            self.steps = math.ceil(len(data.train) / BATCH)
            self.smallest = len(data.train) - (self.steps - 1) * BATCH
            self.measured: Any = data if validation is None else None
        else:
            self.steps, self.smallest = counted(data, "data", quiet=quiet)
            self.data = self._batches(data, self.model, self.steps)
            self.measured = None
        self.on_training_data = validation is None and self.measured is None
        if self.measured is None:
            found = data if validation is None else validation
            same = found is data and self.steps
            self.measured = found, same or counted(found, "validation data", quiet=quiet)[0]
        self.first = self._first()
        self.inputs, self.uncounted = self._inputs(), ""
        self.weights = sum(w.numel() for w in compressible(self.model).values())
        self.left_alone = self.working.left_alone()
        #: What stays to the bit: what was frozen, ignored or kept in evaluation.
        self.exact = self.working.exact(model)

    def _batches(self, data: Any, model: nn.Module, count: int) -> Batches:
        found = Batches(data, model, count=count)
        if self.working.casts:
            found.dtype = None
        return found

    def _first(self) -> tuple[Any, Any]:
        """The first batch of the training data, on the device."""
        if isinstance(self.data, Dataset):
            images, labels = next(iter(batches(self.data, self.data.train)))
            return [images[:BATCH]], labels[:BATCH]
        return next(iter(self.data))

    def _inputs(self) -> Any:
        """What MACs are counted of: an image's shape, or the first batch; None without inputs."""
        inputs = self.first[0]
        if isinstance(inputs, Mapping):
            return {name: value for name, value in inputs.items() if name != "labels"}
        image = len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].dim() == 4
        if image and inputs[0].is_floating_point():
            return tuple(inputs[0].shape[1:])
        return tuple(inputs)

    def macs(self, model: nn.Module) -> int | None:
        """An item's multiply-accumulates; None where an operation is not known, which is noted."""
        try:
            return accounting.macs(model, self.inputs)
        except (RuntimeError, ValueError) as error:
            self.uncounted = f"MACs are not counted: {str(error).splitlines()[0]}"
            return None

    # --------------------------------------------------------------- before the first epoch

    def look(self) -> None:
        """A pass forward and a step of training on the first batch, before anything is changed.

        Raises ``ValueError`` that says what fails, in one line.
        """
        inputs, targets = self.first
        with _said("the model fails on the first batch"), torch.no_grad():
            self._precision(inputs)
        network = self.working.network(clone(self.model)).eval()
        with _said("the loss fails on the first batch"):
            loss = self.criterion.look(partial(computed, network), inputs, targets)
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of the model is {loss} before anything is changed: look at the data "
                "and the loss"
            )
        size = items((targets, inputs))
        for count in sorted({size, min(size, self.smallest)}, reverse=True):
            self._step(count, size)

    def _precision(self, inputs: Any) -> None:
        """In float32; with its own casts where a network of half precision needs them."""
        try:
            computed(clone(self.model).eval(), inputs)
        except RuntimeError:
            if {*self.working.dtypes.values()} <= {torch.float32, torch.int64, torch.bool}:
                raise
            self.working.casts = True
            if isinstance(self.data, Batches):
                self.data.dtype = None
                self.first = self._first()
            computed(self.working.network(clone(self.model)).eval(), self.first[0])
        try:
            model = clone(self.came).eval()
            computed(model, next(iter(self._batches([_raw(self.first)], model, 1)))[0])
        except RuntimeError as error:  # an operation that the device has in float32 alone
            self.in_float = f"measured in float32: {str(error).splitlines()[0]}"

    def _step(self, count: int, size: int) -> None:
        """A step on the first ``count`` of the first batch's ``size`` items."""
        model = clone(self.model)
        network = self.working.network(model)

        def take(tensor: Tensor) -> Tensor:
            return tensor[:count] if tensor.dim() and len(tensor) == size else tensor

        inputs, targets = each_tensor([*self.first], take)
        remedy = "" if count == size else ": drop_last=True leaves out a last batch that is smaller"
        with _said(f"a step of training on a batch of {count} fails", remedy):
            layers.train(network)
            loss = self.criterion(computed(network, inputs), targets)
            if not loss.requires_grad:
                raise ValueError("the loss depends on no parameter that is trained")
            loss.backward()

    def check_possible(self, kind: str, amount: float, method: str | Method | None) -> None:
        """Refuses a budget that cannot be met, or a method that is not for it."""
        if not isinstance(method, Method):
            chosen(method, kind)
        if kind == "bytes":
            least = least_bytes(self.model, as_written=self.as_written, **self.described)
            if amount < least and not self._rounds(amount, method):
                kept = {name: self.model.get_parameter(name) for name in self.left_alone}
                listed = ", ".join(f"{name} ({kept[name].numel():,})" for name in kept)
                alone = f"; of it weights that are left alone: {listed}" if kept else ""
                raise ValueError(impossible(int(amount), least) + alone)
        elif kind == "macs":
            accounting.macs(self.model, self.inputs)  # raises where one is not known
        elif not compressible(self.model):
            raise ValueError("the model has no convolution, linear layer or embedding to compress")

    def _rounds(self, size: float, method: str | Method | None) -> bool:
        """Whether rounding alone makes so small a file: of layers that are left alone it does."""
        self.rounded_only.add(int(size))
        if method is not None or self._rounded(int(size)) is None:
            self.rounded_only.remove(int(size))
        return int(size) in self.rounded_only

    def rehearse(
        self, kind: str, amount: float, method: str | Method | None, training: Training
    ) -> None:
        """All that comes after the first look, of one step on a copy, so that nothing fails later.

        Raises ``ValueError``. A method of one's own may leave more than the budget after one step:
        that is not an error yet.
        """
        small = copy.copy(self)
        small.quiet, small.steps = True, 1
        small.data = self._batches([_raw(self.first)], self.model, 1)
        small.measured = [_raw(self.first)], 1
        method = copy.deepcopy(method)
        if isinstance(method, Method):
            method.periods_per_epoch = 1
        try:
            with _said("a rehearsal on the first batch fails", own=True):
                small.carry_out("", kind, amount, method, replace(training, epochs=2), None)
        except OverBudget:
            if not isinstance(method, Method):
                raise

    # ----------------------------------------------------------------------- the compression

    def carry_out(
        self,
        budget: str,
        kind: str,
        amount: float,
        method: str | Method | None,
        training: Training,
        checkpoint: Checkpoint | None,
        before: dict[str, Any] | None = None,
    ) -> Compressed:
        """The network within one budget; ``before`` is what :meth:`measure` says of the model."""
        self.model, self.stopped = clone(self.working.model), ""
        before = before or {}
        rounded = self._rounded(int(amount)) if kind == "bytes" and method is None else None
        if rounded is not None and self.enough:
            self.model = rounded
            return self.result(budget, "rounding", before, kind, amount)
        if not compressible(self.model):
            raise ValueError("the model has no convolution, linear layer or embedding to compress")
        first: Any = copy.deepcopy(method)
        if not isinstance(method, Method):
            at_once = Schedule(epochs=max(1, round(COMPRESSING * training.epochs)), lr=training.lr)
            first = chosen(method, kind)(self, amount, at_once)
        self.train(first, training, budget, checkpoint)
        self.working.give_back(self.model, self.exact)
        if kind == "bytes":
            self.fit(int(amount))
        label = first.label
        if rounded is not None and self._loss(rounded, training) < self._loss(self.model, training):
            self.model, label = rounded, "rounding"
        return self.result(budget, label, before, kind, amount)

    def train(
        self, first: Method, training: Training, budget: str, checkpoint: Checkpoint | None
    ) -> None:
        """Compresses by ``first``, then trains on, from where the checkpoint is.

        Ctrl-C ends it: what there is by then is compressed, and no more is trained.
        """
        compressing, on = training.schedules(first)
        state = checkpoint.load() if checkpoint else None
        then = state["then"] if state else None
        kept: Any = {"seed": training.seed, "checkpoint": checkpoint, "state": state}
        if then is None:
            self._stage(1, first, compressing, f"{budget}: {first.label}", **kept)
            then = first.then
            kept["state"] = None
        if then is not None and not self.stopped:
            kept["then"] = then
            self._stage(2, METHODS[then](), on, f"{budget}: training on", **kept)

    def _stage(
        self,
        stage: int,
        method: Method,
        schedule: Schedule,
        said: str,
        *,
        seed: int,
        checkpoint: Checkpoint | None,
        state: dict | None,
        then: str | None = None,
    ) -> None:
        options: Any = {"description": said, "quiet": self.quiet, "loss": self.criterion}
        if state:
            rebuild(self.model, state["start"]).load_state_dict(state["start"])
            set_generators(self.data, state["generators"])
            options["resume"] = state["loop"]
        if checkpoint:
            start = {name: value.clone() for name, value in self.model.state_dict().items()}

            def save(loop: dict) -> None:
                kept: Any = {"seed": seed, "then": then, "start": start, "loop": loop}
                checkpoint.save(**kept, generators=generators(self.data))

            options |= {"save": save, "every_epoch": True}
        network = self.working.network(self.model)
        options |= {"network": network, "seed": seed, "stage": stage}
        try:
            train(self.model, self.data, schedule, method, **options)
        except Diverged as error:
            raise ValueError(f"{error}, or look at the data") from error
        except KeyboardInterrupt:
            if not hasattr(method, "model"):
                raise
            method.after_period()  # a method may count on ending with a period
            if method.finish():
                recalibrate(network, training_images(self.data))
            self.stopped = said
        self.working.thaw(self.model)

    def _rounded(self, size: int) -> nn.Module | None:
        """A copy that is rounded alone, where that moves the outputs little or nothing else fits.

        ``enough`` then says whether training would be in vain.
        """
        model, only = clone(self.model), size in self.rounded_only
        written: Any = {"described": self.described, "as_written": self.as_written}
        moved = round_to_size(
            *(model, size, training_images(self.data)),
            network=self.working.network(model),
            most_error=math.inf if only else MOVED,
            **written,
        )
        self.enough = only or (moved is not None and moved <= LOSSLESS)
        if moved is None:
            return None
        self.working.give_back(model, self.exact)
        return model

    @torch.no_grad()
    def _loss(self, model: nn.Module, training: Training) -> float:
        """The mean loss on the training data, drawn alike for every network."""
        torch.manual_seed(training.seed)
        model = clone(model).float() if not self.working.casts else clone(model)
        held = isinstance(self.data, Dataset)
        found = batches(self.data, self.data.train) if held else self.data
        loss = evaluated(model.eval(), found, self.criterion)[0]
        return math.inf if loss is None else loss

    @torch.no_grad()
    def fit(self, size: int) -> None:
        """Rounds the compressed network to a file of ``size`` bytes, and fills that up.

        Near the least that is possible, what was trained may have biases that are longer than they
        came: then the network as it came is pruned to fit.
        """
        asked: Any = {"file_bytes": size, **self.described}
        given = self.came.state_dict()
        now, came = (
            {name: value.shape for name, value in state.items()}
            for state in (self.model.state_dict(), given)
        )
        try:
            FitFile(**asked, as_written=self.as_written).start(self.model)
        except ValueError:
            if now != came:  # filters or ranks have left
                raise
            self.model.load_state_dict(given)
            FitFile(**asked, as_written=self.as_written).start(self.model)
        for significant in REFILLED if now == came else ():
            if len(archive.encode(self.model, **self.described)) >= FILLED * size:
                break
            refill(self.model, given, significant=significant, **asked)

    # ----------------------------------------------------------------------------- the result

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Loss, accuracy, and what the network costs."""
        model = clone(model)
        if isinstance(self.measured, Dataset) or self.in_float:
            model = model.float()
        if isinstance(self.measured, Dataset):
            found: Any = batches(self.measured, self.measured.test)
        else:
            data, count = self.measured
            found = self._batches(data, model, count)
        loss, accuracy = evaluated(model.eval(), found, self.criterion)
        weights = compressible(model).values()
        return {
            "loss": loss,
            "accuracy": accuracy,
            "bytes": dense_bytes(model),
            "kept": sum(int(torch.count_nonzero(w)) for w in weights),
            "macs": self.macs(model if self.working.casts else model.float()),
        }

    def result(
        self, said: str, method: str, before: dict[str, Any], kind: str, amount: float
    ) -> Compressed:
        """The network, checked against its budget."""
        names = [key(name) for name in compressible(self.model)]
        layers.unmark(self.model)
        content = archive.encode(self.model, **self.described)
        place: Any = {"weights": names, "inputs": self.inputs}
        check(kind, amount, content, self.model, method=method, **place)
        after = self.measure(self.model) | {"bytes": len(content)}
        if after["loss"] is not None and math.isnan(after["loss"]):
            raise ValueError("the loss of the compressed network is nan: lower the learning rate")
        table = archive.sizes(archive.decode(content))
        return Compressed(
            self.model.eval(),
            content,
            *(said, method, before, after, table, self._left_alone()),
            notes=[
                *([f"interrupted in {self.stopped}"] if self.stopped else []),
                *(note for note in (self.in_float, self.uncounted) if note),
            ],
            on_training_data=self.on_training_data,
            interrupted=bool(self.stopped),
        )

    def _left_alone(self) -> dict[str, str]:
        """Without what lost units: of a budget of MACs they leave recurrent layers too."""
        now = self.model.state_dict()
        shapes = {name: p.shape for name, p in self.came.named_parameters()}
        return {
            name: reason
            for name, reason in self.left_alone.items()
            if name in now and now[name].shape == shapes[name]
        }

    def as_written(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict as the file will have it: in the model's dtypes, what is exact as it is."""
        dtypes = {
            id(value): self.working.dtype_of(name, value.dtype) for name, value in state.items()
        }
        found = each(state, lambda v: v.to(dtypes[id(v)]) if v.is_floating_point() else v)
        return found | {name: value for name, value in self.exact.items() if name in found}


def _raw(batch: tuple[Any, Any]) -> Any:
    """A batch as the data give it."""
    inputs, targets = batch
    if isinstance(inputs, Mapping):
        return {**inputs, "labels": targets}
    return (*inputs, targets) if isinstance(inputs, list | tuple) else (inputs, targets)


@contextmanager
def _said(what: str, remedy: str = "", *, own: bool = False) -> Iterator[None]:
    """Turns whatever a model, a loss or data raise into one line, a ``ValueError``.

    With ``own`` those that are ``ValueError`` already stay as they are.
    """
    try:
        yield
    except Exception as error:
        if own and isinstance(error, ValueError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{what}: {lines[0]}{remedy}") from error
