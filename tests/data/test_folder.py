"""Folders of images against Pillow and numpy; what is missing or wrong in them is named."""

import os
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from lib import data
from lib.data import DataUnavailable
from lib.data import folder as reader

CLASSES = ("ant", "bee", "cat")
TRAIN, TEST = 4, 2


def picture(mode="RGB", size=(7, 5), seed=0):
    height_width_channels = (size[1], size[0], *{"L": ()}.get(mode, (len(mode),)))
    pixels = np.random.default_rng(seed).integers(0, 256, height_width_channels, np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """A folder of 7×5 images in colour (width × height), in the data folder."""
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path))
    root = tmp_path / "flowers"
    for split, count in (("train", TRAIN), ("test", TEST)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = picture(seed=100 * count + 10 * label + i)
                image.save(root / split / name / f"{i}.png")
    (root / "README.md").write_text("no image")
    (root / "train" / "ant" / "notes.txt").write_text("no image")
    (root / "train" / "ant" / ".0.png").write_text("hidden")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    return root


@pytest.fixture
def no_decoding(monkeypatch):
    def fail(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(reader, "_decoded", fail)


def test_pixels_labels_and_order(flowers):
    dataset = data.load("./flowers")
    for split, part, count in (("train", dataset.train, TRAIN), ("test", dataset.test, TEST)):
        paths = [flowers / split / name / f"{i}.png" for i in range(count) for name in CLASSES]
        wanted = np.stack([np.asarray(Image.open(path)) for path in paths]).transpose(0, 3, 1, 2)
        assert part.images.dtype == torch.uint8
        assert part.images.is_contiguous()
        assert np.array_equal(part.images.numpy(), wanted)
        assert part.labels.dtype == torch.int64
        assert part.labels.tolist() == [0, 1, 2] * count
    assert (dataset.name, dataset.classes) == ("./flowers", 3)
    assert dataset.fingerprint == data.fingerprint(dataset.train, dataset.test)


def test_classes_of_unequal_sizes_take_turns(flowers):
    picture().save(flowers / "train" / "bee" / "9.png")
    assert data.load("./flowers").train.labels.tolist() == [0, 1, 2] * TRAIN + [1]


def test_mean_and_deviation_are_the_training_pixels_own(flowers):
    dataset = data.load("./flowers")
    pixels = dataset.train.images.numpy() / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-12)
    assert dataset.std == pytest.approx(pixels.std((0, 2, 3)), rel=1e-12)
    black = torch.zeros((6, 1, 5, 5), dtype=torch.uint8)
    assert reader._statistics(black) == ((0.0,), (1.0,))


def test_a_path_is_taken_from_the_data_folder_not_the_working_directory(flowers, monkeypatch):
    (flowers.parent / "elsewhere").mkdir()
    monkeypatch.chdir(flowers.parent / "elsewhere")
    here = data.load("./flowers")
    assert torch.equal(data.load(str(flowers)).test.images, here.test.images)
    with pytest.raises(DataUnavailable, match=rf"there is no folder {flowers.parent}/nowhere"):
        data.load("./nowhere")
    with pytest.raises(ValueError, match=r"unknown data set 'flowers'.* such as '\./flowers'"):
        data.load("flowers")


def test_val_is_taken_where_there_is_no_test(flowers):
    with_test = data.load("./flowers")
    shutil.copytree(flowers / "test", flowers / "val")
    (flowers / "val" / "ant" / "0.png").unlink()
    assert data.load("./flowers").fingerprint == with_test.fingerprint
    shutil.rmtree(flowers / "test")
    assert len(data.load("./flowers").test) == 3 * TEST - 1


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "bmp", "ppm", "tif", "webp"])
def test_formats_are_decoded_as_pillow_does(flowers, suffix):
    path = flowers / "train" / "ant" / f"0.{suffix}"
    picture(seed=5).save(path)
    (flowers / "train" / "ant" / "0.png").unlink()
    wanted = np.asarray(Image.open(path)).transpose(2, 0, 1)
    assert np.array_equal(data.load("./flowers").train.images[0].numpy(), wanted)


