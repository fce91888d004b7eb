"""A pretend GPU, for machines without one: what would crash there, wait, or be launched.

    with pretend.gpu():
        model = networks.build("resnet8").to("cuda")
        with pretend.counted() as tally:
            method.after_period()
    assert tally.waits == 0

Its tensors are computed on the CPU, and say that they lie on ``cuda:0``. As on a GPU they refuse to
be mixed with the CPU's and to become NumPy arrays. Counted is what a GPU would be asked for:

- a **launch** is a call of PyTorch's ATen library that is no view and allocates no more than
  memory; a ``_foreach`` call is one, as is a random number generator's;
- a **wait** is where the host needs a result: it copies one, or a call has to know how large its
  result is;
- an **upload** copies from the host's memory, which waits too unless that is pinned;
- **bytes** are the arguments' and the results' of all launches, in place ones both.

So a fused kernel of one pass and one that needs several look alike, a decomposition is one launch,
and no seconds are known. PyTorch's C++ sees a CPU's tensors throughout: gradients work as there.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils

CUDA = torch.device("cuda:0")
ROOT = Path(__file__).resolve().parents[1]

#: Calls whose result the host looks at before it goes on (PyTorch 2.11's sources; masked_scatter_
#: is none of them, its prefix sums stay on the device).
WAITING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive", "_linalg_eigh", "_linalg_svd", "histc"),
}

#: Calls that compute nothing: they return memory as it is, or what lies there already.
FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"),
    *("detach", "alias", "lift_fresh", "lift_fresh_copy", "_local_scalar_dense", "set_"),
}

#: Calls of several operations, whose C++ makes tensors where it sees the arguments: on the CPU.
#: Each is counted as one launch and, since it decomposes, one wait.
OPAQUE = {torch.linalg.matrix_rank}

#: Calls that may read a tensor of the other side.
COPIES = {"copy_", "_foreach_copy_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}

#: Calls that do not take a number on the CPU for one on the GPU, as those element by element do.
STRICT = {
    *(
        "cat",
        "stack",
        "searchsorted",
        "bucketize",
        "index_select",
        "gather",
        "scatter",
        "mm",
        "bmm",
    ),
    *("index_add_", "segment_reduce", "_fused_sgd_"),
}


class Mixed(RuntimeError):
    """Tensors of the CPU and of the GPU in one call."""


class Tally:
    """What was asked of the device: numbers of launches, waits, uploads, and bytes."""

    def __init__(self):
        self.bytes = 0
        self.calls: Counter[str] = Counter()  # launches by their name
        self.waited: Counter[str] = Counter()  # waits and uploads by name and place
        self.uploaded: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        return self.calls.total()

    @property
    def waits(self) -> int:
        return self.waited.total()

    @property
    def uploads(self) -> int:
        return self.uploaded.total()

    def __repr__(self) -> str:
        return (
            f"{self.launches} launches, {self.waits} waits {dict(self.waited)}, "
            f"{self.uploads} uploads {dict(self.uploaded)}, {self.bytes:,} bytes"
        )


_tallies: list[Tally] = []


@contextmanager
def counted() -> Iterator[Tally]:
    """Counts what is asked of the device inside; one count within another counts in both."""
    tally = Tally()
    _tallies.append(tally)
    try:
        yield tally
    finally:
        _tallies.remove(tally)


def _wait(name: str, number: int = 1) -> None:
    if _tallies:
        place = f"{name} at {_place()}"
        for tally in _tallies:
            tally.waited[place] += number


def _upload(name: str, number: int = 1) -> None:
    if _tallies:
        place = f"{name} at {_place()}"
        for tally in _tallies:
            tally.uploaded[place] += number


def _launch(name: str, *given: object) -> None:
    if _tallies:
        size = sum(t.numel() * t.element_size() for t in _tensors(given))
        for tally in _tallies:
            tally.calls[name] += 1
            tally.bytes += size


def _tensors(value: object) -> Iterator[Tensor]:
    """Those in what an operation takes or returns; pytree is several times as slow."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _mapped(function: Callable[[Tensor], Tensor], value: object) -> object:
    """The same with every tensor replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(function, part) for part in value])
    if isinstance(value, dict):
        return {key: _mapped(function, part) for key, part in value.items()}
    return value


def _place() -> str:
    """The line of the workbook that asked, other than of this file."""
    frame = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and ".venv" not in file.parts and file != Path(__file__):
            return f"{file.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


# ------------------------------------------------------------------------------------ the tensors


class Gpu(Tensor):
    """A tensor on the pretend GPU; ``on_cpu`` holds its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor):
        self = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
        )
        self.on_cpu = values
        return self

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @property
    def data(self) -> "Gpu":
        return self.detach()

    @data.setter
    def data(self, values: "Gpu") -> None:
        if (values.shape, values.dtype) != (self.shape, self.dtype):
            raise NotImplementedError("the pretend GPU's tensors keep their shape and dtype")
        self.on_cpu = values.on_cpu

    def __repr__(self, **_) -> str:
        return f"Gpu({self.on_cpu!r})"

    def numpy(self, **_):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __array__(self, *_, **__):
        self.numpy()

    def data_ptr(self) -> int:
        return self.on_cpu.data_ptr()

    def tolist(self):
        _wait("tolist")
        return self.on_cpu.tolist()

    def cpu(self, **_) -> Tensor:
        _wait("cpu")
        return _down(self)

    def cuda(self, *_, **__) -> "Gpu":
        return self

    def to(self, *args, **kwargs) -> Tensor:
        device, rest, options = _target(args, kwargs)
        if device is None or device.type == "cuda":
            return Tensor.to(self, *rest, **options) if rest or options else self
        _wait("to cpu")
        return _down(self).to(*rest, **options)

    def new_tensor(self, data, *, dtype=None, device=None) -> Tensor:
        values = torch.as_tensor(_values(data), dtype=dtype or self.dtype).clone()
        if device is not None and torch.device(device).type == "cpu":
            return values
        _upload("new_tensor")
        return Gpu(values)

    def __deepcopy__(self, memo: dict) -> "Gpu":
        if id(self) not in memo:
            copied = Gpu(self.on_cpu.detach().clone())
            if getattr(self, "_is_param", False):
                copied = nn.Parameter(copied, requires_grad=self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, call, types, args=(), kwargs=None):
        return _called(call, args, kwargs or {})


