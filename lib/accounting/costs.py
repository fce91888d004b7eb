"""What a network's weights cost: nominal bits, bits with positions and codebooks, bytes.

Every rate is 32·n over some count of bits, n the number of compressible weights:

- the *nominal* rate (the papers') counts the bits of nonzero weights and nothing else;
- the *entropy* rate also charges where the nonzeros are and what the codebooks hold.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib.layers import compressible
from lib.projections.checks import one_of, within

#: The widest codebook, in bits. A layer with more distinct values is stored as 32-bit floats.
WIDEST = 8


def bitwidth(weight: Tensor) -> int:
    """b(W) = max(1, ⌈log₂ |unique nonzero values of W|⌉), in bits; 32 where W is not quantized.

    A layer with more than 2⁸ distinct nonzero values counts as floats, 32 bits each: that is how
    the papers count a network that is pruned and not quantized.

    Notes
    -----
    O(n log n). Yang et al. (CVPR 2020), eq. 1, there without the lower bound of one bit.
    """
    return _bits_of(len(_occurrences(weight)))


def layer_costs(weights: Mapping[str, Tensor]) -> pd.DataFrame:
    """What each layer's weights cost.

    Parameters
    ----------
    weights : mapping of str to Tensor
        The layers by name, of any shapes and dtypes.

    Returns
    -------
    DataFrame
        One row per layer, all columns ending in ``_bits`` in bits. ``shape`` is written 50×20×5×5;
        ``levels`` counts distinct nonzero values; ``nominal_bits`` is b(W)·‖W‖₀; ``position_bits``
        and ``value_bits`` are the zero-order entropies of the layer's zero/nonzero pattern and of
        its nonzero values; ``codebook_bits`` is 32 per level.

    Notes
    -----
    O(n log n).
    """
    return pd.DataFrame([_layer_cost(name, weight) for name, weight in weights.items()])


def nominal_bits(weights: Mapping[str, Tensor]) -> int:
    """Σ b(W⁽ⁱ⁾)·‖W⁽ⁱ⁾‖₀, in bits: what the paper's budget limits (eq. 1)."""
    return sum(bitwidth(weight) * int(torch.count_nonzero(weight)) for weight in weights.values())


def paid(layers: pd.DataFrame, mode: str) -> pd.DataFrame:
    """What a network pays under ADMM's budget: in each layer so many ``weights``, ``bits`` each.

    Their products sum to what the budget limits:

    - ``joint``: the nonzero weights pay, b(W) bits each; zero is free (eq. 1);
    - ``prune``: the nonzero weights pay 32 bits each, also where a layer is so small that its
      values would fit a codebook;
    - ``quantize``: every weight pays, zeros too, and zero is one of the 2ᵇ values: four nonzero
      levels and zero are three bits. ``nominal_bits``, which counts nonzeros and their values
      alone, would call them two.

    Parameters
    ----------
    layers : DataFrame
        As :func:`layer_costs` returns it.
    mode : str
        ``joint``, ``prune`` or ``quantize``.

    Returns
    -------
    DataFrame
        ``name``, ``weights`` and ``bits``, one row per layer.

    Raises
    ------
    ValueError
        For another mode.
    """
    one_of("mode", mode, ("joint", "prune", "quantize"))
    if mode == "joint":
        weights, bits = layers["kept"], layers["bits"]
    elif mode == "prune":
        weights, bits = layers["kept"], pd.Series(32, index=layers.index)
    else:
        values = layers["levels"] + (layers["kept"] < layers["weights"])
        weights, bits = layers["weights"], values.map(_bits_of)
    return pd.DataFrame({"name": layers["name"], "weights": weights, "bits": bits})