def test_grey_first_makes_all_grey(flowers):
    grey = picture("L")
    grey.save(flowers / "train" / "ant" / "0.png")
    dataset = data.load("./flowers")
    assert dataset.train.images.shape == (3 * TRAIN, 1, 5, 7)
    assert np.array_equal(dataset.train.images[0, 0].numpy(), np.asarray(grey))
    second = Image.open(flowers / "train" / "bee" / "0.png").convert("L")
    assert np.array_equal(dataset.train.images[1, 0].numpy(), np.asarray(second))
    assert len(dataset.mean) == len(dataset.std) == 1


def test_black_and_white_is_grey(flowers):
    picture("L").convert("1").save(flowers / "train" / "ant" / "0.png")
    images = data.load("./flowers").train.images
    assert images.shape[1] == 1
    assert set(images[0].unique().tolist()) == {0, 255}


def test_transparent_palette_and_grey_images_become_colour(flowers):
    transparent, grey = picture("RGBA", seed=1), picture("L", seed=2)
    transparent.save(flowers / "train" / "ant" / "0.png")
    grey.save(flowers / "train" / "bee" / "0.png")
    palette = picture(seed=3).quantize(4)
    palette.save(flowers / "train" / "cat" / "0.png", transparency=bytes([0, 50, 100, 150]))
    images = data.load("./flowers").train.images.numpy()
    assert np.array_equal(images[0], np.asarray(transparent)[..., :3].transpose(2, 0, 1))
    assert np.array_equal(images[1], np.stack([np.asarray(grey)] * 3))
    assert np.array_equal(images[2], np.asarray(palette.convert("RGB")).transpose(2, 0, 1))


def spoiled(file, content=b"no image"):
    return lambda root: (root / file).write_bytes(content)


def dropped(folder):
    return lambda root: shutil.rmtree(root / folder)


def empty_class(root):
    dropped("test/bee")(root)
    (root / "test" / "bee").mkdir()


def truncated(root):
    file = root / "test" / "bee" / "1.png"
    file.write_bytes(file.read_bytes()[:-40])


def broken_link(root):
    (root / "test" / "bee" / "1.png").unlink()
    (root / "test" / "bee" / "1.png").symlink_to("nowhere")


def other_format(root):
    picture().save(root / "test" / "bee" / "1.png", format="GIF")


def other_size(root):
    picture(size=(5, 7)).save(root / "train" / "cat" / "2.png")


def too_large(root):
    picture(size=(65, 64)).save(root / "train" / "ant" / "0.png")


def sixteen_bits(root):
    Image.fromarray(np.full((5, 7), 4000, np.uint16)).save(root / "train" / "cat" / "2.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (dropped("train"), "there is no folder .*flowers/train: it needs train/ and test/"),
        (dropped("test"), "there is no folder .*flowers/test: it needs train/ and test/"),
        (
            lambda root: [dropped(f"test/{name}")(root) for name in CLASSES],
            "no folder a class",
        ),
        (dropped("test/bee"), "class 'bee' is in train alone"),
        (dropped("train/bee"), "class 'bee' is in test alone"),
        (empty_class, "flowers/test/bee holds no image"),
        (spoiled("test/bee/1.png"), r"test/bee/1.png cannot be read \(cannot iden.* replace it"),
        (spoiled("test/bee/1.png", b""), "test/bee/1.png cannot be read"),
        (spoiled("train/ant/0.png"), "train/ant/0.png cannot be read"),
        (truncated, "test/bee/1.png cannot be read"),
        (other_format, "test/bee/1.png cannot be read"),
        (broken_link, "test/bee/1.png cannot be read"),
        (other_size, "train/cat/2.png is 5×7, the images before it 7×5: bring all to one size"),
        (too_large, "train/ant/0.png is 65×64, larger than the 64×64"),
        (sixteen_bits, "train/cat/2.png has more than 8 bits a channel: convert it"),
    ],
)
def test_what_is_wrong_is_named(flowers, spoil, words):
    spoil(flowers)
    with pytest.raises(DataUnavailable, match=words) as error:
        data.load("./flowers")
    assert "\n" not in str(error.value)
    assert not list(flowers.glob("decoded*"))


