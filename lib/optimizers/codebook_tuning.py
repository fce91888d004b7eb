"""Trained quantization: weights share values, and the shared values are trained.

Han, Mao, Dally, "Deep Compression" (ICLR 2016), Section 3: after pruning, values are shared by
k-means in each layer; weights that share a value share their gradient. Yang et al. fine-tune so
after the compression on ImageNet.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from lib.projections import checks
from lib.projections.codebook import codebook
from lib.training.method import Method, kept_by_layer, per_layer


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

    label, then = "codebook tuning", "tune-codebooks"

    def __init__(
        self,
        *,
        bits: int | Sequence[int] | None = None,
        free_zero: bool = True,
        reassign: bool = False,
    ):
        listed = bits if isinstance(bits, Sequence) else [] if bits is None else [bits]
        for b in listed:
            checks.whole("bits", b, 1, 8, remedy="the paper has 5, 8")
        self.bits, self.free_zero = bits, free_zero
        self.kind = _MovingValues if reassign else _SharedValues

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        super().start(model)
        if self.bits is not None:
            self._quantize(self.bits)
        self.sharing = self.kind(self.w)

    def _quantize(self, bits: int | Sequence[int]) -> None:
        widths = [int(b) for b in per_layer(bits, len(self.w), "bits")]
        taking_part = [w != 0 if self.free_zero else torch.ones_like(w).bool() for w in self.w]
        values = [w[part] for w, part in zip(self.w, taking_part, strict=True)]
        shared = codebook(values, values=[2**b for b in widths], free_zero=False)
        for w, part, value in zip(self.w, taking_part, shared, strict=True):
            w[part] = value

    @torch.no_grad()
    def after_step(self, lr: Tensor) -> None:
        self.sharing.share()

    def finish(self) -> bool:
        """Whether ``start`` changed the weights: normalisation may not have seen them trained."""
        return self.bits is not None

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """The weights left, by layer."""
        return kept_by_layer(self.names, self.w)

    def state_dict(self) -> dict:
        return self.sharing.state()

    def load_state_dict(self, state: dict) -> None:
        device = self.w[0].device
        there = {name: [part.to(device) for part in parts] for name, parts in state.items()}
        self.sharing.hold(**there)


class _SharedValues:
    """All layers' weights as codes into their layers' distinct values.

    The layers' weights are taken as one row, each in its order of indices, however it lies in
    memory: on a GPU a few calls for all layers cost as much as for one.
    """

    def __init__(self, weights: list[Tensor]):
        self.w = weights
        self.flat = torch.cat([w.reshape(-1) for w in weights])  # (weights,), to compute in
        codes = []
        for weight in weights:
            flat = weight.reshape(-1)
            nonzero = flat != 0
            _, found = torch.unique(flat[nonzero], return_inverse=True)  # of ascending values
            codes.append(torch.zeros_like(flat, dtype=torch.long))
            codes[-1][nonzero] = found + 1
        self.hold(codes)

    def state(self) -> dict[str, list[Tensor]]:
        """For a checkpoint, a list over the layers each.

        Which weights share a value is read off the weights at the start, before they are trained;
        from a checkpoint's weights two values that have met would be taken for one.
        """
        return {"codes": self.codes}

    def hold(self, codes: list[Tensor]) -> None:
        self.codes = codes  # [layer] (n,), 0 for a zero weight
        places = [code.nonzero().squeeze(1) for code in codes]
        kept = [code[place] - 1 for code, place in zip(codes, places, strict=True)]
        counts = [torch.bincount(code) for code in kept]  # [layer] (values,)
        self.kept, self.distinct = [len(k) for k in kept], [len(c) for c in counts]
        # of all layers, one after another
        self.positions = _offset(places, [len(code) for code in codes])  # (kept,)
        self.kept_codes = _offset(kept, self.distinct)  # (kept,)
        self.counts = torch.cat(counts)  # (values,)
        # the weights of each value, one value after another; a value's own in their order
        self.grouped = self.positions[self.kept_codes.argsort(stable=True)]  # (kept,)

    def share(self) -> None:
        # c_k ← mean of the weights with code k
        weights = self._read()[self.grouped]
        sums = torch.segment_reduce(weights, "sum", lengths=self.counts, unsafe=True)
        self._write((sums / self.counts)[self.kept_codes])

    def _read(self) -> Tensor:
        return torch.cat([weight.reshape(-1) for weight in self.w], out=self.flat)

    def _write(self, shared: Tensor) -> None:
        """Makes the weights these where they are not zero."""
        self.flat.zero_()
        self.flat[self.positions] = shared
        parts = self.flat.split([weight.numel() for weight in self.w])
        parts = [part.view(w.shape) for part, w in zip(parts, self.w, strict=True)]
        torch._foreach_copy_(self.w, parts)


class _MovingValues(_SharedValues):
    """The same, with the unquantized weights, which choose their codes anew."""

    def state(self) -> dict[str, list[Tensor]]:
        rows = zip(self.values, self.distinct, strict=True)
        return super().state() | {
            "values": [row[:number] for row, number in rows],
            "latent": list(self.latent.split(self.kept)),
            "shared": list(self.shared.split(self.kept)),
        }

    def hold(self, codes: list[Tensor], **saved: list[Tensor]) -> None:
        super().hold(codes)
        if saved:
            values, shared = saved["values"], torch.cat(saved["shared"])
            latent = torch.cat(saved["latent"])
        else:
            shared = self._read()[self.positions]  # (kept,), what the network computes with
            latent = shared.clone()
            values = [part.unique() for part in shared.split(self.kept)]
        self.shared, self.latent = shared, latent
        self.distinct = [len(v) for v in values]
        # ascending, filled up with +inf
        self.values = shared.new_full((len(values), max(self.distinct)), torch.inf)
        for row, v in zip(self.values, values, strict=True):
            row[: len(v)] = v
        rows = torch.arange(len(values), device=shared.device) * self.values.shape[1]
        kept = torch.tensor(self.kept, device=shared.device)
        self.row = torch.repeat_interleave(rows, kept)  # (kept,), where a weight's values begin
        self.ones = torch.ones_like(shared)

    def share(self) -> None:
        # w̃ ← w̃ + what the optimizer added to the shared value
        self.latent += self._read()[self.positions] - self.shared
        # code of w̃ ← the nearest value's; values ascend
        middles = (self.values[:, 1:] + self.values[:, :-1]) / 2  # (layers, values - 1)
        layers = zip(self.latent.split(self.kept), middles, self.distinct, strict=True)
        parts = [torch.bucketize(part, row[: max(0, n - 1)]) for part, row, n in layers]
        codes = torch.cat(parts).add_(self.row)
        # c_k ← mean of the w̃ with code k; one that no weight has stays
        values = self.values.view(-1)
        counts = torch.zeros_like(values).index_add_(0, codes, self.ones)
        sums = torch.zeros_like(values).index_add_(0, codes, self.latent)
        means = torch.where(counts > 0, sums / counts, values)
        self.shared.copy_(means[codes])
        self.values.copy_(means.view_as(self.values).sort().values)
        self._write(self.shared)


def _offset(parts: list[Tensor], sizes: list[int]) -> Tensor:
    """Indices into parts of these sizes as indices into all of them, one after another."""
    starts = [0, *accumulate(sizes)]
    return torch.cat([part + start for part, start in zip(parts, starts[:-1], strict=True)])
