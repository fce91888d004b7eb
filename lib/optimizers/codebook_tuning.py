"""Trained quantization: weights share values, and the shared values are trained.

Han, Mao, Dally, "Deep Compression" (ICLR 2016), Section 3: after pruning, values are shared by
k-means in each layer; weights that share a value share their gradient. Yang et al. fine-tune so
after the compression on ImageNet.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.networks import compressible
from lib.optimizers.method import Method, kept_by_layer, per_layer
from lib.projections.codebook import codebook


class CodebookTuning(Method):
    """Trains each layer's distinct nonzero values; which weight has which value is held.

    With ``bits``, one number for all layers or a list of one for each, 1 to 8, the values are made
    first: min over c of Σᵢ min_k |wᵢ − c_k|² (eq. 2) in each layer, over its nonzero weights, 2ᵇ
    values, so zeros stay zero and cost no value; with ``free_zero`` false over all its weights, and
    zero may be one of the 2ᵇ. Exact for a layer of at most 4,096 distinct values, else near it
    (``lib.projections.codebook``); the paper starts Lloyd's iterations from equidistant centres.
    Without ``bits`` the network is quantized already.

    With ``reassign`` (ours) a weight may change its value, to another nonzero one of its layer: an
    unquantized w̃ᵢ takes every step of the optimizer, its gradient that of the loss at the shared
    value (the straight-through estimator); then min over c and codes of Σᵢ (w̃ᵢ − c_codeᵢ)² takes
    one iteration of Lloyd's, each weight going to the nearest value, each value to its weights'
    mean. Zeros stay zero all the same.

    After each step every weight is replaced by the mean of the weights that share its value, so a
    shared value moves by the mean of their gradients (the paper sums them, which multiplies the
    learning rate of a value by how many weights share it). Biases and normalisation train freely.

    A step costs one pass over the weights, with ``reassign`` four. Nominal bits cannot grow: values
    may meet, never split.

    Raises ``ValueError`` for bits out of range, and (from ``start``) a list of another length.
    """

    def __init__(
        self,
        *,
        bits: int | Sequence[int] | None = None,
        free_zero: bool = True,
        reassign: bool = False,
    ):
        listed = bits if isinstance(bits, Sequence) else [] if bits is None else [bits]
        for b in listed:
            if b not in range(1, 9):
                raise ValueError(
                    f"bits = {b} must be a whole number from 1 to 8; the paper has 5, 8"
                )
        self.bits, self.free_zero = bits, free_zero
        self.kind = _MovingValues if reassign else _SharedValues

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        layers = compressible(model)
        self.names, self.w = list(layers), [weight.detach() for weight in layers.values()]
        if self.bits is not None:
            self._quantize()
        self.layers = [self.kind(weight) for weight in self.w]

    def _quantize(self) -> None:
        widths = [int(b) for b in per_layer(self.bits, len(self.w), "bits")]
        taking_part = [w != 0 if self.free_zero else torch.ones_like(w).bool() for w in self.w]
        values = [w[part] for w, part in zip(self.w, taking_part, strict=True)]
        shared = codebook(values, values=[2**b for b in widths], free_zero=False)
        for w, part, value in zip(self.w, taking_part, shared, strict=True):
            w[part] = value

    @torch.no_grad()
    def after_step(self, lr: Tensor) -> None:
        for layer in self.layers:
            layer.share()

    def finish(self) -> bool:
        """Whether ``start`` changed the weights: normalisation may not have seen them trained."""
        return self.bits is not None

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """The weights left, by layer."""
        return kept_by_layer(self.names, self.w)

    def state_dict(self) -> dict:
        kept = self.kind.KEPT
        return {name: [getattr(layer, name) for layer in self.layers] for name in kept}

    def load_state_dict(self, state: dict) -> None:
        for i, layer in enumerate(self.layers):
            layer.hold(**{name: state[name][i] for name in self.kind.KEPT})


class _SharedValues:
    """One layer's weights as codes into its distinct values."""

    #: Which weights share a value is read off the weights at the start, before they are trained;
    #: from a checkpoint's weights two values that have met would be taken for one.
    KEPT = ("codes",)

    def __init__(self, weight: Tensor):
        self.weight = weight.view(-1)
        nonzero = self.weight != 0
        self.values, found = torch.unique(self.weight[nonzero], return_inverse=True)  # ascending
        codes = torch.zeros_like(self.weight, dtype=torch.long)
        codes[nonzero] = found + 1
        self.hold(codes)

    def hold(self, codes: Tensor) -> None:
        self.codes = codes.to(self.weight.device)  # (n,), 0 for a zero weight
        self.positions = self.codes.nonzero().squeeze(1)  # (kept,)
        self.kept_codes = self.codes[self.positions] - 1  # (kept,)
        self.counts = torch.bincount(self.kept_codes).to(self.weight.dtype)  # (values,)

    def share(self) -> None:
        # c_k ← mean of the weights with code k
        sums = torch.zeros_like(self.counts)
        sums.index_add_(0, self.kept_codes, self.weight[self.positions])
        self.weight.zero_()
        self.weight[self.positions] = (sums / self.counts)[self.kept_codes]


class _MovingValues(_SharedValues):
    """The same, with the unquantized weights, which choose their codes anew."""

    KEPT = ("codes", "values", "latent", "shared")

    def hold(self, codes: Tensor, **saved: Tensor) -> None:
        super().hold(codes)
        if not saved:
            shared = self.values[self.kept_codes]  # (kept,), what the network computes with
            saved = {"shared": shared, "latent": shared.clone()}
        for name, tensor in saved.items():
            setattr(self, name, tensor.to(self.weight.device))

    def share(self) -> None:
        # w̃ ← w̃ + what the optimizer added to the shared value
        self.latent += self.weight[self.positions] - self.shared
        # code of w̃ ← the nearest value's; values ascend
        codes = torch.bucketize(self.latent, (self.values[1:] + self.values[:-1]) / 2)
        # c_k ← mean of the w̃ with code k; one that no weight has stays
        counts = torch.zeros_like(self.values).index_add_(0, codes, torch.ones_like(self.latent))
        sums = torch.zeros_like(self.values).index_add_(0, codes, self.latent)
        means = torch.where(counts > 0, sums / counts, self.values)
        self.shared.copy_(means[codes])
        self.values.copy_(means.sort().values)
        self.weight.zero_()
        self.weight[self.positions] = self.shared
