"""MNIST as torchvision reads it, which downloads it when it is missing."""

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

    splits = downloaded(MNIST, "put its four idx files into that folder's MNIST/raw")
    train, test = (Split(split.data[:, None], split.targets) for split in splits)
    mark = fingerprint(train, test)
    if mark != MNIST_SHA256:
        raise DataUnavailable(
            f"the files in {paths.data() / 'MNIST'} are not MNIST's (SHA-256 of the pixels "
            f"{mark[:12]}…, expected {MNIST_SHA256[:12]}…): delete the folder to download it again"
        )
    return Dataset("mnist", train, test, (0.1307,), (0.3081,), classes=10, fingerprint=mark)
