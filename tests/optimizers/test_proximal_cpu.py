"""The compiled proximal step against PyTorch's operations, bit for bit."""

import pytest
import torch

from lib.optimizers.proximal_cpu import pull


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("precise", [torch.float32, torch.float64])
def test_rounds_as_torch(dtype, layout, precise):
    generator = torch.Generator().manual_seed(0)
    w, anchor = (
        torch.randn(16, 7, 3, 5, generator=generator).to(dtype).to(memory_format=layout)
        for _ in range(2)
    )
    t = torch.tensor(0.0123, dtype=precise)
    expected = w + (anchor - w) * t
    parameter = torch.nn.Parameter(w)
    with torch.no_grad():
        pull(parameter, anchor, t)
    assert torch.equal(parameter, expected)
