"""Runs: finished ones are folders that are read, missing ones are trained. Only ``get`` trains.

A run folder is written under a temporary name and renamed, and ``result.json`` holds the SHA-256
of every other file: it is whole, or it is not read. Weights that are not committed lie beside
the run folders; a run without them is still read, and trained again when its network is needed.
"""

import functools
import hashlib
import io
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib import archive, arithmetic, atomic, budget, data, distributed, networks, paths, weights
from lib.checkpoints import Checkpoint
from lib.data import Dataset
from lib.experiments import Experiment, Stage, specification
from lib.networks import compressible, pretrained
from lib.optimizers import METHODS
from lib.projections import spectrum
from lib.search import BlackBox, search
from lib.surgery import ranks, rebuild, shrink_like
from lib.training import evaluate, image_losses, predict, train

WEIGHTS = "weights.safetensors"

#: What a run folder holds, besides result.json and, where they are committed, the weights.
FILES = ("experiment.json", "history.csv", "layers.csv", "correct.npy")

#: The losses of the held-out images, in the folder of a trial; those of older trials lack it.
LOSSES = "losses.npy"

#: Packed weights of more bytes than this are kept apart: run folders are for a repository.
MOST_BYTES = 5_000_000

#: Threads of a run on a CPU, unless another number is asked for; part of what makes it repeat.
CPU_THREADS = 1


#: Stands for what a checkpoint does not hold that was written before it was kept.
NOT_RECORDED = "not recorded"

#: What reading a torn or forged result.json raises.
BROKEN = (OSError, LookupError, TypeError, AttributeError, UnicodeError, json.JSONDecodeError)


class Damaged(ValueError):
    """A run folder is there but is not whole."""


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder."""

    folder: Path
    result: dict

    @property
    def id(self) -> str:
        return self.result["id"]

    @property
    def experiment(self) -> dict:
        """The experiment's fields that differ from their defaults."""
        return json.loads((self.folder / "experiment.json").read_text())

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch: losses, accuracies, and what the method recorded."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def layers(self) -> pd.DataFrame:
        """A row a layer: shape, kept weights, bits (see :func:`lib.budget.layer_costs`)."""
        return pd.read_csv(self.folder / "layers.csv")

    @property
    def correct(self) -> np.ndarray:
        """Which of the evaluated images the final network gets right, (images,) bool."""
        packed = np.load(self.folder / "correct.npy", allow_pickle=False)
        return np.unpackbits(packed, count=self.result["images"]).astype(bool)

    @property
    def losses(self) -> np.ndarray:
        """The cross-entropy of each held-out image, (images,) float32, of a trial.

        Raises ``Damaged`` for a run that is no trial, or one from before they were kept.
        """
        if LOSSES not in self.result["files"]:
            raise Damaged(f"{self.folder} holds no losses of held-out images")
        return np.load(self.folder / LOSSES, allow_pickle=False)

    @property
    def weights(self) -> Path:
        """The file of the final weights; those that are not committed may be missing."""
        apart = self.folder.parent.parent / "weights" / f"{self.id}.safetensors"
        return apart if self.result.get("weights_apart") else self.folder / WEIGHTS

    def state(self) -> dict[str, Tensor]:
        """The final network's tensors, on the CPU. ``Damaged`` where they are not at hand."""
        if not self.weights.exists():
            raise Damaged(
                f"the weights of {self.id} are not at hand: those of over {MOST_BYTES:,} bytes and "
                f"of controls are not committed; delete {self.folder} to train it again"
            )
        return weights.unpack(self.weights)

    def model(self) -> nn.Module:
        """The final network, on the CPU, in evaluation mode. ``Damaged`` without its weights."""
        state, model = self.state(), self.dense_model()
        rebuild(model, state).load_state_dict(state)
        return model.eval()

    @property
    def computed_in(self) -> str:
        """``float32``, ``bfloat16``, or both where it was resumed on another kind of machine.

        A run older than this record computed in what its schedules ask for.
        """
        if "trained_by" in self.result:
            trained = [one["computed_in"] for one in self.result["trained_by"]]
            kinds = [kind for one in trained for kind in one.split(" and ")]
        else:
            stages = self.experiment["stages"]
            kinds = [stage["schedule"].get("precision", "float32") for stage in stages]
        return " and ".join(dict.fromkeys(kinds)) or "float32"

    @property
    def architecture(self) -> dict[str, str | int]:
        """``network``, ``classes`` and ``channels``."""
        network = self.result["network"]
        # runs older than these two keys are all of lenet5, with its usual ten classes
        channels = self.result.get("channels", networks.INPUT_SHAPES[network][0])
        classes = self.result.get("classes", 10)
        return {"network": network, "classes": classes, "channels": channels}

    def dense_model(self) -> nn.Module:
        """A freshly drawn network, whole, of the kind that was compressed."""
        kind = dict(self.architecture)
        return networks.build(kind.pop("network"), **kind)

    def file(self, state: Mapping[str, Tensor]) -> bytes:
        """The archive of the final network, of its :meth:`state`: what ``file_bytes`` counts.

        Its provenance is the first 8 bytes of the SHA-256 of the run's id, a line break and the
        SHA-256 of its weights file in hexadecimal. Raises ``ValueError`` where the archive, read
        back, is not ``state`` bit for bit.
        """
        digest = hashlib.sha256(f"{self.id}\n{self.result['files'][WEIGHTS]}".encode()).digest()
        content = archive.encode(state, **self.architecture, provenance=digest[:8])
        if not _same_bits(archive.decode(content).state, state):
            raise ValueError(f"the archive of {self.id} does not hold its weights")
        return content


