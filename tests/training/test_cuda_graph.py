"""CUDA graphs: without a GPU against a recorder that keeps a graph's rules, and on one if there is.

The recorder takes down the operations of a step and calls them again on the same tensors. As in a
CUDA graph, numbers of the host and addresses are those of the recording, whatever Python has
changed since, and nothing may wait for the device.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib import data, networks, training
from lib.optimizers import ADMM, METHODS, Method, byte_budget, proximal_cpu
from lib.training import Schedule, train
from lib.training.cuda_graph import WARM_UP, CudaGraph
from tests import methods

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_compiled_step(monkeypatch):
    """What a CPU computes in a compiled loop is no operation that the recorder could take down."""

    def pull(w, anchor, t):
        w.add_((anchor - w).mul_(t))

    monkeypatch.setattr(proximal_cpu, "pull", pull)


class Recorder(TorchDispatchMode):
    """Stands in for ``torch.cuda.CUDAGraph``."""

    #: What makes the host wait for the device, or copies from it: an error in a recording.
    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "_unique2")

    def __init__(self):
        super().__init__()
        self.operations, self.kept, self.replays = [], [], 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation.name().removeprefix("aten::").split(".")[0]
        assert name not in self.WAITING, f"{name} waits for the device"
        if name in ("index", "index_put_"):
            for index in args[1]:
                assert index is None or index.dtype == torch.int64, "a mask waits for the device"
        before = operation(*args, **kwargs)
        self.operations.append((operation, args, kwargs, before))
        return before

    def replay(self):
        self.replays += 1
        with torch._C._AutoDispatchBelowAutograd():
            for operation, args, kwargs, before in self.operations:
                again = operation(*args, **kwargs)
                for new, old in zip(tree_leaves(again), tree_leaves(before), strict=True):
                    # a view, or what was written in place, is there already
                    if isinstance(new, torch.Tensor) and new.data_ptr() != old.data_ptr():
                        old.copy_(new)


class Streams:
    """Stands in for ``torch.cuda``: the calls in order; a step that is recorded has no effect."""

    def __init__(self, state=()):
        self.calls, self.state, self.recorders = [], list(state), []

    def CUDAGraph(self):
        self.recorders.append(Recorder())
        return self.recorders[-1]

    def Stream(self, device):
        def wait(other):
            self.calls.append(f"side waits for {other.name}")

        return SimpleNamespace(name="side", device=device, wait_stream=wait)

    def current_stream(self, device):
        def wait(other):
            self.calls.append(f"current waits for {other.name}")

        return SimpleNamespace(name="current", device=device, wait_stream=wait)

    @contextmanager
    def stream(self, stream):
        self.calls.append(f"on {stream.name}")
        yield
        self.calls.append(f"off {stream.name}")

    def device(self, device):
        return nullcontext()

    @contextmanager
    def graph(self, graph, *, stream, capture_error_mode):
        """Records: what the step computes meanwhile is undone, as nothing is computed on a GPU."""
        # a thread that pins memory meanwhile spoils a recording of any other mode
        assert capture_error_mode == "thread_local"
        self.calls.append(f"record on {stream.name}")
        tensors = [tensor.detach() for tensor in self.state]
        before = [tensor.clone() for tensor in tensors]
        with torch.random.fork_rng(devices=[]), graph:
            yield
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


@pytest.fixture
def streams(monkeypatch):
    """``torch.cuda`` of lib.training.cuda_graph, and no other's."""
    stand_in = Streams()
    monkeypatch.setattr(
        "lib.training.cuda_graph.torch",
        SimpleNamespace(cuda=stand_in, Size=torch.Size, _foreach_copy_=torch._foreach_copy_),
    )
    return stand_in


