"""What a compression method is to the training loop; by itself, plain SGD."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lib.layers import compressible


def kept_by_layer(names: Sequence[str], weights: Sequence[Tensor]) -> dict[str, float]:
    """For ``metrics``: the share of nonzero weights, and their number in each layer."""
    kept = torch.stack([w.count_nonzero() for w in weights]).tolist()
    return {
        "kept_fraction": sum(kept) / sum(w.numel() for w in weights),
        **{f"{name}.kept": n for name, n in zip(names, kept, strict=True)},
    }


def per_layer(value: float | Sequence[float], layers: int, name: str) -> list[float]:
    """One number for each layer: a list as it is, a single number for all.

    Raises ``ValueError`` for a list of another length.
    """
    if not isinstance(value, Sequence):
        return [value] * layers
    if len(value) != layers:
        raise ValueError(
            f"{name} lists {len(value)} numbers for a network of {layers} layers: give one for each"
        )
    return list(value)


def _taken(mine: Any, saved: object, device: torch.device) -> object:
    """``saved``, written into the tensors of ``mine`` wherever it has the same ones."""
    if isinstance(saved, Tensor):
        same = isinstance(mine, Tensor) and mine.shape == saved.shape
        return mine.copy_(saved) if same else saved.to(device)
    if isinstance(saved, Mapping):
        return {name: _taken(mine.get(name), one, device) for name, one in saved.items()}
    if isinstance(saved, list | tuple):
        mine = mine if mine and len(mine) == len(saved) else [None] * len(saved)
        return type(saved)(_taken(m, s, device) for m, s in zip(mine, saved, strict=True))
    return saved


class Method:
    """Plain training, and the interface that every compression method fills in.

    The loop calls, in this order: ``start`` once (on a resumed run then ``load_state_dict``);
    for each step ``penalty`` and ``after_step``; ``after_period`` ``periods_per_epoch`` times
    an epoch, evenly spaced; ``finish`` once.

    ``penalty`` and ``after_step`` only launch work and must not wait for the device; on a GPU they
    are recorded once and replayed, so what changes between steps lies in tensors that are written
    in place. Whatever needs the host belongs in ``after_period``.

    Of several processes (:mod:`lib.training.distributed`) each has a method of its own, which is to
    do the same with the same weights; what ``state_dict`` holds is compared after each period.
    Gradients are averaged of the parameters of what ``start`` returns, or of the model's.
    """

    periods_per_epoch: int = 1

    #: What people call it, in tables and on progress bars; without one, its class's name.
    label: str = "SGD"

    def __init_subclass__(cls):
        cls.label = vars(cls).get("label", cls.__name__)

    #: What ``lib.compress`` calls an added method with: the option that a budget of ``bytes``,
    #: ``bits``, ``macs`` or a ``share`` of the weights sets. Empty where it takes an object alone.
    takes: Mapping[str, str] = {}

    #: The method in the registry that trains on with what this one leaves; None where none can.
    then: str | None = "held-zeros"

    #: Whether it compresses at once and trains nothing: the epochs are then those of ``then``.
    at_once: bool = False

    #: The attributes that a checkpoint holds: tensors, plain values, and lists or mappings of them.
    STATE: tuple[str, ...] = ()

    #: Whether a CUDA graph can capture its steps; one that waits for the device cannot.
    capturable: bool = True

    #: Ends the stage before its last epoch; asked after each.
    done: bool = False

    def start(self, model: nn.Module) -> nn.Module | None:
        """Takes hold of the model whose weights the method will change in place.

        Returns what the loop computes the loss with, where that is not the model itself. Parameters
        that are frozen here are not trained.
        """
        self.model = model
        layers = compressible(model)
        self.names, self.w = list(layers), [weight.detach() for weight in layers.values()]
        return None

    def penalty(self) -> Tensor | None:
        """A scalar that the loop adds to the loss, or nothing."""
        return None

    def after_step(self, lr: Tensor) -> None:
        """After each optimizer step; ``lr`` is its learning rate, a scalar on the device."""

    def after_period(self) -> None:
        """At the end of every 1/periods_per_epoch of an epoch."""

    def compressed(self) -> dict[str, Tensor] | None:
        """The compressed weights, layer by layer, if training ended now; nothing is changed."""
        return None

    def metrics(self) -> dict[str, float]:
        """What the method wants in ``history.csv``, once an epoch."""
        return {}

    def finish(self) -> bool:
        """Leaves the compressed weights in the model; returns whether that changed them.

        A smaller network is left in it too: its layers are replaced, the model stays the object.
        """
        return False

    def state_dict(self) -> dict:
        """Tensors and plain values that a checkpoint needs beside the model's own."""
        held = {name: getattr(self, name) for name in self.STATE}
        return tree_map_only(Tensor, Tensor.detach, held)

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Takes over what ``state_dict`` returned, after ``start``.

        Tensors are written in place, since a CUDA graph keeps their addresses. What an older
        checkpoint lacks stays as ``start`` left it.
        """
        for name in self.STATE:
            if name in state:
                device = next(self.model.parameters()).device
                setattr(self, name, _taken(getattr(self, name), state[name], device))
