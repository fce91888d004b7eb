"""Which channel of a layer is which filter of which other: what becomes NaN where filters are NaN.

A filter that is NaN makes NaN of all that depends on it, up to the layers that would read it, which
read 0 instead. So whatever lies between, a reshape, a sum, a concatenation, a shuffle, is followed
by what it does. Filters are told apart by the digits of their numbers: those with a one in a
place of the binary number are NaN, then those with a zero. A channel that is NaN in one of the two
and not in the other, at every place, is one filter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.rnn import PackedSequence

from lib.accounting import undisturbed
from lib.layers import Example
from lib.structured.graph import (
    LAYERS,
    NORMS,
    Feed,
    Structure,
    filters_of,
    is_depthwise,
    whole,
)


def tensors(found: Any) -> list[Tensor]:
    """Every floating tensor in what a network returns: tuples, mappings, dataclasses, or one."""
    if isinstance(found, Tensor):
        return [found] if found.is_floating_point() else []
    if isinstance(found, Mapping):
        return [each for value in found.values() for each in tensors(value)]
    if isinstance(found, (tuple, list)):
        return [each for value in found for each in tensors(value)]
    if is_dataclass(found) and not isinstance(found, type):
        return [each for part in fields(found) for each in tensors(getattr(found, part.name))]
    return []


def trace(
    model: nn.Module, inputs: Example, *, only: Sequence[str] | None = None, frozen: bool = False
) -> Structure:
    """Whose filters may leave, as far as their way through the network tells.

    That zeros stay zeros on the way is not looked at. ``only``: no others may leave; ``frozen``:
    what is not trained may. Two forward passes for each binary digit of the largest number of
    filters, and one for each layer.
    """
    with undisturbed(model):
        return _Trace(model, inputs, only, frozen).structure()


class _Trace:
    def __init__(self, model: nn.Module, inputs: Example, only: Sequence[str] | None, frozen: bool):
        self.model, self.inputs = model, inputs
        self.layers: dict[str, Any] = {
            name: module for name, module in model.named_modules() if has_channels(module)
        }
        self.whole = whole(model, frozen=frozen)
        self.stays: dict[str, str] = {}
        self.filters: dict[str, int] = {}
        for name, layer in self.layers.items():
            if isinstance(layer, LAYERS) and not is_depthwise(layer):
                self._candidate(name, layer, only)
        self.marks: dict[str, Tensor] = {}
        self.reached: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            layer.register_forward_pre_hook(
                partial(self._read, name), with_kwargs=True, prepend=True
            )
            if name in self.filters:
                layer.register_forward_hook(partial(self._mark, name))

    def _candidate(self, name: str, layer: Any, only: Sequence[str] | None) -> None:
        if name in self.whole:
            self.stays[name] = f"it {self.whole[name]}"
        elif getattr(layer, "groups", 1) > 1:
            self.stays[name] = "it is a grouped convolution"
        elif getattr(layer, "proj_size", 0):
            self.stays[name] = "its units are projected"
        elif only is not None and name not in only:
            self.stays[name] = ""
        else:
            self.filters[name] = filters_of(layer)

    # What happens in a forward pass

    def _read(self, name: str, layer: Any, args: tuple, kwargs: dict) -> Any:
        first = next(iter((*args, *kwargs.values())))
        found = _channels(layer, first)
        self.reached[name] = found | self.reached.get(name, torch.zeros_like(found))
        state = [each.isnan().any() for each in tensors([*args[1:], *list(kwargs.values())[1:]])]
        if isinstance(layer, nn.RNNBase) and state and any(state):
            self.reached[f"{name} state"] = torch.ones(1, dtype=torch.bool)
        if isinstance(layer, LAYERS) and not is_depthwise(layer):
            return _each(args, _cleaned), _each(kwargs, _cleaned)
        return None

    def _mark(self, name: str, layer: Any, _: Any, returned: Any) -> Any:
        return (
            _each(returned, partial(_marked, layer, self.marks[name]))
            if (name in self.marks)
            else None
        )

    def _run(self, marks: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
        """Layer → which of its channels became NaN; and whether what the network returns did."""
        self.marks, self.reached = marks, {}
        returned = self.inputs.call(self.model)
        return self.reached, any(bool(each.isnan().any()) for each in tensors(returned))

    # What it says

    def structure(self) -> Structure:
        _, broken = self._run({})
        if broken:
            self.stays |= dict.fromkeys(self.filters, "what the network returns is NaN")
            return Structure(stays=self.stays)
        reach = self._who()
        digits = max([n - 1 for n in self.filters.values()], default=0).bit_length() or 1
        numbers = {name: torch.arange(count) for name, count in self.filters.items()}
        ones, zeros = [], []
        try:
            for digit in range(digits):
                marks = {name: (number >> digit & 1).bool() for name, number in numbers.items()}
                ones.append(self._run(marks)[0])
                zeros.append(self._run({name: ~mark for name, mark in marks.items()})[0])
        except Exception as error:  # as in _who
            self.stays |= dict.fromkeys(self.filters, f"what follows stops at NaN: {_first(error)}")
            return Structure(stays=self.stays)

        def filter_of(name: str) -> tuple[Tensor, Tensor]:
            one = torch.stack([run[name] for run in ones])  # (digits, channels)
            zero = torch.stack([run[name] for run in zeros])
            places = 2 ** torch.arange(digits).unsqueeze(1)
            return (one * places).sum(0), (one ^ zero).all(0)

        return _Reading(self, reach, filter_of).structure()

    def _who(self) -> dict[str, dict[str, Tensor]]:
        """Layer → the layers of which something reaches it → which of its channels those reach."""
        reach: dict[str, dict[str, Tensor]] = {}
        for source, count in list(self.filters.items()):
            try:
                found, returned = self._run({source: torch.ones(count).bool()})
            except Exception as error:  # the network's own code, which may do anything with NaN
                found, why = {}, f"what follows stops at NaN: {_first(error)}"
            else:
                why = "they are in what the network returns" if returned else ""
            if why:
                self.stays[source] = why
                del self.filters[source]
            for name, channels in found.items():
                if channels.any():
                    reach.setdefault(name, {})[source] = channels
        return reach


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]


class _Reading:
    """From who reaches whom to a structure."""

    def __init__(
        self,
        trace: _Trace,
        reach: dict[str, dict[str, Tensor]],
        filter_of: Callable[[str], tuple[Tensor, Tensor]],
    ):
        self.trace, self.reach = trace, reach
        self.leader = {name: name for name in [*trace.filters, *trace.stays]}
        self.why = dict(trace.stays)
        self.found = {name: filter_of(name) for name in reach if not name.endswith(" state")}

    def structure(self) -> Structure:
        for name, by in self.reach.items():
            self._meet(name, by)
        for name in self.reach:
            if isinstance(self.trace.layers.get(name), LAYERS):
                self._even(name)
        reasons = {self.leader[name]: why for name, why in reversed(self.why.items())}
        read = {self.leader[each] for n in self.reach if self._reads(n) for each in self.reach[n]}
        stays = dict(self.trace.stays)
        sources: dict[str, int] = {}
        joined: dict[str, str] = {}
        for name, count in self.trace.filters.items():
            leader = self.leader[name]
            if leader in reasons or leader not in read:
                stays[name] = reasons.get(leader, "nothing reads them")
            elif leader == name:
                sources[name] = count
            else:
                joined[name] = leader
        found = Structure(sources=sources, joined=joined, stays=stays)
        for name in self.reach:
            self._add(found, name)
        return found

    def _reads(self, name: str) -> bool:
        layer = self.trace.layers.get(name)
        return isinstance(layer, LAYERS) and not is_depthwise(layer)

    def _meet(self, name: str, sources: Mapping[str, Tensor]) -> None:
        """Joins what meets in a channel, and keeps what cannot be told apart there."""
        layer = self.trace.layers.get(name)
        fixed = self.trace.whole.get(name)
        if layer is None:
            fixed = "begins with it as its state"
        elif getattr(layer, "groups", 1) > 1 and not is_depthwise(layer):
            fixed = "is a grouped convolution"
        pure = self.found[name][1] if layer is not None else None
        for source, channels in sources.items():
            if fixed:
                self._keep(source, f"{name!r}, which reads them, {fixed}")
            elif pure is not None and not pure[channels].all():
                self._keep(source, f"they are mixed before {name!r} reads them")
        if pure is None:
            return
        for channel in torch.stack(list(sources.values())).sum(0).gt(1).nonzero().flatten():
            first, *others = (s for s, channels in sources.items() if channels[channel])
            for other in others:
                self._join(first, other)

    def _keep(self, source: str, why: str) -> None:
        self.why.setdefault(source, why)

    def _join(self, a: str, b: str) -> None:
        first, second = self.leader[a], self.leader[b]
        if first == second:
            return
        order = list(self.trace.layers)
        first, second = sorted((first, second), key=order.index)
        self.leader = {n: first if old == second else old for n, old in self.leader.items()}
        counts = [self.trace.filters.get(each) for each in (a, b)]
        if None in counts or counts[0] != counts[1]:
            self._keep(a, f"they are joined to those of {b!r}, which stay")

    def _of(self, name: str) -> dict[str, Tensor]:
        """First of those that are joined → which of its filters each channel is, or −1."""
        numbers, _ = self.found[name]
        parts: dict[str, Tensor] = {}
        for source, channels in self.reach[name].items():
            leader = self.leader[source]
            part = parts.setdefault(leader, torch.full_like(numbers, -1))
            part[channels] = numbers[channels]
        return parts

    def _even(self, name: str) -> None:
        """Keeps what is not read evenly: so many channels of each filter; one of a depthwise."""
        for leader, part in self._of(name).items():
            if leader not in self.trace.filters:
                continue
            count = self.trace.filters[leader]
            often = torch.bincount(part[(part >= 0) & (part < count)], minlength=count)
            once = is_depthwise(self.trace.layers[name])
            if len(often.unique()) > 1 or (once and (len(part) != count or often[0] != 1)):
                self._keep(leader, f"{name!r} reads some of them otherwise than others")

    def _add(self, found: Structure, name: str) -> None:
        layer = self.trace.layers.get(name)
        if layer is None:
            return
        parts = {leader: part for leader, part in self._of(name).items() if leader in found.sources}
        if not parts:
            return
        found.channels[name] = parts
        if is_depthwise(layer):
            (found.depthwise[name],) = parts
        elif isinstance(layer, NORMS):
            for leader in parts:
                found.norms.setdefault(leader, []).append(name)
        elif isinstance(layer, LAYERS):
            found.feeds[name] = tuple(
                Feed(leader, int((part >= 0).sum()) // found.sources[leader])
                for leader, part in parts.items()
            )


def has_channels(module: nn.Module) -> bool:
    """Whether it reads channels, each with numbers of its own."""
    if isinstance(module, nn.PReLU):
        return module.num_parameters > 1
    return isinstance(module, (*LAYERS, NORMS))


def channel_dimension(layer: Any, read: Tensor) -> int:
    """Of what it reads and returns, the dimension of the channels."""
    if isinstance(layer, (nn.Linear, nn.RNNBase)):
        return read.dim() - 1
    if isinstance(layer, _InstanceNorm):
        names = " ".join(kind.__name__ for kind in type(layer).__mro__)
        (spatial,) = (d for d in (1, 2, 3) if f"InstanceNorm{d}d" in names)
    elif isinstance(layer, (NORMS, nn.PReLU)):
        return min(1, read.dim() - 1)
    else:
        spatial = len(layer.kernel_size)
    return 1 if read.dim() == spatial + 2 else 0  # without a batch the channels come first


def _channels(layer: Any, read: Any) -> Tensor:
    read = read.data if isinstance(read, PackedSequence) else read
    dimension = channel_dimension(layer, read)
    others = [d for d in range(read.dim()) if d != dimension]
    nan = read.isnan()
    return (nan.any(dim=others) if others else nan).cpu()


def _each(found: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``found`` with each floating tensor changed, of tuples, mappings and packed sequences."""
    if isinstance(found, Tensor):
        return change(found) if found.is_floating_point() else found
    if isinstance(found, PackedSequence):
        return found._replace(data=change(found.data))
    if isinstance(found, dict):
        return {name: _each(value, change) for name, value in found.items()}
    if isinstance(found, (tuple, list)):
        values = [_each(value, change) for value in found]
        return type(found)(*values) if hasattr(found, "_fields") else type(found)(values)
    return found


def _cleaned(value: Tensor) -> Tensor:
    return value.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def _marked(layer: Any, mark: Tensor, returned: Tensor) -> Tensor:
    dimension = channel_dimension(layer, returned)
    count = returned.shape[dimension]
    # both directions of a recurrent layer have each unit
    mark = mark.repeat(count // len(mark)).to(returned.device)
    shape = [1] * returned.dim()
    shape[dimension] = count
    return returned.masked_fill(mark.view(shape), torch.nan)
