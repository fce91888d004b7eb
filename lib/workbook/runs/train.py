"""Runs: missing ones are trained, finished ones are read. Only ``get`` trains."""

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from filelock import FileLock
from torch import nn
from tqdm.auto import tqdm

from lib import data, networks
from lib.data import Dataset
from lib.layers import compressible
from lib.networks import pretrained
from lib.optimizers import METHODS
from lib.projections import svt
from lib.structured import rebuild, shrink_like
from lib.training import arithmetic, distributed, train
from lib.workbook.experiments import Experiment, Stage
from lib.workbook.runs.checkpoints import Checkpoint
from lib.workbook.runs.result import commit, write
from lib.workbook.runs.search import BlackBox, search
from lib.workbook.runs.store import Run, folder_of, present, read

#: Threads of a run on a CPU, unless another number is asked for; part of what makes it repeat.
CPU_THREADS = 1


#: Whose runs are trained before a run.
NEEDS = ("parent", "like", "control")


def get(
    experiment: Experiment,
    seed: int,
    *,
    device: str = "auto",
    threads: int = CPU_THREADS,
    deadline: float = math.inf,
    quiet: bool = False,
    with_weights: bool = False,
    say: Callable[[str], None] | None = None,
) -> Run:
    """The finished run; trained first, its parent and control before it, where it is missing.

    One whose weights were not committed is trained again ``with_weights``; that is how
    a parent is asked for.

    ``device`` is a PyTorch device, or ``auto``: a GPU where there is one; ``threads`` is how many a
    CPU run uses, part of what makes it repeat bit for bit. A run that was interrupted goes on from
    its checkpoint. Two callers that want the same run train it once: the second waits. Of several
    processes that train together (:mod:`lib.training.distributed`) all call, and process 0 writes.

    ``say`` is given one line at the start of each training: what it computes in, on which
    processor. Without it the line is shown above the progress bar, where there is one.

    Raises ``ValueError`` for a device that is not there, ``lib.training.OutOfTime`` at the
    ``deadline`` (of ``time.monotonic()``), ``Damaged``, ``Diverged`` and ``DataUnavailable``.
    """
    if distributed.agree(lambda: _ready(experiment, seed, with_weights)):
        return read(folder_of(experiment, seed))
    where = place(device)
    options = {"device": device, "threads": threads, "deadline": deadline}
    options |= {"seed": seed, "quiet": quiet, "say": say}
    before = {
        kind: get(getattr(experiment, kind), with_weights=kind != "control", **options)
        for kind in NEEDS
        if getattr(experiment, kind)
    }
    checkpoint = Checkpoint(experiment.id(seed))
    checkpoint.file.parent.mkdir(parents=True, exist_ok=True)
    with distributed.held(FileLock(checkpoint.lock)), arithmetic.threads(threads):
        if not distributed.agree(lambda: _ready(experiment, seed, with_weights)):
            _train(experiment, seed, before, checkpoint, where, threads, deadline, quiet, say)
    return read(folder_of(experiment, seed))


def _ready(experiment: Experiment, seed: int, with_weights: bool) -> bool:
    folder = folder_of(experiment, seed)
    return present(folder) and (not with_weights or read(folder).weights.exists())


def _train(experiment, seed, before, checkpoint, device, threads, deadline, quiet, say) -> None:
    """Trains every stage, resuming from the checkpoint, and writes the run folder."""
    with distributed.in_turn():
        dataset = dataset_of(experiment.dataset, experiment.network, experiment.held_out, device)
    torch.manual_seed(seed)
    like = before.get("like")
    model = _start(experiment, dataset, before.get("parent"), like, device)
    saved = checkpoint.load(map_location=device)
    saved = saved or {"stage": 0, "rows": [], "loop": None, "trained_by": []}
    if saved["loop"] and "model" in saved["loop"]:  # a search's has none
        rebuild(model, saved["loop"]["model"])  # stages before may have made it smaller
    rows, trained_by, here = saved["rows"], saved["trained_by"], _here(experiment, device)
    if trained_by[-1:] != [here]:
        trained_by = [*trained_by, here]
    if distributed.rank() == 0 and (say or not quiet):
        line = "{computed_in} on {processor}, {instructions}".format(**here)
        (say or functools.partial(tqdm.write, file=sys.stderr))(f"{experiment.id(seed)}: {line}")
    for number, stage in enumerate(experiment.stages):
        if number < saved["stage"]:
            continue
        if stage.method == "black-box":
            trainer, method = search, BlackBox
        else:
            trainer, method = train, METHODS[stage.method]
        history = trainer(
            model,
            dataset,
            stage.schedule,
            method(**_options(stage, like)),
            seed=seed,
            stage=number,
            resume=saved["loop"] if number == saved["stage"] else None,
            save=functools.partial(_save, checkpoint, number, rows, trained_by),
            deadline=deadline,
            trace=experiment.trace,
            description=experiment.id(seed),
            quiet=quiet or distributed.rank() > 0,
        )
        rows = rows + [{"stage": number} | row for row in history]
    on_gpu = device.type == "cuda"
    trained = {
        "train_seconds": sum(row["seconds"] for row in rows),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "threads": threads if device.type == "cpu" else None,
        "commit": here["commit"],
        "trained_by": trained_by,
    }
    write(experiment, seed, before, model, dataset, rows, **trained)
    if distributed.rank() == 0:
        checkpoint.delete()


