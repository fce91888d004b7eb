"""MACs: the multiply-accumulates of one forward pass, whatever the network is made of."""

from collections import Counter
from collections.abc import Collection
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lib.accounting.undisturbed import undisturbed
from lib.layers import Given, example, fewest

#: Operations that read several tensors, and multiply none with a matrix: they normalise, gather,
#: scatter, join, compare or interpolate. Gates of a recurrent cell are element-wise.
HARMLESS = """
    _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _weight_norm_interface
    batch_norm_elemt cudnn_batch_norm miopen_batch_norm native_batch_norm native_group_norm
    native_layer_norm
    _thnn_fused_gru_cell _thnn_fused_lstm_cell
    _embedding_bag _embedding_bag_forward_only embedding embedding_renorm
    _index_put_impl _unsafe_index_put as_strided_scatter cat copy diagonal_scatter fill index_add
    index_copy index_put masked_scatter put scatter scatter_add scatter_reduce select_scatter
    set slice_scatter stack take where
    _prelu_kernel rrelu_with_noise
    _unique2 allclose bucketize equal isin searchsorted
    cudnn_grid_sampler grid_sampler_2d grid_sampler_3d segment_reduce
    _ctc_loss binary_cross_entropy dist huber_loss mse_loss nll_loss2d_forward nll_loss_forward
    smooth_l1_loss soft_margin_loss
    linalg_cross linalg_vector_norm normal polar complex
    nms roi_align roi_pool ps_roi_align ps_roi_pool
    upsample_bilinear2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    _linalg_check_errors
    """

#: Parts of names of what multiplies matrices, or takes them apart.
SUSPECT = (
    *("mm", "matmul", "linear", "conv", "attention", "rnn", "lstm", "gru", "mv", "dot", "cdist"),
    *("linalg", "matrix", "cholesky", "inverse", "svd", "solve", "ormqr", "geqrf", "qr", "lu_"),
)

#: Libraries of operations that compute nothing with numbers: profiling, and what copies between
#: processes.
IDLE = {"profiler", "record_function", "c10d", "_c10d_functional", "prim"}


def macs(model: nn.Module, given: Given) -> int:
    """Multiply-accumulates of one forward pass of one item, in evaluation mode.

    Counted are all products of matrices: convolutions, transposed ones too, linear layers, matrix
    products and ``einsum``, attention (all of it, what a mask hides too), LSTM, GRU and RNN, and
    bilinear layers, whose outputs take a MAC for every pair of inputs. What works number by number
    (activations, sums, normalisation, pooling, interpolation, Fourier transforms) counts nothing,
    nor does what computes a weight under a parametrization, which is the same for all inputs.
    Zeros inside a layer are counted: only a network that was really built smaller costs less.

    Parameters
    ----------
    model : the network; it is left as it was.
    given : what it reads, as :func:`lib.layers.example` takes it: (channels, height, width) of an
        image, or example inputs, of which the first item is counted.

    Raises ``ValueError`` that names an operation which may be a product, and whose MACs are not
    known: nothing is taken for zero. PyTorch's FlopCounterMode knows most, at 2 FLOPs per MAC.

    Notes
    -----
    One forward pass of one item; of two, halved, where BatchNorm measures each batch.
    """
    return sum(counted(unwrapped(model), given, ()).values())


