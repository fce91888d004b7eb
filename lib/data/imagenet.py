"""ImageNet, and a small generated folder of the same form, in torchvision's layout; streamed.

    imagenet/train/<class>/<image>        imagenet/val/<class>/<image>

Classes are numbered in the order of their names, as torchvision's weights are; images are kept in
the order first of each class, second of each class, …, so that the first n are a sample of all.

Every load lists the folder and counts. Every image's header is read, and whether the file ends as
its format does, once for a listing: what was checked is written beside the folder. On a local disk
listing took 7 µs of a core an image and checking 85 µs: of all of ImageNet 9 s, and two minutes.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from tqdm.contrib.concurrent import thread_map

from lib import atomic
from lib.data import pictures
from lib.data.dataset import Dataset
from lib.data.pictures import DataUnavailable, one_line, opened
from lib.data.streamed import Streamed

#: Mean and deviation per channel, of pixels scaled to [0, 1]: those of torchvision's weights.
STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

#: Where ImageNet is to be had.
SOURCE = "https://image-net.org/download-images (ILSVRC2012, task 1 and 2; it needs an account)"

#: What images are called; other files are passed over.
SUFFIXES = (".jpeg", ".jpg", ".png")

#: The last bytes of a whole file; one that ends otherwise is decoded to see whether it is whole.
ENDS: dict[str | None, bytes] = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}

#: Images that a thread checks at a time, and threads: on a network's disk they wait, not compute.
PART, THREADS = 500, 8

#: How many images that cannot be read are named after the first.
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a folder must hold, and to how many pixels its images are brought and cut."""

    classes: int
    train: int
    val: int
    resize: int
    crop: int
    remedy: str


FORMS = {
    "imagenet": Form(
        classes=1_000,
        train=1_281_167,
        val=50_000,
        resize=256,
        crop=224,
        remedy=f"unpack its archives, one folder a class; they come from {SOURCE}",
    ),
    "imagenet-sample": Form(
        classes=3,
        train=300,
        val=60,
        resize=72,
        crop=64,
        remedy="delete the folder, and it is generated again",
    ),
}


def read(name: str, root: Path, form: Form) -> Dataset:
    """The folder ``root`` as the data set ``name``: streamed, ``val`` as its test split.

    The fingerprint is the SHA-256 of the listing, of every image's split, class, name and size in
    bytes, and not of the pixels: reading those would take hours.

    Raises ``DataUnavailable`` that names what is missing or wrong, and says what to do: a split, a
    class (empty, or in one split alone), how many classes or images, images that are no images or
    are cut short.
    """
    skipped = len(os.fsencode(root)) + 1

    def kept(file: os.DirEntry[str]) -> tuple[bytes, int]:
        return os.fsencode(file.path)[skipped:], file.stat().st_size

    found = pictures.listed(root, ("train", "val"), SUFFIXES, kept, form.remedy)
    images = (form.train, form.val)
    pictures.refuse_other_counts(root, found, images, form.classes, form.remedy)
    mark = fingerprint(found)
    splits = []
    for classes in found.values():
        files, labels = pictures.in_turns(classes)
        # bytes of one length, 50 MB in all, which workers share
        splits.append((np.array([file for file, _ in files]), labels))
    _check_once(root, np.concatenate([files for files, _ in splits]), mark, form)
    train, test = (Streamed(root, *split, form.resize, form.crop) for split in splits)
    return Dataset(name, train, test, *STATISTICS, form.classes, mark)


def fingerprint(found: Mapping[str, Mapping[str, list[tuple[bytes, int]]]]) -> str:
    """SHA-256 of a listing: of split, class, name and size of every image."""
    digest = hashlib.sha256()
    for classes in found.values():
        for file, size in itertools.chain(*classes.values()):
            digest.update(file + f"\0{size}\n".encode())
    return digest.hexdigest()


def _check_once(root: Path, files: np.ndarray, mark: str, form: Form) -> None:
    """Looks at every image, unless a note beside the folder says that this was done."""
    note = root.with_name(f"{root.name}.checked")
    text = f"listing {mark}, by Pillow {PIL.__version__}\n"
    with contextlib.suppress(OSError):
        if note.read_text(errors="replace") == text:
            return
    parts = [files[i : i + PART] for i in range(0, len(files), PART)]
    shown = {"desc": f"checking {root.name}", "unit": f" × {PART}", "leave": False, "delay": 2}
    found = thread_map(partial(_wrong, root), parts, max_workers=THREADS, **shown)
    if wrong := [*itertools.chain(*found)]:
        (file, why), *others = [(root / os.fsdecode(file), why) for file, why in wrong]
        named = ", ".join(str(other) for other, _ in others[:NAMED])
        more = f", and {len(others):,} more cannot ({named})" if others else ""
        raise DataUnavailable(f"{file} cannot be read ({why}){more}: {form.remedy}")
    with contextlib.suppress(OSError):  # where it cannot be written, they are checked every time
        atomic.write(note, text.encode())


def _wrong(root: Path, files: np.ndarray) -> list[tuple[bytes, str]]:
    """Those of ``files`` that cannot be read, and why."""
    found = []
    for file in files:
        path = root / os.fsdecode(file)
        try:
            with opened(path) as picture:
                end = ENDS.get(picture.format)
                if end is None or not _ends(path, end):
                    picture.load()
        except DataUnavailable as error:
            found.append((file, one_line(error.__cause__ or error)))
    return found


def _ends(file: Path, end: bytes) -> bool:
    with file.open("rb") as stream:
        stream.seek(-len(end), os.SEEK_END)
        return stream.read() == end
