"""A run over several processes, on one machine or many, that torchrun starts.

    torchrun --nproc-per-node 4 --max-restarts 3 -m lib run ID

Each process has the whole network and method, and its share of the images of every step; PyTorch's
DistributedDataParallel averages the gradients, over NCCL on GPUs and gloo on CPUs. What the methods
do with the weights every process does for itself, with the same result, which is checked. Process
0 alone writes: the others read its files, so that the results folder is one that all of them see.
Without torchrun there is one process, and everything here returns at once.
"""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TypeVar

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

#: The lock of a run is tried for so long (seconds) at a time: the others wait for the outcome, and
#: a process that hears nothing for many minutes gives up.
PATIENCE = 60.0

#: So many numbers are digested at once: what is multiplied stays in the cache.
CHUNK = 2**16

#: The integers that tensors are digested as, by the size of their elements in bytes.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Differs(Exception):
    """Processes that should hold the same tensors do not."""


def launched() -> bool:
    """Whether torchrun has started this process as one of several."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return False
    return int(os.environ["WORLD_SIZE"]) > 1


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which one of them this is, from 0."""
    return dist.get_rank() if processes() > 1 else 0


@contextmanager
def group(device: str) -> Iterator[None]:
    """Joins the processes that torchrun has started, each with a GPU of its own where there are.

    ``device`` is ``auto``, ``cpu`` or ``cuda``. Inside, only process 0 prints to stdout, and GPUs
    use deterministic algorithms where PyTorch has them: sums in another order on each GPU would
    drive the processes apart. Raises ``ValueError`` for another device, for more processes on a
    machine than it has GPUs, and where several machines could not be started again.
    """
    if not launched():
        yield
        return
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"device {device!r}: under torchrun each process has a GPU of its own; use auto, cpu "
            "or cuda"
        )
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if 0 < gpus < here:
        raise ValueError(
            f"{here} processes on a machine of {gpus} GPUs: use --nproc-per-node {gpus} or fewer, "
            "or --device cpu"
        )
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    store, number, count = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=_of_this_life(store), rank=number, world_size=count)
    # said of filters of one channel, whose two layouts are one
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    with redirect_stdout(None if rank() else sys.stdout):
        yield
    # not after an error: the others may be waiting for what will not come, torchrun ends them
    dist.destroy_process_group()


def _of_this_life(store: "dist.Store") -> "dist.Store":
    """Where processes tell each other their addresses, without those of an earlier life.

    torchrun keeps its store when it starts them again, and a process could call one that is dead
    (https://github.com/pytorch/pytorch/issues/135712). On one machine restarts are counted; on
    several each machine counts its own, and torchrun has to make a new store.
    """
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        return dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    again = os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0"
    if again and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
        raise ValueError(
            "--max-restarts on several machines needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in "
            "torchrun's environment, on each of them"
        )
    return store


def parallel(network: nn.Module) -> nn.Module:
    """What computes as ``network`` does and averages the gradients of what it trains.

    Those of all that its parameters add to the loss: a method's penalty, and a method's own
    parameters where the network has them. BatchNorm measures each process's share of a batch.
    """
    if processes() == 1 or not any(p.requires_grad for p in network.parameters()):
        return network
    # Nothing is put right in silence: check() compares what the processes start with. Running
    # statistics are not read while training: same_statistics() is soon enough. No parameter is
    # unused, of which PyTorch warns; but while DDP looks for them it does not pack its buckets
    # anew after the first step, and more than two processes add in the same order after a restart.
    return DistributedDataParallel(
        network, init_sync=False, broadcast_buffers=False, find_unused_parameters=True
    )


def agree(find: Callable[[], T]) -> T:
    """What process 0 finds, or raises, on every process; the others do not look."""
    if processes() == 1:
        return find()
    said: list = [None, None]
    if rank() == 0:
        try:
            said = [find(), None]
        except Exception as error:  # else the others would wait for an answer
            said = [None, error]
    dist.broadcast_object_list(said, src=0)
    found, failure = said
    if failure is not None:
        raise failure
    return found


