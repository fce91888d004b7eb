"""CIFAR as torchvision reads it, from small files of its format; the JPEG mirror against Pillow."""

import hashlib
import pickle
import shutil
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from lib import data, paths
from lib.data import DataUnavailable, cifar
from lib.workbook import experiments, runs
from lib.workbook.runs.verify import verify
from tests.workbook.experiments.test_experiments import shortened

NAMES = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
CLASSES = {"cifar10": 10, "cifar100": 100}

needs_mirror = pytest.mark.skipif(
    not (paths.ROOT / "data" / "CIFAR-10-images").exists(), reason="the mirror is not in data/"
)


def cut_off(*args, **kwargs):
    raise URLError("no route to host")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty data folder and no internet."""
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", cut_off)
    return tmp_path


@pytest.fixture(params=NAMES)
def small(request, offline, monkeypatch):
    """A data set's name, and pixels and labels in files of its format with these files' sums."""
    kind = NAMES[request.param]
    base = offline / kind.base_folder
    base.mkdir()
    draw = np.random.default_rng(0)
    classes = CLASSES[request.param]

    def write(name: str, content: dict) -> tuple[str, str]:
        whole = pickle.dumps(content)
        (base / name).write_bytes(whole)
        return name, hashlib.md5(whole).hexdigest()

    def batches(names: list[str]) -> tuple[list, np.ndarray, list[int]]:
        listed, pixels, labels = [], [], []
        for name in names:
            pixels.append(draw.integers(0, 256, (100, 3072), np.uint8))
            labels.append(draw.permutation(100) % classes)
            content = {"data": pixels[-1], "labels": labels[-1].tolist()}
            if classes == 100:  # the 20 coarse classes are there too
                content["fine_labels"] = content.pop("labels")
                content["coarse_labels"] = (labels[-1] // 5).tolist()
            listed.append(write(name, content))
        return listed, np.concatenate(pixels).reshape(-1, 3, 32, 32), np.concatenate(labels)

    made = {}
    for part in ("train", "test"):
        names = [name for name, _ in getattr(kind, f"{part}_list")]
        listed, *made[part] = batches(names)
        monkeypatch.setattr(kind, f"{part}_list", listed)
    name, md5 = write(kind.meta["filename"], {kind.meta["key"]: [str(i) for i in range(classes)]})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": name, "md5": md5})
    return request.param, made


def test_cifar_is_what_the_files_hold(small):
    name, made = small
    dataset = data.load(name)
    for part in ("train", "test"):
        split, (pixels, labels) = getattr(dataset, part), made[part]
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert np.array_equal(split.images.numpy(), pixels)
        assert split.labels.dtype == torch.int64
        assert np.array_equal(split.labels.numpy(), labels)
    assert dataset.classes == CLASSES[name]
    assert dataset.fingerprint == data.fingerprint(dataset.train, dataset.test)
    assert data.load(name, size=32).fingerprint == dataset.fingerprint
    with pytest.raises(ValueError, match=f"size = 28: the images of {name} are 32×32"):
        data.load(name, size=28)


def packed(base: Path, monkeypatch) -> Path:
    """The data set's folder as the archive that torchvision downloads, in its stead."""
    kind = next(kind for kind in NAMES.values() if kind.base_folder == base.name)
    archive = base.parent / kind.filename
    with tarfile.open(archive, "w:gz") as file:
        file.add(base, base.name)
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


# torchvision names no filter; it compares the archive's MD5 before it unpacks
@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
@pytest.mark.parametrize("damaged", [False, True])
def test_an_archive_put_into_the_folder_is_checked_and_unpacked(
    small, offline, monkeypatch, damaged
):
    """What a user without internet is told to do."""
    name, made = small
    base = offline / NAMES[name].base_folder
    archive = packed(base, monkeypatch)
    shutil.rmtree(base)
    monkeypatch.setattr(
        "torchvision.datasets.cifar.download_and_extract_archive", download_and_extract_archive
    )
    monkeypatch.setattr("urllib.request.urlopen", cut_off)
    assert data.at_hand(name)
    if damaged:
        archive.write_bytes(archive.read_bytes()[:-1] + b"?")
        with pytest.raises(DataUnavailable, match=f"put {archive.name} into that folder"):
            data.load(name)
        assert not base.exists()
        return
    dataset = data.load(name)
    assert np.array_equal(dataset.train.images.numpy(), made["train"][0])
    assert dataset.test.labels.tolist() == made["test"][1].tolist()


