"""What DF's masks multiply beside the matrices: weights that are not factored, biases, shifts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lib.structured import Structure, filter_dimensions, is_depthwise


class Followers:
    """Of each mask, the parameters that it scales; ``own``: normalisation takes each batch's."""

    def __init__(self, found: Structure, model: nn.Module, *, own: bool):
        self.model, self.own, self.found = model, own, found
        device = next(model.parameters()).device
        #: layer that takes filters → where each of its channels' mask is, in all masks in a row
        self.places: dict[str, Tensor | None] = {}
        ends = dict(zip(found.sources, _ends(found.sources.values()), strict=True))
        after = sum(found.sources.values())  # a one, for what has no mask
        for name, parts in found.channels.items():
            place = torch.full_like(next(iter(parts.values())), after)
            for source, numbers in parts.items():
                begin = ends[source] - found.sources[source]
                place = torch.where(numbers >= 0, begin + numbers, place)
            (source, numbers), *others = parts.items()
            alone = not others and torch.equal(numbers, torch.arange(found.sources[source]))
            self.places[name] = None if alone else place.to(device)

    def weights(self, name: str, mask: Tensor, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ψ⁻¹(φ_s·ψ(W)), eq. 9, of what ``found`` has not; and φ_s times the biases."""
        layer: Any = self.model.get_submodule(name)
        replaced = {}
        for part, dimension in filter_dimensions(layer).items():
            if f"{name}.{part}" in found:
                continue
            value = getattr(layer, part)
            count = value.shape[dimension] // len(mask)  # gates of a recurrent layer
            scale = mask if count == 1 else mask.repeat(count)
            if value.dim() == 1:
                replaced[f"{name}.{part}"] = scale * value
            elif dimension == 0:
                scaled = (scale.unsqueeze(1) * value.flatten(1)).view_as(value)
                replaced[f"{name}.{part}"] = scaled
            else:
                shape = [-1 if d == dimension else 1 for d in range(value.dim())]
                replaced[f"{name}.{part}"] = scale.view(shape) * value
        return replaced

    def shifts(
        self, source: str, masks: Mapping[str, Tensor], found: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Biases and shifts, such that φ·BN(Wx + b) is what follows a filter of ``source``.

        Past depthwise layers too, which compute with φ times what they read.
        """
        replaced = {}
        for name, parts in self.found.channels.items():
            layer: Any = self.model.get_submodule(name)
            if source in parts and is_depthwise(layer) and layer.bias is not None:
                replaced[f"{name}.bias"] = self._mask(name, source, masks) * layer.bias
        for name in self.found.norms.get(source, ()):
            norm: Any = self.model.get_submodule(name)
            if norm.weight is None or f"{name}.bias" in found:  # done for another source
                continue
            mask = self._mask(name, source, masks)
            measured = isinstance(norm, _BatchNorm) and norm.running_mean is not None
            if not measured or (self.own and not getattr(norm, "held", False)):
                # BN(φx) = BN(x)
                replaced[f"{name}.weight"] = mask * norm.weight
                replaced[f"{name}.bias"] = mask * norm.bias
                continue
            # BN(x) = g(x − m)/s + β; g(φx − m)/s + β' = φ·BN(x) for β' = gm/s + φ(β − gm/s)
            moved = norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()
            replaced[f"{name}.bias"] = moved + mask * (norm.bias - moved)
        return replaced

    def _mask(self, name: str, source: str, masks: Mapping[str, Tensor]) -> Tensor:
        """Of each channel of a layer that takes filters."""
        place = self.places[name]
        if place is None:
            return masks[source]
        one = masks[source].new_ones(1)
        return torch.cat([*(masks[each] for each in self.found.sources), one])[place]


def _ends(counts: Any) -> list[int]:
    total, found = 0, []
    for count in counts:
        total += count
        found.append(total)
    return found
