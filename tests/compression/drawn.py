"""Small networks drawn at random, of some forty kinds of layers, dtypes, layouts and habits.

``python -m tests.compression.drawn [COUNT [FIRST]]`` takes so many of them through
``lib.compress``, a file and ``lib.load``, and prints how many were compressed and why the others
were refused.
"""

import collections
import copy
import math
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import lib
from lib import accounting
from lib.layers import clone, compressible

CLASSES, BATCH, COUNT = 4, 8, 20


@dataclass
class Net:
    """What is drawn so far: layers, and the shape of an item between them."""

    rng: random.Random
    shape: tuple[int, ...]
    layers: list[nn.Module] = field(default_factory=list)

    def add(self, *layers: nn.Module) -> None:
        """Adds layers and follows the shape through them."""
        for layer in layers:
            with torch.no_grad():
                found = copy.deepcopy(layer).eval()(torch.zeros(2, *self.shape))
            self.shape = tuple(found.shape[1:])
            self.layers.append(layer)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return functional.relu(x + self.inner(x))


class Concatenated(nn.Module):
    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class Padded(nn.Module):
    """A shortcut that fills new channels with zeros."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, outputs, 3, padding=1)
        self.before = (outputs - channels) // 2
        self.after = outputs - channels - self.before

    def forward(self, x):
        return self.conv(x) + functional.pad(x, (0, 0, 0, 0, self.before, self.after))


class Excited(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int):
        super().__init__()
        self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x):
        scale = self.up(functional.relu(self.down(x.mean((2, 3))))).sigmoid()
        return x * scale[..., None, None]


class Shuffled(nn.Module):
    """Channels in another order."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x):
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class First(nn.Module):
    """The sequence that a recurrent layer returns beside its state."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Attended(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        return self.layer(x, x, x)[0]


class Gated(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Bilinear(width, width, 6)

    def forward(self, x):
        return self.layer(x, x)


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return self.layer(functional.relu(self.layer(x)))


class Shared(nn.Module):
    """Two layers with one weight."""

    def __init__(self, width: int):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(functional.relu(self.one(x)))


class Products(nn.Module):
    """A weight of its own, in an einsum."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 8) / math.sqrt(width))

    def forward(self, x):
        return torch.einsum("bi,ij->bj", x, self.weight)


