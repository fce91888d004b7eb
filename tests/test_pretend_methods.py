"""Every method on the pretend GPU: in the loop, resumed, and what its steps and periods ask for.

Iterates over the registry, so an added method is tested; where it asks for more than ``ANY``
allows, its numbers have to be written down in ``BOUNDS``.
"""

from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch

from lib import networks, training
from lib.layers import compressible
from lib.optimizers import Method, byte_budget
from lib.projections import svt
from lib.training import Schedule, arithmetic, train
from tests import methods, pretend
from tests.pretend import Tally

SCHEDULE = Schedule(epochs=2, lr=0.05, batch=16, weight_decay=5e-4, clip=0.5, crop=1, flip=True)

#: The step that a GPU would record: libraries have chosen their kernels in those before.
RECORDED = 3


class Bound(NamedTuple):
    """The most that a method may ask for; bytes are per weight of the network."""

    launches: int  # of a step, beyond SGD's
    bytes: int
    period_launches: int = 0
    period_waits: int = 0
    period_uploads: int = 0
    period_bytes: int = 0
    waits: int = 0  # of a step
    uploads: int = 0


#: Of a method that is not listed.
ANY = Bound(launches=12, bytes=60)

#: What the projections of W and V ask for in a period: of a network of eight layers.
PERIOD = {"period_launches": 660, "period_waits": 7, "period_uploads": 10, "period_bytes": 570}
#: DF's: one wait and one upload a step, its small eigenproblems belong on the host.
ONE = {"waits": 1, "uploads": 1, "period_launches": 20, "period_waits": 1, "period_bytes": 1}

BOUNDS = {
    ("sgd", ""): Bound(0, 0),
    ("admm", ""): Bound(7, 25, **PERIOD),
    ("admm", "growing"): Bound(7, 25, **PERIOD),
    ("admm", "prune"): Bound(
        7, 25, **{"period_launches": 26, "period_waits": 5, "period_bytes": 80}
    ),
    ("admm", "quantize"): Bound(7, 25, **PERIOD | {"period_launches": 850, "period_bytes": 940}),
    ("admm", "held"): Bound(9, 25, **PERIOD | {"period_launches": 692, "period_bytes": 650}),
    ("tune-codebooks", ""): Bound(8, 66),
    ("tune-codebooks", "3 bits"): Bound(8, 81),
    ("tune-codebooks", "3 bits, zero too"): Bound(8, 81),
    ("tune-codebooks", "reassigned"): Bound(30, 190),
    # each period codes the network on the host, tensor by tensor
    ("admm-file", ""): Bound(7, 25, 2540, 60, 20, 1660),
    ("fit-file", ""): Bound(0, 0),
    ("lc", ""): Bound(13, 25, 37, 7, 0, 150),
    ("lc", "mixed"): Bound(13, 25, 93, 14, 2, 60),
    ("lc", "shared"): Bound(13, 25, 1372, 22, 12, 620),
    ("lc-ranks", ""): Bound(13, 25, 175, 18, 0, 175),
    ("magnitude", ""): Bound(1, 8),
    ("magnitude", "gradual"): Bound(1, 8, 41, 5, 0, 95),
    ("magnitude", "random"): Bound(1, 8),
    ("held-zeros", ""): Bound(1, 8),
    ("df", ""): Bound(480, 100, **ONE),
    ("df", "filters"): Bound(100, 0, **ONE | {"waits": 0, "uploads": 0}),
    ("df", "ranks"): Bound(250, 33, **ONE | {"waits": 0, "uploads": 0}),
    ("df", "batch"): Bound(610, 780, **ONE),
    ("df", "penalty alone"): Bound(470, 100, **ONE),
    ("filter-pruning", ""): Bound(0, 0),
    ("filter-pruning", "group"): Bound(0, 0),
    ("low-rank", ""): Bound(0, 0),
    ("low-rank", "uniform"): Bound(0, 0),
}


class Run(NamedTuple):
    """A training run on the pretend GPU, and what was asked of it."""

    weights: dict[str, torch.Tensor]  # on the CPU
    states: list[dict]  # after each epoch, likewise
    history: list[dict]
    steps: list[Tally]  # of whole batches
    periods: list[Tally]