def _values(value: object) -> object:
    return value.on_cpu if isinstance(value, Gpu) else value


def _down(tensor: Gpu) -> Tensor:
    if tensor.requires_grad and torch.is_grad_enabled() and not tensor.is_leaf:
        raise NotImplementedError("no gradient crosses from the pretend GPU to the CPU: detach")
    return tensor.on_cpu.detach().clone()


def _up(tensor: Tensor, name: str) -> Tensor:
    if isinstance(tensor, Gpu):
        return tensor
    _upload(name)
    return Gpu(tensor.detach().clone())


def _target(args: tuple, kwargs: dict) -> tuple[torch.device | None, list, dict]:
    """The device that arguments of ``Tensor.to`` name, and the other arguments."""
    options = {name: value for name, value in kwargs.items() if name != "non_blocking"}
    device, rest = options.pop("device", None), []
    other = options.pop("other", None)
    for value in (*args, *([] if other is None else [other])):
        if isinstance(value, (str, torch.device, int)) and not isinstance(value, bool):
            device = value
        elif isinstance(value, Tensor):
            device = value.device
            rest.append(value.dtype)
        elif isinstance(value, torch.dtype):
            rest.append(value)
        # a bool is non_blocking, or copy: nothing is shared between the two sides
    return None if device is None else torch.device(device), rest, options


# ---------------------------------------------------------------------------------- what they are
# asked for: PyTorch's C++ calls this for each operation


def _called(call, args: tuple, kwargs: dict):
    name = call._schema.name.removeprefix("aten::")
    tensors = list(_tensors((args, kwargs)))
    there = [tensor for tensor in tensors if isinstance(tensor, Gpu)]
    here = [tensor for tensor in tensors if not isinstance(tensor, Gpu)]
    if there and here:
        _refuse_mixed(name, there, here)
    result = call(*_mapped(_values, args), **_mapped(_values, kwargs))
    if not there:
        return result
    _count(call, name, args, kwargs, here, result)
    known = {id(tensor.on_cpu): tensor for tensor in there} | {
        id(tensor): tensor for tensor in here
    }

    def wrapped(value: Tensor) -> Tensor:
        # what is written in place is the tensor that was given
        return known[id(value)] if id(value) in known else Gpu(value)

    return _mapped(wrapped, result)


def _refuse_mixed(name: str, there: list[Tensor], here: list[Tensor]) -> None:
    if name in COPIES or name in INDEXING:
        return
    numbers = all(tensor.dim() == 0 for tensor in here)
    if numbers and name not in STRICT and not name.startswith("_foreach"):
        return
    shapes = [[tuple(tensor.shape) for tensor in side] for side in (there, here)]
    raise Mixed(f"{name} of tensors on cuda:0 {shapes[0]} and on the CPU {shapes[1]} at {_place()}")


def _count(call, name: str, args: tuple, kwargs: dict, here: list[Tensor], result) -> None:
    if name in WAITING:
        _wait(name)
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        _wait(name)
    if name in COPIES and here:
        if isinstance(args[0], Gpu) or name == "_foreach_copy_":
            _upload(name, len(here))
        else:
            _wait(name)
            return
    elif name in INDEXING and here:
        _upload(name)
    if name in INDEXING and _masked(name, args):
        _wait(f"{name} by a mask")
    if name in FREE or _is_view(call):
        return
    _launch(name, args, kwargs, result)