class Keeping(nn.Module):
    """Keeps what it returned, and a buffer that no file has."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.last = layer, None
        self.register_buffer("scale", torch.tensor(1.5), persistent=False)

    def forward(self, x):
        self.last = self.layer(x * self.scale)
        return self.last


class Ordered(nn.Module):
    """A permutation as a parameter of integers."""

    def __init__(self, width: int):
        super().__init__()
        self.order = nn.Parameter(torch.randperm(width), requires_grad=False)

    def forward(self, x):
        return x[:, self.order]


def of_images(net: Net) -> list[Callable[[], object]]:
    """Ways to go on from (channels, height, width)."""
    rng, (c, height, _) = net.rng, net.shape
    out = rng.choice([4, 6, 8, 12])
    ways: list[Callable[[], object]] = [
        lambda: net.add(nn.Conv2d(c, out, 3, padding=1, bias=rng.random() < 0.5), nn.ReLU()),
        lambda: net.add(nn.Conv2d(c, out, 1), nn.BatchNorm2d(out), nn.GELU()),
        lambda: net.add(
            nn.Conv2d(c, out, 3, padding=1), nn.BatchNorm2d(out, track_running_stats=False)
        ),
        lambda: net.add(nn.Conv2d(c, 2 * c, 3, padding=1, groups=c), nn.Hardswish()),
        lambda: net.add(nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, out, 1)),
        lambda: net.add(nn.Conv2d(c, out, 3, padding=2, dilation=2), nn.Sigmoid()),
        lambda: net.add(nn.ConvTranspose2d(c, out, 2, stride=1, padding=1), nn.ReLU()),
        lambda: net.add(
            Residual(nn.Sequential(nn.Conv2d(c, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, c, 1)))
        ),
        lambda: net.add(Concatenated(nn.Conv2d(c, 4, 1), nn.Conv2d(c, 5, 3, padding=1)), nn.ReLU()),
        lambda: net.add(Padded(c, c + 4), nn.ReLU()),
        lambda: net.add(nn.Conv2d(c, out, 1), Excited(out)),
        lambda: net.add(nn.GroupNorm(1, c), nn.PReLU(c)),
        lambda: net.add(nn.InstanceNorm2d(c, affine=True), nn.LeakyReLU()),
        lambda: net.add(nn.Conv2d(c, 8, 1), Shuffled(2)),
        lambda: net.add(nn.Conv2d(c, 8, 1), nn.PixelShuffle(2), nn.MaxPool2d(2)),
        lambda: net.add(nn.Dropout2d(0.1), nn.Conv2d(c, out, 3, padding=1)),
        lambda: net.add(Keeping(nn.Conv2d(c, out, 1)), nn.ReLU()),
        lambda: net.add(parametrizations.weight_norm(nn.Conv2d(c, out, 1)), nn.ReLU()),
    ]
    if height >= 4:
        ways += [
            lambda: net.add(nn.MaxPool2d(2)),
            lambda: net.add(nn.Conv2d(c, out, 3, stride=2, padding=1), nn.ELU()),
            lambda: net.add(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.AvgPool2d(2)),
        ]
    return ways


def of_volumes(net: Net) -> list[Callable[[], object]]:
    c = net.shape[0]
    return [
        lambda: net.add(nn.Conv3d(c, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU()),
        lambda: net.add(nn.ConvTranspose3d(c, 4, 1), nn.ReLU()),
    ]


def of_sequences(net: Net) -> list[Callable[[], object]]:
    """From (time, width)."""
    width = net.shape[1]
    return [
        lambda: net.add(First(nn.LSTM(width, 8, batch_first=True))),
        lambda: net.add(First(nn.GRU(width, 6, batch_first=True, bidirectional=True))),
        lambda: net.add(First(nn.RNN(width, 8, batch_first=True))),
        lambda: net.add(Attended(width)),
        lambda: net.add(nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)),
        lambda: net.add(nn.LayerNorm(width), nn.Linear(width, 12), nn.GELU()),
        lambda: net.add(nn.RMSNorm(width), nn.Linear(width, 8), nn.Softmax(-1)),
        lambda: net.add(nn.Conv1d(net.shape[0], 6, 3, padding=1), nn.ReLU()),
        lambda: net.add(nn.ConvTranspose1d(net.shape[0], 4, 1), nn.BatchNorm1d(4)),
    ]


def of_vectors(net: Net) -> list[Callable[[], object]]:
    (width,) = net.shape
    out = net.rng.choice([6, 8, 16])
    return [
        lambda: net.add(nn.Linear(width, out), nn.ReLU()),
        lambda: net.add(nn.Linear(width, out, bias=False), nn.BatchNorm1d(out), nn.Tanh()),
        lambda: net.add(
            nn.Linear(width, 16), nn.Unflatten(1, (4, 2, 2)), nn.Conv2d(4, 6, 1), nn.Flatten()
        ),
        lambda: net.add(nn.Linear(width, 8), Gated(8)),
        lambda: net.add(Twice(width)),
        lambda: net.add(Shared(width)),
        lambda: net.add(Products(width)),
        lambda: net.add(Ordered(width)),
        lambda: net.add(parametrizations.spectral_norm(nn.Linear(width, out)), nn.SiLU()),
        lambda: net.add(Residual(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)))),
    ]


def body(rng: random.Random) -> tuple[nn.Sequential, Callable[[int], torch.Tensor]]:
    """A network, and what draws so many of its inputs."""
    kind = rng.choice(["image", "image", "image", "sequence", "vector", "ids", "volume"])
    shape = {
        "image": (rng.choice([1, 3]), 8, 8),
        "volume": (2, 3, 4, 4),
        "sequence": (6, 8),
        "vector": (10,),
        "ids": (6, 8),
    }[kind]
    net = Net(rng, shape)
    ways = {3: of_images, 4: of_volumes, 2: of_sequences, 1: of_vectors}
    for _ in range(rng.randint(1, 4)):
        rng.choice(ways[len(net.shape)](net))()
    if len(net.shape) > 1:
        if len(net.shape) == 3 and rng.random() < 0.5:
            net.add(nn.AdaptiveAvgPool2d(1))
        net.add(nn.Flatten())
        if rng.random() < 0.5:
            rng.choice(of_vectors(net))()
    net.add(nn.Linear(net.shape[0], CLASSES))
    if kind == "ids":
        table = nn.Embedding(20, 8, padding_idx=rng.choice([None, 0]))
        return nn.Sequential(table, *net.layers), lambda n: torch.randint(1, 20, (n, 6))
    return nn.Sequential(*net.layers), lambda n: torch.randn(n, *shape)


@dataclass
class Case:
    model: nn.Module
    data: list
    budget: str
    method: str | None
    said: str


def drawn(seed: int) -> Case:
    """Network number ``seed``, its data and a budget."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model, inputs = body(rng)
    habits = []

    def habit(chance: float, name: str) -> bool:
        if rng.random() < chance:
            habits.append(name)
            return True
        return False

    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and "weight" in m._parameters]
    if habit(0.05, "pruned"):
        prune.l1_unstructured(layers[-1], "weight", 0.5)
    x = inputs(COUNT)
    for _ in range(2):
        model(x)  # statistics of BatchNorm
    dtype = rng.choice(
        [*[torch.float32] * 6, torch.float64, torch.bfloat16, torch.bfloat16, torch.float16]
    )
    model = model.to(dtype)
    if x.is_floating_point():
        x = x.to(dtype)
    # PyTorch's own backward pass of GroupNorm ends the process on such images
    grouped = any(isinstance(m, nn.GroupNorm) for m in model.modules())
    if x.dim() == 4 and not grouped and habit(0.3, "channels last"):
        model, x = (v.to(memory_format=torch.channels_last) for v in (model, x))
    if habit(0.15, "partly frozen"):
        for parameter in model.parameters():
            if parameter.is_floating_point() and rng.random() < 0.3:
                parameter.requires_grad_(False)
    elif habit(0.1, "frozen"):
        model.requires_grad_(False)
    if not habit(0.5, "training"):
        model.eval()
    elif habit(0.2, "a part in evaluation"):
        rng.choice(list(model)).eval()
    y = torch.randint(0, CLASSES, (COUNT,))
    data = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    kind = rng.choice(["bytes", "bytes", "bits", "share", "macs", "macs"])
    budget, method = _budget(rng, kind, clone(model), x)
    said = f"{seed}: {str(dtype)[6:]} {', '.join(habits)}; {budget} {method or ''}"
    return Case(model, data, budget, method, said)


