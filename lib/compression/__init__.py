"""Compress a network of your own: model, data and a budget in, a smaller network out.

    smaller = lib.compress(model, loader, "100 kB", validation=held_out)
    print(smaller)
    smaller.write("smaller.cnet")

The methods are the workbook's; this is the way to them for a network and data that it does not
know. What it does is a short run: for a result to publish, use an experiment of the catalogue.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn

from lib.compression.budgets import parse
from lib.compression.checkpoint import Checkpoint, fingerprint
from lib.compression.criterion import Criterion
from lib.compression.job import Job, Training
from lib.compression.result import Compressed, curve
from lib.compression.working import unwrapped
from lib.data import Dataset
from lib.layers import compressible
from lib.projections import checks
from lib.training.method import Method

__all__ = ["Compressed", "compress", "curve", "parse"]


class Options(TypedDict, total=False):
    """The options of :func:`compress`."""

    method: str | Method | None
    ignored: Iterable[str | nn.Module]
    loss: Callable[[Any, Any], Tensor] | None
    correct: Callable[[Any, Any], Any] | None
    validation: Iterable | None
    epochs: int
    lr: float
    weight_decay: float
    seed: int | None
    checkpoint: str | Path | None
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
    loss: Callable[[Any, Any], Tensor] | None = None,
    correct: Callable[[Any, Any], Any] | None = None,
    validation: Iterable | None = None,
    epochs: int = 30,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    described: dict[str, object] | None = None,
    quiet: bool = False,
) -> Compressed | list[Compressed]:
    """A smaller network within ``budget``, compressed and trained on; ``model`` stays as it is.

    Parameters
    ----------
    model : Module
        Trained already, on the device to compute on. ``DataParallel`` and ``torch.compile`` are
        taken off. What is frozen (``requires_grad``) is neither trained nor compressed, and
        BatchNorm that stays in evaluation keeps its statistics; a network of which all is frozen
        is trained and compressed, and comes back frozen.
    data : iterable of batches, or Dataset
        Training data with a length, a DataLoader say, of ``(inputs, …, targets)`` with which the
        model is called, or of mappings of its arguments with ``labels`` among them. An epoch is a
        pass to its end, or to its length where it does not end. Or a data set of :mod:`lib.data`,
        in batches of 64, whose test split is then measured on.
    budget : str, float, or a list of them
        ``"100 kB"`` (a file's size; B, kB, MB, GB, KiB, MiB, GiB), ``"30x"`` (the file
        against all values as float32), ``"80000 bits"`` (of nonzero weights, the papers' count),
        ``"20 MMACs"`` (an input's multiply-accumulates; MACs, kMACs, MMACs, GMACs), ``"5 %"`` or
        0.05 (a share of the weights). A list makes a curve, each from the same start.
    method : str or Method, optional
        ``"admm"`` for bytes and bits, ``"magnitude"`` (the usual, gradual) or ``"lc"`` for a
        share, ``"df"`` (the usual), ``"group-magnitude"`` or ``"l1"`` for MACs; one that was added
        to ``lib.optimizers.METHODS`` and says what it ``takes``; or an object, such as
        ``LC({"fc1": L0(0.05)})``, a copy of which compresses as it was made.
    ignored : iterable of str or Module
        Layers that are not compressed. A budget counts the others: a share or bits; of MACs all
        layers count, and none can be ignored.
    loss : callable, optional
        Of the outputs and the targets, a scalar: a mean over the batch, or a sum, which is then
        divided by its items. Without it the loss that the outputs carry (``.loss``), else the
        cross-entropy of the outputs or their ``.logits``.
    correct : callable, optional
        Of the outputs and the targets, whether each is right, or how many are: the accuracy that
        is shown. Without it that of classes, where the loss is a cross-entropy; none elsewhere.
    validation : iterable of batches, optional
        What ``before`` and ``after`` are measured on; without it the training data, which the
        table says.
    epochs, lr, weight_decay : int, float, float
        SGD with momentum 0.9, a cosine and a limit of 1 on the gradient's norm. Two thirds of the
        epochs compress, at rates from ``lr`` down; one third trains on what is left, from ``lr``/10
        down. A method that chooses at once (``group-magnitude``, ``l1``) cuts first: all epochs
        train what is left, from ``lr`` down.
    seed : int, optional
        Of all draws. Without it, drawn from PyTorch's generator, which is left as it was but for
        that draw.
    checkpoint : path, optional
        A file that is written after every epoch (of a list of budgets, one for each, with its
        place added to the name). The same call goes on from it, on a CPU to the same weights bit
        for bit; it stays there when the call is done.
    described : dict, optional
        ``network``, ``classes`` and ``channels`` of :func:`lib.archive.write`, where the
        network is one of the workbook's.
    quiet : bool
        No progress bars.

    Returns
    -------
    Compressed, or a list of them
        Checked against its budget by counting anew from the file. Of a list those budgets are
        there that were met: where one fails in training a warning says so, and the others stay.

    Raises
    ------
    ValueError
        In one line, before the first epoch wherever it can be known: all that comes after
        training is rehearsed on one batch. For a budget that is not one or cannot be met (it says
        the least), a method that is not for it, data without a length or batches, a model that
        fails on them; and in training for a loss that becomes NaN.

    Notes
    -----
    A budget of bytes is met to the byte from below, and used to 97 % at least where the network
    has weights to spend it on (to 93 % where weights of 16 bits are rounded alone). Where rounding
    alone (:mod:`lib.optimizers.rounding`) moves the outputs by less than 0.1 % of their variance,
    nothing is trained; up to 5 % what was rounded and what was trained are compared by their loss
    on the training data. BatchNorm's statistics are measured anew. Weights of float16, bfloat16 or
    float64 are trained in float32 and rounded back.

    Convolutions, transposed convolutions, linear layers and embeddings are compressed; what else
    has two dimensions or more is left alone, and ``left_alone`` says so. Of a budget of bytes it
    is rounded with the rest of the file.

    Ctrl-C ends training, not the call: what there is by then is compressed to the budget and
    returned, and ``notes`` say so. Of a list, with those that were done before.
    """
    several = isinstance(budget, Sequence) and not isinstance(budget, str)
    budgets: list[Any] = list(budget) if several else [budget]  # type: ignore[arg-type]
    if not budgets:
        raise ValueError("the list of budgets is empty: give one at least")
    model = unwrapped(model)
    asked = [(one, *parse(one, model)) for one in budgets]  # a wrong one is refused first
    checks.within("epochs", epochs, 2, remedy="some compress, some train on")
    checks.within("lr", lr, 0, above=True)
    checks.within("weight_decay", weight_decay, 0)
    given = [n for n in dict.fromkeys(_names(model, ignored))]
    if given and any(kind == "macs" for _, kind, _ in asked):
        raise ValueError("of a budget of MACs no layer can be ignored: leave ignored= out")
    seeds = seed if seed is not None else int(torch.randint(2**31, ()))
    criterion = Criterion(loss, correct)
    options: Any = {"validation": validation, "ignored": given, "described": described or {}}
    with torch.random.fork_rng(_devices(model)):
        torch.manual_seed(seeds)
        job = Job(model, data, criterion=criterion, quiet=quiet, **options)
        job.look()
        training = Training(epochs, lr, weight_decay, seeds)
        for _, kind, amount in asked:
            job.check_possible(kind, amount, method)
        places = _checkpoints(checkpoint, job, asked, training, method, drawn=seed is None)
        begun = [state["seed"] for place in places if place and (state := place.load())]
        training = replace(training, seed=begun[0]) if begun else training
        for _, kind, amount in asked[: None if asked[0][1] == "macs" else 1]:
            job.rehearse(kind, amount, method, training)
        before = job.measure(model)
        if before["loss"] is None:
            raise ValueError("the data that are measured on hold no label: give some that do")
        return _each(job, asked, method, training, places, before, several)


def _each(job, asked, method, training, places, before, several) -> Any:
    """Every budget in turn; those that are done stay."""
    found: list[Compressed] = []
    failed: list[ValueError] = []
    for (budget, kind, amount), place in zip(asked, places, strict=True):
        try:
            one = job.carry_out(str(budget), kind, amount, method, training, place, before)
        except ValueError as error:
            if not several:
                raise
            failed.append(error)
            warnings.warn(f"the budget {budget} failed: {error}", stacklevel=3)
            continue
        except KeyboardInterrupt:
            if not found:
                raise
            break
        found.append(one)
        if one.interrupted:
            break
    if failed and not found:
        raise failed[0]
    return found if several else found[0]


def _checkpoints(path, job, asked, training, method, *, drawn) -> list[Checkpoint | None]:
    """The checkpoint of each budget."""
    if path is None:
        return [None] * len(asked)
    path = Path(path)
    found: list[Checkpoint | None] = []
    for place, (budget, *_) in enumerate(asked):
        call = fingerprint(
            job.came,
            budget=str(budget),
            method=method,
            seed=None if drawn else training.seed,
            training=(training.epochs, training.lr, training.weight_decay),
            steps=job.steps,
            ignored=sorted(set(compressible(job.came)) - set(compressible(job.working.model))),
            described=job.described,
        )
        own = path if len(asked) == 1 else path.with_name(f"{path.name}.{place + 1}")
        found.append(Checkpoint(own, call))
    return found


def _names(model: nn.Module, layers: Iterable[str | nn.Module]) -> list[str]:
    """The names of layers that are given by name or as they are."""
    names = {module: name for name, module in model.named_modules()}
    return [
        names.get(layer, str(layer)) if isinstance(layer, nn.Module) else layer for layer in layers
    ]


def _devices(model: nn.Module) -> list[int]:
    """The GPU that the model is on, if it is on one."""
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda" and torch.cuda.is_initialized()
    return [device.index or 0] if on_gpu else []