def read(folder: Path) -> Run:
    """The run in ``folder``. Raises ``Damaged`` where a file is missing or not what was written."""
    try:
        result = json.loads((folder / "result.json").read_text())
        run = Run(folder, result)
        listed = (LOSSES,) if LOSSES in result["files"] else ()
        files = {name: folder / name for name in FILES + listed}
        if not result.get("weights_apart") or run.weights.exists():
            files[WEIGHTS] = run.weights
        for name, file in files.items():
            if hashlib.sha256(file.read_bytes()).hexdigest() != result["files"][name]:
                raise Damaged(f"{file} is not the file that was written")
        if result["id"] != folder.name:
            raise Damaged(f"{folder} holds the run {result['id']}")
    except BROKEN as error:
        raise Damaged(f"{folder} is not whole ({error!r}): delete it to run it again") from error
    return run


def folder_of(experiment: Experiment, seed: int) -> Path:
    return paths.runs(experiment.dataset) / experiment.id(seed)


def present(folder: Path) -> bool:
    """Whether there is anything in ``folder``: an empty one is no run, not even a damaged one."""
    return folder.is_dir() and any(folder.iterdir())


def finished(dataset: str) -> list[Run]:
    """Every run of a data set that is there, by id, whether the catalogue knows it or not."""
    folders = sorted(folder for folder in paths.runs(dataset).glob("[!.]*") if present(folder))
    found = [read(folder) for folder in folders]
    return [run for run in found if run.result["dataset"] == dataset]


def status(experiment: Experiment, seed: int) -> str:
    """``done``, ``damaged``, ``partial`` (a checkpoint is there), ``stale`` or ``missing``.

    A stale run is there by another recipe, its own or that of one it starts from; all else is the
    same. Another experiment's run is never taken for it, whatever its slug.
    """
    folder = folder_of(experiment, seed)
    if present(folder):
        try:
            read(folder)
        except Damaged:
            return "damaged"
        return "done"
    if Checkpoint(experiment.id(seed)).exists():
        return "partial"
    others = folder.parent.glob(f"{experiment.slug}-{'[0-9a-f]' * 8}-s{seed}")
    mine = _without_recipes(specification(experiment))
    same = (_without_recipes(_specification_in(other)) == mine for other in others)
    return "stale" if any(same) else "missing"


