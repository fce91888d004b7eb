"""What a run folder is written from: the final network, and what was found about it."""

import hashlib
import io
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch

from lib import accounting, atomic, networks, paths
from lib.layers import compressible
from lib.structured import ranks
from lib.training import distributed, evaluate, image_losses, predict
from lib.workbook.experiments import Experiment, specification
from lib.workbook.runs import packed_weights, store
from lib.workbook.runs.store import Run, as_json, folder_of, install, present


@dataclass(kw_only=True)
class Result:
    """The keys of ``result.json``, in its order; ``None`` where one does not apply.

    Accuracies are shares of ``images``, the test images or those that were held out; losses are
    nats an image, of the final network. ``control`` is the id of the fine-tuned dense control.
    Measurements are compared through these keys.
    """

    experiment: str
    id: str
    parent: str | None
    control: str | None
    recipe: int
    network: str
    dataset: str
    classes: int
    channels: int
    method: str
    mode: str | None
    budget: int | None
    budget_in: str | None
    seed: int
    dense_accuracy: float | None
    accuracy: float | None
    held_out_accuracy: float | None
    images: int
    train_loss: float | None  # runs of before it was measured have none
    test_loss: float | None
    control_accuracy: float | None
    kept_fraction: float
    mean_bits: float
    nominal_bits: int
    nominal_rate: float
    entropy_rate: float
    estimated_bytes: int
    parameters: int
    file_bytes: int | None = None  # of the weights as the folder holds them
    macs: int
    dense_macs: int
    epochs: int
    train_seconds: float
    device: str
    threads: int | None
    processes: int  # that trained it together
    versions: dict[str, str]
    commit: str | None
    trained_by: list[dict]  # one after the other, where it was resumed elsewhere
    code_hash: str
    data_fingerprint: str
    finished: str
    files: dict[str, str]
    weights_apart: bool


def write(experiment, seed, before, model, dataset, rows, **trained) -> None:
    """The run folder, whole or not at all. All processes evaluate, process 0 writes.

    ``before`` are the runs that the experiment needs, ``rows`` is the history, and ``trained`` are
    the keys of the result that training knows.
    """
    correct = predict(model, dataset, dataset.test) == dataset.test.labels
    losses = [evaluate(model, dataset, split)[0] for split in (dataset.train, dataset.test)]
    each = image_losses(model, dataset, dataset.test) if experiment.held_out else None
    if distributed.rank():
        return
    accuracy = int(correct.sum()) / len(correct)
    layers = accounting.layer_costs(compressible(model))
    dense = networks.build(experiment.network, classes=dataset.classes, channels=dataset.shape[0])
    measured = {
        "accuracy": None if experiment.held_out else accuracy,
        "held_out_accuracy": accuracy if experiment.held_out else None,
        "images": len(correct),
        "train_loss": losses[0],
        "test_loss": losses[1],
        **accounting.summary(model, layers),
        "macs": accounting.macs(model, dataset.shape),
        "dense_macs": accounting.macs(dense, dataset.shape),
        "classes": dataset.classes,
        "channels": dataset.shape[0],
        "data_fingerprint": dataset.fingerprint,
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
    if each is not None:
        contents[store.LOSSES] = _npy(each.cpu().numpy())
    weights = contents[store.WEIGHTS]
    result = Result(
        **_asked(experiment, seed, before),
        **measured,
        **trained,
        **_here(),
        files=store.digests(contents),
        weights_apart=len(weights) > store.MOST_BYTES or _is_control(experiment),
    )
    there = folder_of(experiment, seed)
    run = Run(there.with_name(result.id), asdict(result))
    # of the weights as they are kept: there a zero has no sign
    run.result["file_bytes"] = len(run.file(packed_weights.parse(weights)))
    if result.weights_apart:
        run.weights.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(run.weights, contents.pop(store.WEIGHTS))
    contents["result.json"] = as_json(run.result).encode()
    older = there.with_name(f".{there.name}.older")
    if present(there):  # trained again for its weights
        os.rename(there, older)
    install(run.folder, contents)
    shutil.rmtree(older, ignore_errors=True)


def _asked(experiment: Experiment, seed: int, before: dict[str, Run]) -> dict:
    """The keys that the experiment, its seed and the runs before it say."""
    parent, control = before.get("parent"), before.get("control")
    same = ("recipe", "network", "dataset", "mode", "budget", "epochs")
    return {
        **{key: getattr(experiment, key) for key in same},
        "experiment": experiment.name,
        "id": experiment.id(seed),
        "seed": seed,
        "method": _method(experiment),
        "budget_in": experiment.budget and experiment.budget_in,
        "parent": parent and parent.id,
        "dense_accuracy": parent and (parent.result["dense_accuracy"] or parent.result["accuracy"]),
        "control": control and control.id,
        "control_accuracy": control and control.result["accuracy"],
    }


def _here() -> dict:
    """The keys that say by what the run was made, and when."""
    return {
        "processes": distributed.processes(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in ("torchvision", "numpy")},
        },
        "code_hash": code_hash(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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
