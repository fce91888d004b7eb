"""Fine-tuning of a quantized network: its codebooks are trained, its zeros stay zero.

Han, Mao, Dally, "Deep Compression" (ICLR 2016), Section 3: weights that share a value share their
gradient. Yang et al. fine-tune so after the compression on ImageNet.
"""

import torch
from torch import Tensor, nn

from lib.networks import compressible
from lib.optimizers.method import Method


class CodebookTuning(Method):
    """Trains each layer's distinct nonzero values; which weight has which value is held.

    After each step every weight is replaced by the mean of the weights that share its value, so a
    shared value moves by the mean of their gradients (the paper sums them, which multiplies the
    learning rate of a value by how many weights share it). Biases and normalisation train freely.

    A step costs one pass over the weights. Nominal bits cannot grow: values may meet, never split.
    """

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        self.layers = [_SharedValues(weight.detach()) for weight in compressible(model).values()]

    @torch.no_grad()
    def after_step(self, lr: Tensor) -> None:
        for layer in self.layers:
            layer.share()

    def state_dict(self) -> dict:
        # Which weights share a value is read off the weights by start(), before they are trained;
        # from a checkpoint's weights two values that have met would be taken for one.
        return {"codes": [layer.codes for layer in self.layers]}

    def load_state_dict(self, state: dict) -> None:
        for layer, codes in zip(self.layers, state["codes"], strict=True):
            layer.hold(codes)


class _SharedValues:
    """One layer's weights as codes into its distinct values."""

    def __init__(self, weight: Tensor):
        self.weight = weight.view(-1)
        nonzero = self.weight != 0
        codes = torch.zeros_like(self.weight, dtype=torch.long)
        codes[nonzero] = torch.unique(self.weight[nonzero], return_inverse=True)[1] + 1
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