def test_warms_up_records_once_and_replays_full_batches(streams):
    total, seen = torch.zeros(2), []

    def step(values, weights):
        seen.append(len(values))
        total[0].add_((values * weights).sum())
        total[1].add_(1)

    streams.state = [total]
    graph, expected = CudaGraph(CPU), 0.0
    batches = [torch.arange(4.0) + 10 * i for i in range(8)]
    batches[2] = batches[2][:3]  # a smaller batch in the warm-up, and one between replays
    batches[6] = batches[6][:1]
    for i, batch in enumerate(batches):
        weights = torch.full_like(batch, i)
        graph(step, batch, weights)
        expected += float((batch * weights).sum())
        assert total.tolist() == [expected, i + 1]
        assert batch.tolist() == (torch.arange(4.0) + 10 * i)[: len(batch)].tolist()
    # three steps of warm-up, one recording; the smaller batches as they are
    assert seen == [4, 4, 3, 4, 4, 1]
    (recorder,) = streams.recorders
    assert recorder.replays == 8 - WARM_UP - 2
    warm_up = ["side waits for current", "on side", "off side", "current waits for side"]
    assert streams.calls == [*WARM_UP * warm_up, "record on side"]


def test_a_number_that_changes_on_the_host_is_not_seen(streams):
    """The recorder keeps a graph's rule; else the tests below would pass for nothing."""
    total, rates = torch.zeros(()), [1.0]
    graph = CudaGraph(CPU)
    streams.state = [total]
    for _ in range(6):
        graph(lambda values: total.add_(rates[-1] * values.sum()), torch.ones(1))
        rates.append(2 * rates[-1])
    assert total == 1 + 2 + 4 + 8 + 8 + 8


def test_waiting_in_a_step_is_an_error(streams):
    graph = CudaGraph(CPU)
    values = torch.ones(3)
    for _ in range(WARM_UP):
        graph(lambda values: values.sum().item(), values)
    with pytest.raises(AssertionError, match="_local_scalar_dense waits"):
        graph(lambda values: values.sum().item(), values)


def test_the_step_is_not_held(streams):
    """Its owner holds the graph: a cycle would keep a GPU's memory until garbage is collected."""
    graph = CudaGraph(CPU)
    step = lambda values: None  # noqa: E731
    for _ in range(WARM_UP + 2):
        graph(step, torch.ones(1))
    assert step not in vars(graph).values()


# ------------------------------------------------------------------------ the loop, step by step

SCHEDULE = Schedule(epochs=2, lr=0.05, batch=16, warmup=1, weight_decay=5e-4)
CLIPPED = {"clip": 0.5, "crop": 2, "flip": True}

#: (method, variant, what of the schedule is changed).
CASES = [
    ("sgd", "", {"precision": "bfloat16"}),
    ("sgd", "", CLIPPED),
    ("admm", "growing", CLIPPED),
    ("tune-codebooks", "", {}),
    ("magnitude", "gradual", CLIPPED),
]
#: Those of the registry that do something in a step.
RECORDED = [
    (name, variant, CLIPPED)
    for name, variant in methods.CASES
    if METHODS[name].capturable
    and (METHODS[name].after_step, METHODS[name].penalty) != (Method.after_step, Method.penalty)
]


def dataset(device=CPU):
    """A hundred digits: six full batches an epoch and one of four images."""
    whole = data.load("digits", size=methods.SHAPE[1])
    few = (data.Split(part.images[:100], part.labels[:100]) for part in (whole.train, whole.test))
    return replace(whole, **dict(zip(("train", "test"), few, strict=True))).to(device)


def trained(name, variant, changed, device=CPU):
    torch.manual_seed(0)
    model = networks.build(methods.NETWORK)
    method = methods.make(name, variant, model)
    method.periods_per_epoch = 2  # what changes between two replays is seen
    if name == "sgd" and device == CPU:
        # what is drawn must change from replay to replay; a GPU draws other numbers
        model = nn.Sequential(model, nn.Dropout(0.1))
    model = model.to(device)
    images = dataset(device)
    history = train(model, images, replace(SCHEDULE, **changed), method, seed=0, quiet=True)
    values = {name: value.cpu() for name, value in model.state_dict().items()}
    return values, without_seconds(history)


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.fixture
def graphed(streams):
    """The loop with a graph on the CPU."""

    class Graphed(training.loop._Loop):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.graph = CudaGraph(CPU)
            mine = tree_leaves([list(self.momenta.values()), self.method.state_dict()])
            tensors = [leaf for leaf in mine if isinstance(leaf, torch.Tensor)]
            streams.state = [*self.model.state_dict().values(), *tensors, self.totals]

    return Graphed


