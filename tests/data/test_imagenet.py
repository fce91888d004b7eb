"""ImageNet's form: what is wrong with a folder is named, streamed images are the right ones."""

import io
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from lib import data, training
from lib.data import Dataset, DataUnavailable, Split, imagenet, sample, streamed
from lib.optimizers import ADMM, Method
from lib.training import Schedule, evaluate, predict, train
from lib.workbook import runs
from lib.workbook.cli import main

pytestmark = [
    # of tests that start workers: Python 3.12 warns of every fork, PyTorch of few cores
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

FORM = replace(imagenet.FORMS["imagenet-sample"], train=36, val=12)
SCHEDULE = Schedule(epochs=3, lr=0.05, batch=16, weight_decay=1e-4)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A small sample, which no test writes to."""
    root = tmp_path_factory.mktemp("data") / "imagenet-sample"
    sample.generate(root, train=FORM.train, val=FORM.val)
    return root


@pytest.fixture
def root(drawn, tmp_path):
    """A copy of it, for a test to spoil."""
    return shutil.copytree(drawn, tmp_path / "imagenet-sample")


def read(root, form=FORM) -> Dataset:
    return imagenet.read("imagenet-sample", root, form)


def error_of(root, form=FORM) -> str:
    """What is said of a folder, in one line, and nothing is kept."""
    with pytest.raises(DataUnavailable) as error:
        read(root, form)
    assert "\n" not in str(error.value)
    assert not note(root).exists()
    return str(error.value)


def note(root):
    return root.with_name(f"{root.name}.checked")


def image(root, split="train", kind=0, number=1):
    name = sample.CLASSES[kind]
    return root / split / name / f"{name}_{number}.JPEG"


def network():
    """MobileNet's parts in small: a stem, two depthwise separable convolutions, a classifier."""
    torch.manual_seed(0)

    def separable(before, after):
        return (
            nn.Conv2d(before, before, 3, stride=2, padding=1, groups=before, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Conv2d(before, after, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )

    stem = nn.Conv2d(3, 16, 5, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 3)
    return nn.Sequential(*stem, *separable(16, 32), *separable(32, 32), *head)


def everything(split, **options):
    """All that a pass gives."""
    images, labels = zip(*split.batches(5, **options), strict=True)
    return torch.cat(images), torch.cat(labels)


def cut(split, seed, order=None):
    """The images of an epoch, each at its own place."""
    order = torch.arange(len(split)) if order is None else order
    images, labels = zip(*split.steps(order, batch=5, seed=seed), strict=True)
    assert torch.equal(torch.cat(labels), split.labels[order])
    return torch.cat(images)[order.argsort()]


# ------------------------------------------------------------------------------------ the sample


def test_the_sample_is_drawn_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    assert data.at_hand("imagenet-sample")
    assert main(["fetch", "imagenet-sample"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "300 and 60 images of 3×64×64 in 3 classes" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "imagenet-sample",
        "imagenet-sample.checked",
    ]
    dataset = data.load("imagenet-sample")
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (300, 60, 3)
    assert dataset.shape == (3, 64, 64)
    sizes, modes = set(), set()
    for file in (tmp_path / "imagenet-sample").rglob("*.JPEG"):
        with Image.open(file) as picture:
            sizes.add(picture.size)
            modes.add(picture.mode)
    assert len(sizes) > 100
    assert all(min(size) >= 80 and max(size) <= 160 for size in sizes)
    assert modes == {"L", "RGB"}

    tuning = data.load("imagenet-sample", held_out=True)
    assert tuning.test.labels.bincount().tolist() == [10, 10, 10]
    assert {*tuning.train.files} | {*tuning.test.files} == {*dataset.train.files}


def test_the_sample_is_always_the_same(drawn, tmp_path):
    sample.generate(tmp_path / "again", train=FORM.train, val=FORM.val)
    files = {path.relative_to(drawn) for path in drawn.rglob("*.JPEG")}
    assert files == {f.relative_to(tmp_path / "again") for f in tmp_path.rglob("*.JPEG")}
    contents = {(drawn / file).read_bytes() for file in files}
    assert contents == {(tmp_path / "again" / file).read_bytes() for file in files}
    assert len(contents) == len(files) == 48


def test_what_cannot_be_drawn_whole_is_not_there(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(sample, "_drawn", fail)
    with pytest.raises(OSError, match="no space"):
        sample.generate(tmp_path / "imagenet-sample")
    assert not [*tmp_path.iterdir()]


# ----------------------------------------------------------------------------- what is in a folder


def test_classes_are_torchvisions_and_images_come_in_turns(drawn):
    from torchvision.datasets import ImageFolder

    dataset = read(drawn)
    for split, ours in (("train", dataset.train), ("val", dataset.test)):
        theirs = ImageFolder(drawn / split).samples
        found = [str(drawn / os.fsdecode(file)) for file in ours.files]
        assert dict(zip(found, ours.labels.tolist(), strict=True)) == dict(theirs)
        assert ours.labels[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]
    names = [os.fsdecode(file).rpartition("/")[2] for file in dataset.train.files[::3]]
    assert names == sorted(names)


def test_the_fingerprint_is_the_listings(root, tmp_path):
    before = read(root).fingerprint
    other = shutil.copytree(root, tmp_path / "other" / "imagenet-sample")  # times differ
    assert read(other).fingerprint == before
    with image(other, "val").open("ab") as file:
        file.write(b"\0")
    assert read(other).fingerprint != before
    image(root).rename(image(root).with_name("renamed.JPEG"))
    assert read(root).fingerprint != before


def test_as_many_of_each_class_are_held_out(root):
    for number in range(5):
        image(root, kind=2, number=number).unlink()
    split = read(root, replace(FORM, train=31)).train  # 12, 12 and 7
    keep, hold = data.dataset.hold_out(split, 9, equally=True)
    assert hold.labels.bincount().tolist() == [3, 3, 3]
    assert keep.labels.bincount().tolist() == [9, 9, 4]
    assert {*keep.files, *hold.files} == {*split.files}
    assert len({*keep.files}) + len({*hold.files}) == 31
    again = data.dataset.hold_out(split, 9, equally=True)
    assert np.array_equal(again[1].files, hold.files)


def test_a_missing_folder_says_where_imagenet_goes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    assert not data.at_hand("imagenet")
    assert main(["fetch", "imagenet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"there is no folder {tmp_path / 'imagenet'}/train: unpack" in line
    assert "image-net.org" in line


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "there is no folder {root}/train: delete the folder"),
        (lambda root: shutil.rmtree(root / "val"), "there is no folder {root}/val: delete the fo"),
        (
            lambda root: shutil.rmtree(root / "val" / sample.CLASSES[2]),
            f"class {sample.CLASSES[2]!r} is in train alone: delete the folder",
        ),
        (lambda root: image(root).unlink(), "train holds 35 images of 3 classes, not 36 of 3: del"),
        (
            # validation images that were not sorted
            lambda root: [folder.rename(root / folder.name) for folder in (root / "val").iterdir()],
            "{root}/val has no folder a class: delete the folder",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(root, spoil, words):
    spoil(root)
    assert words.format(root=root) in error_of(root)


def test_imagenet_needs_a_thousand_classes_and_all_images(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    for split in ("train", "val"):
        for i in range(999):
            folder = tmp_path / "imagenet" / split / f"n{i:08}"
            folder.mkdir(parents=True)
            (folder / "0.JPEG").touch()
    assert data.at_hand("imagenet")
    wanted = "holds 999 images of 999 classes, not 1,281,167 of 1,000: unpack .*image-net.org"
    with pytest.raises(DataUnavailable, match=wanted):
        data.load("imagenet")


# ---------------------------------------------------------------------- images that are no images


def test_images_that_cannot_be_read_are_named(root):
    image(root, number=1).write_bytes(b"")
    assert f"{image(root, number=1)} cannot be read (" in error_of(root)
    image(root, number=2).write_text("<html>404</html>")
    whole = image(root, number=3).read_bytes()
    image(root, number=3).write_bytes(whole[: len(whole) // 2])
    said = error_of(root)
    assert f"{image(root, number=1)} cannot be read (" in said
    assert f"2 more cannot ({image(root, number=2)}, {image(root, number=3)}): delete" in said


def test_bytes_after_the_end_are_no_damage(root):
    with image(root).open("ab") as file:
        file.write(b"a camera's own notes")
    Image.new("RGB", (90, 90)).save(image(root, number=2), format="PNG")  # ImageNet has one too
    Image.new("CMYK", (90, 90)).save(image(root, number=3))  # and some of these
    images, _ = everything(read(root).train)
    assert images.shape == (36, 3, 64, 64)


def test_images_are_checked_once(root, monkeypatch):
    looked = []
    wrong = imagenet._wrong
    monkeypatch.setattr(imagenet, "_wrong", lambda *args: looked.append(args) or wrong(*args))
    read(root)
    assert len(looked) == 1
    read(root)
    assert len(looked) == 1
    with image(root).open("ab") as file:
        file.write(b"\0")
    read(root)
    assert len(looked) == 2
    note(root).write_bytes(b"\xff")
    read(root)
    assert len(looked) == 3


def test_a_note_that_cannot_be_written_is_done_without(root, monkeypatch):
    def fail(*args):
        raise OSError("read-only file system")

    monkeypatch.setattr(imagenet.atomic, "write", fail)
    assert len(read(root).train) == 36


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_image_that_is_damaged_since_is_named_in_training(root, workers, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WORKERS", workers)
    dataset = read(root)
    file = image(root, number=7)
    file.write_bytes(bytes(file.stat().st_size))
    for use in (
        lambda: train(network(), dataset, SCHEDULE, Method(), seed=0, quiet=True),
        lambda: evaluate(network(), dataset, dataset.train),
    ):
        with pytest.raises(DataUnavailable) as error:
            use()
        assert str(error.value).startswith(f"{file} cannot be read (")
        assert str(error.value).endswith("replace it")
        assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------- the pixels


@pytest.mark.parametrize("name", ["imagenet", "imagenet-sample"])
def test_evaluation_images_are_those_of_torchvisions_weights(drawn, name):
    form = imagenet.FORMS[name]
    dataset = read(drawn, replace(FORM, resize=form.resize, crop=form.crop))
    kind = models.ResNet50_Weights.IMAGENET1K_V1.transforms
    preset = kind(crop_size=form.crop, resize_size=form.resize)
    if name == "imagenet":
        assert str(preset) == str(kind())
    images, labels = everything(dataset.test)
    assert torch.equal(labels, dataset.test.labels)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    made = dataset.normalise(images)
    assert made.is_contiguous(memory_format=torch.channels_last)
    for ours, file in zip(made, dataset.test.files, strict=True):
        with Image.open(drawn / os.fsdecode(file)) as picture:
            theirs = preset(picture.convert("RGB"))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_training_images_are_cuts_of_8_to_100_percent(root):
    """Of pictures whose pixels say where they are: red from left to right, green downwards."""
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = ramp, ramp[:, None]
    for file in (root / "train").rglob("*.JPEG"):
        Image.fromarray(pixels).save(file, quality=100, subsampling=0)
    split = read(root).train
    images = torch.cat([cut(split, seed) for seed in range(8)]).float()
    # from the first to the last pixel's centre are 63 of the 64 steps
    wide = (images[:, 0, 32, -1] - images[:, 0, 32, 0]) / 255 * 64 / 63
    high = (images[:, 1, -1, 32] - images[:, 1, 0, 32]) / 255 * 64 / 63
    area, ratio = wide.abs() * high, wide.abs() / high
    assert 0.06 < area.min() < 0.15
    assert 0.9 < area.max() < 1.05
    assert 0.44 < area.mean() < 0.62  # uniform on 0.08 … 1, but for cuts that do not fit
    assert 0.7 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.43
    assert 0.4 < (wide < 0).float().mean() < 0.6  # mirrored
    assert (high > 0).all()


def test_cuts_depend_on_the_seed_and_the_image_alone(drawn, monkeypatch):
    split = read(drawn).train
    monkeypatch.setenv("WORKBOOK_WORKERS", "0")
    before = torch.get_rng_state()
    wanted, evaluated = cut(split, 1), everything(split)[0]
    assert torch.equal(torch.get_rng_state(), before)  # what the network draws stays
    assert not torch.equal(cut(split, 2), wanted)
    assert torch.equal(cut(split, 1, torch.randperm(36)), wanted)
    for workers in ("1", "3"):
        monkeypatch.setenv("WORKBOOK_WORKERS", workers)
        before = torch.get_rng_state()
        assert torch.equal(cut(split, 1), wanted)
        assert torch.equal(everything(split)[0], evaluated)
        assert torch.equal(torch.get_rng_state(), before)


def test_how_many_workers(monkeypatch):
    monkeypatch.delenv("WORKBOOK_WORKERS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    each = streamed.IMAGES_A_WORKER
    assert [streamed.workers(n) for n in (300, each, 5 * each, 50 * each)] == [0, 1, 5, 16]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert streamed.workers(50 * each) == 4
    monkeypatch.setenv("WORKBOOK_WORKERS", "7")
    assert streamed.workers(1) == 7
    monkeypatch.setenv("WORKBOOK_WORKERS", "many")
    with pytest.raises(ValueError, match="'many' must be a number of processes"):
        streamed.workers(1)


# ------------------------------------------------------------------------------------ the one loop


def state_of(model):
    return [*model.state_dict().values()]


def same(one, other):
    """Bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(state_of(one), state_of(other), strict=True))


def test_streamed_images_are_evaluated_as_held_ones(drawn, monkeypatch):
    """Here the whole of what is asked of a split, against one that holds the same pixels."""
    monkeypatch.setattr(training.evaluation, "EVALUATION_BATCH", 7)
    dataset, model = read(drawn), network()
    held = replace(
        dataset,
        **{name: Split(*everything(getattr(dataset, name))) for name in ("train", "test")},
    )
    assert held.shape == dataset.shape
    assert evaluate(model, dataset, dataset.test) == evaluate(model, held, held.test)
    assert evaluate(model, dataset, dataset.train[:8]) == evaluate(model, held, held.train[:8])
    assert torch.equal(predict(model, dataset, dataset.test), predict(model, held, held.test))
    images = zip(training.training_images(dataset), training.training_images(held), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in images)


def test_a_resumed_run_is_the_uninterrupted_one(drawn, monkeypatch):
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", -1)
    dataset, states, schedule = read(drawn), [], replace(SCHEDULE, epochs=2)

    def save(state):
        states.append(io.BytesIO())
        torch.save(state, states[-1])

    def run(model, **options):
        options = {"seed": 0, "trace": True, "quiet": True} | options
        rows = train(model, dataset, schedule, ADMM(budget=4_000), **options)
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    whole, resumed, other = network(), network(), network()
    history = run(whole, save=save)
    monkeypatch.setenv("WORKBOOK_WORKERS", "2")
    torch.manual_seed(99)  # a new process is in no particular state
    state = torch.load(io.BytesIO(states[0].getvalue()), weights_only=True)
    assert run(resumed, resume=state) == history
    assert same(resumed, whole)
    monkeypatch.setenv("WORKBOOK_WORKERS", "0")
    run(other, seed=1)
    assert not same(other, whole)


def test_crops_of_the_schedule_are_refused(drawn):
    dataset = read(drawn)
    for schedule in (replace(SCHEDULE, crop=4), replace(SCHEDULE, flip=True)):
        with pytest.raises(ValueError, match="leave crop and flip out of the schedule"):
            train(network(), dataset, schedule, Method(), seed=0, quiet=True)


# ------------------------------------------------------------------------------------- the commands


def test_compress_streams_as_well(results, drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBOOK_DATA", str(drawn.parent))
    monkeypatch.setitem(imagenet.FORMS, "imagenet-sample", FORM)
    from lib import networks

    blank = networks.build("resnet8", classes=3, channels=3)
    torch.save(blank.state_dict(), tmp_path / "in.pt")
    wanted = ["--dataset", "imagenet-sample", "--budget", "50 %", "--epochs", "2", "--quiet"]
    files = ["--weights", str(tmp_path / "in.pt"), "--to", str(tmp_path / "out.cnet")]
    assert main(["compress", "resnet8", *wanted, *files]) == 0
    assert "drawn pictures of 3 classes" in capsys.readouterr().out
    assert (tmp_path / "out.cnet").exists()
    runs.dataset_of.cache_clear()
