"""A folder in ImageNet's form that is drawn, not photographed: it proves the path, no result.

Three classes that stay what they are in a mirror: stripes that lie, stripes that stand, and rings;
of any colours, widths and places, under noise, some of them grey, 80 to 160 pixels a side.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

#: Named as ImageNet's classes are.
CLASSES = ("n00000001", "n00000002", "n00000003")

SIDES = (80, 160)


def generate(root: Path, *, train: int = 300, val: int = 60) -> None:
    """Writes ``train`` and ``val`` images, as many of each class, into ``root``: whole or not.

    Always the same pictures; what JPEG makes of them depends on Pillow.
    """
    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    try:
        for split, count in (("train", train), ("val", val)):
            for kind, name in enumerate(CLASSES):
                folder = partial / split / name
                folder.mkdir(parents=True)
                for i in range(count // len(CLASSES)):
                    picture = _drawn(kind, np.random.default_rng([split == "val", kind, i]))
                    picture.save(folder / f"{name}_{i}.JPEG", quality=90)
        try:
            os.rename(partial, root)
        except OSError:
            if not root.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _drawn(kind: int, random: np.random.Generator) -> Image.Image:
    """One picture of a class: a wave between two colours, and noise."""
    height, width = random.integers(*SIDES, endpoint=True, size=2)
    y, x = np.mgrid[:height, :width]
    middle = random.uniform(0.3, 0.7, 2) * (height, width)
    along = (y, x, np.hypot(y - middle[0], x - middle[1]))[kind]  # pixels
    wave = np.sin(2 * np.pi * (along / random.uniform(10, 20) + random.random()))
    colours = random.uniform(0, 255, (2, 3))
    share = (1 + wave[..., None]) / 2  # (height, width, 1)
    pixels = share * colours[0] + (1 - share) * colours[1]
    pixels += random.normal(0, 20, pixels.shape)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture.convert("L") if random.random() < 0.1 else picture
