"""Image files, one folder a class, and what is said where one is missing or damaged.

torchvision's ``ImageFolder`` lists otherwise: hidden folders count as classes there, files within
the folders of a class as its images, and a class without images is no class.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: What torchvision's IMG_EXTENSIONS stand for; Pillow goes by the content, and knows many more.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")

T = TypeVar("T")


class DataUnavailable(Exception):
    """A data set that was asked for is missing or damaged; the message says what to do."""


def one_line(error: BaseException) -> str:
    """The first line of what ``error`` says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(
    root: Path,
    splits: Iterable[str],
    endings: tuple[str, ...],
    kept: Callable[[os.DirEntry[str]], T],
    remedy: str,
) -> dict[str, dict[str, list[T]]]:
    """Split → class → what is ``kept`` of each image, in the order of names; no hidden ones.

    ``endings`` are those of images, in lower case. Raises ``DataUnavailable``, which ends with the
    ``remedy``, where a folder is missing or cannot be listed, a split has no folder a class, or a
    class is empty, or in one of two splits alone.
    """

    def visible(folder: os.PathLike[str]) -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)

    found: dict[str, dict[str, list[T]]] = {}
    try:
        for split in splits:
            if not (root / split).is_dir():
                raise DataUnavailable(f"there is no folder {root / split}: {remedy}")
            found[split] = {
                label.name: [
                    kept(file) for file in visible(label) if file.name.lower().endswith(endings)
                ]
                for label in visible(root / split)
                if label.is_dir()
            }
            if not found[split]:
                raise DataUnavailable(f"{root / split} has no folder a class: {remedy}")
    except OSError as error:
        raise DataUnavailable(f"{root} cannot be listed: {one_line(error)}: {remedy}") from error
    for split, classes in found.items():
        for label, files in classes.items():
            if not files:
                raise DataUnavailable(f"{root / split / label} holds no image: {remedy}")
            if not all(label in others for others in found.values()):
                raise DataUnavailable(f"{root}: class {label!r} is in {split} alone: {remedy}")
    return found


def refuse_other_counts(
    root: Path,
    found: Mapping[str, Mapping[str, Sized]],
    images: tuple[int, int],
    classes: int,
    remedy: str,
) -> None:
    """``DataUnavailable`` where a split does not hold as many images and classes as are wanted."""
    for (split, held), wanted in zip(found.items(), images, strict=True):
        count = sum(map(len, held.values()))
        if (count, len(held)) != (wanted, classes):
            raise DataUnavailable(
                f"{root / split} holds {count:,} images of {len(held):,} classes, not {wanted:,} "
                f"of {classes:,}: {remedy}"
            )


def in_turns(classes: Mapping[str, list[T]]) -> tuple[list[T], Tensor]:
    """The first file of each class, the second of each, …, and their classes (int64).

    So the first n are a sample of all.
    """
    sizes = np.array([len(files) for files in classes.values()])
    order = np.argsort(np.concatenate([np.arange(size) for size in sizes]), kind="stable")
    files = [*itertools.chain(*classes.values())]
    labels = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)[order])
    return [files[place] for place in order], labels


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """The picture, of which only the header is read yet; what cannot be read is named."""
    try:
        with Image.open(file, formats=FORMATS) as picture:
            if picture.mode.startswith(("I", "F")):  # Pillow would cut them off at 255
                raise DataUnavailable(f"{file} has more than 8 bits a channel: convert it to 8")
            yield picture
    except DataUnavailable:
        raise
    except Exception as error:  # what is damaged makes decoders raise errors of any kind
        raise DataUnavailable(f"{file} cannot be read ({one_line(error)}): replace it") from error