def _start(experiment, dataset, parent: Run | None, like: Run | None, device) -> nn.Module:
    """Its parent's network; else one freshly drawn, or with its published weights.

    Without a parent it has the shapes and the zeros of ``like``.
    """
    if experiment.published:
        model = pretrained.load(experiment.network, classes=dataset.classes)
    else:  # drawn where there is a parent, too: what is drawn next depends on it
        shape = {"classes": dataset.classes, "channels": dataset.shape[0]}
        model = networks.build(experiment.network, **shape)
    if parent is not None:
        model = parent.model()
    elif like is not None:
        other = like.model()
        model = shrink_like(model.to(device), other.state_dict(), input_shape=dataset.shape)
        _take_zeros(model, other)
    return model.to(device)


def _options(stage: Stage, like: Run | None) -> dict:
    """The stage's options; where one is ``"like"``, what each layer of that run has."""
    options = dict(stage.options)
    if "like" in options.values():
        if like is None:
            raise ValueError(f"{stage.method!r} asks for another run's rates: say which is like")
        kept, bits = like.layers["kept"], like.layers["bits"]
        # the least share of n weights that are at least so many
        shares = [
            math.nextafter(k / n, 1) for k, n in zip(kept, like.layers["weights"], strict=True)
        ]
        if options.get("scope") == "global":
            shares = math.nextafter(int(kept.sum()) / int(like.layers["weights"].sum()), 1)
        found = {"keep": shares, "bits": bits.tolist()}
        options |= {name: found[name] for name, value in options.items() if value == "like"}
    return options


@torch.no_grad()
def _take_zeros(model: nn.Module, other: nn.Module) -> None:
    kept = compressible(other)
    for name, weight in compressible(model).items():
        weight.mul_((kept[name] != 0).to(weight))


def _save(checkpoint: Checkpoint, stage: int, rows: list, trained_by: list, loop: dict) -> None:
    if distributed.rank() == 0:
        checkpoint.save({"stage": stage, "rows": rows, "trained_by": trained_by, "loop": loop})


def _here(experiment: Experiment, device: torch.device) -> dict[str, object]:
    """What trains from here on: the commit, what it computes in, instructions and processor.

    For DF on a GPU also where matrices of how many rows at most are decomposed.
    """
    asked = dict.fromkeys(stage.schedule.precision for stage in experiment.stages)
    kinds = dict.fromkeys(arithmetic.dtype(precision, device) for precision in asked)
    names = [str(kind).removeprefix("torch.") for kind in kinds]
    decomposes = device.type != "cpu" and any(one.method == "df" for one in experiment.stages)
    return {
        "commit": commit(),
        "computed_in": " and ".join(names) or "float32",
        **arithmetic.machine(device),
        **({"eigenproblems": svt.SOLVED_ON} if decomposes else {}),
    }


def place(name: str) -> torch.device:
    """The device that ``auto``, or a device's name, means here; ``ValueError`` where it is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is unknown: use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for but no GPU is visible: use --device cpu")
    if device.type == "cuda" and distributed.processes() > 1:
        return torch.device("cuda", torch.cuda.current_device())  # each has its own
    return device


@functools.lru_cache(maxsize=2)
def dataset_of(name: str, network: str, held_out: bool, device: torch.device) -> Dataset:
    """The data set as the network reads it, on ``device``.

    ``digits`` are drawn at its size; ImageNet's pixels are normalised as its published weights
    expect them.
    """
    size = networks.INPUT_SHAPES[network][-1] if name == "digits" else None
    found = data.load(name, size=size, held_out=held_out)
    if name in data.imagenet.FORMS and network in pretrained.PUBLISHED:
        mean, std = pretrained.PUBLISHED[network].statistics
        found = replace(found, mean=mean, std=std)
    return found.to(device)
