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
from typing import Any, NamedTuple

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

#: What stands for the network's outputs among the layers.
OUTPUT = "what the network returns"


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
    what is not trained may. Two forward passes for each binary digit of the number of layers and of
    the largest number of filters, and one for each layer whose filters may meet others.
    """
    with undisturbed(model):
        return _Trace(model, inputs, only, frozen).structure()


class _Numbers(NamedTuple):
    """Of each channel of a layer: NaN or not where numbers with a 1, with a 0, in a digit are."""

    one: Tensor  # (digits, channels)
    zero: Tensor

    @property
    def mixed(self) -> Tensor:
        """Which channels depend on several numbers, (channels,)."""
        return (self.one & self.zero).any(0)

    def number(self) -> Tensor:
        """That on which a channel depends, if it is one."""
        return (self.one * 2 ** torch.arange(len(self.one)).unsqueeze(1)).sum(0)

    def may_be(self, number: int) -> Tensor:
        """Which channels may depend on this number."""
        digits = [number >> digit & 1 for digit in range(len(self.one))]
        rows = [self.one[d] if on else self.zero[d] for d, on in enumerate(digits)]
        return torch.stack(rows).all(0)


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
        mark = self.marks.get(name)
        return None if mark is None else _each(returned, partial(_marked, layer, mark))

    def _run(self, marks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Layer, or ``OUTPUT`` → which of its channels became NaN."""
        self.marks, self.reached = marks, {}
        nan = [each.isnan().any() for each in tensors(self.inputs.call(self.model))]
        return self.reached | {OUTPUT: torch.tensor([any(map(bool, nan))])}

    def _numbered(self, numbers: Mapping[str, Tensor]) -> Callable[[str], _Numbers]:
        """What tells, of any layer, whose number each channel has; two passes for each digit.

        ``numbers``: of each layer the numbers of its filters.
        """
        most = max((int(number.max()) for number in numbers.values()), default=0)
        ones, zeros = [], []
        for digit in range(max(1, most.bit_length())):
            marks = {name: (number >> digit & 1).bool() for name, number in numbers.items()}
            ones.append(self._run(marks))
            zeros.append(self._run({name: ~mark for name, mark in marks.items()}))

        def of(name: str) -> _Numbers:
            none = torch.zeros(1, dtype=torch.bool)
            one = torch.stack([run.get(name, none) for run in ones])  # (digits, channels)
            zero = torch.stack([run.get(name, none) for run in zeros])
            return _Numbers(one, zero)

        return of

    # What it says

    def structure(self) -> Structure:
        clean = self._run({})
        if clean[OUTPUT].any():
            self.stays |= dict.fromkeys(self.filters, "what the network returns is NaN")
            return Structure(stays=self.stays)
        reach = self._who(list(clean))
        try:
            of = self._numbered({name: torch.arange(n) for name, n in self.filters.items()})
        except Exception as error:  # the network's own code, which may do anything with NaN
            self.stays |= dict.fromkeys(self.filters, f"what follows stops at NaN: {_first(error)}")
            return Structure(stays=self.stays)
        return _Reading(self, reach, of).structure()

    def _who(self, order: list[str]) -> dict[str, dict[str, Tensor]]:
        """Layer → the layers of which something reaches it → which of its channels those reach.

        Of channels that one layer alone reaches, its number says which it is. Where several may
        meet, each of those that may be among them has a pass of its own.
        """
        names = list(self.filters)
        together = names
        reach: dict[str, dict[str, Tensor]] = {name: {} for name in order}
        try:
            of = self._numbered({n: torch.full((self.filters[n],), i) for i, n in enumerate(names)})
        except Exception:  # as above; which layer's it is, its own pass tells
            pass
        else:
            order = [*order, *(f"{name} state" for name in order)]
            found = {name: of(name) for name in order}
            together = [
                name
                for i, name in enumerate(names)
                if any(bool((each.may_be(i) & each.mixed).any()) for each in found.values())
            ]
            for i, name in enumerate(names):
                if name not in together:
                    for layer, numbers in found.items():
                        channels = numbers.may_be(i) & ~numbers.mixed
                        if channels.any():
                            reach.setdefault(layer, {})[name] = channels
        for name in together:
            self._alone(name, reach)
        for name in reach.pop(OUTPUT, {}):
            self.stays[name] = "they are in what the network returns"
            del self.filters[name]
        place = {name: i for i, name in enumerate(names)}
        return {
            layer: dict(sorted(by.items(), key=lambda each: place[each[0]]))
            for layer, by in reach.items()
            if by
        }

    def _alone(self, name: str, reach: dict[str, dict[str, Tensor]]) -> None:
        """Notes what the filters of one layer reach."""
        try:
            found = self._run({name: torch.ones(self.filters[name], dtype=torch.bool)})
        except Exception as error:  # the network's own code
            self.stays[name] = f"what follows stops at NaN: {_first(error)}"
            del self.filters[name]
            return
        for layer, channels in found.items():
            if channels.any():
                reach.setdefault(layer, {})[name] = channels


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]


class _Reading:
    """From who reaches whom to a structure."""

    def __init__(
        self,
        trace: _Trace,
        reach: dict[str, dict[str, Tensor]],
        of: Callable[[str], _Numbers],
    ):
        self.trace, self.reach = trace, reach
        self.leader = {name: name for name in [*trace.filters, *trace.stays]}
        self.why = dict(trace.stays)
        found = {name: of(name) for name in reach if not name.endswith(" state")}
        self.found = {name: (each.number(), ~each.mixed) for name, each in found.items()}

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
