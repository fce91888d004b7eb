"""What every source of images keeps, of those that are at hand: one contract."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib import data

#: Name → images to train on and to test on, their shape, and how pixels are normalised.
SOURCES = {
    "digits": (1_437, 360, (1, 28, 28), (0.305,), (0.325,)),
    "mnist": (60_000, 10_000, (1, 28, 28), (0.1307,), (0.3081,)),
    "cifar10": (50_000, 10_000, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": (50_000, 10_000, (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar10-jpeg": (
        *(50_000, 10_000, (3, 32, 32)),
        *((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "imagenet-sample": (300, 60, (3, 64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "./flowers": (72, 6, (3, 5, 7), None, None),
}

#: ImageNet's means and deviations, of the drawn pictures.
OTHERS = ("imagenet-sample",)


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """A folder of 7×5 images in colour, in an empty data folder."""
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 2)):
        for label in ("ant", "bee", "cat"):
            folder = tmp_path / "flowers" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (5, 7, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


def whole(split):
    images, labels = zip(*split.batches(5_000), strict=True)
    return torch.cat(images), torch.cat(labels)


def contents(images, labels) -> list[bytes]:
    rows = images.numpy().reshape(len(images), -1)
    return [row.tobytes() + bytes([k]) for row, k in zip(rows, labels.tolist(), strict=True)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_keeps_the_contract(name, request):
    if "/" in name:
        request.getfixturevalue("flowers")
    elif not data.at_hand(name):
        pytest.skip(f"{name} is not in data/")
    train, test, shape, mean, std = SOURCES[name]
    dataset = data.load(name)
    assert (dataset.name, dataset.shape) == (name, shape)
    assert (len(dataset.train), len(dataset.test)) == (train, test)
    found = {}
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        images, labels = whole(split)
        assert images.dtype == torch.uint8
        assert images.shape == (len(split), *shape)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, split.labels)
        assert labels.unique().tolist() == list(range(dataset.classes))
        found[part] = contents(images, labels)
        few, theirs = next(split[[3, 1]].batches(2))
        assert contents(few, theirs) == [found[part][3], found[part][1]]

    images, labels = whole(dataset.train[:5_000])
    statistics = mean or dataset.mean, std or dataset.std
    middle, deviation = (torch.tensor(values).view(-1, 1, 1) for values in statistics)
    pixels = dataset.normalise(images)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pixels, (images / 255 - middle) / deviation)
    if name not in OTHERS:
        assert pixels.mean((0, 2, 3)).abs().max() < 0.05
        assert (pixels.std((0, 2, 3)) - 1).abs().max() < 0.05

    tuning = data.load(name, held_out=True)
    held = data.HELD_OUT.get(name, train // 10)
    assert (len(tuning.train), len(tuning.test)) == (train - held, held)
    assert sorted(found["train"]) == sorted(
        contents(*whole(tuning.train)) + contents(*whole(tuning.test))
    )
    shares = tuning.test.labels.bincount() - dataset.train.labels.bincount() * held / train
    assert shares.abs().max() <= 1
    assert tuning.fingerprint == dataset.fingerprint
    assert (tuning.mean, tuning.std) == (dataset.mean, dataset.std)
