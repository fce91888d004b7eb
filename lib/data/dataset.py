"""What a data set is: two splits, how pixels are normalised, and its fingerprint."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


class DataUnavailable(Exception):
    """A data set that was asked for is missing or damaged; the message says what to do."""


@dataclass(frozen=True)
class Split:
    """Images and their classes: uint8 (n, channels, height, width) and int64 (n,)."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Split":
        """The same split on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set: what to train on, what to evaluate on, and how pixels are normalised.

    ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1]; ``fingerprint`` is that of the
    whole data set, also where a part of it is held out.
    """

    name: str
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    fingerprint: str

    def __post_init__(self):
        # (channels, 1, 1) on the device once: made at every step, they would be copied there, and
        # the step would wait for it.
        device = self.train.images.device
        statistics = [
            torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std)
        ]
        object.__setattr__(self, "_statistics", statistics)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return tuple(self.train.images.shape[1:])

    def to(self, device: torch.device) -> "Dataset":
        """The same data set on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def normalise(self, images: Tensor) -> Tensor:
        """(x/255 − mean)/std: uint8 (n, channels, height, width) → float32, channels last.

        On the images' device; nothing is copied where that is the data set's.

        Convolutions take their layout from their input. Channels last, LeNet-5's training step
        at batch 256 took 57 ms instead of 90 (float32, one thread, AVX-512).
        """
        mean, std = (values.to(images.device) for values in self._statistics)
        pixels = (images.float() / 255 - mean) / std
        return pixels.to(memory_format=torch.channels_last)


def fingerprint(train: Split, test: Split) -> str:
    """SHA-256 of the decoded pixels and labels (on the CPU), training split then test split."""
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.images.numpy())
        digest.update(split.labels.numpy())
    return digest.hexdigest()


def hold_out(split: Split, count: int) -> tuple[Split, Split]:
    """``split`` without ``count`` of its images, and these: always the same, stratified.

    Raises ``ValueError`` where a class has fewer than two images, or ``count`` is less than the
    number of classes.
    """
    from sklearn.model_selection import train_test_split

    keep, hold = train_test_split(
        np.arange(len(split)), test_size=count, stratify=split.labels.numpy(), random_state=0
    )
    return tuple(Split(split.images[index], split.labels[index]) for index in (keep, hold))


def one_line(error: Exception) -> str:
    """The first line of what ``error`` says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