def _specification_in(folder: Path) -> object:
    """What a run folder says its experiment was; ``None`` where it says nothing."""
    try:
        return json.loads((folder / "experiment.json").read_text())
    except BROKEN:
        return None


def _without_recipes(specification: object) -> object:
    """An experiment's fields as JSON has them, and those of its starts, without any recipe."""
    if isinstance(specification, dict):
        kept = {k: v for k, v in specification.items() if k not in ("recipe", "slug")}
        return {key: _without_recipes(value) for key, value in kept.items()}
    if isinstance(specification, (list, tuple)):
        return [_without_recipes(value) for value in specification]
    return specification


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
    processes that train together (:mod:`lib.distributed`) all call, and process 0 writes.

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
        **({"eigenproblems": spectrum.SOLVED_ON} if decomposes else {}),
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
    layers = budget.layer_costs(compressible(model))
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
        **budget.summary(model, layers),
        "file_bytes": None,  # below, once there are weights to write
        "macs": budget.macs(model, dataset.shape),
        "dense_macs": budget.macs(dense, dataset.shape),
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
        "experiment.json": _json(specification(experiment)).encode(),
        # without training an empty table, which has columns all the same
        "history.csv": pd.DataFrame(rows or {"epoch": []}).to_csv(index=False).encode(),
        "layers.csv": layers.to_csv(index=False).encode(),
        "correct.npy": _npy(np.packbits(correct.cpu().numpy())),
        WEIGHTS: weights.pack(model.state_dict()),
    }
    if experiment.held_out:
        contents[LOSSES] = _npy(each.cpu().numpy())
    result["files"] = {k: hashlib.sha256(v).hexdigest() for k, v in contents.items()}
    result["weights_apart"] = len(contents[WEIGHTS]) > MOST_BYTES or _is_control(experiment)
    run = Run(folder_of(experiment, seed), result)
    # of the weights as they are kept: there a zero has no sign
    result["file_bytes"] = len(run.file(weights.parse(contents[WEIGHTS])))
    if result["weights_apart"]:
        run.weights.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(run.weights, contents.pop(WEIGHTS))
    contents["result.json"] = _json(result).encode()
    older = run.folder.with_name(f".{run.id}.older")
    if present(run.folder):  # trained again for its weights
        os.rename(run.folder, older)
    install(run.folder, contents)
    shutil.rmtree(older, ignore_errors=True)


def _same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same names in the same order, and tensors alike to the bit.

    But for the sign of a zero, which a file does not keep.
    """

    def bits(tensor: Tensor) -> tuple:
        whole = tensor.detach().cpu().reshape(-1) + 0  # −0 + 0 = 0
        return tensor.dtype, tensor.shape, whole.view(torch.uint8).numpy().tobytes()

    return [*one] == [*other] and all(bits(one[name]) == bits(other[name]) for name in one)


def fill_file_bytes(run: Run) -> int:
    """Measures ``file_bytes`` of a finished run and writes it into its result.json, alone.

    For runs older than the archive, or than its format. Raises ``Damaged`` where the weights are
    not at hand, and as :meth:`Run.file`.
    """
    size = len(run.file(run.state()))
    if size != run.result["file_bytes"]:
        result = run.result | {"file_bytes": size}
        atomic.write(run.folder / "result.json", _json(result).encode())
    return size


def _is_control(experiment: Experiment) -> bool:
    """Whether it is a dense network that no row starts from: their weights would be most bytes.

    ResNet-20's on CIFAR-10 are small, and kept, so that a control can be verified too.
    """
    if (experiment.network, experiment.dataset) == ("resnet20", "cifar10"):
        return False
    plain = all(stage.method == "sgd" for stage in experiment.stages)
    return plain and (experiment.parent is not None or experiment.held_out)


def install(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes a run folder under a temporary name, then renames it: it is whole or absent."""
    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in contents.items():
        (partial / name).write_bytes(content)
    os.rename(partial, folder)


def code_hash() -> str:
    """SHA-256 over the sources of ``lib``, in the order of their paths."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
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


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