def shares(densities: Sequence[float], costs: Sequence[int], budget: float) -> list[float]:
    """min(1, s·dᵢ) for the largest s with Σ min(1, s·dᵢ)·costᵢ ≤ ``budget``; all 1 if that fits.

    Exact to rounding.

    Parameters
    ----------
    densities : sequence of float
        dᵢ > 0.
    costs : sequence of int
        What each layer would cost whole, in the budget's units, above 0.
    budget : float
        0 or more.

    Returns
    -------
    list of float
        The share of each layer, from 0 to 1.

    Raises
    ------
    ValueError
        For numbers out of range.

    Notes
    -----
    O(layers²).
    """
    within("the budget", budget, 0)
    if not all(d > 0 for d in densities) or not all(c > 0 for c in costs):
        raise ValueError(f"densities {list(densities)} and costs {list(costs)} must be positive")
    if budget >= sum(costs):
        return [1.0] * len(costs)  # also where rounding would leave a scale just short of it
    free, left = set(range(len(densities))), budget
    scale = math.inf
    while free:
        scale = left / sum(densities[i] * costs[i] for i in free)
        whole = {i for i in free if scale * densities[i] >= 1}
        if not whole:
            break
        # a layer that is whole pays its cost, the others share what is left
        left -= sum(costs[i] for i in whole)
        free -= whole
    return [scale * d if i in free else 1.0 for i, d in enumerate(densities)]


def summary(model: nn.Module, layers: pd.DataFrame | None = None) -> dict[str, float | int]:
    """The costs of a whole network, under the keys that ``result.json`` uses.

    ``estimated_bytes`` is a file's size as entropy coding would leave it: positions, values and
    codebooks of the compressible weights, everything else that inference reads in 32 bits a value:
    biases, and the scale, shift, running mean and variance of BatchNorm (not its count of batches).
    The rates and means are of the compressible weights alone, as the papers' are; ``parameters``
    are what training changes: weights, biases, scales and shifts.

    Parameters
    ----------
    model : Module
        The network.
    layers : DataFrame, optional
        Its :func:`layer_costs`, where they are known.

    Returns
    -------
    dict
        Numbers by name; rates are 32 bits per weight over what is counted.
    """
    layers = layer_costs(compressible(model)) if layers is None else layers
    weights, kept = int(layers["weights"].sum()), int(layers["kept"].sum())
    nominal = int(layers["nominal_bits"].sum())
    coded = layers[["position_bits", "value_bits", "codebook_bits"]].to_numpy().sum()
    values = model.state_dict().values()
    others = sum(value.numel() for value in values if value.is_floating_point()) - weights
    return {
        "kept_fraction": kept / weights,
        "mean_bits": nominal / max(1, kept),
        "nominal_bits": nominal,
        "nominal_rate": 32 * weights / max(1, nominal),
        "entropy_rate": 32 * weights / max(1.0, coded),
        "estimated_bytes": math.ceil(coded / 8) + 4 * others,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _layer_cost(name: str, weight: Tensor) -> dict:
    occurrences = _occurrences(weight)
    count, kept, levels = weight.numel(), int(torch.count_nonzero(weight)), len(occurrences)
    quantized, bits = levels <= 2**WIDEST, _bits_of(levels)
    return {
        "name": name,
        "shape": "×".join(map(str, weight.shape)),
        "weights": count,
        "kept": kept,
        "levels": levels,
        "bits": bits,
        "nominal_bits": bits * kept,
        "position_bits": _entropy_bits(torch.tensor([kept, count - kept])),
        "value_bits": _entropy_bits(occurrences) if quantized else 32.0 * kept,
        "codebook_bits": 32 * levels if quantized else 0,
    }


def _bits_of(values: int) -> int:
    """max(1, ⌈log₂ values⌉), in bits; 32 beyond the widest codebook."""
    return 32 if values > 2**WIDEST else max(1, math.ceil(math.log2(max(1, values))))


def _occurrences(weight: Tensor) -> Tensor:
    """How often each distinct nonzero value occurs, in the order of the values.

    On a CPU by NumPy: AlexNet's 57 million took it 4.6 s, ``torch.unique`` 8.2 s (one thread,
    AVX-512).
    """
    values = weight.detach()[weight != 0]
    if values.device.type != "cpu":
        return torch.unique(values, return_counts=True)[1].cpu()
    if values.dtype == torch.bfloat16:  # NumPy has none
        values = values.float()
    _, counts = np.unique(values.numpy(), return_counts=True, equal_nan=False)
    return torch.from_numpy(counts)


def _entropy_bits(occurrences: Tensor) -> float:
    """n·H: the bits an ideal coder that knows the frequencies spends on all n symbols."""
    counts = occurrences[occurrences > 0].double()
    return float((counts * (counts.sum() / counts).log2()).sum())