def counted(model: nn.Module, given: Given, layers: Collection[str]) -> Counter[str]:
    """Name → MACs of one item, of each of ``layers`` with what is inside; under None of the rest.

    A layer's are of all of its calls. Raises as :func:`macs`.
    """
    items = fewest(model)
    inputs = example(model, given, items=items)
    with undisturbed(model):
        mode = _Counting()
        for name in layers:
            layer = model.get_submodule(name)
            layer.register_forward_pre_hook(partial(_enter, mode, name), prepend=True)
            layer.register_forward_hook(partial(_leave, mode))
        try:
            with mode:
                inputs.call(model)
        except NotImplementedError as error:  # of an operation that takes functions
            (said, *_) = str(error).splitlines() or [""]
            raise ValueError(f"the MACs cannot be counted: {said}") from error
    return Counter({name: spent // items for name, spent in mode.found.items()})


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        inner: Any = model.module if isinstance(model, parallel) else model._orig_mod
        model = inner
    return model


def _enter(mode: "_Counting", name: str, *_: Any) -> None:
    mode.inside.append(name)


def _leave(mode: "_Counting", *_: Any) -> None:
    mode.inside.pop()


class _Counting(TorchDispatchMode):
    """Counts what each operation costs, under the layer that it is called in."""

    def __init__(self):
        super().__init__()
        self.found: Counter[Any] = Counter()
        self.inside: list[str | None] = [None]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        cost = _formula(func)
        if cost is None and func is not torch.ops.prim.device.default:
            with self:  # in inference mode operations come whole
                returned = func.decompose(*args, **kwargs)
            if returned is not NotImplemented:
                return returned
        if cost is None and _may_multiply(func, args, kwargs):
            raise ValueError(
                f"the MACs of {func} are not known, and it may be a product of matrices: use "
                "other operations, or give another budget than MACs"
            )
        returned = func(*args, **kwargs)
        if cost is not None:
            self.found[self.inside[-1]] += cost(args, kwargs, returned)
        return returned


def _name(func: Any) -> str:
    """``addmm`` of ``aten::addmm_``, ``aten::addmm.out`` and ``aten::addmm``."""
    return func._schema.name.rpartition("::")[2].removesuffix("_")


def _formula(func: Any) -> Any:
    """(arguments, named arguments, what it returns) → MACs; None where no formula is known."""
    if func.namespace != "aten":
        return None
    name = _name(func)
    if name in FORMULAS:
        return lambda args, kwargs, returned: FORMULAS[name](*args)
    flops = flop_registry.get(getattr(torch.ops.aten, name, None))
    if flops is None:
        return None
    return lambda args, kwargs, returned: flops(*args, **kwargs, out_val=returned) // 2


def _may_multiply(func: Any, args: tuple, kwargs: dict) -> bool:
    if func.namespace in IDLE or torch.Tag.pointwise in func.tags:
        return False
    name = _name(func)
    if name in HARMLESS.split():
        return False
    if func.namespace != "aten" or any(part in name for part in SUSPECT):
        return True
    read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim() > 0]
    return sum(t.is_floating_point() or t.is_complex() for t in read) > 1


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """Scores and what they weigh; several heads of the query may share one of the key."""
    return prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(inputs: Tensor, *rest: Any) -> int:
    """Each weight once for every step of every sequence, in each layer and direction."""
    matrices = [t for t in tree_leaves(rest[:4]) if isinstance(t, Tensor) and t.dim() == 2]
    return inputs.numel() // inputs.shape[-1] * sum(t.numel() for t in matrices)


def _cudnn_recurrent(inputs: Tensor, weights: list[Tensor], *_: Any) -> int:
    return _recurrent(inputs, weights)


def _trilinear(a: Tensor, b: Tensor, c: Tensor, *expand: Any) -> int:
    """Σ abc over some dimensions, each broadcast after those of ``expand`` are added to it."""
    sides = []
    for tensor, dims in zip((a, b, c), expand, strict=False):
        for dim in sorted(dims):
            tensor = tensor.unsqueeze(dim)
        sides.append(tensor.shape)
    return prod(torch.broadcast_shapes(*sides))


def _distances(a: Tensor, b: Tensor, *_: Any) -> int:
    """Σ|a − b|ᵖ for every pair."""
    return prod(torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])) * (
        a.shape[-2] * b.shape[-2] * a.shape[-1]
    )


#: What PyTorch's counter lacks: arguments → MACs.
FORMULAS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "_scaled_dot_product_attention_math",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_fused_attention_overrideable",
        ),
        _attention,
    ),
    "mkldnn_rnn_layer": _recurrent,
    "_cudnn_rnn": _cudnn_recurrent,
    "_trilinear": _trilinear,
    "_cdist_forward": _distances,
    "mv": lambda matrix, _: matrix.numel(),
    "addmv": lambda _, matrix, vector: matrix.numel(),
    "dot": lambda a, _: a.numel(),
    "vdot": lambda a, _: a.numel(),
    "addr": lambda _, a, b: a.numel() * b.numel(),
    "addbmm": lambda _, a, b: a.numel() * b.shape[-1],
}
