"""What has to be exact on a GPU, and that float32 is float32 there."""

import torch

from lib import networks
from lib.projections.precision import round_to


def test_powers_of_two_are_exact(device):
    exponents = torch.arange(-149, 128, dtype=torch.int32)
    assert torch.equal(torch.pow(2.0, exponents.to(device)).cpu(), torch.pow(2.0, exponents))


def test_numbers_round_as_on_the_cpu(device):
    generator = torch.Generator().manual_seed(0)
    normal, spread = (torch.randn(10**5, generator=generator) for _ in range(2))
    values = normal * torch.exp(8 * spread)
    for significant in (3, 8, 12, 24):
        found = round_to(values.to(device), significant).cpu()
        assert torch.equal(found, round_to(values, significant))


def test_float32_convolutions_are_float32(device):
    """TF32 keeps 10 of float32's 23 bits: a network's outputs would be 10⁻³ from the CPU's."""
    torch.manual_seed(0)
    model, images = networks.build("resnet20").eval(), torch.randn(20, 3, 32, 32)
    with torch.no_grad():
        wanted = model(images)
        there = images.to(device, memory_format=torch.channels_last)
        found = model.to(device)(there).cpu()
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