@contextmanager
def held(lock: FileLock) -> Iterator[None]:
    """The lock, taken by process 0; what it has written inside is there for all afterwards."""
    try:
        while not agree(lambda: _taken(lock)):
            pass
        yield
        agree(lambda: None)
    finally:
        if lock.is_locked:
            lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        return False
    return True


@contextmanager
def in_turn() -> Iterator[None]:
    """The first process of each machine, then the others: it downloads or unpacks for them."""
    waits = processes() > 1 and int(os.environ["LOCAL_RANK"]) > 0
    if waits:
        total(torch.zeros(()))
    try:
        yield
    finally:  # after an error too: the others then find out for themselves
        if not waits:
            total(torch.zeros(()))


def of_step(images: int) -> range:
    """Which of a step's images are this process's: every so manyth, from its own number on."""
    return range(images)[rank() :: processes()]


def share(order: Tensor, batch: int) -> Tensor:
    """Of ``order``, (images, …), what this process takes: its images of each step, step by step."""
    if processes() == 1:
        return order
    return torch.cat([step[rank() :: processes()] for step in order.split(batch)])


def weight(images: int) -> float:
    """By what the mean over this process's share of a step's ``images`` is to be multiplied.

    So that the plain mean over the processes is that over the images: 1 where shares are equal.
    """
    return processes() * len(of_step(images)) / images


def block(images: int, batch: int) -> slice:
    """Which of ``images``, in their order, are this process's to evaluate: in whole batches."""
    batches = -(-images // batch)
    first, end = (batches * r // processes() * batch for r in (rank(), rank() + 1))
    return slice(first, end)


def total(tensor: Tensor) -> Tensor:
    """The sum over the processes."""
    if processes() == 1:
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


@torch.no_grad()
def average(tensors: Iterable[Tensor], weight: float) -> None:
    """Their mean over the processes, each of a weight of its own, in place."""
    if processes() == 1:
        return
    whole = float(total(torch.tensor(float(weight), dtype=torch.float64)))
    for tensor in tensors:
        tensor.copy_(total(tensor * weight) / whole)


@torch.no_grad()
def same_statistics(model: nn.Module) -> None:
    """Gives every process the buffers of process 0, BatchNorm's running statistics above all.

    Only they differ between the processes after a step: each saw its own share.
    """
    if processes() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def check(state: Callable[[], object]) -> None:
    """Compares ``state()`` over the processes, bit for bit: tensors and plain values, nested.

    A tensor x of n elements is compared by Σ cᵢ·xᵢ mod 2⁶⁴, x as integers and every cᵢ odd: one
    changed element is always seen, several but for chance of about 2⁻⁶⁴. One pass in 1 MB of
    memory; 61 million float32 took 0.08 s of one CPU thread. Some kilobytes are exchanged.

    Raises ``Differs`` on every process, which names the first tensor that is not the same.
    """
    if processes() == 1:
        return
    found: list[dict] = [{} for _ in range(processes())]
    dist.all_gather_object(found, dict(_digests(state())))
    for other, digests in enumerate(found):
        for name in found[0] | digests:
            if found[0].get(name) != digests.get(name):
                raise Differs(
                    f"{name} of process {other} is not that of process 0: all have to compute the "
                    "same, with the same libraries on the same kind of device"
                )


def _digests(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Names of what is in ``value``, and what stands for it."""
    if isinstance(value, Tensor):
        yield name, (tuple(value.shape), str(value.dtype), _digest(value))
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _digests(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        yield from _digests(dict(enumerate(value)), name)
    else:
        yield name, repr(value)


def _digest(tensor: Tensor) -> int:
    bits = tensor.detach().reshape(-1).view(INTEGERS[tensor.element_size()])
    odd = _odd(tensor.device)
    found = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part in bits.split(CHUNK):
        # integers wrap, and so are added exactly in any order; 3 keeps the chunks apart
        found = 3 * found + (part * odd[: len(part)]).sum()
    return int(found)


@functools.lru_cache
def _odd(device: torch.device) -> Tensor:
    """The cᵢ of a chunk, (CHUNK,) int64, the same everywhere."""
    drawn = torch.randint(2**62, (CHUNK,), generator=torch.Generator().manual_seed(0))
    return (2 * drawn + 1).to(device)