def test_too_many_bytes_are_refused_before_memory_is_taken(flowers, monkeypatch, no_decoding):
    decoded = 3 * (TRAIN + TEST) * 3 * 5 * 7
    monkeypatch.setattr(reader, "MOST_BYTES", decoded - 1)
    with pytest.raises(DataUnavailable, match=f"are {decoded:,} bytes decoded"):
        data.load("./flowers")
    monkeypatch.setattr(reader, "MOST_BYTES", decoded)
    with pytest.raises(AssertionError, match="decoded"):
        data.load("./flowers")


def test_a_second_load_decodes_nothing(flowers, request):
    first = data.load("./flowers")
    request.getfixturevalue("no_decoding")
    second = data.load("./flowers")
    for split in ("train", "test"):
        before, after = getattr(first, split), getattr(second, split)
        assert torch.equal(before.images, after.images)
        assert torch.equal(before.labels, after.labels)
    assert (first.fingerprint, first.mean, first.std) == (
        second.fingerprint,
        second.mean,
        second.std,
    )
    assert [file.name for file in flowers.glob("decoded*")] == [reader.CACHE]


def test_who_may_read_the_images_may_read_the_cache(flowers):
    (flowers / "train" / "ant" / "0.png").chmod(0o640)
    data.load("./flowers")
    assert (flowers / reader.CACHE).stat().st_mode & 0o777 == 0o640


def add(root):
    picture(seed=9).save(root / "train" / "ant" / "00.png")


def remove(root):
    (root / "train" / "ant" / "0.png").unlink()


def rename(root):
    (root / "train" / "ant" / "0.png").rename(root / "train" / "ant" / "z.png")


def swap(root):
    """The same name, the same size in bytes, another time."""
    file = root / "train" / "ant" / "0.png"
    before = file.stat()
    picture(seed=9).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [add, remove, rename, swap])
def test_a_folder_that_changed_is_decoded_again(flowers, change):
    before = data.load("./flowers")
    change(flowers)
    after = data.load("./flowers")
    (flowers / reader.CACHE).unlink()
    assert after.fingerprint == data.load("./flowers").fingerprint != before.fingerprint


def test_another_pillow_decodes_again(flowers, monkeypatch, request):
    data.load("./flowers")
    request.getfixturevalue("no_decoding")
    monkeypatch.setattr("PIL.__version__", "0")
    with pytest.raises(AssertionError, match="decoded"):
        data.load("./flowers")


def flip_last(whole):
    return whole[:-1] + bytes([whole[-1] ^ 1])


DAMAGE = {
    "empty": lambda whole: b"",
    "truncated": lambda whole: whole[:-1],
    "a bit of a pixel": flip_last,
    "other kind": lambda whole: whole.replace(b'"U8"', b'"I8"'),
    "other shape": lambda whole: whole.replace(b"3,5,7]", b"3,7,5]"),
    "no header": lambda whole: struct.pack("<Q", 2**60) + whole[8:],
    "no safetensors": lambda whole: b"PK" + whole,
    "no fingerprint": lambda whole: whole.replace(b"fingerprint", b"fingerprunt"),
    "other names": lambda whole: whole.replace(b'"train"', b'"drain"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_cache_is_made_again(flowers, damage, monkeypatch):
    before, cache = data.load("./flowers"), flowers / reader.CACHE
    whole = cache.read_bytes()
    assert damage(whole) != whole
    cache.write_bytes(damage(whole))
    after = data.load("./flowers")
    assert torch.equal(after.train.images, before.train.images)
    assert torch.equal(after.test.images, before.test.images)
    assert after.fingerprint == before.fingerprint
    monkeypatch.setattr(reader, "_decoded", None)
    assert data.load("./flowers").fingerprint == before.fingerprint


def test_where_the_cache_cannot_be_written_it_goes_without(flowers):
    (flowers / reader.CACHE).mkdir()
    first = data.load("./flowers")
    assert data.load("./flowers").fingerprint == first.fingerprint
    assert [file.name for file in flowers.glob("decoded*")] == [reader.CACHE]


def test_too_few_to_hold_out_are_refused(flowers):
    with pytest.raises(DataUnavailable, match=r"\(12 of 3 classes\) to hold a tenth"):
        data.load("./flowers", held_out=True)


def test_a_size_is_that_of_the_images(flowers):
    with pytest.raises(ValueError, match=r"size = 7: the images of ./flowers are 7×5"):
        data.load("./flowers", size=7)
