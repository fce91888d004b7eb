"""A training step recorded once as a CUDA graph, then replayed."""

from collections.abc import Callable

import torch
from torch import Tensor

#: Steps that run as they are before the recording: libraries choose their kernels in them.
WARM_UP = 3


class CudaGraph:
    """Calls a step on tensors of ``device``, a GPU; full batches are replayed from a recording.

    A small network's step is some hundreds of kernels, which the host launches more slowly than the
    GPU runs them; a replay is one launch. The recording keeps addresses: whatever changes from
    step to step must lie in tensors that are written in place. The step must not wait for the
    device. Inputs of another shape than the first call's (an epoch's last, smaller batch) are not
    replayed.
    """

    def __init__(self, device: torch.device):
        # The recording is made on a stream of its own, and so is the warm-up: what libraries keep
        # for each stream is there by then. It also says which of several GPUs is meant.
        self.stream = torch.cuda.Stream(device)
        self.shape: torch.Size | None = None  # of the first input, in the first call
        self.calls = 0
        self.graph = torch.cuda.CUDAGraph()
        self.inputs: tuple[Tensor, ...] = ()

    def __call__(self, step: Callable[..., None], *inputs: Tensor) -> None:
        """One ``step`` on ``inputs``; it is the same function in every call."""
        # The step is an argument and no attribute, so that its owner, who holds this object, is
        # freed with the graph's memory when he goes, and not when garbage is collected.
        self.shape = self.shape or inputs[0].shape
        if inputs[0].shape != self.shape:
            step(*inputs)
        elif self.calls < WARM_UP:
            current = torch.cuda.current_stream(self.stream.device)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                step(*inputs)
            current.wait_stream(self.stream)
            self.calls += 1
        else:
            if not self.inputs:
                self.inputs = tuple(tensor.clone() for tensor in inputs)
                with (
                    torch.cuda.device(self.stream.device),
                    # a DataLoader's thread may pin memory meanwhile, which "global" forbids to all
                    torch.cuda.graph(
                        self.graph, stream=self.stream, capture_error_mode="thread_local"
                    ),
                ):
                    step(*self.inputs)
            torch._foreach_copy_(self.inputs, inputs)
            self.graph.replay()
