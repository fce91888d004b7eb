"""Splits too large to hold: images are read and cut by worker processes when they are used.

What is drawn for an image depends on the epoch's seed and on which image it is, and on no worker:
a run repeats bit for bit with any number of them, and so does a resumed one.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lib.data.pictures import DataUnavailable, opened

#: So many images of a pass for each worker: starting one must cost less than it saves.
IMAGES_A_WORKER = 2_000


@dataclass(frozen=True)
class Streamed:
    """Image files below ``root`` and their classes; a split as :class:`lib.data.dataset.Split`.

    ``files`` are bytes (n,), ``labels`` int64 (n,), where ``labels`` lie the images come. Training
    cuts a random part of an image (torchvision's ``RandomResizedCrop``: 8 to 100 % of its area,
    sides from 3:4 to 4:3) and mirrors every other one; evaluation brings the shorter side to
    ``resize`` pixels and cuts out the middle. Both are ``crop``×``crop`` pixels in colour, read by
    Pillow. Krizhevsky et al. (NIPS 2012) and Szegedy et al. (CVPR 2015), as torchvision's
    published weights were trained and measured.
    """

    root: Path
    files: np.ndarray
    labels: Tensor
    resize: int
    crop: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return 3, self.crop, self.crop

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Tensor | np.ndarray | slice) -> "Streamed":
        """The split of these images alone, in that order."""
        return replace(self, files=self.files[which], labels=self.labels[which])

    def to(self, device: torch.device) -> "Streamed":
        """The same split, whose images come to ``device``."""
        return replace(self, labels=self.labels.to(device))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in their order, as they are evaluated, and their classes."""
        return self._read(torch.arange(len(self)), size, seed=None)

    def steps(self, *order: Tensor, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What each step of an epoch takes: images and classes, on the device.

        ``order`` is the images'; their cuts are drawn from ``seed``. Raises ``ValueError`` where
        the schedule crops or flips them as well, ``DataUnavailable`` for an image that cannot be
        read.
        """
        if len(order) > 1:
            raise ValueError(
                f"the images of {self.root} are cut and mirrored as they are read: leave crop and "
                "flip out of the schedule"
            )
        return self._read(order[0], batch, seed=seed)

    def take(self, images: Tensor, labels: Tensor, *, padding: int) -> tuple[Tensor, Tensor]:
        """The images and classes of a step: they are there already."""
        return images, labels

    def _transform(self, *, random: bool) -> Callable[[Image.Image], Image.Image]:
        from torchvision.transforms import v2  # half a second, which not every command has

        if random:
            return v2.Compose([v2.RandomResizedCrop(self.crop), v2.RandomHorizontalFlip()])
        return v2.Compose([v2.Resize(self.resize), v2.CenterCrop(self.crop)])

    def _read(self, order: Tensor, size: int, *, seed: int | None):
        """uint8 (batch, 3, crop, crop), channels last, and int64 (batch,), in ``order``."""
        device, parts = self.labels.device, order.split(size)
        loader = DataLoader(
            _Reader(self, self._transform(random=seed is not None), seed),
            batch_size=None,  # the sampler's parts are batches
            sampler=parts,
            num_workers=workers(len(order)),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it draws from the one that networks draw from
        )
        for part, images in zip(parts, loader, strict=True):
            if isinstance(images, str):
                raise DataUnavailable(images)
            images = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
            yield images, self.labels[part.to(device, non_blocking=True)]


def workers(images: int) -> int:
    """How many processes read ``images`` images: as many as there are cores, fewer for few.

    An image of 500×375 pixels took 3.6 ms of a core to read and cut, 2.0 ms of them to decode
    (generated pictures of 135 kB, Pillow 13): a core gives some 280 images a second.
    Several processes that train side by side (``torchrun``) share the cores. The environment
    variable ``WORKBOOK_WORKERS`` is another number for each; raises ``ValueError`` where it is
    none.
    """
    asked = os.environ.get("WORKBOOK_WORKERS")
    if asked is not None:
        if not asked.isdecimal():
            raise ValueError(
                f"WORKBOOK_WORKERS = {asked!r} must be a number of processes, 0 or more"
            )
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(images // IMAGES_A_WORKER, max(1, cores // beside))


@dataclass(frozen=True)
class _Reader(Dataset):
    """Reads batches, in a worker: what is drawn for them depends on ``seed``, if it is given."""

    split: Streamed
    transform: Callable[[Image.Image], Image.Image]
    seed: int | None

    def __getitem__(self, part: Tensor) -> Tensor | str:
        """uint8 (images, crop, crop, 3), or what is wrong with one of them.

        An error that a worker raises would come with the worker's traceback in its message.
        """
        images = np.empty((len(part), self.split.crop, self.split.crop, 3), np.uint8)
        try:
            # without workers it is the network's generator that the transforms draw from
            with torch.random.fork_rng(devices=[]):
                for image, place in zip(images, part.tolist(), strict=True):
                    image[:] = self._image(place)
        except DataUnavailable as error:
            return str(error)
        return torch.from_numpy(images)

    def _image(self, place: int) -> np.ndarray:
        file = self.split.root / os.fsdecode(self.split.files[place])
        with opened(file) as picture:
            picture = picture.convert("RGB")
        if self.seed is not None:
            drawn = hashlib.sha256(f"{self.seed}/{place}".encode()).digest()[:7]
            torch.default_generator.manual_seed(int.from_bytes(drawn, "big"))
        return np.asarray(self.transform(picture))
