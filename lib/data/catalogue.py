"""The data sets by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from lib import paths
from lib.data import cifar, digits, folder, imagenet, mnist, sample
from lib.data.dataset import Dataset, hold_out
from lib.data.pictures import DataUnavailable


@dataclass(frozen=True)
class Known:
    """A data set that has a name: what it is in the words of a table's caption, how it is read."""

    title: str
    held_out: int
    read: Callable[[], Dataset]
    places: tuple[str, ...] = ()  # one of these is in the data folder, unless it is made here


def _imagenet(name: str) -> Dataset:
    root = paths.data() / name
    if name == "imagenet-sample" and not root.exists():
        sample.generate(root)
    return imagenet.read(name, root, imagenet.FORMS[name])


KNOWN = {
    "digits": Known("scikit-learn's 8×8 digits drawn up, not MNIST", 287, digits.read),
    "mnist": Known("MNIST", 5_000, mnist.read, ("MNIST/raw",)),
    "cifar10": Known(
        "CIFAR-10",
        5_000,
        partial(cifar.read, "cifar10"),
        ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ),
    "cifar100": Known(
        "CIFAR-100",
        5_000,
        partial(cifar.read, "cifar100"),
        ("cifar-100-python", "cifar-100-python.tar.gz"),
    ),
    "cifar10-jpeg": Known(
        "JPEG mirror of CIFAR-10, not its pixels", 5_000, cifar.read_jpeg, ("CIFAR-10-images",)
    ),
    "imagenet": Known(
        "ImageNet (ILSVRC2012)", 50_000, partial(_imagenet, "imagenet"), ("imagenet",)
    ),
    "imagenet-sample": Known(
        "drawn pictures of 3 classes in ImageNet's form: the path, not the result",
        30,
        partial(_imagenet, "imagenet-sample"),
    ),
}

NAMES = tuple(KNOWN)

#: How many images are held out of the training split while knobs are tuned; of a folder, a tenth.
HELD_OUT = {name: known.held_out for name, known in KNOWN.items()}


def load(name: str, *, size: int | None = None, held_out: bool = False) -> Dataset:
    """The data set ``name`` on the CPU; of ImageNet the list of its images, which are streamed.

    ``name`` is one of ``NAMES``, or the path of a folder of images with a ``/`` in it
    (:mod:`lib.data.folder`); one that does not begin with ``/`` is taken from the data folder.
    ``size`` is what ``digits`` are drawn at, 28 where it is not given; other images are not
    resized, and have to be of that size.

    With ``held_out`` the test split is not there at all: a fixed stratified part of the training
    split takes its place, ``HELD_OUT`` images (of ImageNet 50 a class) or a tenth of a folder's, so
    that knobs are tuned without test accuracy.

    Raises ``ValueError`` for an unknown name and for another size, ``DataUnavailable`` when the
    data set is missing and cannot be downloaded, or is damaged.
    """
    _refuse_unknown(name)
    dataset = _read(name, size)
    height, width = dataset.shape[1:]
    if size is not None and (height, width) != (size, size):
        raise ValueError(f"size = {size}: the images of {name} are {width}×{height}; leave it out")
    if not held_out:
        return dataset
    count = HELD_OUT.get(name, len(dataset.train) // 10)
    if dataset.train.labels.bincount().min() < 2 or count < dataset.classes:
        raise DataUnavailable(
            f"{name} has too few training images ({len(dataset.train):,} of {dataset.classes} "
            "classes) to hold a tenth of each class out: ten a class are needed"
        )
    train, test = hold_out(dataset.train, count, equally=name in imagenet.FORMS)
    return replace(dataset, train=train, test=test)


def at_hand(name: str) -> bool:
    """Whether the data set ``name`` is there, so that :func:`load` downloads nothing for it.

    Of CIFAR the archive is enough, which :func:`load` unpacks.
    """
    places = KNOWN[name].places if name in KNOWN else (name,)
    return not places or any((paths.data() / place).exists() for place in places)


def describe(name: str) -> str:
    """What the data set ``name`` is, for the captions of tables and figures.

    Raises ``ValueError`` for an unknown name.
    """
    _refuse_unknown(name)
    return f"images of {name}" if "/" in name else KNOWN[name].title


def _refuse_unknown(name: str) -> None:
    if "/" not in name and name not in KNOWN:
        raise ValueError(
            f"unknown data set {name!r}: choose one of {', '.join(NAMES)}, or a folder of images "
            f"by a path with a / in it, such as './{name}'"
        )


def _read(name: str, size: int | None) -> Dataset:
    if "/" in name:
        return folder.read(name, paths.data() / name)
    if name == "digits" and size is not None:
        return digits.read(size)
    return KNOWN[name].read()
