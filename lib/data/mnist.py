"""MNIST as torchvision reads it, which downloads it when it is missing."""

import math
import struct
from pathlib import Path

from lib import paths
from lib.data.dataset import Dataset, Split, downloaded, fingerprint
from lib.data.pictures import DataUnavailable

#: What fingerprint() makes of MNIST.
MNIST_SHA256 = "1e35582d42a90940c55b956deb61875c020b567ed20e3c5b174f52bf7809ed9b"


def read() -> Dataset:
    """MNIST: 60,000 and 10,000 images, uint8 (n, 1, 28, 28).

    Raises ``DataUnavailable`` where it is missing and cannot be downloaded, or is damaged.
    """
    from torchvision.datasets import MNIST

    raw = paths.data() / "MNIST" / "raw"
    _refuse_damaged(raw)
    splits = downloaded(MNIST, "put its four idx files into that folder's MNIST/raw")
    train, test = (Split(split.data[:, None], split.targets) for split in splits)
    mark = fingerprint(train, test)
    if mark != MNIST_SHA256:
        raise DataUnavailable(
            f"the files in {raw} are not MNIST's (SHA-256 of the pixels "
            f"{mark[:12]}…, expected {MNIST_SHA256[:12]}…): delete the folder to download it again"
        )
    return Dataset("mnist", train, test, (0.1307,), (0.3081,), classes=10, fingerprint=mark)


def _refuse_damaged(folder: Path) -> None:
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
