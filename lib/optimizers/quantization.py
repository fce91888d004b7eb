"""Weights that share values: k-means in each layer, at one bitwidth for all.

Han, Mao, Dally, "Deep Compression" (ICLR 2016), Section 3. Its stages are, here,
``magnitude``, ``kmeans`` and ``tune-codebooks``; the last two alone are plain trained quantization.
"""

import torch
from torch import Tensor, nn

from lib.optimizers.pruning import HeldZeros
from lib.projections.codebook import assign, fit_codebooks


class KMeansQuantization(HeldZeros):
    """min over C of Σ_k Σ_{w ∈ c_k} |w − c_k|² (eq. 2) in each layer, 2ᵇ values, b = ``bits``.

    Training before is plain SGD, of no epochs if so wished; ``finish`` quantizes. ``free_zero``:
    the zeros are held, and zero is a value besides the 2ᵇ that costs no bits, so a weight that is
    nearest to zero goes there too (the paper shares values among the weights kept, all of which
    stay). Without it nothing is held, and zero may be one of the 2ᵇ.

    Exact for a layer of at most 4,096 distinct values, else near it (``lib.projections.codebook``),
    where the paper starts Lloyd's iterations from equidistant centres. Biases and normalisation
    stay in 32 bits. A step costs one pass over the weights more than SGD.

    Raises ``ValueError`` for bits out of range.
    """

    def __init__(self, *, bits: int, free_zero: bool = True):
        if bits not in range(1, 9):
            raise ValueError(
                f"bits = {bits} must be a whole number from 1 to 8; the paper has 5, 8"
            )
        self.bits, self.free_zero = int(bits), free_zero

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        super().start(model)
        if not self.free_zero:
            for mask in self.masks:
                mask.fill_(1)

    @torch.no_grad()
    def compressed(self) -> dict[str, Tensor]:
        """Every weight replaced by the nearest of its layer's best values."""
        free_zero = self.free_zero
        books = fit_codebooks(self.w, bitwidths=[self.bits], free_zero=free_zero)
        return {
            name: assign(w, centres, free_zero=free_zero)
            for name, w, (centres,) in zip(self.names, self.w, books.centres, strict=True)
        }

    @torch.no_grad()
    def finish(self) -> bool:
        torch._foreach_copy_(self.w, list(self.compressed().values()))
        return True
