"""Compress a network of your own: model, data and a budget in, a smaller network out.

    smaller = lib.compress(model, loader, "100 kB")
    print(smaller)
    smaller.write("smaller.cnet")

The methods are the workbook's; this is the way to them for a network and data that it does not
know. What it does is a short run: for a result to publish, use an experiment of the catalogue.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import ParametrizationList

from lib import accounting, archive
from lib.budgets import dense_bytes, parse
from lib.compressed import Compressed
from lib.data import Dataset
from lib.layers import compressible, ignore
from lib.optimizers import ADMM, DF, LC, METHODS, FilterPruning, MagnitudePruning
from lib.optimizers.byte_budget import (
    STEPS,
    FileADMM,
    FitFile,
    fitting,
    impossible,
    least_bytes,
    put,
    refill,
)
from lib.projections import checks
from lib.projections.precision import each, round_to
from lib.training import Diverged, Schedule, evaluate, train
from lib.training.batches import Batches
from lib.training.method import Method

#: Images of a step of a data set: a short schedule needs many steps.
BATCH = 64

#: Of the epochs, the share that compresses; the rest trains on what is left.
COMPRESSING = 2 / 3

#: Σ αρ over a run of ADMM, and how many times ρ rises during it: chosen, with the rate, on images
#: held out of digits (LeNet-5 and ResNet-8, 15 to 20 epochs, one seed).
PULL, RISE = 10.0, 20.0

#: How many times LC's μ rises.
LC_RISE = 200.0

#: The share of a budget in bytes that the file takes at least.
FILLED = 0.97

#: Significant bits of the weights that fill it up, tried in turn.
REFILLED = (8, 12, 16, 24)

#: From so many significant bits on, rounding alone makes a file that is small enough for a budget
#: in bytes; a float32 has 24.
ROUNDED, EXACT = 4, 24


class Options(TypedDict, total=False):
    """The options of :func:`compress`."""

    method: str | Method | None
    ignored: Iterable[str | nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    validation: Iterable | None
    epochs: int
    lr: float
    weight_decay: float
    described: dict[str, object] | None
    quiet: bool


@overload
def compress(
    model: nn.Module, data: Dataset | Iterable, budget: str | float, **options: Unpack[Options]
) -> Compressed: ...
@overload
def compress(
    model: nn.Module, data: Dataset | Iterable, budget: list | tuple, **options: Unpack[Options]
) -> list[Compressed]: ...
def compress(
    model: nn.Module,
    data: Dataset | Iterable,
    budget: str | float | Sequence[str | float],
    *,
    method: str | Method | None = None,
    ignored: Iterable[str | nn.Module] = (),
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    validation: Iterable | None = None,
    epochs: int = 30,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    described: dict[str, object] | None = None,
    quiet: bool = False,
) -> Compressed | list[Compressed]:
    """A smaller network within ``budget``, compressed and trained on; ``model`` stays as it is.

    Parameters
    ----------
    model : trained already, on the device to compute on.
    data : batches ``(inputs, …, targets)`` of training data with a length, a DataLoader say; the
        model is called with the inputs. Or a data set of :mod:`lib.data`, in batches of 64, whose
        test split is then measured on.
    budget : ``"100 kB"`` (a file's size; B, kB, MB, GB, KiB, MiB, GiB), ``"30x"`` (the file
        against all values as float32), ``"80000 bits"`` (of nonzero weights, the papers' count),
        ``"20 MMACs"`` (an input's multiply-accumulates; MACs, kMACs, MMACs, GMACs), ``"5 %"`` or
        0.05 (a share of the weights); or a list of them, each from the same start: a curve.
    method : ``"admm"`` for bytes and bits, ``"magnitude"`` (the usual, gradual) or ``"lc"`` for a
        share, ``"df"`` (the usual), ``"group-magnitude"`` or ``"l1"`` for MACs; one that was added
        to ``lib.optimizers.METHODS`` and says what it ``takes``; or an object, such as
        ``LC({"fc1": L0(0.05)})``, a copy of which compresses as it was made.
    ignored : layers, or their names, that are not compressed. A budget counts the others: a share
        or bits; of MACs all layers count, and none can be ignored.
    loss : of the outputs and the targets, a scalar.
    validation : what ``before`` and ``after`` are measured on; the training data where it is None.
    epochs, lr, weight_decay : two thirds of the epochs compress, one third trains on what is left,
        by SGD with momentum 0.9, a cosine and a limit of 1 on the gradient's norm.
    described : ``network``, ``classes`` and ``channels`` of :func:`lib.archive.write`, where the
        network is one of the workbook's.

    A budget of bytes is met to the byte from below, and used to 97 % at least where the network
    has weights to spend it on. BatchNorm's statistics are measured anew. Weights of float16 or
    bfloat16 are trained in float32 and rounded back.

    Convolutions, transposed convolutions, linear layers and embeddings are compressed; what else
    has two dimensions or more is left alone, and ``left_alone`` says so.

    Raises ``ValueError`` for a budget that is not one or cannot be met (it says the least), a
    method that is not for it, data without a length or batches, and a loss that becomes NaN.
    """
    if isinstance(budget, Sequence) and not isinstance(budget, str):
        if not budget:
            raise ValueError("the list of budgets is empty: give one at least")
        options: Any = dict(method=method, ignored=ignored, loss=loss, validation=validation)
        options |= dict(
            epochs=epochs, lr=lr, weight_decay=weight_decay, described=described, quiet=quiet
        )
        for one in budget:
            parse(one, model)  # a wrong one is refused before any is trained
        return [compress(model, data, one, **options) for one in budget]
    kind, amount = parse(budget, model)
    job = _Job(model, data, loss, validation, _names(model, ignored), described or {}, quiet)
    if job.ignored and kind == "macs":
        raise ValueError("of a budget of MACs no layer can be ignored: leave ignored= out")
    given = isinstance(method, Method)
    make: Any = None if given else _chosen(method or next(iter(CHOICES[kind])), kind)
    checks.within("epochs", epochs, 2, remedy="some compress, some train on")
    before = job.measure(model)
    compressing = max(1, round(COMPRESSING * epochs))
    options = {"weight_decay": weight_decay, "clip": 1.0, "batch": BATCH}
    schedule = Schedule(epochs=compressing, lr=lr, **options)
    on = Schedule(epochs=epochs - compressing, lr=lr / 10, **options)

    if kind == "bytes" and not given and job.round_to_fit(amount):
        return job.result(str(budget), "rounding", before)
    if not compressible(job.model):
        raise ValueError("the model has no convolution, linear layer or embedding to compress")
    first: Any = copy.deepcopy(method) if given else make(job, amount, schedule)
    job.train(first, schedule, f"{budget}: {first.label}")
    if first.then is not None:
        job.train(METHODS[first.then](), on, f"{budget}: training on")
    job.restore_dtypes()
    if kind == "bytes":
        job.fit(amount)
    job.refuse_more_than(kind, amount, first.label)
    return job.result(str(budget), first.label, before)


def _chosen(method: Any, kind: str) -> Callable[["_Job", float, Schedule], Method]:
    """What makes the method of this name for a budget of this kind."""
    added = {
        name: lambda job, amount, _, made=made: made(**{made.takes[kind]: amount})
        for name, made in METHODS.items()
        if kind in made.takes
    }
    choices = CHOICES[kind] | added
    if method not in choices:
        raise ValueError(
            f"{method!r} takes no budget of {kind}: choose one of {', '.join(choices)}"
        )
    return choices[method]


def _pull(bits: float, job: "_Job", schedule: Schedule) -> dict[str, Any]:
    """ADMM's options for a budget of so many bits."""
    steps = schedule.epochs * job.steps
    return {
        # Σ αρ = PULL: the cosine's mean is half its first rate, the mean of ρ that rises from
        # 1 to RISE is (RISE − 1)/ln RISE
        "rho": PULL / (steps * schedule.lr / 2) * math.log(RISE) / (RISE - 1),
        "growth": RISE ** (1 / schedule.epochs),
        "start_bits": min(8, 1 + math.ceil(max(1, bits / job.weights))),
    }


def _admm(job: "_Job", bits: int, schedule: Schedule) -> Method:
    return ADMM(budget=bits, **_pull(bits, job, schedule))


def _file(job: "_Job", size: int, schedule: Schedule) -> Method:
    options = {"input_shape": job.image_shape, "as_written": job.as_before, **job.described}
    return FileADMM(file_bytes=size, **options, **_pull(8 * size, job, schedule))


def _gradual(job: "_Job", share: float, schedule: Schedule) -> Method:
    return MagnitudePruning(keep=share, epochs=max(1, schedule.epochs - 1))


def _lc(job: "_Job", share: float, schedule: Schedule) -> Method:
    return LC(cost="l0-constraint", amount=share, growth=LC_RISE ** (1 / schedule.epochs))


def _structured(made: Any, job: "_Job", macs: float, _: Schedule, **options) -> Method:
    if job.image_shape is None:
        raise ValueError("a budget of MACs needs images: one floating input of (batch, c, h, w)")
    return made(budget=int(macs), input_shape=job.image_shape, **options)


def _df(job: "_Job", macs: float, schedule: Schedule) -> Method:
    options = {"penalty": 10.0, "statistics": "batch", "step": 0.02}
    return _structured(DF, job, macs, schedule, periods_per_epoch=min(8, job.steps), **options)


#: The methods of each kind of budget by their names, the usual one first.
CHOICES: dict[str, dict[str, Any]] = {
    "bytes": {"admm": _file},
    "bits": {"admm": _admm},
    "share": {"magnitude": _gradual, "lc": _lc},
    "macs": {
        "df": _df,
        "group-magnitude": partial(_structured, FilterPruning, score="group-magnitude"),
        "l1": partial(_structured, FilterPruning, score="l1"),
    },
}


class _Job:
    """A copy of the model, and the data that it is trained and measured on."""

    def __init__(self, model, data, loss, validation, ignored, described, quiet):
        self.image_shape: Any = _image_shape(data)
        held = isinstance(data, Dataset)
        self.steps = math.ceil(len(data.train) / BATCH) if held else len(data)  # of an epoch
        if not any(True for _ in model.parameters()):
            raise ValueError("the model has no parameters to compress")
        self.data, self.loss, self.quiet = data, loss, quiet
        # of all draws, so that a seed of PyTorch's repeats them
        self.seed, self.stage = int(torch.randint(2**31, ())), 1
        self.validation = data if validation is None else validation
        self.described = described
        self.dtypes = {name: value.dtype for name, value in model.state_dict().items()}
        self.model = copy.deepcopy(model).float().requires_grad_(True)
        self.came = copy.deepcopy(model.state_dict())
        self.ignored = ignored
        ignore(self.model, ignored)
        self.weights = sum(w.numel() for w in compressible(self.model).values())
        self.left_alone = _left_alone(self.model)

    def train(self, method: Method, schedule: Schedule, said: str) -> None:
        """Trains in place; ``said`` stands before the progress bar."""
        options = {"loss": self.loss, "seed": self.seed, "stage": self.stage, "quiet": self.quiet}
        try:
            train(self.model, self.data, schedule, method, description=said, **options)
        except Diverged as error:
            raise ValueError(f"{error}, or look at the data") from error
        self.stage += 1
        self.model.requires_grad_(True)

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float | None]:
        """Loss, accuracy, and what the network costs."""
        model = copy.deepcopy(model).eval()
        found: Any = self.validation
        if isinstance(found, Dataset):
            split: Any = found.test
            model = model.float()
        else:
            found = split = Batches(found, model)
        loss, accuracy = evaluate(model, found, split, self.loss)
        weights = compressible(model).values()
        return {
            "loss": loss,
            "accuracy": accuracy,
            "bytes": dense_bytes(model),
            "kept": sum(int(torch.count_nonzero(w)) for w in weights),
            "macs": accounting.macs(model.float(), self.image_shape) if self.image_shape else None,
        }

    @torch.no_grad()
    def round_to_fit(self, size: int) -> bool:
        """Where rounding to 4 bits or more is enough for a file of ``size`` bytes, does just that.

        As many weights as fit get one bit more than the others, so that the file is used up.
        """
        state = self.model.state_dict()

        def size_at(bits: int, more: int = 0) -> int:
            mixed = self.as_before(_mixed(state, bits, more))
            return len(archive.encode(mixed, **self.described))

        bits = fitting(range(ROUNDED, EXACT + 1), size_at, size)
        if bits is None:
            least = least_bytes(self.model, as_written=self.as_before, **self.described)
            if size < least:
                raise ValueError(impossible(size, min(least, size_at(ROUNDED))))
            return False
        values = sum(value.numel() for value in state.values())
        steps = range(0, values + 1, max(1, values // STEPS))
        more = fitting(steps, lambda more: size_at(bits, more), size)
        put(state, _mixed(state, bits, more or 0))
        self.restore_dtypes()
        return True

    @torch.no_grad()
    def fit(self, size: int) -> None:
        """Rounds the compressed network to a file of ``size`` bytes, and fills that up.

        Near the least that is possible, what was trained may have biases that are longer than they
        came: then the network as it came is pruned to fit.
        """
        asked = {"file_bytes": size, **self.described}
        now, came = (
            {name: value.shape for name, value in state.items()}
            for state in (self.model.state_dict(), self.came)
        )
        try:
            FitFile(**asked).start(self.model)
        except ValueError:
            if now != came:  # filters or ranks have left
                raise
            self.model.load_state_dict(self.came)
            FitFile(**asked).start(self.model)
        for significant in REFILLED if now == came else ():
            if len(archive.encode(self.model, **self.described)) >= FILLED * size:
                break
            refill(self.model, self.came, significant=significant, **asked)

    def refuse_more_than(self, kind: str, amount: float, method: str) -> None:
        """A method that was given or added may not keep to the budget."""
        layers = compressible(self.model)
        spent = {
            "bytes": lambda: len(archive.encode(self.model, **self.described)),
            "bits": lambda: accounting.nominal_bits(layers),
            "macs": lambda: accounting.macs(self.model, self.image_shape),
            "share": lambda: sum(int(w.count_nonzero()) for w in layers.values()) / self.weights,
        }[kind]()
        if spent > amount:
            raise ValueError(
                f"{method} left {spent:,} ({kind}), more than the {amount:,} of the budget: make "
                "it compress more"
            )

    def restore_dtypes(self) -> None:
        """The dtypes that the model came with, and zeros without a sign, which a file pays for."""
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(self.dtypes.get(name, tensor.dtype)) + 0

    def result(self, said: str, method: str, before: dict) -> Compressed:
        content = archive.encode(self.model, **self.described)
        after = self.measure(self.model) | {"bytes": len(content)}
        layers = archive.sizes(archive.decode(content))
        model = self.model.eval()
        return Compressed(model, content, said, method, before, after, layers, self.left_alone)

    def as_before(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in the dtypes that the model came with."""
        dtypes = {id(state[name]): dtype for name, dtype in self.dtypes.items()}
        return each(state, lambda value: value.to(dtypes[id(value)]))


def _mixed(state: dict[str, Tensor], bits: int, more: int) -> dict[str, Tensor]:
    """All to so many significant bits, the first ``more`` values to one more."""
    left = more

    def mix(value: Tensor) -> Tensor:
        nonlocal left
        flat = value.reshape(-1)
        taken = min(left, len(flat))
        left -= taken
        parts = round_to(flat[:taken], bits + 1), round_to(flat[taken:], bits)
        return torch.cat(parts).reshape(value.shape)

    return each(state, mix)


def _image_shape(data: Any) -> tuple[int, ...] | None:
    """(channels, height, width) of what the network reads, None where that is no images.

    Raises ``ValueError`` for what are no data.
    """
    if isinstance(data, Dataset):
        return data.shape
    try:
        if len(data) < 1:
            raise ValueError("the data hold no batch")
    except TypeError as error:
        raise ValueError("the data have no length: give a DataLoader or a list") from error
    batch = next(iter(data))
    tensors = isinstance(batch, Sequence) and all(isinstance(part, Tensor) for part in batch)
    if not tensors or len(batch) < 2:
        raise ValueError("a batch of the data must be tensors, (inputs, targets) or with more")
    *inputs, _ = batch
    image = len(inputs) == 1 and inputs[0].dim() == 4 and inputs[0].is_floating_point()
    return tuple(inputs[0].shape[1:]) if image else None


def _names(model: nn.Module, layers: Iterable[str | nn.Module]) -> list[str]:
    """The names of layers that are given by name or as they are."""
    names = {module: name for name, module in model.named_modules()}
    return [
        names.get(layer, str(layer)) if isinstance(layer, nn.Module) else layer for layer in layers
    ]


def _left_alone(model: nn.Module) -> dict[str, str]:
    """Name → why, of parameters with two dimensions or more that no method takes."""
    taken = {weight.data_ptr() for weight in compressible(model).values()}
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and parameter.data_ptr() not in taken:
            owner = model.get_submodule(name.rpartition(".")[0])
            if getattr(owner, "ignored", False):
                found[name] = "ignored, as asked"
            elif isinstance(owner, ParametrizationList):
                found[name] = "a weight is computed from it: remove the parametrization to compress"
            else:
                found[name] = (
                    f"a parameter of {type(owner).__name__}: convolutions, linear layers and "
                    "embeddings are compressed"
                )
    return found
