"""Rounding alone, without training, to a file of a given size: which grids hurt outputs least.

Each weight tensor is rounded to a uniform grid of its own step, so that

    Σ_layers a·tr(ΔW·C·ΔWᵀ),   C = E[x·xᵀ] of what the layer reads,

is small for the bits that the numbers take in the file; a multiple-choice knapsack says which step
each gets, and a last common factor of all steps makes the file as large as it may be. The columns
of a matrix are rounded in turn, and those after each make up for its error (GPTQ: Frantar and
others, 2023). a is how much the network's outputs mind: it is measured, by rounding each layer
alone. Above ``ALONE`` significant bits floats are rounded to those instead.

Tried on ResNet-20 and left out, as outputs moved more, or as little: a step for each row, weighed
by gradients; BatchNorm's statistics measured anew; C with more weight on its mean; codebooks by
k-means, whose squared error at equal entropy was 8 to 30 % larger from 4 levels on.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import archive
from lib.archive.coder import Meter
from lib.archive.grid import MOST, Grid, code_grid
from lib.archive.header import Entry
from lib.layers import compressible
from lib.optimizers.byte_budget import fitting, key, put
from lib.optimizers.moments import as_matrix, as_weight, error, outputs, second_moments
from lib.projections.multiple_choice import Option, greedy, undominated
from lib.projections.precision import each, round_to
from lib.training.batches import computed, each_tensor, items

#: Steps are the weights' root mean square times 2^(1 − j/2), j below COARSE, and then to FINEST: of
#: these each half octave costs half a bit a weight and halves the error, so they are not tried.
#: At the last that is tried a layer's effect on the outputs is measured.
COARSE, FINEST = 8, 24

#: Significant bits of a step; of one whose numbers are written as halves, which then are exact.
DIGITS, HALF_DIGITS = 8, 3

#: From so many significant bits of all floats on no grid is needed; a float32 has EXACT.
ALONE, EXACT = 11, 24

#: Significant bits of all that is no compressible weight.
OTHERS = (3, 4, 5, 6, 7, 8, 10, 12, 16, 24)

#: Items that C is measured on.
ITEMS = 512

#: What is added to C's diagonal, as a share of its mean.
DAMPING = 0.01

#: Larger matrices are rounded without making up for errors.
MOST_WEIGHTS = 2**23

#: Weights whose bits are counted of a large tensor.
COUNTED = 2**15

#: Items of the first batch on which outputs are compared.
TRIED = 128

#: The least effect of a weight's relative error, and the most that is reckoned with.
LEAST_EFFECT, MOST_ERROR = 1e-6, 1e30

#: The share of the size that the file takes at least, and how often the factor is corrected.
FILLED, CORRECTIONS = 0.99, 8


@torch.no_grad()
def round_to_size(
    model: nn.Module,
    size: int,
    batches: Iterable[Any],
    *,
    described: Mapping[str, Any] = MappingProxyType({}),
    as_written: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    network: nn.Module | None = None,
    most_error: float = math.inf,
) -> float | None:
    """Rounds ``model`` in place to a file of at most ``size`` bytes; returns how far outputs moved.

    Parameters
    ----------
    model : in float32; its compressible weights, and other parameters of two dimensions or more,
        are rounded to grids, all other floats to fewer significant bits. A weight that is shared is
        rounded once.
    size : bytes of :func:`lib.archive.encode`.
    batches : inputs as the network reads them, some hundred items in all; no label is looked at.
    described : of :func:`lib.archive.encode`.
    as_written : a state dict as it is written: in other precisions, or with what stays to the bit,
        which is told by what it makes of zeros.
    network : what is called instead of ``model``, one that holds its layers.
    most_error : where the outputs would move further, ``model`` stays as it is.

    Returns
    -------
    float or None
        The mean squared change of the outputs on the first batch by their variance, 0 where 11
        significant bits fit; None where it would be more than ``most_error`` or no step is wide
        enough. The file takes 97 % of ``size`` at least, or is exact.

    Notes
    -----
    Deterministic on one device and number of threads. ResNet-20 on one thread: 8 s.
    """
    state = model.state_dict()
    digits = _digits(state, size, lambda made: len(archive.encode(as_written(made), **described)))
    if digits is not None:
        put(state, digits)
        return 0.0
    network = model if network is None else network
    training = [module for module in network.modules() if module.training]
    network.eval()
    before = {name: value.clone() for name, value in state.items()}
    try:
        rounding = _Rounding(model, network, list(_some(batches)), described, as_written)
        found = rounding.fitted(size)
        moved = math.inf
        if found is not None:
            put(state, as_written(found))
            moved = rounding.trial.change()
        if not math.isfinite(moved) or moved > most_error:
            put(state, before)
            return None
    finally:
        for module in training:
            module.training = True
    return moved


def _digits(
    state: dict[str, Tensor], size: int, written: Callable[[dict[str, Tensor]], int]
) -> dict[str, Tensor] | None:
    """All floats to as many significant bits as fit, some to one more; None where too few do."""
    bits = fitting(range(ALONE, EXACT + 1), lambda b: written(_mixed(state, b, 0)), size)
    if bits is None or bits == EXACT:
        return None if bits is None else dict(state)
    values = sum(value.numel() for value in state.values())
    steps = range(0, values + 1, max(1, values // 32))
    more = fitting(steps, lambda more: written(_mixed(state, bits, more)), size)
    return _mixed(state, bits, more or 0)


def _mixed(state: dict[str, Tensor], bits: int, more: int) -> dict[str, Tensor]:
    """All to so many significant bits, the first ``more`` values to one more."""
    left = more

    def mix(value: Tensor) -> Tensor:
        nonlocal left
        flat = value.reshape(-1)
        taken = min(left, len(flat))
        left -= taken
        parts = round_to(flat[:taken], bits + 1), round_to(flat[taken:], bits)
        return torch.cat(parts).reshape(value.shape)

    return each(state, mix)


def _some(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches of ITEMS items in all."""
    seen = 0
    for inputs in islice(batches, ITEMS):
        yield inputs
        seen += items(inputs)
        if seen >= ITEMS:
            return


