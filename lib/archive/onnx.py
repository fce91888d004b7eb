"""A compressed network as an ONNX file that is small as well, and runs where there is no PyTorch.

ONNX has neither codebooks nor (where runtimes support it) sparse weights, so each weight becomes
a few nodes that make it out of packed constants, as small as it goes. A runtime computes them once,
when it loads the file, and from then on runs dense weights: the file is small, the network as fast
as any.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lib import atomic

#: What the file asks of a runtime: the first version with all that the nodes below use is 18.
OPSET = 20

#: Widths that divide a byte, in bits.
WIDTHS = (1, 2, 4, 8)


def export(model: nn.Module, path: Path, *, input_shape: tuple[int, ...]) -> int:
    """Writes ``model``, in evaluation mode, to ``path`` and returns the file's size in bytes.

    The input is ``images``, (any number, \\*``input_shape``) floats, the output ``scores``. The
    weights are exactly the model's; outputs differ from PyTorch's by rounding in another order.
    Of each weight the smallest of four forms is kept:

    - as it is;
    - *codes*: ⌈log₂ levels⌉ bits a weight, rounded up to a width in ``WIDTHS``, and a codebook;
    - *mask*: a bit a weight for where nonzeros are, and their codes and codebook, or their values
      where they are of more than 256 levels;
    - *gaps*: the distance from each nonzero to the next in a width of ``WIDTHS``, and as *mask*.

    Cost: PyTorch's exporter, seconds, and some passes over the weights. Raises ``ValueError`` where
    the packages ``onnx`` and ``onnxscript`` are not installed, ``OSError`` where it cannot be
    written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401, which PyTorch's exporter needs
    except ImportError as error:
        raise ValueError(f"{error}: pip install onnx onnxscript") from error
    graph_of = _exported(model, input_shape)
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


def _exported(model: nn.Module, input_shape: tuple[int, ...]):
    """The graph as PyTorch writes it, with the weights as they are and nothing about its source."""
    images = torch.zeros(2, *input_shape, device=next(model.parameters()).device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program: Any = torch.onnx.export(
            model.eval(),
            (images,),
            dynamo=True,
            optimize=False,  # which would fold BatchNorm into weights that then share no values
            opset_version=OPSET,
            input_names=["images"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("count")},),
            verbose=False,
        )
    exported = program.model_proto
    del exported.metadata_props[:], exported.graph.metadata_props[:], exported.graph.value_info[:]
    for node in exported.graph.node:
        del node.metadata_props[:]  # stack traces, with the paths of this machine
        node.doc_string = node.name = ""
    return exported


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
