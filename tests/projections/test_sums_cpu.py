"""Compiled sums against PyTorch's of the same order, bit for bit."""

import numpy as np
import pytest
import torch

from lib.projections.codebook import sums_cpu

ROW = 8


def prefix(x: torch.Tensor) -> torch.Tensor:
    """Rows by ``cumsum``, and their totals in rows in turn."""
    padded = torch.nn.functional.pad(x.double(), (0, -len(x) % ROW))
    rows = padded.view(-1, ROW).cumsum(1)
    if len(rows) > 1:
        rows = rows + prefix(rows[:, -1])[:-1, None]
    return torch.cat([torch.zeros(1, dtype=torch.float64), rows.flatten()[: len(x)]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 65, 600])
def test_sums_as_torch_rounds_them(n, dtype):
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype) * 1e3 + 1
    shift = float(x.mean(dtype=torch.float64))
    centred = x.double() - shift
    sums = sums_cpu.prefix_sums(x.numpy(), shift, row=ROW)
    np.testing.assert_array_equal(sums, prefix(centred))
    squares = sums_cpu.prefix_sums(x.numpy(), shift, squared=True, row=ROW)
    np.testing.assert_array_equal(squares, prefix(centred.square()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_of_each_level_and_its_values(dtype):
    x = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype).sort().values
    levels = torch.tensor([-1.1, 0.0, 0.3, torch.inf]).to(dtype)
    counts = torch.tensor([20, 0, 80, 0])
    found = torch.empty_like(x)
    sums_cpu.differences(x.numpy(), levels.numpy(), counts.numpy(), found.numpy())
    assert torch.equal(found, torch.repeat_interleave(levels, counts) - x)
