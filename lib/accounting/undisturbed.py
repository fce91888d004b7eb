"""Runs a network to look at it, and leaves it as it was."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` in evaluation mode and without gradients; afterwards it is what it was.

    Modes, hooks, buffers, and whatever else a forward pass keeps in a module's attributes are put
    back, and so are the random numbers of the CPU. Meanwhile every operation is made of known
    ones: the fused kernel of transformers is off, compiled modules run as they are written, and
    weights under a parametrization are computed once, before.

    Notes
    -----
    A copy of the buffers; no copy of the weights.
    """
    known = [each for each in model.modules() if not isinstance(each, torch.jit.ScriptModule)]
    kept = [_Kept(module) for module in known]
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    compiled = any(hasattr(each, "_orig_mod") or each._compiled_call_impl for each in known)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), parametrize.cached():
            model.eval()
            for module in known:
                for name in getattr(module, "parametrizations", ()):
                    getattr(module, name)
            if compiled:  # it costs an import of seconds
                with torch.compiler.set_stance("force_eager"):
                    yield model
            else:
                yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes:
            module.training = training
        for each in kept:
            each.put_back()


class _Kept:
    """A module's attributes, and the contents of those that change in place."""

    def __init__(self, module: nn.Module):
        self.attributes: dict[str, Any] = module.__dict__
        self.values = dict(self.attributes)
        self.contents = [
            (value, value.copy())
            for value in self.values.values()
            if type(value) in (dict, OrderedDict, defaultdict, list, set)
        ]
        buffers = [value for value in module._buffers.values() if value is not None]
        tensors = [value for value in self.values.values() if isinstance(value, Tensor)]
        self.tensors = [
            (value, value._version, value.detach().clone()) for value in [*buffers, *tensors]
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        self.attributes.clear()
        self.attributes.update(self.values)
        for value, before in self.contents:
            if isinstance(value, list):
                value[:] = before
            else:
                value.clear()
                value.update(before)
        for tensor, version, before in self.tensors:
            if tensor._version != version:
                tensor.copy_(before)
