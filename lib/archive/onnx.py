"""A compressed network as an ONNX file that is small as well, and runs where there is no PyTorch.

ONNX has neither codebooks nor (where runtimes support it) sparse weights, so each weight becomes
a few nodes that make it out of packed constants, as small as it goes. A runtime computes them once,
when it loads the file, and from then on runs dense weights: the file is small, the network as fast
as any.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lib import atomic
from lib.layers import clone

#: What the file asks of a runtime: the first version with all that the nodes below use is 18.
OPSET = 20

#: Widths that divide a byte, in bits.
WIDTHS = (1, 2, 4, 8)


def export(
    model: nn.Module,
    path: Path | str,
    *,
    input_shape: Sequence[int] | None = None,
    inputs: Sequence[Tensor] | None = None,
) -> int:
    """Writes ``model``, in evaluation mode, to ``path`` and returns the file's size in bytes.

    The input is ``images``, floats, any number of ``input_shape``; or as many as ``inputs`` are,
    of their dtypes and of any number of items, ``inputs`` (or ``inputs_1``, ``inputs_2``, …) by
    name. The output is ``scores`` (or ``scores_1``, …). The weights are exactly the model's, those
    of half precision as float32; outputs differ from PyTorch's by rounding in another order. The
    model stays as it is.
    Of each weight the smallest of four forms is kept:

    - as it is;
    - *codes*: ⌈log₂ levels⌉ bits a weight, rounded up to a width in ``WIDTHS``, and a codebook;
    - *mask*: a bit a weight for where nonzeros are, and their codes and codebook, or their values
      where they are of more than 256 levels;
    - *gaps*: the distance from each nonzero to the next in a width of ``WIDTHS``, and as *mask*.

    Cost: PyTorch's exporter, seconds, and some passes over the weights. Raises ``ValueError`` where
    the packages ``onnx`` and ``onnxscript`` are not installed, the folder is not there, PyTorch
    cannot export the network, or it computes with one number of items alone; ``OSError`` where the
    file cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401, which PyTorch's exporter needs
    except ImportError as error:
        raise ValueError(f"{error}: pip install onnx onnxscript") from error
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    exact = clone(model).eval()
    floats = [p.dtype for p in exact.parameters() if p.is_floating_point()]
    if set(floats) <= {torch.float16, torch.bfloat16}:
        exact = exact.float()  # as exact, and runtimes compute in it
    if inputs is None:
        if input_shape is None:
            raise ValueError("say input_shape, of an image, or give example inputs")
        place: Any = next(exact.parameters(), torch.zeros(()))
        inputs, names = [torch.zeros(2, *input_shape, device=place.device)], ["images"]
        if place.dtype == torch.float64:
            exact = _Double(exact)
    else:
        inputs, names = [_two(each) for each in inputs], _named("inputs", len(inputs))
    graph_of = _exported(exact, tuple(inputs), names)
    graph = graph_of.graph
    made = []
    for tensor in list(graph.initializer):
        form = _smallest(tensor, onnx)
        if form is not None:
            graph.initializer.remove(tensor)
            graph.initializer.extend(form.constants)
            made += form.nodes
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(graph_of, full_check=True)
    content = graph_of.SerializeToString()
    atomic.write(path, content)
    return len(content)


class _Double(nn.Module):
    """A network of doubles that reads floats."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images.double())


def _two(tensor: Tensor) -> Tensor:
    """Two items: of one PyTorch's exporter makes a constant."""
    return tensor.expand(2, *tensor.shape[1:]) if len(tensor) == 1 else tensor


