"""A training step recorded once as a CUDA graph, then replayed."""

from collections.abc import Callable

import torch
from torch import Tensor

#: Steps that run as they are before the recording: libraries choose their kernels in them.
WARM_UP = 3


class CudaGraph:
    """Calls ``step`` on tensors of a CUDA device; full batches are replayed from a recording.

    A small network's step is some hundreds of kernels, which the host launches more slowly than the
    GPU runs them; a replay is one launch. The recording keeps addresses: whatever changes from
    step to step must lie in tensors that are written in place. ``step`` must not wait for the
    device. Inputs of another shape than the first call's (an epoch's last, smaller batch) are not
    replayed.
    """

    def __init__(self, step: Callable[..., None]):
        self.step = step
        self.shape: torch.Size | None = None  # of the first input, in the first call
        self.calls = 0
        self.graph = torch.cuda.CUDAGraph()
        self.inputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> None:
        self.shape = self.shape or inputs[0].shape
        if inputs[0].shape != self.shape:
            self.step(*inputs)
        elif self.calls < WARM_UP:
            # on a stream of its own, as a recording has one of its own too
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.step(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            self.calls += 1
        else:
            if not self.inputs:
                self.inputs = tuple(tensor.clone() for tensor in inputs)
                with torch.cuda.graph(self.graph):
                    self.step(*self.inputs)
            torch._foreach_copy_(self.inputs, inputs)
            self.graph.replay()
