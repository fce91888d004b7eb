"""The copy of a user's network that is trained, and what it is given back at the end."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from lib.layers import LAYERS, clone, compressible, hold, ignore

#: What wraps a network, and the attribute that holds it.
WRAPPERS = (
    (nn.DataParallel, "module"),
    (nn.parallel.DistributedDataParallel, "module"),
    (torch._dynamo.OptimizedModule, "_orig_mod"),
)


def unwrapped(model: Any) -> nn.Module:
    """The network itself, out of ``DataParallel``, ``DistributedDataParallel`` and ``compile``.

    Raises ``ValueError`` for what is no network that can be trained: no module, TorchScript,
    without parameters, or with one that holds no finite values.
    """
    for kind, attribute in WRAPPERS:
        while isinstance(model, kind):
            model = getattr(model, attribute)
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is of {type(model).__name__}: give a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "a TorchScript module cannot be compressed: give the torch.nn.Module that it was made "
            "of"
        )
    parameters = dict(model.named_parameters())
    if not any(is_lazy(p) or p.is_floating_point() for p in parameters.values()):
        raise ValueError("the model has no parameters to compress")
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet: run a batch through the model first")
        if parameter.is_meta or parameter.layout != torch.strided:
            raise ValueError(
                f"{name} is a {parameter.layout} tensor on {parameter.device}: dense ones that "
                "hold values can be compressed"
            )
        if not parameter.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values: give a network without them")
    return model


class Working:
    """A network to train, in float32 and contiguous, and how the one that it is of came.

    What was frozen stays frozen and is not compressed: its layers are ignored. A network of which
    all is frozen came from inference: all of it is trained, and comes back frozen. BatchNorm that
    stays in evaluation while the rest is in training, or whose parameters are frozen while others
    are not, keeps its statistics; so does any module in evaluation mode of one in training.
    """

    def __init__(self, model: nn.Module, ignored: Iterable[str]):
        try:
            self.model = clone(model)
        except Exception as error:  # whatever a module's own attributes raise
            raise ValueError(
                f"the model cannot be copied ({_first_line(error)}): remove what it keeps beside "
                "its parameters"
            ) from error
        self.dtypes = {name: tensor.dtype for name, tensor in _tensors(model)}
        self.layouts = {name: _layout(tensor) for name, tensor in _tensors(model)}
        self.trained = {n: p.requires_grad for n, p in model.named_parameters()}
        floating = {n for n, p in model.named_parameters() if p.is_floating_point()}
        self.inference = not any(self.trained[name] for name in floating)
        self.model.float()
        for name, tensor in _tensors(self.model):
            tensor.data = tensor.data.contiguous()
            if self.inference and name in floating:
                tensor.requires_grad_(True)
        #: float → what is left of the network's own precisions, where float32 alone does not do
        self.casts = False
        self.reasons = dict.fromkeys(ignored, "ignored, as asked")
        ignore(self.model, ignored)
        frozen = [n for n, w in compressible(self.model).items() if not w.requires_grad]
        self.reasons |= dict.fromkeys(frozen, "frozen: it requires no gradient")
        ignore(self.model, frozen)
        hold(self.model, self._held(model))

    def _held(self, model: nn.Module) -> list[str]:
        """Names of the modules that stay in evaluation mode."""
        kept = []
        for name, module in model.named_modules():
            norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            own = [p.requires_grad for p in module.parameters(recurse=False)]
            frozen = norm and own and not any(own) and not self.inference
            if frozen or (model.training and not module.training):
                kept.append(name)
        return kept

    def network(self, model: nn.Module) -> nn.Module:
        """What computes: ``model``, or what gives it back its own precisions."""
        return Casting(model, self.dtypes) if self.casts else model

    def dtype_of(self, name: str, default: torch.dtype) -> torch.dtype:
        """The precision that a tensor came in; of a new layer's, that of the one it stands for."""
        if name in self.dtypes:
            return self.dtypes[name]
        floats = {dtype for dtype in self.dtypes.values() if dtype.is_floating_point}
        return floats.pop() if len(floats) == 1 else default

    def exact(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors of ``model`` that stay to the bit: frozen, ignored, of what is held."""
        names = {name for name, trained in self.trained.items() if not trained}
        names = set() if self.inference else names
        for name, module in self.model.named_modules():
            if getattr(module, "held", False):
                names |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers(recurse=False)}
            if getattr(module, "ignored", False):
                names.add(f"{name}.weight" if name else "weight")
        names |= {name for name, dtype in self.dtypes.items() if not dtype.is_floating_point}
        state = model.state_dict()
        counts = {name for name in names if name.endswith("num_batches_tracked")}
        return {name: state[name].detach().clone() for name in state if name in names - counts}

    def thaw(self, model: nn.Module) -> None:
        """What was trained is trained again, whatever a method froze."""
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                frozen = not self.inference and not self.trained.get(name, True)
                parameter.requires_grad_(not frozen)

    @torch.no_grad()
    def give_back(self, model: nn.Module, exact: Mapping[str, Tensor]) -> None:
        """Dtypes and layouts as they came, what is exact, what was frozen; zeros without a sign.

        A file pays for a zero's sign.
        """
        for name, tensor in _tensors(model):
            if tensor.is_floating_point():
                data = tensor.data.to(self.dtype_of(name, tensor.dtype)) + 0
                tensor.data = data.contiguous(memory_format=self.layouts.get(name, _ROWS))
        state = model.state_dict()
        for name, value in exact.items():
            state[name].copy_(value)
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(self.trained.get(name, not self.inference))

    def left_alone(self) -> dict[str, str]:
        """Name → why, of parameters with two dimensions or more that no method takes."""
        taken = {weight.data_ptr() for weight in compressible(self.model).values()}
        found = {}
        for name, parameter in self.model.named_parameters():
            if parameter.dim() > 1 and parameter.data_ptr() not in taken:
                owner, _, leaf = name.rpartition(".")
                found[name] = self.reasons.get(owner) or _why(
                    self.model.get_submodule(owner), leaf, parameter
                )
        return found


class Casting(nn.Module):
    """The model with its floats in the precisions that they came in, as its own casts expect.

    What is trained stays in float32, and so does BatchNorm, which computes in any.
    """

    def __init__(self, model: nn.Module, dtypes: dict[str, torch.dtype]):
        super().__init__()
        self.model = model
        norms = {
            f"{name}."
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        }
        self.dtypes = {
            name: dtypes[name]
            for name, tensor in _tensors(model)
            if dtypes.get(name, tensor.dtype) != tensor.dtype
            and not any(name.startswith(norm) for norm in norms)
        }

    def forward(self, *inputs: Any, **named: Any) -> Any:
        tensors = dict(_tensors(self.model))
        values = {name: tensors[name].to(dtype) for name, dtype in self.dtypes.items()}
        return functional_call(self.model, values, inputs, named)


_ROWS = torch.contiguous_format


def _layout(tensor: Tensor) -> torch.memory_format:
    for dims, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        contiguous = tensor.is_contiguous()
        if tensor.dim() == dims and not contiguous and tensor.is_contiguous(memory_format=layout):
            return layout
    return _ROWS


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _why(owner: nn.Module, leaf: str, parameter: Tensor) -> str:
    made = isinstance(owner, ParametrizationList)
    if made or (isinstance(owner, LAYERS) and leaf not in ("weight", "bias")):
        return "a weight is computed from it: remove the parametrization to compress"
    if not parameter.is_floating_point():
        return f"of {str(parameter.dtype).removeprefix('torch.')}, no floats"
    if not parameter.requires_grad:
        return "frozen: it requires no gradient"
    return (
        f"a parameter of {type(owner).__name__}: convolutions, linear layers and embeddings are "
        "compressed"
    )


def _first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__