@contextmanager
def counting():
    """Lists of what each step of a whole batch, and each period, asks for."""
    steps, periods = [], []
    step = training.loop._Loop._step

    def counted(loop, *inputs):
        with pretend.counted() as tally:
            step(loop, *inputs)
        if len(inputs[0]) == SCHEDULE.batch:
            steps.append(tally)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.loop._Loop, "_step", counted)
        patch.setattr(training.loop, "CHECKPOINT_SECONDS", -1)  # after every epoch
        patch.setattr(byte_budget, "STEPS", 8)  # the last projection's budget is found roughly
        # nothing is recorded: each step runs as it is
        patch.setattr(
            training.loop, "CudaGraph", lambda device: lambda step, *inputs: step(*inputs)
        )
        yield steps, periods


def run(name, variant, resume=None):
    with pretend.gpu() as device, counting() as (steps, periods):
        torch.manual_seed(0)
        model = networks.build(methods.NETWORK)
        method = methods.make(name, variant, model)
        model.to(device)
        after_period, states = method.after_period, []

        def counted():
            with pretend.counted() as tally:
                after_period()
            periods.append(tally)

        method.after_period = counted
        history = train(
            model,
            methods.images(device),
            SCHEDULE,
            method,
            seed=0,
            quiet=True,
            trace=resume is None,
            save=lambda state: states.append(pretend.moved(state, torch.device("cpu"))),
            resume=pretend.moved(resume, device),
        )
        weights = pretend.moved(model.state_dict(), torch.device("cpu"))
    return Run(weights, states, history, steps, periods)


@cache
def plain():
    """A step of SGD."""
    return run("sgd", "").steps[RECORDED]


@cache
def size():
    return sum(w.numel() for w in compressible(networks.build(methods.NETWORK)).values())


@pytest.mark.parametrize(("name", "variant"), methods.CASES)
def test_a_method_trains_resumes_and_asks_for_no_more_than_this(name, variant):
    whole = run(name, variant)
    step, bound = whole.steps[RECORDED], BOUNDS.get((name, variant), ANY)
    for tally in whole.steps:
        assert (tally.waits, tally.uploads) == (bound.waits, bound.uploads), tally
    assert step.launches - plain().launches <= bound.launches, step
    assert step.bytes - plain().bytes <= bound.bytes * size(), step
    for tally in whole.periods:
        assert tally.launches <= bound.period_launches, tally
        assert tally.waits <= bound.period_waits, tally
        assert tally.uploads <= bound.period_uploads, tally
        assert tally.bytes <= bound.period_bytes * size(), tally
    # as from a checkpoint whose tensors all lie on the GPU
    again = run(name, variant, resume=whole.states[0])
    assert again.weights.keys() == whole.weights.keys()
    assert all(torch.equal(again.weights[key], value) for key, value in whole.weights.items())
    for tally in again.steps:
        assert (tally.waits, tally.uploads) == (bound.waits, bound.uploads), tally
    assert again.steps[RECORDED].launches == step.launches


def test_where_eigenproblems_are_solved_is_recorded():
    """By size alone: none of a hundred runs is like another where seconds decide."""
    found = {}
    for rows in (0, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(svt, "SOLVED_ON", {str(rows): "host", "inf": "device"})
            ran = run("df", "")
        found[rows] = ran.history[-1]["on_host"], ran.steps[RECORDED].waits
    # of seven layers with masks two have 64 filters, and a stack of their own
    assert found == {0: (0, 1 + 3), 32: (5, 1 + 1)}


def test_the_table_is_of_what_there_is():
    assert set(BOUNDS) == set(methods.CASES)


@pytest.mark.parametrize("network", ["lenet5", "resnet8"])
def test_the_loop_in_bfloat16_neither_waits_nor_copies(network, monkeypatch):
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda kind: True)
    shape = networks.INPUT_SHAPES[network]
    with pretend.gpu() as device, counting() as (steps, _):
        torch.manual_seed(0)
        model = networks.build(network).to(device)
        half = replace(SCHEDULE, precision="bfloat16", epochs=1)
        history = train(model, methods.images(device, shape[1]), half, Method(), seed=0, quiet=True)
    assert len(history) == 1
    assert {(tally.waits, tally.uploads) for tally in steps} == {(0, 0)}
    assert max(tally.launches for tally in steps) <= 200
