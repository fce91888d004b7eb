"""ImageNet networks with the weights that the papers started from: ``load(name)``.

The accuracies are those that torchvision and the ADMM paper state; the classes are in ImageNet's
usual order, of the folders' names.
"""

import contextlib
import hashlib
import os
import pickle
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lib import paths
from lib.data import imagenet
from lib.data.pictures import DataUnavailable, one_line
from lib.networks.authors import WITH_BACKGROUND, tensor_names
from lib.networks.catalogue import build


@dataclass(frozen=True)
class Published:
    """A file of weights: where it is and what it must hold; top-1 accuracy in %, as published.

    ``digest`` is the start of its SHA-256, or its object name in git. ``statistics`` are the mean
    and deviation per channel that the weights expect, of pixels scaled to [0, 1].
    """

    url: str
    digest: str
    top_1: float
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = imagenet.STATISTICS

    @property
    def file(self) -> Path:
        """Where the file is kept."""
        return paths.data() / "weights" / self.url.rpartition("/")[2]


_TORCH = "https://download.pytorch.org/models/"
_GITHUB = "https://raw.githubusercontent.com/"

#: torchvision's are its ``IMAGENET1K_V1``; ``DEFAULT`` would be others, trained for longer.
#: MobileNetV1's are Google's in PyTorch, by the ADMM paper's first author, for pixels from −1 to 1;
#: ProxylessNAS's its authors'. GitHub's URLs name a commit, and that commit the file's object.
PUBLISHED = {
    "alexnet": Published(f"{_TORCH}alexnet-owt-7be5be79.pth", "7be5be79", 56.52),
    "resnet18-imagenet": Published(f"{_TORCH}resnet18-f37072fd.pth", "f37072fd", 69.76),
    "resnet50-imagenet": Published(f"{_TORCH}resnet50-0676ba61.pth", "0676ba61", 76.13),
    "mobilenetv2": Published(f"{_TORCH}mobilenet_v2-b0353104.pth", "b0353104", 71.88),
    "mnasnet": Published(f"{_TORCH}mnasnet1.0_top1_73.512-f206786ef8.pth", "f206786ef8", 73.46),
    "mobilenetv1": Published(
        f"{_GITHUB}hyang1990/energy_constrained_compression/"
        "22a8810b0fde6b55afdce308286bd4b63b36ca99/imagenet_pretrained_mbnet.pt",
        "eff42608bc48cef91b5843c9c541b06631a6bf47",
        70.9,
        ((0.5,) * 3, (0.5,) * 3),
    ),
    "proxylessnas-mobile": Published(
        f"{_GITHUB}han-cai/files/a7c9bcd525e17404968bc55aa43772bf7e51909e/proxylessnas/"
        "proxyless_mobile.pth",
        "1d3c5de6f8c075aa17544e6479df613d442fc5ae",
        74.59,
    ),
}

TOP_1 = {name: published.top_1 for name, published in PUBLISHED.items()}

ENDINGS = (".safetensors", ".pth", ".pt", ".pth.tar")

#: What is raised for a file that holds no state dict.
_MALFORMED = (
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError),
    *(AttributeError, LookupError, RuntimeError, TypeError, ValueError, OSError),
)


def load(name: str, *, file: Path | str | None = None, classes: int = 1000) -> nn.Module:
    """The network ``name`` with trained weights, on the CPU, in evaluation mode.

    The weights are downloaded once, into ``weights`` in the data folder, and their hash is checked
    whenever they are read; or they are those in ``file``: a state dict as safetensors or PyTorch's
    (``.pth``, ``.pt``, ``.pth.tar``), on its own or as ``state_dict`` in a checkpoint. A prefix
    ``module.`` is taken off. Layers have this workbook's names, which are torchvision's where the
    network is torchvision's; or, for MobileNetV1 and ProxylessNAS, those of the authors' files.
    Nothing is unpickled but tensors and plain containers, nothing drawn from a random generator.

    Raises ``ValueError`` for a name without weights, and for a ``file`` that is not there, cannot
    be read, tells another number of ``classes`` apart, or has other tensors, of which it names the
    first; ``DataUnavailable`` where the weights cannot be downloaded or are damaged.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no trained weights of {name!r}: choose one of {', '.join(PUBLISHED)}")
    given = Path(downloaded(name) if file is None else file)
    state = _read(given)
    with torch.device("meta"):
        model = build(name, classes=classes)
    state = _renamed(name, model.state_dict(), state, given)
    try:
        model.to_empty(device="cpu").load_state_dict(state)
    except RuntimeError as error:  # in many lines, the first tensors of which are enough
        said = textwrap.shorten(str(error), 300)
        raise ValueError(f"{given} is no {name}: {said}") from error
    return model.eval()


def downloaded(name: str) -> Path:
    """The file of the weights: downloaded where it is missing, whole or not at all, and checked.

    Raises ``KeyError`` for another name, ``DataUnavailable`` where it cannot be had or is damaged.
    """
    found = PUBLISHED[name]
    if found.file.exists():
        if not _is_right(found.file, found.digest):
            raise DataUnavailable(
                f"{found.file} is not the file that {found.url} names (its hash is another): "
                "delete it to download it again"
            )
        return found.file
    partial = found.file.with_name(f".{found.file.name}.{os.getpid()}.partial")
    try:
        found.file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(found.url, str(partial))
        if not _is_right(partial, found.digest):
            raise ValueError("its hash is not the one expected")
        os.replace(partial, found.file)
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise DataUnavailable(
            f"the weights of {name} are not in {found.file} and could not be downloaded "
            f"({one_line(error)}): connect to the internet, or put {found.url} into "
            f"{found.file.parent}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return found.file


def _is_right(file: Path, digest: str) -> bool:
    """Whether ``digest`` is the name of ``file`` in git (40 digits), or its SHA-256 begins so."""
    in_git = len(digest) == 40
    hashed = hashlib.sha1(usedforsecurity=False) if in_git else hashlib.sha256()
    if in_git:
        hashed.update(f"blob {file.stat().st_size}\0".encode())
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            hashed.update(block)
    return hashed.hexdigest().startswith(digest)


def _read(file: Path) -> dict[str, Tensor]:
    """The state dict in ``file``."""
    if not file.name.endswith(ENDINGS):
        raise ValueError(f"{file}: its name must end in one of {', '.join(ENDINGS)}")
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except _MALFORMED as error:
        raise ValueError(f"{file} cannot be read: {one_line(error)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{file} holds no state dict: names and tensors, nothing else")
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


def _renamed(
    name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor], file: Path
) -> dict[str, Tensor]:
    """``state`` with our names, and as many classes as the network of the tensors ``own``."""
    theirs = tensor_names(name)
    pairs = max({key: key for key in own}, theirs, key=lambda form: len(form.keys() & state.keys()))
    # the count of batches is not in old files, and nothing here reads it
    found = {key: torch.tensor(0) for key in own if key.endswith("num_batches_tracked")}
    found |= {pairs.get(key, key): tensor for key, tensor in state.items()}
    last = [key for key in own if key.endswith(".weight")][-1]
    rows, classes = (of.get(last, own[last]).shape[:1] for of in (found, own))
    if pairs is theirs and [*rows] == [WITH_BACKGROUND.get(name)]:
        for key in {last, last.replace("weight", "bias")} & found.keys():
            found[key] = torch.atleast_1d(found[key])[1:]
    elif rows and rows != classes:
        raise ValueError(f"{file} tells {rows[0]:,} classes apart; {classes[0]:,} are asked for")
    return found
