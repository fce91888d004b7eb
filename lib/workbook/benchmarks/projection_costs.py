"""What a projection is measured on and against: ResNet-50's layers, the paper's sort, both parts.

For notebook 90 and ``python -m lib gpu-check`` (:mod:`lib.workbook.benchmarks.gpu_check`).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lib.layers import compressible
from lib.projections.codebook import assign, fit_codebooks
from lib.projections.multiple_choice import choose_bitwidths


def sort_and_cumsum(
    weights: Sequence[Tensor], bits: Sequence[int], budget: int, out: Sequence[Tensor]
) -> None:
    """The paper's choice of the weights (Section 3.3), into ``out``.

    All weights of all layers are sorted by w²/b; the longest prefix whose bits fit stays.
    """
    value = torch.cat([w.flatten().square() / b for w, b in zip(weights, bits, strict=True)])
    price = torch.cat(
        [torch.full((w.numel(),), b, device=w.device) for w, b in zip(weights, bits, strict=True)]
    )
    order = value.argsort(descending=True, stable=True)
    kept = torch.empty_like(value, dtype=torch.bool)
    kept[order] = price[order].cumsum(0) <= budget  # int64: float32 cannot count past 2²⁴
    for o, w, k in zip(out, weights, kept.split([w.numel() for w in weights]), strict=True):
        torch.mul(w, k.view(w.shape), out=o)


def kept_otherwise(
    projected: Sequence[Tensor], weights: Sequence[Tensor], bits: Sequence[int], budget: int
) -> int:
    """How many weights of ``projected`` differ from :func:`sort_and_cumsum`'s.

    Compared in float64: as float32, neighbouring w²/b may round to the same number.
    """
    doubles = [w.double() for w in weights]
    exact = [torch.empty_like(w) for w in doubles]
    sort_and_cumsum(doubles, bits, budget, exact)
    return sum(int((a != b.float()).sum()) for a, b in zip(projected, exact, strict=True))


def choose_bits(layers: Sequence[Tensor], budget: int, out: Sequence[Tensor]) -> None:
    """All of the second projection: codebooks of all bitwidths, their choice, every weight's."""
    counts = torch.stack([w.count_nonzero() for w in layers]).tolist()
    books = fit_codebooks(layers, free_zero=True)
    choice = choose_bitwidths(books.errors, counts, budget=budget)
    for o, w, book, b in zip(out, layers, books.centres, choice.bitwidths.tolist(), strict=True):
        o.copy_(assign(w, book[b - 1], free_zero=True))


def resnet50_shapes() -> list[torch.Size]:
    """Of its 54 layers' weights."""
    import torchvision

    with torch.device("meta"):
        return [w.shape for w in compressible(torchvision.models.resnet50()).values()]


def random_layers(size: int, device: torch.device | str) -> tuple[list[Tensor], list[int]]:
    """Layers in ResNet-50's proportions, about ``size`` weights together, and their bits.

    Normally distributed with the spread of He's initialization; bitwidths 1 to 8 mixed.
    """
    shapes = resnet50_shapes()
    generator = torch.Generator().manual_seed(0)
    share = size / sum(map(math.prod, shapes))
    layers = [
        torch.randn(max(1, round(share * math.prod(shape))), generator=generator).to(device)
        * math.sqrt(2 / math.prod(shape[1:]))
        for shape in shapes
    ]
    return layers, [1 + i % 8 for i in range(len(layers))]


def bits_of(layers: Sequence[Tensor], bits: Sequence[int]) -> int:
    """The bits of all weights, none left out."""
    return sum(b * w.numel() for b, w in zip(bits, layers, strict=True))
