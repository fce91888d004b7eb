"""Run folders: finished runs are read from them, and written whole or not at all.

A run folder is written under a temporary name and renamed, and ``result.json`` holds the SHA-256
of every other file: it is whole, or it is not read. Weights that are not committed lie beside
the run folders; a run without them is still read, and trained again when its network is needed.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor, nn

from lib import archive, networks, paths
from lib.structured import rebuild
from lib.workbook.experiments import Experiment, specification
from lib.workbook.runs import lookup, packed_weights
from lib.workbook.runs.checkpoints import Checkpoint

WEIGHTS = "weights.safetensors"

#: What a run folder holds, besides result.json and, where they are committed, the weights.
FILES = ("experiment.json", "history.csv", "layers.csv", "correct.npy")

#: The losses of the held-out images, in the folder of a trial; those of older trials lack it.
LOSSES = "losses.npy"

#: Packed weights of more bytes than this are kept apart: run folders are for a repository.
MOST_BYTES = 5_000_000


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
        """A row a layer: shape, kept weights, bits (see :func:`lib.accounting.layer_costs`)."""
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
        return apart if self.result["weights_apart"] else self.folder / WEIGHTS

    def state(self) -> dict[str, Tensor]:
        """The final network's tensors, on the CPU. ``Damaged`` where they are not at hand."""
        if not self.weights.exists():
            raise Damaged(
                f"the weights of {self.id} are not at hand: those of over {MOST_BYTES:,} bytes and "
                f"of controls are not committed; delete {self.folder} to train it again"
            )
        return packed_weights.unpack(self.weights)

    def model(self) -> nn.Module:
        """The final network, on the CPU, in evaluation mode. ``Damaged`` without its weights."""
        state, model = self.state(), self.dense_model()
        rebuild(model, state).load_state_dict(state)
        return model.eval()

    @property
    def computed_in(self) -> str:
        """``float32``, ``bfloat16``, or both where it was resumed on another kind of machine."""
        kinds = [
            kind for one in self.result["trained_by"] for kind in one["computed_in"].split(" and ")
        ]
        return " and ".join(dict.fromkeys(kinds)) or "float32"

    @property
    def architecture(self) -> dict[str, str | int]:
        """``network``, ``classes`` and ``channels``."""
        return {key: self.result[key] for key in ("network", "classes", "channels")}

    def dense_model(self) -> nn.Module:
        """A freshly drawn network, whole, of the kind that was compressed."""
        kind = self.architecture
        return networks.build(kind.pop("network"), **kind)

    def file(self, state: Mapping[str, Tensor]) -> bytes:
        """The archive of the final network, of its :meth:`state`: what ``file_bytes`` counts.

        Its provenance is the first 8 bytes of the SHA-256 of the run's id, a line break and the
        SHA-256 of its weights file in hexadecimal. Raises ``ValueError`` where the archive, read
        back, is not ``state`` bit for bit.
        """
        digest = hashlib.sha256(f"{self.id}\n{self.result['files'][WEIGHTS]}".encode()).digest()
        content = archive.encode(state, **self.architecture, provenance=digest[:8])
        if _packed(archive.decode(content).state) != _packed(state):
            raise ValueError(f"the archive of {self.id} does not hold its weights")
        return content


def read(folder: Path) -> Run:
    """The run in ``folder``. Raises ``Damaged`` where a file is missing or not what was written."""
    try:
        result = json.loads((folder / "result.json").read_text())
        run = Run(folder, result)
        listed = (LOSSES,) if LOSSES in result["files"] else ()
        files = {name: folder / name for name in FILES + listed}
        if not result["weights_apart"] or run.weights.exists():
            files[WEIGHTS] = run.weights
        for name, file in files.items():
            if hashlib.sha256(file.read_bytes()).hexdigest() != result["files"][name]:
                raise Damaged(f"{file} is not the file that was written")
        if result["id"] != folder.name:
            raise Damaged(f"{folder} holds the run {result['id']}")
    except Damaged:
        raise
    except packed_weights.MALFORMED as error:
        raise Damaged(f"{folder} is not whole ({error!r}): delete it to run it again") from error
    return run


def folder_of(experiment: Experiment, seed: int) -> Path:
    """The folder that holds the run, whatever its slug; where none does, the one that would.

    Raises ``ValueError`` that names both where two do.
    """
    folder = paths.runs(experiment.dataset)
    return folder / lookup.kept_as(folder, experiment.id(seed))


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

    One that is there twice is damaged. A stale run is there by another recipe, its own or that of
    one it starts from; all else is the same. Another experiment's run is never taken for it.
    """
    try:
        folder = folder_of(experiment, seed)
        if present(folder):
            read(folder)
            return "done"
        if Checkpoint(experiment.id(seed)).exists():
            return "partial"
    except ValueError:
        return "damaged"
    mine = _without_recipes(specification(experiment))
    for other in folder.parent.glob(f"{experiment.slug}-{'[0-9a-f]' * 8}-s{seed}"):
        with contextlib.suppress(*packed_weights.MALFORMED):
            if _without_recipes(Run(other, {}).experiment) == mine:
                return "stale"
    return "missing"


def _without_recipes(specification: object) -> object:
    """An experiment's fields as JSON has them, and those of its starts, without any recipe."""
    if isinstance(specification, dict):
        kept = {k: v for k, v in specification.items() if k not in ("recipe", "slug")}
        return {key: _without_recipes(value) for key, value in kept.items()}
    if isinstance(specification, (list, tuple)):
        return [_without_recipes(value) for value in specification]
    return specification


def _packed(state: Mapping[str, Tensor]) -> bytes:
    """A state to the bit, but for the sign of a zero, which a file does not keep."""
    return packed_weights.pack({name: tensor + 0 for name, tensor in state.items()})  # −0 + 0 = 0


def digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file, by its name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def install(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes a run folder under a temporary name, then renames it: it is whole or absent."""
    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in contents.items():
        (partial / name).write_bytes(content)
    os.rename(partial, folder)


def as_json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