def _budget(rng: random.Random, kind: str, model: nn.Module, x: torch.Tensor):
    weights = sum(w.numel() for w in compressible(model).values())
    if kind == "bytes":
        state = model.state_dict().values()
        values = sum(v.numel() * v.element_size() for v in state)
        return f"{300 + int(values * rng.uniform(0.2, 1))} B", None
    if kind == "bits":
        return f"{int(weights * rng.uniform(0.5, 6)) + 8} bits", None
    if kind == "share":
        return f"{rng.uniform(3, 90):.1f} %", rng.choice([None, "lc"])
    whole = accounting.macs(model.float(), (x.float() if x.is_floating_point() else x,))
    return f"{int(whole * rng.uniform(0.5, 1))} MACs", rng.choice([None, "l1", "group-magnitude"])


def spent(
    budget: str, model: nn.Module, content: bytes, before: nn.Module, x
) -> tuple[float, float]:
    """(what the result takes, what was allowed), by counting of its own."""
    amount, unit = budget.split()
    weights = [w for w in compressible(model).values()]
    if unit == "B":
        return len(content), float(amount)
    if unit == "MACs":
        inputs = (x.float() if x.is_floating_point() else x,)
        return accounting.macs(clone(model).float(), inputs), float(amount)
    frozen = {n for n, p in before.named_parameters() if not p.requires_grad}
    own = frozen if any(p.requires_grad for p in before.parameters()) else set()
    names = {id(p): n for n, p in model.named_parameters()}
    weights = [w for w in weights if names[id(w)] not in own]
    if unit == "%":
        total = sum(w.numel() for w in weights)
        return sum(int((w != 0).sum()) for w in weights), float(amount) / 100 * total + 1e-6
    bits = 0
    for w in weights:
        kept = w[w != 0].tolist()
        levels = len(set(kept))
        bits += len(kept) * (32 if levels > 256 else max(1, math.ceil(math.log2(max(1, levels)))))
    return bits, float(amount)


def taken_through(case: Case, folder: Path) -> str:
    """Compresses, writes, loads and compares; returns why it was refused, or nothing."""
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    fresh = clone(case.model)
    options = {"method": case.method, "epochs": 2, "quiet": True, "lr": 0.01, "seed": 0}
    try:
        found = lib.compress(case.model, case.data, case.budget, **options)
    except ValueError as error:
        refusal = str(error)
        if not refusal or "\n" in refusal:
            raise AssertionError(f"{case.said}: no line of its own") from error
        return refusal
    now = case.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items()), case.said
    x = torch.cat([inputs for inputs, _ in case.data])
    taken, allowed = spent(case.budget, found.model, found.content, case.model, x)
    assert taken <= allowed, f"{case.said}: {taken} > {allowed}"
    flags = {name: p.requires_grad for name, p in case.model.named_parameters()}
    partly = any(flags.values())
    for name, parameter in found.model.named_parameters():
        if name in flags:
            assert parameter.requires_grad == flags[name], case.said
            if partly and not flags[name]:
                assert torch.equal(parameter, before[name]), f"{case.said}: {name} moved"
    path = folder / "net.cnet"
    found.write(path)
    again = lib.load(path, into=fresh)
    state = again.state_dict()
    for name, value in found.model.state_dict().items():
        assert torch.equal(state[name], value), f"{case.said}: {name}"
        assert state[name].dtype == value.dtype, case.said
    with torch.no_grad():
        try:
            wanted = found.model(x)
        except RuntimeError:  # an operation that a CPU has not in half precision
            return ""
        # both compute in the order of their memory
        assert torch.allclose(again(x), wanted, rtol=1e-2, atol=1e-2, equal_nan=True), case.said
    return ""


def main(count: int = 100, first: int = 0) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    refused: collections.Counter[str] = collections.Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            case = drawn(seed)
            try:
                reason = taken_through(case, Path(folder))
            except Exception as error:
                wrong.append(f"{case.said}: {type(error).__name__}: {str(error)[:200]}")
                print("WRONG", wrong[-1], flush=True)
                continue
            if reason:
                refused[re.sub(r"'[^']*'|[\d,.]+", "…", reason)[:160]] += 1
    done = count - sum(refused.values()) - len(wrong)
    print(f"{done} of {count} compressed, {len(wrong)} wrong")
    for reason, times in refused.most_common():
        print(f"{times:5}  {reason}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