class _Trial:
    """How far the outputs of a network on a batch are from what they were."""

    def __init__(self, network: nn.Module, inputs: Any):
        count = items(inputs)
        self.network = network
        self.inputs = each_tensor(inputs, lambda x: x[:TRIED] if x.dim() and len(x) == count else x)
        self.before = [z.double() for z in outputs(computed(network, self.inputs))]

    def change(self) -> float:
        """Σ over the outputs of the mean squared change by the variance."""
        after = outputs(computed(self.network, self.inputs))
        total = 0.0
        for z, was in zip(after, self.before, strict=True):
            known = was.isfinite()  # a mask may be infinite
            if known.any():
                was = was[known]
                change = (z.double()[known] - was).square().mean()
                total += float(change / (was.var(correction=0) + 1e-24))
        return total if math.isfinite(total) else math.inf


class _Layer:
    """A weight to round, and what is known of it."""

    def __init__(self, module: Any, weight: Tensor, second: Tensor | None, digits: int):
        self.module, self.weight, self.second, self.digits = module, weight, second, digits
        self.matrix = as_matrix(module, weight.float())
        self.finest = float(weight.abs().max()) / MOST
        self.scale = float(weight.float().square().mean().sqrt()) or 1.0

    def short(self, step: float) -> float:
        """A step of few digits, so wide that no number is too large."""
        step = max(step, 1.5 * self.finest, 1e-30)
        return float(round_to(torch.tensor(step, dtype=torch.float64), self.digits))

    def numbers(self, steps: list[float]) -> Tensor:
        """Of each step the numbers, (steps, groups, rows, columns)."""
        step = torch.tensor(steps).to(self.matrix).view(-1, 1, 1, 1)
        wanted = (self.matrix / step).transpose(0, 1).flatten(1, 2)
        if self.second is None or self.second.dim() == 2 or self.matrix.numel() > MOST_WEIGHTS:
            found = wanted.round()
        else:
            found = _in_turn(wanted, self.second)
        return found.unflatten(1, (len(steps), -1)).transpose(0, 1).clamp(-MOST, MOST)

    def error(self, numbers: Tensor, step: float) -> float:
        return float(error(numbers * step - self.matrix, self.second))

    def bits(self, numbers: Tensor, step: float) -> int:
        """In the file, counted on some rows of a large tensor."""
        whole = as_weight(self.module, numbers, self.weight).flatten(1)
        some = whole[:: max(1, min(len(whole), whole.numel() // COUNTED))].int().cpu().numpy()
        meter = Meter()
        entry = Entry("", "float32", (len(some), *self.weight.shape[1:]))
        code_grid(meter, entry, None, Grid(np.array([step]), some))
        return math.ceil(meter.spent * whole.numel() / some.size)

    def rounded(self, step: float) -> Tensor:
        """The weight on the grid, in its dtype."""
        step = self.short(step)
        values = (self.numbers([step])[0].double() * step).float()
        return as_weight(self.module, values, self.weight).to(self.weight) + 0


def _in_turn(wanted: Tensor, second: Tensor) -> Tensor:
    """Whole numbers for (groups, rows, columns), columns in turn, the later ones making up.

    They make up in the metric of C = ``second`` (groups, columns, columns): with U the upper
    Cholesky factor of C⁻¹, of an error e in column i column j > i takes e·Uᵢⱼ/Uᵢᵢ. Zeros stay.
    """
    columns = second.shape[-1]
    mean = second.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    ridge = torch.eye(columns).to(second) * (DAMPING * mean)[:, None, None]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky((second + ridge).double()))
    u = torch.linalg.cholesky(inverse, upper=True).to(wanted)
    u = u / u.diagonal(dim1=1, dim2=2)[..., None]
    left = wanted.transpose(1, 2).contiguous()  # (groups, columns, rows)
    kept = left != 0
    for start in range(0, columns, 32):
        end = min(columns, start + 32)
        errors = torch.empty_like(left[:, start:end])
        for i in range(start, end):
            number = left[:, i].round() * kept[:, i]
            error = left[:, i] - number
            left[:, i] = number
            left[:, i + 1 : end] -= u[:, i, i + 1 : end, None] * error[:, None]
            errors[:, i - start] = error
        left[:, end:] -= u[:, start:end, end:].transpose(1, 2) @ errors
    return left.transpose(1, 2)


class _Rounding:
    """The options of all tensors, and the choice among them."""

    def __init__(self, model, network, batches, described, as_written):
        self.state, self.described, self.as_written = model.state_dict(), described, as_written
        self.trial = _Trial(network, batches[0])
        seconds = second_moments(model, batches, network=network)
        empty = as_written(each(self.state, torch.zeros_like))
        floats = {n: v for n, v in self.state.items() if v.is_floating_point()}
        exact = {n for n in floats if empty[n].count_nonzero()}  # whatever is written
        modules = {key(name): model.get_submodule(name) for name in compressible(model)}
        matrices = {name for name, value in model.named_parameters() if value.dim() > 1}
        self.layers: dict[str, _Layer] = {}
        for name in [*modules, *(n for n in floats if n in matrices - {*modules} - exact)]:
            if not any(floats[name].data_ptr() == floats[one].data_ptr() for one in self.layers):
                digits = HALF_DIGITS if torch.finfo(empty[name].dtype).bits == 16 else DIGITS
                second = seconds.get(name.removesuffix(".weight") if "." in name else "")
                weight = floats[name].clone()
                self.layers[name] = _Layer(modules.get(name), weight, second, digits)
        places = {floats[name].data_ptr() for name in self.layers}
        self.others = {n for n in {*floats} - exact if floats[n].data_ptr() not in places}
        self.came = each(self.state, lambda value: value.clone())
        groups = [self._options(name, layer) for name, layer in self.layers.items()]
        if self.others:
            groups.append(self._options_of_others())
        self.groups = [
            undominated(sorted(group, key=lambda o: (o.cost, o.error))) for group in groups
        ]
        self.weights = sum(int(layer.weight.count_nonzero()) for layer in self.layers.values())

    def _options(self, name: str, layer: _Layer) -> list[Option]:
        """Of one weight; how much the outputs mind its error is measured on the way."""
        tried = [layer.short(layer.scale * 2 ** (1 - j / 2)) for j in range(COARSE)]
        at_once = max(1, 2**24 // max(1, layer.weight.numel()))
        found = []
        for start in range(0, COARSE, at_once):
            few = tried[start : start + at_once]
            for numbers, step in zip(layer.numbers(few), few, strict=True):
                found.append(Option(layer.bits(numbers, step), layer.error(numbers, step), step))
        last, half_bit = found[-1], math.ceil(layer.weight.numel() / 2)
        for more in range(1, FINEST - COARSE + 2):
            step = last.place / 2 ** (more / 2)
            found.append(Option(last.cost + half_bit * more, last.error / 2**more, step))
        value = self.state[name]
        value.copy_(layer.rounded(last.place))
        # what these inputs do not show may matter on others
        least = LEAST_EFFECT * last.error / float(error(layer.matrix, None).clamp(min=1e-30))
        effect = max(self.trial.change(), least) / max(last.error, 1e-30)
        value.copy_(layer.weight)
        return [o._replace(error=min(o.error * effect, MOST_ERROR)) for o in found]

    def _options_of_others(self) -> list[Option]:
        """Of all else together: so many significant bits."""
        found = []
        for bits in OTHERS:
            state = self._with_others(bits)
            written = self.as_written(state)
            put(self.state, written)
            error = min(self.trial.change(), MOST_ERROR)
            put(self.state, self.came)
            few = {name: value for name, value in written.items() if name in self.others}
            found.append(Option(8 * len(archive.encode(few)), error, bits))
        return found

    def _with_others(self, bits: int) -> dict[str, Tensor]:
        places = {self.came[name].data_ptr() for name in self.others}
        return each(self.came, lambda v: round_to(v, bits) if v.data_ptr() in places else v)

    def fitted(self, size: int) -> dict[str, Tensor] | None:
        """The state whose file is at most ``size`` bytes and nearly that; None where none is."""
        budget = max(8 * size, sum(group[0].cost for group in self.groups))
        choice, _ = greedy(self.groups, budget)
        octaves, low, high = 0.0, -math.inf, math.inf  # of the factor of all steps
        best = None
        for _ in range(CORRECTIONS):
            state = self._made(choice, 2**octaves)
            now = len(archive.encode(self.as_written(state), **self.described))
            if now <= size:
                best, high = (octaves, state), octaves
                if now >= FILLED * size:
                    break
            else:
                low = octaves
            step = (now - (1 + FILLED) / 2 * size) / (max(1, self.weights) / 8)
            octaves = min(max(octaves + step, -12.0), 12.0)
            if not low < octaves < high:
                octaves = (low + high) / 2
        return best[1] if best else None

    def _made(self, choice: list[Option], factor: float) -> dict[str, Tensor]:
        """The state of a choice with all steps times ``factor``."""
        state = self._with_others(choice[-1].place) if self.others else dict(self.came)
        images = {}
        for (name, layer), option in zip(self.layers.items(), choice, strict=False):
            images[self.came[name].data_ptr()] = layer.rounded(option.place * factor)
        same = {name: value.data_ptr() for name, value in self.came.items()}
        return {name: images.get(same[name], value) for name, value in state.items()}