@pytest.mark.parametrize(("name", "variant", "changed"), [*CASES[:2], *RECORDED])
def test_a_replayed_loop_is_the_eager_one_bit_for_bit(
    name, variant, changed, streams, graphed, monkeypatch
):
    monkeypatch.setattr(byte_budget, "STEPS", 8)  # the last projection's budget is found roughly
    wanted = trained(name, variant, changed)
    monkeypatch.setattr(training.loop, "_Loop", graphed)
    found = trained(name, variant, changed)
    assert streams.recorders[0].replays == 2 * 6 - WARM_UP
    assert found[1] == wanted[1]
    assert all(torch.equal(found[0][name], value) for name, value in wanted[0].items())


@pytest.fixture
def pictures(tmp_path):
    """99 streamed images of three classes: six full batches an epoch and one of three."""
    data.sample.generate(tmp_path / "drawn", train=99, val=6)
    form = replace(data.imagenet.FORMS["imagenet-sample"], train=99, val=6, resize=36, crop=32)
    return data.imagenet.read("imagenet-sample", tmp_path / "drawn", form)


def trained_on(pictures, device=CPU):
    """ADMM on streamed images: weights and history."""
    torch.manual_seed(0)
    model = networks.build("resnet8", classes=3, channels=3).to(device)
    method = ADMM(budget=100_000)
    history = train(model, pictures.to(device), SCHEDULE, method, seed=0, quiet=True)
    return model.state_dict(), without_seconds(history)


def test_streamed_images_are_replayed_bit_for_bit(pictures, streams, graphed, monkeypatch):
    wanted = trained_on(pictures)
    monkeypatch.setattr(training.loop, "_Loop", graphed)
    found = trained_on(pictures)
    assert streams.recorders[0].replays == 2 * 6 - WARM_UP
    assert found[1] == wanted[1]
    assert all(torch.equal(found[0][name], value) for name, value in wanted[0].items())


@pytest.mark.gpu
@pytest.mark.parametrize("workers", ["0", "2"])
def test_streamed_images_on_a_gpu(pictures, workers, monkeypatch):
    monkeypatch.setenv("WORKBOOK_WORKERS", workers)
    device = torch.device("cuda")
    there, here = pictures.to(device), pictures
    order = torch.arange(len(here.train))
    steps = zip(*(d.train.steps(order, batch=16, seed=1) for d in (there, here)), strict=True)
    for (images, labels), (wanted, classes) in steps:
        assert torch.equal(images.cpu(), wanted)
        assert torch.equal(labels.cpu(), classes)
    wanted = trained_on(pictures)[1]
    found = trained_on(pictures, device)[1]
    assert found[0]["train_loss"] == pytest.approx(wanted[0]["train_loss"], rel=5e-2)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "variant", "changed"), CASES)
def test_on_a_gpu_a_replayed_loop_is_near_the_eager_one(name, variant, changed, monkeypatch):
    device = torch.device("cuda", torch.cuda.device_count() - 1)  # not the current one, if there is
    found = trained(name, variant, changed, device)

    class Eager(training.loop._Loop):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.graph = None

    monkeypatch.setattr(training.loop, "_Loop", Eager)
    wanted = trained(name, variant, changed, device)
    # sums on a GPU have no fixed order
    loose = 5e-2
    for row, other in zip(found[1], wanted[1], strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=loose)
        assert row["lr"] == other["lr"]
    for name, value in wanted[0].items():
        difference = (found[0][name].double() - value.double()).norm()
        assert difference <= loose * max(1.0, value.double().norm()), name