def _named(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{place + 1}" for place in range(count)]


def _exported(model: nn.Module, inputs: tuple[Tensor, ...], names: list[str]):
    """The graph as PyTorch writes it, with the weights as they are and nothing about its source."""
    try:
        with torch.no_grad():
            outputs = len(tree_leaves(clone(model)(*inputs)))
    except Exception as error:  # whatever a network raises
        shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"the network fails on inputs of {shapes} ({lines[0]}): give example inputs, inputs=…"
        ) from error
    axes = [{0: torch.export.Dim("count")} for _ in inputs]
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                optimize=False,  # which would fold BatchNorm into weights that share no values
                opset_version=OPSET,
                input_names=names,
                output_names=_named("scores", outputs),
                dynamic_shapes=axes,
                verbose=False,
            )
        except Exception as error:  # whatever the exporter meets in a network
            cause = error.__cause__ or error
            lines = str(cause).strip().splitlines() or [type(cause).__name__]
            raise ValueError(f"PyTorch cannot export this network to ONNX: {lines[0]}") from error
    exported = program.model_proto
    for value in exported.graph.input:
        if not value.type.tensor_type.shape.dim[0].dim_param:
            count = value.type.tensor_type.shape.dim[0].dim_value
            raise ValueError(
                f"the network computes with {count} items alone: its forward must take its batch "
                "from its input, x.flatten(1) say and not x.view(n, -1)"
            )
    del exported.metadata_props[:], exported.graph.metadata_props[:], exported.graph.value_info[:]
    for node in exported.graph.node:
        del node.metadata_props[:]  # stack traces, with the paths of this machine
        node.doc_string = node.name = ""
    return exported


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter says about itself, and prints of a network that it cannot export."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        printed = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(printed), redirect_stderr(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class _Form:
    """Constants, and the nodes that make one weight of them."""

    def __init__(self, name: str, onnx):
        self.name, self._onnx = name, onnx
        self.constants: list = []
        self.nodes: list = []

    @property
    def size(self) -> int:
        return sum(part.ByteSize() for part in (*self.constants, *self.nodes))

    def constant(self, array: np.ndarray) -> str:
        name = f"{self.name}:{len(self.constants) + len(self.nodes)}"
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, last: bool = False, **attributes) -> str:
        name = self.name if last else f"{self.name}:{len(self.constants) + len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def integers(self, values: np.ndarray, width: int) -> str:
        """``values`` below 2^``width``, (n,), packed; unpacked they are int32."""
        per_byte = 8 // width
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        padded = np.zeros((-(-len(values) // per_byte), per_byte), np.uint8)
        padded.reshape(-1)[: len(values)] = values
        packed = np.bitwise_or.reduce(padded << shifts, axis=1)
        found = self.constant(packed if width == 8 else packed[:, None])  # (bytes, 1)
        if width < 8:
            shifted = self.node("BitShift", found, self.constant(shifts), direction="RIGHT")
            mask = self.constant(np.array(2**width - 1, np.uint8))
            found = self.node("BitwiseAnd", shifted, mask)  # (bytes, values of a byte)
            found = self.node("Reshape", found, self.constant(np.array([-1])))
            ends = (self.constant(np.array([n])) for n in (0, len(values)))
            found = self.node("Slice", found, *ends)
        return self.node("Cast", found, to=self._onnx.TensorProto.INT32)

    def values(self, values: np.ndarray) -> str:
        """``values``, (n,), by codebook where there are at most 256."""
        book, codes = np.unique(values, return_inverse=True)
        if len(book) > 256:
            return self.constant(values)
        return self.node("Gather", self.constant(book), self.integers(codes, _width(len(book))))

    def scatter(self, index: str, values: np.ndarray, count: int) -> str:
        """``count`` floats, ``values`` at the places ``index`` and zeros elsewhere."""
        empty = self.node("ConstantOfShape", self.constant(np.array([count])))
        return self.node("ScatterElements", empty, index, self.values(values))

    def finish(self, flat: str, shape: tuple[int, ...]) -> "_Form":
        self.node("Reshape", flat, self.constant(np.array(shape)), last=True)
        return self


def _smallest(tensor, onnx) -> _Form | None:
    """The shortest form of a weight; ``None`` where that is the weight itself."""
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
        return None
    weight = onnx.numpy_helper.to_array(tensor)
    makers: list[Any] = [_codes, _mask, *(partial(_gaps, width=width) for width in WIDTHS)]
    forms = [
        form for make in makers if (form := make(_Form(tensor.name, onnx), weight)) is not None
    ]
    best = min(forms, key=lambda form: form.size)
    return best if best.size < tensor.ByteSize() else None


def _width(count: int) -> int:
    """The least of ``WIDTHS`` with 2^width values or more."""
    return next(width for width in WIDTHS if count <= 2**width)


def _codes(form: _Form, weight: np.ndarray) -> _Form | None:
    if len(np.unique(weight)) > 256:
        return None
    return form.finish(form.values(weight.reshape(-1)), weight.shape)


def _mask(form: _Form, weight: np.ndarray) -> _Form | None:
    flat = weight.reshape(-1)
    places = form.node("NonZero", form.integers(flat != 0, 1))  # (1, nonzeros)
    index = form.node("Reshape", places, form.constant(np.array([-1])))
    return form.finish(form.scatter(index, flat[flat != 0], len(flat)), weight.shape)


def _gaps(form: _Form, weight: np.ndarray, *, width: int) -> _Form | None:
    """A gap that is too long is filled with zeros, written where there are zeros anyway."""
    flat = weight.reshape(-1)
    places, most = np.flatnonzero(flat), 2**width - 1
    gaps = np.diff(places, prepend=-1)  # 1 or more
    fillers = (gaps - 1) // most
    total = int(fillers.sum()) + len(gaps)
    if total == len(flat):
        return None  # as many as there are weights
    steps, values = np.full(total, most), np.zeros(total, flat.dtype)
    ends = np.cumsum(fillers + 1) - 1  # where each nonzero stands, its fillers before it
    steps[ends] = gaps - fillers * most
    values[ends] = flat[places]
    one, zero = (form.constant(np.array(n, np.int32)) for n in (1, 0))
    index = form.node("Sub", form.node("CumSum", form.integers(steps, width), zero), one)
    return form.finish(form.scatter(index, values, len(flat)), weight.shape)
