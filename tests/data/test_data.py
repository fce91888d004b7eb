"""The data sets against their sources; what is missing or damaged is refused in words."""

import hashlib
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lib import data
from lib.data import DataUnavailable, Split

MNIST_HEADERS = {
    "train-images-idx3-ubyte": "00000803 0000ea60 0000001c 0000001c",
    "train-labels-idx1-ubyte": "00000801 0000ea60",
    "t10k-images-idx3-ubyte": "00000803 00002710 0000001c 0000001c",
    "t10k-labels-idx1-ubyte": "00000801 00002710",
}
MNIST_SIZES = (47_040_016, 60_008, 7_840_016, 10_008)


def rows(*splits: Split) -> set[bytes]:
    """Images with their labels, as values that sets can hold."""
    return {
        image.numpy().tobytes() + bytes([label])
        for split in splits
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    }


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder and no internet; returns where MNIST's files go."""

    def fail(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    return raw


@pytest.fixture
def zeros(folder):
    """Files with MNIST's names, headers and sizes, whose pixels and labels are all zero."""
    for (name, header), size in zip(MNIST_HEADERS.items(), MNIST_SIZES, strict=True):
        with (folder / name).open("wb") as file:
            file.write(bytes.fromhex(header))
            file.truncate(size)
    return folder


def test_digits_are_scikit_learns_drawn_up(digits):
    bunch = load_digits()
    # the centre of pixel i of 28 lies at (i + ½)·8/28 − ½ among the centres of the 8
    at = (np.arange(28) + 0.5) * 8 / 28 - 0.5
    grid = np.meshgrid(at, at, indexing="ij")
    drawn = np.stack([map_coordinates(i, grid, order=1, mode="nearest") for i in bunch.images])
    drawn = drawn.reshape(1797, -1) * 255 / 16

    pixels = torch.cat([digits.train.images, digits.test.images]).numpy().reshape(1797, -1)
    labels = torch.cat([digits.train.labels, digits.test.labels]).numpy()
    squares = (drawn**2).sum(1)[:, None] - 2 * drawn @ pixels.T.astype(float)
    nearest = (squares + (pixels.astype(float) ** 2).sum(1)).argmin(1)  # source → ours

    assert sorted(nearest) == list(range(1797))
    assert np.abs(pixels[nearest] - drawn).max() <= 0.51  # rounding
    assert np.array_equal(labels[nearest], bunch.target)


def test_the_split_is_fixed(digits):
    assert digits.test.labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]
    assert len(rows(digits.train) | rows(digits.test)) == 1797  # disjoint, no image twice


def test_one_pixel_or_label_changes_the_fingerprint(digits):
    for part in ("images", "labels"):
        tensors = {"images": digits.test.images.clone(), "labels": digits.test.labels.clone()}
        tensors[part].view(-1)[-1] += 1
        assert data.fingerprint(digits.train, Split(**tensors)) != digits.fingerprint


class Devices(TorchDispatchMode):
    """Where the tensors of every operation lie."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [part for part in (*args, out) if isinstance(part, Tensor)]
        self.seen |= {tensor.device.type for tensor in tensors}
        return out


def test_normalised_pixels_repeat_bit_for_bit(digits):
    """Committed runs were trained on these very numbers."""
    mean, std = torch.tensor([0.305]).view(-1, 1, 1), torch.tensor([0.325]).view(-1, 1, 1)
    wanted = (digits.train.images.float() / 255 - mean) / std
    for dataset in (digits, digits.to(torch.device("cpu"))):
        pixels = dataset.normalise(digits.train.images)
        assert torch.equal(pixels, wanted)
        assert pixels.is_contiguous(memory_format=torch.channels_last)
    digest = hashlib.sha256(wanted.numpy()).hexdigest()
    assert digest == "608338f511e862d7f4acbc6aa6b517c11285bc7db2408935d039408b9a0d5eef"


def test_normalising_moves_nothing_to_the_device(digits):
    """On a GPU each such copy is waited for, at every step."""
    there = digits.to(torch.device("meta"))
    with Devices() as devices:
        pixels = there.normalise(there.train.images)
    assert pixels.shape == digits.train.images.shape
    assert devices.seen == {"meta"}
    with Devices() as devices:  # of another device than the data set's: they are moved
        assert digits.normalise(there.train.images).device.type == "meta"
    assert devices.seen == {"cpu", "meta"}


def test_digits_at_28_are_those_of_the_committed_runs(digits):
    mark = "310448925ca2c0a39002abcd1eef3a10d9d82ff9abc76565155bb682ade89d34"
    assert digits.fingerprint == data.load("digits", size=28).fingerprint == mark


@pytest.mark.parametrize("size", [8, 16, 64])
def test_digits_of_another_size_are_the_same_digits(digits, size):
    other = data.load("digits", size=size)
    assert other.train.images.shape == (1437, 1, size, size)
    assert torch.equal(other.train.labels, digits.train.labels)
    at = (np.arange(size) + 0.5) * 8 / size - 0.5
    # row i of the matrix holds what each of the 8 pixels of a line gives to pixel i
    line = np.stack([np.interp(at, np.arange(8), one) for one in np.eye(8)], axis=1)
    bunch = load_digits()
    drawn = line @ bunch.images @ line.T * 255 / 16  # (1797, size, size)
    first = (np.abs(drawn - other.train.images[0, 0].numpy()).max((1, 2)) <= 0.51).argmax()
    assert np.abs(drawn[first] - other.train.images[0, 0].numpy()).max() <= 0.51
    assert bunch.target[first] == other.train.labels[0]
    assert len(rows(other.train, other.test)) == 1797


@pytest.mark.parametrize("size", [0, -8, 7, 65])
def test_a_size_that_digits_are_not_drawn_at_is_refused(size):
    with pytest.raises(ValueError, match=rf"size = {size}: digits are drawn at 8 to 64"):
        data.load("digits", size=size)


def test_each_data_set_says_what_it_is():
    said = {name: data.describe(name) for name in data.NAMES}
    assert len(set(said.values())) == len(data.NAMES) == len(data.HELD_OUT)
    assert "not MNIST" in said["digits"]
    assert "not its pixels" in said["cifar10-jpeg"]
    assert data.describe("./flowers") == "images of ./flowers"
    for function in (data.describe, data.load):
        with pytest.raises(ValueError, match="unknown data set 'minst': choose one of digits, mni"):
            function("minst")


def test_mnist_that_cannot_be_downloaded_is_reported(folder):
    with pytest.raises(DataUnavailable, match="could not be downloaded") as error:
        data.load("mnist")
    assert str(folder.parent.parent) in str(error.value)
    assert "put its four idx files" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", MNIST_HEADERS)
@pytest.mark.parametrize("byte", [2, 3, 7, None])
def test_a_damaged_file_is_refused(zeros, name, byte):
    """A byte of its header, or all from the 5,000th."""
    with (zeros / name).open("r+b") as file:
        if byte is None:
            file.truncate(5000)
        else:
            file.seek(byte)
            file.write(b"\xff")
    with pytest.raises(DataUnavailable, match=r"or damaged there.*: delete what is there"):
        data.load("mnist")


def test_other_pixels_than_mnists_are_refused(zeros):
    with pytest.raises(DataUnavailable, match="not MNIST's") as error:
        data.load("mnist")
    assert str(zeros.parent) in str(error.value)
    assert "delete the folder" in str(error.value)
