"""Folders of small images, one folder a class: decoded once, then read from a cache beside them.

    flowers/train/<class>/<image>        flowers/test/<class>/<image>   (or val/)

The images are of one size, 64×64 at most, in grey or in colour as the first one is. They are kept
in the order first of each class, second of each class, …, so that the first n are a sample of all.

The decoded pixels are kept as ``decoded.safetensors`` in the folder; where that cannot be written,
they are decoded at every call. They are decoded again where a file was added, removed or changed
(its size or time), where Pillow is another, or where the cache is damaged.
"""

import contextlib
import hashlib
import itertools
import math
import os
import shutil
from pathlib import Path

import numpy as np
import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.dataset import Dataset, Split, fingerprint
from lib.data.pictures import DataUnavailable, in_turns, listed, one_line, opened

LARGEST = 64

#: Decoded images of more bytes than this are refused before memory is taken for them.
MOST_BYTES = 4 * 2**30

CACHE = "decoded.safetensors"

#: Split → class → image files, all in the order of their names.
Found = dict[str, dict[str, list[Path]]]


def read(name: str, root: Path) -> Dataset:
    """The folder ``root`` as the data set ``name``: uint8 (n, 1 or 3, height, width).

    ``mean`` and ``std`` are the training pixels' own (1 for the deviation of a constant channel).
    Files of other kinds, hidden ones and folders within a class are passed over; what is
    transparent or has a palette is converted to RGB.

    Raises ``DataUnavailable`` that names what is missing or wrong: a split, a class that is in one
    split alone or empty, an image that cannot be read or is of another size, more than
    ``MOST_BYTES`` in all.
    """
    remedy = "it needs train/ and test/ (or val/), each with one folder of images a class"
    return assemble(name, root, find(root, remedy))


def find(root: Path, remedy: str) -> Found:
    """The images of ``root``: of ``train``, then of ``test`` (or ``val``, where there is no test).

    Raises ``DataUnavailable``, with the ``remedy``, as :func:`read` does.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    held = "val" if (root / "val").is_dir() and not (root / "test").is_dir() else "test"
    return listed(root, ("train", held), IMG_EXTENSIONS, lambda file: Path(file.path), remedy)


def assemble(
    name: str,
    root: Path,
    found: Found,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    """The images ``found`` in ``root``, from the cache or else decoded.

    ``statistics`` are ``mean`` and ``std``; the training pixels' own where they are not given.
    Raises ``DataUnavailable`` as :func:`read` does.
    """
    files, labels = zip(*map(in_turns, found.values()), strict=True)
    mode, shape = _kind(files[0][0])
    total = sum(map(len, files)) * math.prod(shape)
    if total > MOST_BYTES:
        raise DataUnavailable(
            f"the images of {root} are {total:,} bytes decoded, more than the {MOST_BYTES:,} that "
            "are held: take fewer or smaller ones"
        )
    listing, cache = _listing(files), root / CACHE
    whole = _cached(cache, listing, shape, labels)
    if whole is None:
        images = [_decoded(part, mode, shape, root.name) for part in files]
        train, test = map(Split, images, labels)
        whole = train, test, fingerprint(train, test)
        _keep(cache, listing, *whole, like=files[0][0])
    train, test, mark = whole
    mean, std = statistics or _statistics(train.images)
    return Dataset(name, train, test, mean, std, len(found["train"]), mark)


def _kind(file: Path) -> tuple[str, tuple[int, int, int]]:
    """The mode that the images are converted to, and their (channels, height, width)."""
    with opened(file) as picture:
        mode = "L" if picture.mode in ("1", "L") else "RGB"
        width, height = picture.size
    if max(width, height) > LARGEST:
        raise DataUnavailable(
            f"{file} is {width}×{height}, larger than the {LARGEST}×{LARGEST} that are read: make "
            "the images smaller"
        )
    return mode, (len(mode), height, width)


def _listing(files: tuple[list[Path], ...]) -> str:
    """A digest of what the cache depends on: 60,000 files take 0.3 s."""
    digest = hashlib.sha256(f"Pillow {PIL.__version__}\n".encode())
    for file in itertools.chain(*files):
        try:
            status = file.stat()
        except OSError as error:
            raise DataUnavailable(f"{file} cannot be read: {one_line(error)}") from error
        path = os.fsencode("/".join(file.parts[-3:]))  # <split>/<class>/<image>
        digest.update(path + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decoded(files: list[Path], mode: str, shape: tuple[int, int, int], name: str) -> Tensor:
    """uint8 (len(files), *shape). One thread: with four, Pillow took twice as long."""
    channels, height, width = shape
    images = np.empty((len(files), *shape), np.uint8)
    shown = tqdm(files, desc=f"decoding {name}", leave=False)
    for image, file in zip(images, shown, strict=True):
        with opened(file) as picture:
            if picture.size != (width, height):
                raise DataUnavailable(
                    f"{file} is {picture.size[0]}×{picture.size[1]}, the images before it "
                    f"{width}×{height}: bring all to one size"
                )
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
            pixels = np.asarray(picture.convert(mode))
        image[:] = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    return torch.from_numpy(images)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of pixels scaled to [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        share = images[:, channel].flatten().bincount(minlength=256).double()
        share /= share.sum()
        mean = float(share @ levels)
        means.append(mean)
        deviations.append(math.sqrt(share @ (levels - mean) ** 2) or 1.0)
    return tuple(means), tuple(deviations)


def _cached(
    file: Path, listing: str, shape: tuple[int, int, int], labels: tuple[Tensor, ...]
) -> tuple[Split, Split, str] | None:
    """The splits and their fingerprint, or ``None`` where the cache is missing, old or damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            if about.get("listing") != listing:
                return None
            train, test = (
                Split(opened.get_tensor(name).view(torch.uint8).view(-1, *shape), classes)
                for name, classes in zip(("train", "test"), labels, strict=True)
            )
    except (OSError, RuntimeError, SafetensorError):
        return None
    mark = fingerprint(train, test)
    return (train, test, mark) if about.get("fingerprint") == mark else None


def _keep(file: Path, listing: str, train: Split, test: Split, mark: str, *, like: Path) -> None:
    """Writes the cache, whole or not at all; where it cannot be written, there is none.

    Whoever may read the image ``like`` may read it: safetensors writes for the owner alone.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        save_file(
            {"train": train.images, "test": test.images},
            partial,
            metadata={"listing": listing, "fingerprint": mark},
        )
        shutil.copymode(like, partial)
        os.replace(partial, file)
    except (OSError, SafetensorError):
        with contextlib.suppress(OSError):
            partial.unlink()
