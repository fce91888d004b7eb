"""Runs: missing ones are trained, finished ones are read. Only ``get`` trains."""

import functools
import hashlib
import io
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import nn
from tqdm.auto import tqdm

from lib import accounting, atomic, data, networks, paths
from lib.data import Dataset
from lib.layers import compressible
from lib.networks import pretrained
from lib.optimizers import METHODS
from lib.projections import svt
from lib.structured import ranks, rebuild, shrink_like
from lib.training import arithmetic, distributed, evaluate, image_losses, predict, train
from lib.workbook.experiments import Experiment, Stage, specification
from lib.workbook.runs import packed_weights, store
from lib.workbook.runs.checkpoints import Checkpoint
from lib.workbook.runs.search import BlackBox, search
from lib.workbook.runs.store import Run, as_json, folder_of, install, present, read

#: Threads of a run on a CPU, unless another number is asked for; part of what makes it repeat.
CPU_THREADS = 1

#: Stands for what a checkpoint does not hold that was written before it was kept.
NOT_RECORDED = "not recorded"


def needs(experiment: Experiment) -> list[Experiment]:
    """What is trained before: the parent, what is taken over, and the parent trained on as long."""
    others = (experiment.parent, experiment.like, experiment.control)
    return [other for other in others if other is not None]


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
    folder = folder_of(experiment, seed)
    if distributed.agree(lambda: _ready(folder, with_weights)):
        return read(folder)
    where = place(device)
    options = {
        "device": device,
        "threads": threads,
        "deadline": deadline,
        "quiet": quiet,
        "say": say,
    }
    before = {
        other.name: get(other, seed, with_weights=other != experiment.control, **options)
        for other in needs(experiment)
    }
    checkpoint = Checkpoint(experiment.id(seed))
    checkpoint.file.parent.mkdir(parents=True, exist_ok=True)
    with distributed.held(FileLock(checkpoint.lock)), _threads(threads):
        if not distributed.agree(lambda: _ready(folder, with_weights)):
            _train(experiment, seed, before, checkpoint, where, threads, deadline, quiet, say)
    return read(folder)


def _ready(folder: Path, with_weights: bool) -> bool:
    return present(folder) and (not with_weights or read(folder).weights.exists())


def _train(experiment, seed, before, checkpoint, device, threads, deadline, quiet, say) -> None:
    """Trains every stage, resuming from the checkpoint, and writes the run folder."""
    with distributed.in_turn():
        dataset = dataset_of(experiment.dataset, experiment.network, experiment.held_out, device)
    torch.manual_seed(seed)
    model = _network(experiment, dataset).to(device)
    parent = before.get(experiment.parent.name) if experiment.parent else None
    if parent is not None:
        model = parent.model().to(device)
    like = before.get(experiment.like.name) if experiment.like else None
    if like is not None and parent is None:
        other = like.model().state_dict()
        model = shrink_like(model, other, input_shape=dataset.shape)
        _take_zeros(model, like)

    saved = checkpoint.load(map_location=device) or {"stage": 0, "rows": [], "loop": None}
    if saved["loop"] and "model" in saved["loop"]:  # a search's has none
        rebuild(model, saved["loop"]["model"])  # stages before may have made it smaller
    rows = saved["rows"]
    here = _here(experiment, device)
    trained_by = _and_then(_trained_by(experiment, saved), here)
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
    _write(experiment, seed, before, model, dataset, rows, device, threads, trained_by)
    if distributed.rank() == 0:
        checkpoint.delete()


def _network(experiment: Experiment, dataset: Dataset) -> nn.Module:
    """Freshly drawn, or with its published weights; not yet its parent's."""
    if experiment.published:
        return pretrained.load(experiment.network, classes=dataset.classes)
    return networks.build(experiment.network, classes=dataset.classes, channels=dataset.shape[0])


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
def _take_zeros(model: nn.Module, like: Run) -> None:
    other = compressible(like.model())
    for name, weight in compressible(model).items():
        weight.mul_((other[name] != 0).to(weight))


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


def _trained_by(experiment: Experiment, saved: dict) -> list[dict]:
    """What has trained so far, by a checkpoint's own account.

    One written before this was kept says nothing of the machine or the commit; what it computed in
    is known, since the code of then computed in what the schedule asked for, on every device.
    """
    if "trained_by" in saved:
        return saved["trained_by"]
    if saved["loop"] is None:
        return []
    asked = " and ".join(dict.fromkeys(stage.schedule.precision for stage in experiment.stages))
    keys = ("commit", "processor", "instructions")
    return [{"computed_in": asked, **dict.fromkeys(keys, NOT_RECORDED)}]


def _and_then(before: list[dict], here: dict) -> list[dict]:
    return before if before[-1:] == [here] else [*before, here]


