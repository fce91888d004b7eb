"""What a data set is: two splits, how pixels are normalised, and its fingerprint."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lib import paths
from lib.data.augmentation import crop_and_flip
from lib.data.pictures import DataUnavailable, one_line
from lib.data.streamed import Streamed


@dataclass(frozen=True)
class Split:
    """Images and their classes: uint8 (n, channels, height, width) and int64 (n,).

    :class:`lib.data.streamed.Streamed` is a split too, whose images are read when they are used:
    what is asked of both is here, but for ``images``.
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Split":
        """The same split on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Tensor | np.ndarray | slice) -> "Split":
        """The split of these images alone, in that order."""
        return Split(self.images[which], self.labels[which])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in their order, as they are evaluated, and their classes."""
        return zip(self.images.split(size), self.labels.split(size), strict=True)

    def steps(self, *order: Tensor, batch: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """What :meth:`take` needs for each step of an epoch, on the device.

        ``order`` is the images' order and, where they are cropped and flipped, what was drawn for
        it (:func:`lib.data.augmentation.draw`). A split that draws something itself does so from
        ``seed``: this one draws nothing.
        """
        there = [part.to(self.labels.device, non_blocking=True) for part in order]
        return zip(*(part.split(batch) for part in there), strict=True)

    def take(self, index: Tensor, *drawn: Tensor, padding: int) -> tuple[Tensor, Tensor]:
        """The images and classes of a step, which may be recorded as a CUDA graph."""
        images = self.images[index]
        if drawn:
            images = crop_and_flip(images, *drawn, padding=padding)
        return images, self.labels[index]


@dataclass(frozen=True)
class Dataset:
    """A data set: what to train on, what to evaluate on, and how pixels are normalised.

    ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1]; ``fingerprint`` is that of the
    whole data set, also where a part of it is held out.
    """

    name: str
    train: Split | Streamed
    test: Split | Streamed
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    fingerprint: str

    def __post_init__(self):
        # (channels, 1, 1) on the device once: made at every step, they would be copied there, and
        # the step would wait for it.
        device = self.train.labels.device
        statistics = [
            torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std)
        ]
        object.__setattr__(self, "_statistics", statistics)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return self.train.shape

    def to(self, device: torch.device) -> "Dataset":
        """The same data set on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def normalise(self, images: Tensor) -> Tensor:
        """(x/255 − mean)/std: uint8 (n, channels, height, width) → float32, channels last.

        On the images' device; nothing is copied where that is the data set's.

        Convolutions take their layout from their input. Channels last, LeNet-5's training step
        at batch 256 took 57 ms instead of 90 (float32, one thread, AVX-512).
        """
        mean, std = (values.to(images.device) for values in vars(self)["_statistics"])
        pixels = (images.float() / 255 - mean) / std
        return pixels.to(memory_format=torch.channels_last)


def fingerprint(train: Split, test: Split) -> str:
    """SHA-256 of the decoded pixels and labels (on the CPU), training split then test split."""
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.images.numpy().data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()


def noise(shape: tuple[int, ...], images: int) -> Dataset:
    """``images`` of ten classes drawn at random, always the same, and a fifth as many to test on.

    For measurements and checks, which take images of any kind.
    """
    generator = torch.Generator().manual_seed(0)
    train, test = (
        Split(
            torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator),
            torch.randint(10, (count,), generator=generator),
        )
        for count in (images, max(10, images // 5))
    )
    return Dataset("noise", train, test, (0.5,) * shape[0], (0.29,) * shape[0], 10, "")


S = TypeVar("S", Split, Streamed, Split | Streamed)


def hold_out(split: S, count: int, *, equally: bool = False) -> tuple[S, S]:
    """``split`` without ``count`` of its images, and these: always the same, stratified.

    A class gives as large a share as any other, or ``equally`` as many images. Raises
    ``ValueError`` where a class has fewer than two images, or ``count`` is less than the number of
    classes.
    """
    from sklearn.model_selection import train_test_split

    labels = split.labels.numpy()
    if equally:
        keep, hold = _equal(labels, count)
    else:
        keep, hold = train_test_split(
            np.arange(len(split)), test_size=count, stratify=labels, random_state=0
        )
    return split[keep], split[hold]


def _equal(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The places that are kept, and as many of each class as ``count`` allows, both drawn once."""
    drawn = np.random.default_rng(0).permutation(len(labels))
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    sizes = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # in its class
    held = np.zeros(len(labels), bool)
    held[by_class[turn < count // len(sizes)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def downloaded(kind: type, remedy: str) -> list:
    """Both splits of torchvision's data set ``kind``, which downloads it where it is missing.

    Raises ``DataUnavailable`` where it cannot, or what is there is damaged; ``remedy`` says what
    else to do.
    """
    root = paths.data()
    try:
        return [kind(root, train=train, download=True) for train in (True, False)]
    except Exception as error:  # its readers raise errors of many kinds for a damaged file
        raise DataUnavailable(
            f"{kind.__name__} is not in {root}, or damaged there, and could not be downloaded "
            f"({one_line(error)}): delete what is there of it and connect to the internet, or "
            f"{remedy}"
        ) from error
