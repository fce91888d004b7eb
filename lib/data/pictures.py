"""Image files, one folder a class, and what is said where one is missing or damaged.

torchvision's ``ImageFolder`` lists otherwise: hidden folders count as classes there, files within
the folders of a class as its images, and a class without images is no class.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: What torchvision's IMG_EXTENSIONS stand for; Pillow goes by the content, and knows many more.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")


class DataUnavailable(Exception):
    """A data set that was asked for is missing or damaged; the message says what to do."""


def one_line(error: BaseException) -> str:
    """The first line of what ``error`` says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(folder: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, list[os.DirEntry]]]:
    """Each class and its image files, both in the order of their names; hidden ones are left out.

    ``endings`` are those of images, in lower case. Raises ``OSError``.
    """
    for entry in _visible(folder):
        if entry.is_dir():
            yield entry.name, images(entry.path, endings)


def images(folder: Path | str, endings: tuple[str, ...]) -> list[os.DirEntry]:
    """The image files that lie in ``folder`` itself."""
    return [entry for entry in _visible(folder) if entry.name.lower().endswith(endings)]


def _visible(folder: Path | str) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def refuse_unlike(root: Path, found: Mapping[str, Mapping[str, Sized]], remedy: str) -> None:
    """``DataUnavailable`` where a class is empty, or in one of the two splits alone."""
    for split, classes in found.items():
        for label, files in classes.items():
            if not files:
                raise DataUnavailable(f"{root / split / label} holds no image: {remedy}")
    for split, other in (list(found), list(found)[::-1]):
        for label in sorted(found[split].keys() - found[other].keys()):
            raise DataUnavailable(f"{root}: class {label!r} is in {split} alone: {remedy}")


def refuse_other_count(
    folder: Path, held: int, wanted: int, remedy: str, what: str = "images"
) -> None:
    """``DataUnavailable`` where ``folder`` does not hold as many as are wanted."""
    if held != wanted:
        raise DataUnavailable(f"{folder} holds {held:,} {what}, not {wanted:,}: {remedy}")


def in_turns(sizes: Iterable[int]) -> tuple[np.ndarray, Tensor]:
    """Places of the first file of each class, of the second of each, …, and their classes (int64).

    The classes lie one after the other. So the first n are a sample of all.
    """
    sizes = np.array([*sizes])
    order = np.argsort(np.concatenate([np.arange(size) for size in sizes]), kind="stable")
    return order, torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)[order])


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
