"""Data sets, held whole as uint8 so that they fit on the device.

``digits`` is scikit-learn's 1,797 real 8×8 digits drawn up to 28×28: it is embedded, small, and
*not* MNIST. ``mnist`` is read through torchvision, which downloads it when it is missing.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib import paths

NAMES = ("digits", "mnist")

#: What is held out of the training split while knobs are tuned.
HELD_OUT = {"digits": 287, "mnist": 5_000}

#: What fingerprint() makes of MNIST.
MNIST_SHA256 = "1e35582d42a90940c55b956deb61875c020b567ed20e3c5b174f52bf7809ed9b"


class DataUnavailable(Exception):
    """A data set that was asked for is missing or damaged; the message says what to do."""


@dataclass(frozen=True)
class Split:
    """Images and their classes: uint8 (n, channels, height, width) and int64 (n,)."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set: what to train on, what to evaluate on, and how pixels are normalised.

    ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1].
    """

    name: str
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    fingerprint: str

    def to(self, device: torch.device) -> "Dataset":
        return Dataset(
            self.name,
            self.train.to(device),
            self.test.to(device),
            self.mean,
            self.std,
            self.classes,
            self.fingerprint,
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images → float32, (x/255 − mean)/std, on their device, channels last.

        Convolutions take their layout from their input. Channels last, LeNet-5's training step
        at batch 256 took 57 ms instead of 90 (float32, one thread, AVX-512).
        """
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        pixels = (images.float() / 255 - mean) / std
        return pixels.to(memory_format=torch.channels_last)


def load(name: str, *, held_out: bool = False) -> Dataset:
    """The data set ``name`` on the CPU.

    With ``held_out`` the test split is not there at all: a fixed stratified part of the training
    split (``HELD_OUT`` images) takes its place, so that knobs are tuned without test accuracy.

    Raises ``ValueError`` for an unknown name, ``DataUnavailable`` when the data set is missing
    and cannot be downloaded, or is damaged.
    """
    readers = {"digits": _digits, "mnist": _mnist}
    if name not in readers:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
    train, test, mean, std = readers[name]()
    mark = fingerprint(train, test)
    if name == "mnist" and mark != MNIST_SHA256:
        raise DataUnavailable(
            f"the files in {paths.data() / 'MNIST' / 'raw'} are not MNIST's (SHA-256 of the pixels "
            f"{mark[:12]}…, expected {MNIST_SHA256[:12]}…): delete the folder to download it again"
        )
    if held_out:
        train, test = _hold_out(train, HELD_OUT[name])
    return Dataset(name, train, test, mean, std, classes=10, fingerprint=mark)


def fingerprint(train: Split, test: Split) -> str:
    """SHA-256 of the decoded pixels and labels, training split then test split."""
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.images.numpy())
        digest.update(split.labels.numpy())
    return digest.hexdigest()


def _hold_out(split: Split, count: int) -> tuple[Split, Split]:
    from sklearn.model_selection import train_test_split

    keep, hold = train_test_split(
        np.arange(len(split)), test_size=count, stratify=split.labels.numpy(), random_state=0
    )
    return tuple(Split(split.images[index], split.labels[index]) for index in (keep, hold))


def _digits() -> tuple[Split, Split, tuple, tuple]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).float()[:, None] / 16  # (1797, 1, 8, 8)
    drawn = torch.nn.functional.interpolate(pixels, size=28, mode="bilinear", align_corners=False)
    images = (drawn * 255).round().to(torch.uint8)
    whole = Split(images, torch.from_numpy(bunch.target).long())
    train, test = _hold_out(whole, 360)
    return train, test, (0.305,), (0.325,)


def _mnist() -> tuple[Split, Split, tuple, tuple]:
    from torchvision.datasets import MNIST

    root = paths.data()
    _refuse_damaged_mnist(root / "MNIST" / "raw")
    try:
        splits = [MNIST(root, train=train, download=True) for train in (True, False)]
    except (RuntimeError, OSError, ValueError) as error:
        raise DataUnavailable(
            f"MNIST is not in {root} and could not be downloaded ({_one_line(error)}): connect to "
            "the internet, or put its four idx files into that folder's MNIST/raw"
        ) from error
    train, test = (Split(split.data[:, None], split.targets) for split in splits)
    return train, test, (0.1307,), (0.3081,)


def _refuse_damaged_mnist(folder: Path) -> None:
    """torchvision takes any file of the right name for whole, and dies inside numpy later."""
    shapes = {
        "train-images-idx3-ubyte": (60_000, 28, 28),
        "train-labels-idx1-ubyte": (60_000,),
        "t10k-images-idx3-ubyte": (10_000, 28, 28),
        "t10k-labels-idx1-ubyte": (10_000,),
    }
    for name, shape in shapes.items():
        file = folder / name
        if not file.exists():
            continue
        # An idx file begins with 0x08 (bytes), the number of dimensions, and each dimension.
        header = struct.pack(f">{1 + len(shape)}i", 0x0800 + len(shape), *shape)
        size, wanted = file.stat().st_size, len(header) + math.prod(shape)
        with file.open("rb") as stream:
            whole = size == wanted and stream.read(len(header)) == header
        if not whole:
            raise DataUnavailable(
                f"{file} is truncated or damaged ({size:,} bytes, MNIST's has {wanted:,}): delete "
                "it to download it again"
            )


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