def _write(experiment, seed, before, model, dataset, rows, device, threads, trained_by) -> None:
    """The run folder, whole or not at all. All processes evaluate, process 0 writes."""
    control = before.get(experiment.control.name) if experiment.control else None
    parent = before.get(experiment.parent.name) if experiment.parent else None
    correct = predict(model, dataset, dataset.test) == dataset.test.labels
    accuracy = int(correct.sum()) / len(correct)
    losses = [evaluate(model, dataset, split)[0] for split in (dataset.train, dataset.test)]
    each = image_losses(model, dataset, dataset.test) if experiment.held_out else None
    if distributed.rank():
        return
    layers = accounting.layer_costs(compressible(model))
    dense = networks.build(experiment.network, classes=dataset.classes, channels=dataset.shape[0])
    result = {
        "experiment": experiment.name,
        "id": experiment.id(seed),
        "parent": parent and parent.id,
        "control": control and control.id,
        "recipe": experiment.recipe,
        "network": experiment.network,
        "dataset": experiment.dataset,
        "classes": dataset.classes,
        "channels": dataset.shape[0],
        "method": _method(experiment),
        "mode": experiment.mode,
        "budget": experiment.budget,
        "budget_in": experiment.budget and experiment.budget_in,
        "seed": seed,
        "dense_accuracy": parent and (parent.result["dense_accuracy"] or parent.result["accuracy"]),
        "accuracy": None if experiment.held_out else accuracy,
        "held_out_accuracy": accuracy if experiment.held_out else None,
        "images": len(correct),
        # nats an image, of the final network; on held-out images of a held-out run
        "train_loss": losses[0],
        "test_loss": losses[1],
        "control_accuracy": control and control.result["accuracy"],
        **accounting.summary(model, layers),
        "file_bytes": None,  # below, once there are weights to write
        "macs": accounting.macs(model, dataset.shape),
        "dense_macs": accounting.macs(dense, dataset.shape),
        "epochs": experiment.epochs,
        "train_seconds": sum(row["seconds"] for row in rows),
        "device": _device_name(device),
        "threads": threads if device.type == "cpu" else None,
        "processes": distributed.processes(),  # that trained it together
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "numpy": np.__version__,
        },
        "commit": commit(),
        "trained_by": trained_by,  # one after the other, where the run was resumed elsewhere
        "code_hash": code_hash(),
        "data_fingerprint": dataset.fingerprint,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    found = ranks(dense, model.state_dict())
    # the two factors of a layer are its name and ".0" and ".1"
    layers["rank"] = layers["name"].map(lambda name: found.get(name.rpartition(".")[0]))
    contents = {
        "experiment.json": as_json(specification(experiment)).encode(),
        # without training an empty table, which has columns all the same
        "history.csv": pd.DataFrame(rows or {"epoch": []}).to_csv(index=False).encode(),
        "layers.csv": layers.to_csv(index=False).encode(),
        "correct.npy": _npy(np.packbits(correct.cpu().numpy())),
        store.WEIGHTS: packed_weights.pack(model.state_dict()),
    }
    if experiment.held_out:
        contents[store.LOSSES] = _npy(each.cpu().numpy())
    result["files"] = {k: hashlib.sha256(v).hexdigest() for k, v in contents.items()}
    result["weights_apart"] = len(contents[store.WEIGHTS]) > store.MOST_BYTES or _is_control(
        experiment
    )
    run = Run(folder_of(experiment, seed), result)
    # of the weights as they are kept: there a zero has no sign
    result["file_bytes"] = len(run.file(packed_weights.parse(contents[store.WEIGHTS])))
    if result["weights_apart"]:
        run.weights.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(run.weights, contents.pop(store.WEIGHTS))
    contents["result.json"] = as_json(result).encode()
    older = run.folder.with_name(f".{run.id}.older")
    if present(run.folder):  # trained again for its weights
        os.rename(run.folder, older)
    install(run.folder, contents)
    shutil.rmtree(older, ignore_errors=True)


def _is_control(experiment: Experiment) -> bool:
    """Whether it is a dense network that no row starts from: their weights would be most bytes.

    ResNet-20's on CIFAR-10 are small, and kept, so that a control can be verified too.
    """
    if (experiment.network, experiment.dataset) == ("resnet20", "cifar10"):
        return False
    plain = all(stage.method == "sgd" for stage in experiment.stages)
    return plain and (experiment.parent is not None or experiment.held_out)


def code_hash() -> str:
    """SHA-256 over the sources of ``lib``, in the order of their paths."""
    digest = hashlib.sha256()
    root = paths.ROOT / "lib"
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


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


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@functools.lru_cache(maxsize=2)
def dataset_of(name: str, network: str, held_out: bool, device: torch.device) -> Dataset:
    """The data set as the network reads it, on ``device``.

    ``digits`` are drawn at its size; ImageNet's pixels are normalised as its published weights
    expect them.
    """
    size = networks.INPUT_SHAPES[network][-1] if name == "digits" else None
    found = data.load(name, size=size, held_out=held_out)
    if name in data.imagenet.FORMS and network in pretrained.STATISTICS:
        mean, std = pretrained.STATISTICS[network]
        found = replace(found, mean=mean, std=std)
    return found.to(device)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _method(experiment: Experiment) -> str:
    """``dense`` for plain training or none, else what compressed the network."""
    method = experiment.stages[0].method if experiment.stages else "sgd"
    if method == "tune-codebooks":
        return _method(experiment.parent)
    return "dense" if method == "sgd" else method


def commit() -> str | None:
    """The commit that is checked out, where there is a git repository."""
    try:
        asked = ["git", "-C", str(paths.ROOT), "rev-parse", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