def _masked(name: str, args: tuple) -> bool:
    """Whether it is indexed by a mask whose size the host has to know."""
    masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
    # one value for all is filled in, without an index
    return bool(masks) and (name == "index" or args[2].numel() != 1)


def _is_view(call) -> bool:
    returned = [value.alias_info for value in call._schema.returns]
    return bool(returned) and all(alias is not None and not alias.is_write for alias in returned)


# ------------------------------------------------------------------ Python's side of the device


class _Mode(TorchFunctionMode):
    """What names the device: factories, and tensors of the CPU that go there."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if function in OPAQUE and isinstance(args[0], Gpu):
            _wait(name)
            found = function(*_mapped(_values, args), **kwargs)
            _launch(name, args, found)
            return Gpu(found)
        if function is Tensor.cuda:
            return _up(args[0], name)
        if (
            function is Tensor.__setitem__
            and isinstance(args[0], Gpu)
            and not isinstance(args[2], Tensor)
        ):
            # a number is made there, where C++ sees a CPU's it would be copied there
            args = (*args[:2], Gpu(torch.tensor(args[2], dtype=args[0].dtype)))
            _launch("fill_", args[2])
        if function is Tensor.to and not isinstance(args[0], Gpu):
            device, rest, options = _target(args[1:], kwargs)
            if device is not None and device.type == "cuda":
                return _up(args[0].to(*rest, **options), "to cuda")
        device = kwargs.get("device")
        if isinstance(device, int) or _type(device) != "cuda":
            if _type(device) == "cpu" and any(isinstance(value, Gpu) for value in args):
                return _elsewhere(function, name, args, kwargs)
            return function(*args, **kwargs)
        kwargs = {**kwargs, "device": "cpu"}
        if name in ("tensor", "as_tensor", "asarray"):
            if isinstance(args[0], Gpu):
                made = args[0] if name == "as_tensor" else args[0].clone()
                return made.to(**{**kwargs, "device": CUDA})
            return _up(function(*args, **kwargs), name)
        made = function(*args, **kwargs)
        if not isinstance(made, Gpu):  # no argument was there
            made = Gpu(made)
            if not name.startswith("empty"):
                _launch(name, made)
        return made


def _type(device: object) -> str | None:
    return torch.device(device).type if isinstance(device, (str, torch.device)) else None


def _elsewhere(function, name: str, args: tuple, kwargs: dict) -> Tensor:
    """A tensor on the CPU made of one on the GPU; of ``zeros_like`` and the like only its size."""
    if not name.endswith("_like"):
        _wait(name)
    return function(*_mapped(_values, args), **kwargs)


def _moved(self: nn.Module, *args, **kwargs) -> nn.Module:
    """``nn.Module.to``."""
    device, *_ = _target(args, kwargs)
    if device is None or device.type not in ("cuda", "cpu"):
        return _TO(self, *args, **kwargs)
    there = device.type == "cuda"
    made: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if isinstance(tensor, Gpu) == there:
            return tensor
        if id(tensor) not in made:
            values = _up(tensor, "Module.to") if there else tensor.detach().cpu()
            if isinstance(tensor, nn.Parameter):
                values = nn.Parameter(values, requires_grad=tensor.requires_grad)
            made[id(tensor)] = values
        return made[id(tensor)]

    for module in self.modules():
        for own in (module._parameters, module._buffers):
            own.update({name: move(t) for name, t in own.items() if t is not None})
    return self


# torch.optim deletes its modules' names
optimizer = sys.modules[Optimizer.__module__]
_TO = nn.Module.to
_AUTOCAST = torch.autocast
_GROUPED = torch._C._group_tensors_by_device_and_dtype


def _grouped(lists, with_indices=False):
    """The optimizers' grouping, which C++ does: it would say that all lie on the CPU."""
    found = _GROUPED(lists, with_indices)
    return {
        (CUDA if isinstance(group[0][0][0], Gpu) else device, dtype): group
        for (device, dtype), group in found.items()
    }


def _autocast(device_type: str, *args, **kwargs):
    return _AUTOCAST("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


@contextmanager
def gpu() -> Iterator[torch.device]:
    """Inside, ``cuda`` is the pretend device."""
    supported = {module: module._foreach_supported_types for module in (optimizer, _foreach_utils)}
    with (
        mock.patch.object(nn.Module, "to", _moved),
        mock.patch.object(torch, "autocast", _autocast),
        mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", _grouped),
        ExitStack() as stack,
        _Mode(),
    ):
        for module, types in supported.items():
            patch = mock.patch.object(module, "_foreach_supported_types", [*types, Gpu])
            stack.enter_context(patch)
        yield CUDA


def moved(value: object, device: torch.device) -> object:
    """A checkpoint's state with every tensor on ``device``, as ``torch.load`` maps it."""
    return _mapped(lambda tensor: tensor.to(device), value)
