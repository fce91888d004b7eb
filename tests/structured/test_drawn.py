"""Small networks drawn at random: as many as run in a while."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import accounting, structured
from lib.optimizers import DF, FilterPruning
from tests.structured import own
from tests.structured.own import drawn, macs, outputs
from tests.structured.test_own import close, some, unread

#: Seconds of drawing.
LONG = 20

SHAPE = (3, 8, 8)


class Step(nn.Module):
    """A function and its layers."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def last(x, layer):
    """A layer that reads channels last."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def attention(x, qkv, out):
    q, k, v = last(x, qkv).flatten(2).mT.chunk(3, -1)
    y = F.scaled_dot_product_attention(q, k, v).mT.view(x.shape)
    return x + last(y, out)


def upwards(x, layer):
    return F.max_pool2d(layer(x), 2)


def gate(x, a, b):
    return x * b(a(x).relu()).sigmoid()


def shuffle(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def conv(c, o, k=3, **options):
    return nn.Conv2d(c, o, k, padding=k // 2, **options)


#: Name → (channels, a drawn even number) → the step, and its channels.
STEPS = {
    "conv": lambda c, o: (conv(c, o), o),
    "conv, no bias, strided": lambda c, o: (conv(c, o, bias=False, stride=1, dilation=1), o),
    "pointwise": lambda c, o: (conv(c, o, 1), o),
    "depthwise": lambda c, o: (conv(c, c, groups=c), c),
    "multiplied": lambda c, o: (conv(c, 2 * c, groups=c), 2 * c),
    "groups": lambda c, o: (conv(c, o, groups=2), o),
    "transposed": lambda c, o: (
        Step(lambda x, t: F.max_pool2d(t(x), 2), nn.ConvTranspose2d(c, o, 2, 2)),
        o,
    ),
    "batch norm": lambda c, o: (nn.BatchNorm2d(c), c),
    "batch norm, plain": lambda c, o: (nn.BatchNorm2d(c, affine=False), c),
    "batch norm, no statistics": lambda c, o: (nn.BatchNorm2d(c, track_running_stats=False), c),
    "instance norm": lambda c, o: (nn.InstanceNorm2d(c, affine=True), c),
    "group norm": lambda c, o: (nn.GroupNorm(2, c), c),
    "layer norm": lambda c, o: (Step(last, nn.LayerNorm(c)), c),
    "linear": lambda c, o: (Step(last, nn.Linear(c, o)), o),
    "relu": lambda c, o: (nn.ReLU(), c),
    "gelu": lambda c, o: (nn.GELU(), c),
    "sigmoid": lambda c, o: (nn.Sigmoid(), c),
    "prelu": lambda c, o: (nn.PReLU(c), c),
    "hardswish": lambda c, o: (nn.Hardswish(), c),
    "dropout": lambda c, o: (nn.Dropout2d(), c),
    "pool": lambda c, o: (nn.AvgPool2d(3, 1, 1), c),
    "added": lambda c, o: (Step(lambda x, a, b: x + b(a(x).relu()), conv(c, o), conv(o, c)), c),
    "added to itself": lambda c, o: (Step(lambda x, a: x + a(x), conv(c, c, 1)), c),
    "beside": lambda c, o: (Step(lambda x, a: torch.cat([x, a(x)], 1), conv(c, o, 1)), c + o),
    "gate": lambda c, o: (
        Step(lambda x, a, b: x * b(a(x).relu()).sigmoid(), conv(c, o, 1), conv(o, c, 1)),
        c,
    ),
    "halves": lambda c, o: (Step(lambda x, a: torch.mul(*a(x).chunk(2, 1)), conv(c, 2 * o, 1)), o),
    "shuffle": lambda c, o: (Step(shuffle), c),
    "padded": lambda c, o: (Step(lambda x: F.pad(x, (0, 0, 0, 0, 1, 1))), c + 2),
    "turned": lambda c, o: (Step(lambda x: x.flip(1)), c),
    "twice": lambda c, o: (Step(lambda x, a: a(a(x).relu()), conv(c, c)), c),
    "attention": lambda c, o: (Step(attention, nn.Linear(c, 3 * c), nn.Linear(c, c)), c),
}

HEADS = {
    "mean": lambda c: Step(lambda x, a: a(x.mean((2, 3))), nn.Linear(c, 3)),
    "flat": lambda c: nn.Sequential(nn.Flatten(), nn.Linear(c * 64, 5), nn.ReLU(), nn.Linear(5, 3)),
    "recurrent": lambda c: Step(
        lambda x, r, a: a(r(x.flatten(2).mT)[0][:, -1]),
        nn.LSTM(c, 4, batch_first=True),
        nn.Linear(4, 3),
    ),
    "two": lambda c: Step(
        lambda x, a, b: {"a": a(x.mean((2, 3))), "b": (b(x),)}, nn.Linear(c, 3), nn.Conv2d(c, 2, 1)
    ),
}


def draw(seed):
    """Two to seven steps and a head, in float64."""
    torch.manual_seed(seed)
    layers, channels = [conv(3, 6)], 6
    for _ in range(int(torch.randint(2, 8, ()))):
        name = list(STEPS)[int(torch.randint(len(STEPS), ()))]
        step, channels = STEPS[name](channels, 2 * int(torch.randint(1, 5, ())))
        layers.append(step)
    name = list(HEADS)[int(torch.randint(len(HEADS), ()))]
    return drawn(Chain(nn.ModuleList([*layers, HEADS[name](channels)])).double())


class Chain(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


def check(seed):
    """Whether half of the MACs could be met."""
    model = draw(seed)
    found = structured.costs(model, input_shape=SHAPE)
    dense = macs(model, SHAPE)
    assert sum(found.built({}, {}).values()) == dense == accounting.macs(model, SHAPE)
    keep = some(found, seed)
    if keep:
        smaller = structured.remove_filters(model, keep, input_shape=SHAPE)
        counts = {name: int(kept.sum()) for name, kept in keep.items()}
        assert sum(found.built(counts, {}).values()) == macs(smaller, SHAPE)
        recurrent = {n for n in keep if isinstance(model.get_submodule(n), nn.RNNBase)}
        if not recurrent:
            close(outputs(smaller, SHAPE), outputs(unread(model, found, keep), SHAPE))
    return met(model, dense // 2, trained=seed % 2 == 0)


def met(model, budget, *, trained):
    """Whether it is, by DF or else by the norms of filters; a refusal is one line."""
    options = {"budget": budget, "input_shape": SHAPE}
    method = (
        DF(**options, penalty=10.0, statistics="batch") if trained else FilterPruning(**options)
    )
    refused = ""
    try:
        surrogate = method.start(model)
        if trained:
            loss = own.flat(own.inputs(model, SHAPE).call(surrogate)).square().mean()
            (loss + method.penalty()).backward()
            method.after_step(torch.tensor(0.1))
            method.after_period()
        method.finish()
    except ValueError as error:
        refused = str(error)
    assert "\n" not in refused
    assert not refused or "cannot be met" in refused or "no filter may leave" in refused
    assert refused or macs(model, SHAPE) <= budget
    return not refused


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_drawn_networks():
    found, end = [], time.monotonic() + LONG
    while time.monotonic() < end:
        found.append(check(len(found)))
    assert len(found) > 10
    assert sum(found) > len(found) / 2
