"""Crops and flips in batches against slicing image by image, and against torchvision's."""

from collections import Counter

import numpy as np
import pytest
import torch

from lib.data.augmentation import crop_and_flip, draw


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=12, channels=3, height=5, width=7):
    """No pixel is black, so that padding is told apart."""
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, generator=generator(), dtype=torch.uint8)


def by_slicing(batch, drawn, padding):
    """One image after the other, in NumPy."""
    height, width = batch.shape[2:]
    made = []
    for image, (row, column, flip) in zip(batch.numpy(), drawn.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        cut = padded[:, row : row + height, column : column + width]
        made.append(cut[:, :, ::-1] if flip else cut)
    return torch.from_numpy(np.stack(made))


@pytest.mark.parametrize("padding", [0, 1, 2, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 7), (3, 7, 5)])
def test_as_slicing_image_by_image(padding, flip, shape):
    channels, height, width = shape
    batch = images(40, channels, height, width)
    drawn = draw(40, padding=padding, flip=flip, generator=generator(1))
    assert torch.equal(
        crop_and_flip(batch, drawn, padding=padding), by_slicing(batch, drawn, padding)
    )


def test_every_shift_and_flip_of_one_image():
    drawn = torch.cartesian_prod(torch.arange(5), torch.arange(5), torch.arange(2))
    batch = images(1).expand(50, -1, -1, -1)
    made = crop_and_flip(batch, drawn, padding=2)
    assert torch.equal(made, by_slicing(batch, drawn, 2))
    assert len(made.flatten(1).unique(dim=0)) == 50


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_type_and_shape_stay_and_the_layout_is_channels_last(dtype):
    batch, drawn = images().to(dtype), draw(12, padding=2, flip=True, generator=generator())
    kept = batch.clone()
    made = crop_and_flip(batch, drawn, padding=2)
    assert (made.dtype, made.shape) == (dtype, batch.shape)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, kept)


def test_what_is_drawn_repeats_and_another_seed_draws_other():
    first, second, other = (
        draw(100, padding=4, flip=True, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (first.dtype, first.shape) == (torch.int64, (100, 3))


def test_shifts_are_uniform_and_half_is_flipped():
    count = 81_000
    drawn = draw(count, padding=4, flip=True, generator=generator())
    cells = Counter(map(tuple, drawn[:, :2].tolist()))
    assert not draw(count, padding=4, flip=False, generator=generator())[:, 2].any()
    assert set(cells) == {(row, column) for row in range(9) for column in range(9)}
    expected = count / 81
    # χ² of 80 degrees of freedom: 124.8 is passed once in a thousand times
    assert sum((n - expected) ** 2 / expected for n in cells.values()) < 124.8
    # four standard deviations, with the flips of each shift too
    assert abs(drawn[:, 2].sum() - count / 2) < 4 * (count / 4) ** 0.5
    at_corner = drawn[(drawn[:, :2] == 0).all(1), 2]
    assert abs(at_corner.sum() - len(at_corner) / 2) < 4 * (len(at_corner) / 4) ** 0.5