def test_what_is_neither_unpacked_nor_packed_is_not_at_hand(offline):
    assert not any(data.at_hand(name) for name in NAMES)


@pytest.mark.parametrize("small", ["cifar100"], indirect=True)
def test_a_network_of_its_classes_is_compressed_to_a_share_of_its_macs(small, results):
    name, _ = small
    place = {"network": "resnet20", "length": "short"}
    row = experiments.df.baseline(name, name="l1", reduction=0.5, **place)
    run = runs.get(shortened(row), 0, device="cpu", threads=1, quiet=True)
    assert run.result["classes"] == run.model().fc.out_features == CLASSES[name]
    assert run.result["dense_macs"] == experiments.df.dense_macs(name, "resnet20")
    assert 0.97 * row.budget < run.result["macs"] <= row.budget
    assert verify(run) == []


@pytest.mark.parametrize("name", NAMES)
def test_cifar_that_cannot_be_downloaded_is_reported(offline, name):
    with pytest.raises(
        DataUnavailable, match=r"could not be downloaded .*no route to host"
    ) as error:
        data.load(name)
    assert str(error.value).startswith(f"{name.upper()} is not in {offline}")
    assert f"cifar-{name[5:]}-python.tar.gz" in str(error.value)
    assert "\n" not in str(error.value)


def files(name: str) -> list[str]:
    kind = NAMES[name]
    return [*(file for file, _ in kind.train_list + kind.test_list), kind.meta["filename"]]


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("which", [0, -2, -1])
@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_file_is_refused_and_never_unpickled(small, offline, which, missing):
    name, _ = small
    file = offline / NAMES[name].base_folder / files(name)[which]
    file.write_bytes(pickle.dumps(Touch(offline / "unpickled")))
    if missing:
        file.unlink()
    with pytest.raises(DataUnavailable, match=f"or damaged there.*put {NAMES[name].filename}"):
        data.load(name)
    assert not (offline / "unpickled").exists()


@pytest.fixture
def mirror(offline, monkeypatch):
    """The mirror's folders, with 3 and 2 images a class instead of 5,000 and 1,000."""
    monkeypatch.setattr(cifar, "MIRROR_COUNTS", (30, 20))
    root = offline / "CIFAR-10-images"
    draw = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in range(10):
            (root / split / str(name)).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / str(name) / f"{i}.jpg", quality=75)
    return root


def test_the_mirror_has_cifar10s_statistics_and_its_own_name(mirror):
    dataset = data.load("cifar10-jpeg")
    assert (dataset.name, dataset.classes) == ("cifar10-jpeg", 10)
    assert (dataset.mean, dataset.std) == cifar.STATISTICS["cifar10"]
    assert (len(dataset.train), len(dataset.test)) == (30, 20)


def grey(root):
    file = root / "train" / "0" / "0.jpg"
    Image.open(file).convert("L").save(file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "there is no folder .*/train: delete .* and clone https"),
        (
            lambda root: (root / "test/6/1.jpg").unlink(),
            "test holds 19 images of 10 classes, not 2",
        ),
        (lambda root: shutil.copytree(root / "test/6", root / "test/lion"), "'lion' is in test al"),
        (
            lambda root: (root / "train/5/2.jpg").write_bytes(b"\xff"),
            "train/5/2.jpg cannot be read",
        ),
        (grey, "does not hold 32×32 images in colour"),
    ],
)
def test_what_is_not_the_mirror_is_refused(mirror, spoil, words):
    spoil(mirror)
    with pytest.raises(DataUnavailable, match=words):
        data.load("cifar10-jpeg")


@needs_mirror
def test_the_mirror_is_whole_and_as_pillow_decodes_it():
    dataset = data.load("cifar10-jpeg")
    root = paths.ROOT / "data" / "CIFAR-10-images"
    for split, place, label, file in (
        (dataset.train, 0, 0, "train/airplane/0000.jpg"),
        (dataset.train, 12_343, 3, "train/cat/1234.jpg"),
        (dataset.test, 9_999, 9, "test/truck/0999.jpg"),
    ):
        pixels = np.asarray(Image.open(root / file)).transpose(2, 0, 1)
        assert np.array_equal(split.images[place].numpy(), pixels)
        assert split.labels[place] == label
