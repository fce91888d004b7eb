"""What ``python -m lib gpu-check`` checks and measures, each part by itself.

The tests; projections against sorting and copies; eigenproblems by size; steps replayed by a CUDA
graph against the same steps one by one; epochs against SGD's.
"""

import importlib.util
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from lib import data, networks, paths, training
from lib.optimizers import Method
from lib.projections.knapsack import project_fixed_bitwidth
from lib.projections.sparsity import l1_constraint
from lib.workbook import experiments
from lib.workbook.benchmarks import every_method, measure, projection_costs

#: How many times faster than sort and cumsum a GPU chooses the weights, at least.
FASTER_THAN_SORT = 3

#: How often it waits at most while it does, where weights tie at the threshold.
PROJECTION_WAITS = 5

#: An epoch of ADMM takes at most this much of SGD's on a GPU.
ADMM_OVER_SGD = 1.1

#: How far replayed steps may leave the weights from the same steps one by one, relative to their
#: norm. A GPU's sums have no fixed order, and what a method chooses by them (which weights stay,
#: their codes) follows; plain steps stay nearer.
REPLAY_DISTANCE, PLAIN_REPLAY_DISTANCE = 5e-2, 1e-3

#: Steps of an epoch at least: DF has as many periods.
LEAST_STEPS = 8

#: Matrices of an eigenproblem's stack: DF decomposes layers of one shape together.
STACKED = 4

#: Seconds that the tests may take.
TESTS_SECONDS = 90


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    ``weights`` are projected and matrices of ``rows`` decomposed, ``repeats`` times; ``network`` is
    trained on ``images`` for ``epochs``, of which the first, which records the graph, is not timed;
    steps are replayed on ``replayed`` images. Nothing is begun ``seconds`` after the start.
    """

    weights: int = 25_502_912
    rows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    repeats: int = 5
    network: str = "resnet20"
    images: int = 50_000
    epochs: int = 3
    replayed: int = 96
    seconds: float = 200


class Found(NamedTuple):
    """A number: its unit, at most what it should be (NaN: whatever), what there is to say to it."""

    value: float
    unit: str
    most: float = math.nan
    note: str = ""

    @property
    def verdict(self) -> str:
        """``passed`` or ``FAILED`` (of NaN too); empty where nothing is asked."""
        if math.isnan(self.most):
            return ""
        return "passed" if self.value <= self.most else "FAILED"


def tests(device: torch.device) -> Iterator[Found]:
    """The tests under tests/gpu on this device, and on a GPU all others that are marked for one."""
    if importlib.util.find_spec("pytest") is None:
        yield Found(math.nan, "left out", note="pytest is not installed")
        return
    folder = paths.ROOT / "tests"
    files = sorted(set(folder.rglob("test_*.py")) - set((folder / "gpu").iterdir()))
    marked = [file for file in files if "pytest.mark.gpu" in file.read_text()]
    chosen = [folder / "gpu", *marked] if device.type == "cuda" else [folder / "gpu"]
    which = ["-m", "gpu"] if device.type == "cuda" else ["-k", "cpu"]
    # a warning of CUDA's is worth reading, and no failure
    quiet = ["-q", "-W", "default", "-p", "no:cacheprovider", "--no-header"]
    asked = [sys.executable, "-m", "pytest", *quiet, *which, *map(str, chosen)]
    began = time.monotonic()
    done = subprocess.run(
        asked, cwd=paths.ROOT, capture_output=True, text=True, timeout=TESTS_SECONDS
    )
    lines = done.stdout.splitlines()
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    last = lines[-1].strip("= ") if lines else done.stderr.strip()[-200:]
    # 0: all passed; 1: some failed; else pytest itself went wrong
    count = len(failures) if done.returncode == 1 else 0 if done.returncode == 0 else math.nan
    yield Found(count, "tests failed", 0, "; ".join([last, *failures]))
    yield Found(time.monotonic() - began, "s")


def projections(device: torch.device, sizes: Sizes) -> Iterator[Found]:
    """Both projections of ResNet-50's layers against sorting and copies."""
    on_gpu = device.type == "cuda"
    layers, bits = projection_costs.random_layers(sizes.weights, device)
    limit = projection_costs.bits_of(layers, bits) // 10
    norm = float(sum(w.abs().sum(dtype=torch.float64) for w in layers))
    ours, theirs, copied = ([torch.empty_like(w) for w in layers] for _ in range(3))
    project = partial(project_fixed_bitwidth, layers, bits, budget=limit, out=ours)
    competitors = {
        "choosing the weights": project,
        "sort and cumsum": partial(projection_costs.sort_and_cumsum, layers, bits, limit, theirs),
        "a copy": partial(torch._foreach_copy_, copied, layers),
        "ℓ1 ball": partial(l1_constraint, layers, radius=norm / 3),
    }
    times = measure.take_turns(competitors, sizes.repeats, device).median()
    for name, value in times.items():
        yield Found(1e3 * value, f"ms, {name}")
    most = 1 / FASTER_THAN_SORT if on_gpu else math.nan
    chosen = times["choosing the weights"]
    yield Found(chosen / times["sort and cumsum"], "times sort and cumsum", most)
    yield Found(chosen / times["a copy"], "times a copy")
    counted = measure.counts(project, device)
    if counted:
        yield Found(counted["launches"], "launches")
        yield Found(counted["waits"], "waits", PROJECTION_WAITS)
    yield Found(
        projection_costs.kept_otherwise(ours, layers, bits, limit),
        "weights kept otherwise than by sorting",
        0,
    )
    here = [w.cpu() for w in layers]
    on_host = project_fixed_bitwidth(here, bits, budget=limit).weights
    differ = sum(int((a.cpu() != b).sum()) for a, b in zip(ours, on_host, strict=True))
    yield Found(differ, "weights otherwise than on the CPU", 0)
    choosing = partial(projection_costs.choose_bits, ours, limit, theirs)
    bits_seconds = measure.take_turns({"": choosing}, 1, device)[""].median()
    yield Found(1e3 * bits_seconds, "ms, choosing the bits")


def eigenproblem(rows: int, device: torch.device, sizes: Sizes) -> Iterator[Found]:
    """DF's decomposition of one stack: on the host, copies there and back with it, or in place."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(STACKED, rows, 2 * rows, generator=generator, dtype=torch.float64)
    gram = (matrix @ matrix.mT).to(device)
    places = {
        "host": lambda: [part.to(device) for part in torch.linalg.eigh(gram.cpu())],
        "device": lambda: torch.linalg.eigh(gram),
    }
    times = 1e3 * measure.take_turns(places, sizes.repeats, device).median()
    shown = ", ".join(f"{place} {value:.3g} ms" for place, value in times.items())
    for place, value in times.items():
        yield Found(value, f"ms, {place}", note=f"{STACKED} matrices of {rows} rows: {shown}")


def replayed(name: str, device: torch.device, sizes: Sizes) -> Iterator[Found]:
    """The weights after two epochs whose steps are replayed, and after the same one by one."""
    schedule = training.Schedule(epochs=2, lr=0.02, batch=8, clip=1.0, crop=1, flip=True)
    images = data.noise(networks.INPUT_SHAPES["resnet8"], sizes.replayed).to(device)
    fixed, ends, states = torch.backends.cudnn.deterministic, [], []
    torch.backends.cudnn.deterministic = True
    try:
        for recorded in (True, False):
            model, method = _made(name, "resnet8", device)
            method.capturable = recorded and method.capturable
            history = training.train(model, images, schedule, method, seed=0, quiet=True)
            ends.append(f"{history[-1]['train_loss']:.6f}")
            states.append({key: value.cpu() for key, value in model.state_dict().items()})
    finally:
        torch.backends.cudnn.deterministic = fixed
    one, other = states
    far = max(_distance(one[key], other[key]) for key in other)
    same = all(torch.equal(one[key], other[key]) for key in other)
    most = PLAIN_REPLAY_DISTANCE if name == "sgd" else REPLAY_DISTANCE
    said = f"{'bit for bit' if same else 'near'}, loss {', '.join(ends)}"
    if device.type == "cpu" or not every_method.make(name, "resnet8").capturable:
        said += "; nothing was recorded"
    yield Found(far, "distance of the weights", most, said)


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    return float((one.double() - other.double()).norm() / max(1.0, float(other.double().norm())))


def epochs(
    name: str, device: torch.device, sizes: Sizes, seconds: dict[str, float]
) -> Iterator[Found]:
    """The fastest epoch but for the first, over SGD's; on a GPU a step's launches too.

    ``seconds`` are those of the methods before; this one's are added.
    """
    images = data.noise(networks.INPUT_SHAPES[sizes.network], sizes.images).to(device)
    paper = experiments.recipes.dense_schedule("cifar10", sizes.network)
    batch = min(paper.batch, sizes.images // LEAST_STEPS)
    schedule = replace(paper, epochs=sizes.epochs, batch=batch, warmup=0, lr=1e-3)
    model, method = _made(name, sizes.network, device)
    history = training.train(model, images, schedule, method, seed=0, quiet=True)
    seconds[name] = min(row["seconds"] for row in history[1:])
    yield Found(seconds[name], f"s an epoch, {sizes.network}, {sizes.images:,} images")
    aim = ADMM_OVER_SGD if name == "admm" and device.type == "cuda" else math.nan
    yield Found(seconds[name] / seconds.get("sgd", math.nan), "times SGD", aim)
    if device.type == "cuda":
        model, method = _made(name, sizes.network, device)
        pixels, labels = images.normalise(images.train.images[:batch]), images.train.labels[:batch]
        step = every_method.step_of(method, model, pixels, labels, precision=paper.precision)
        for unit, value in measure.counts(step, device).items():
            yield Found(value, f"{unit} a step, one by one")


def _made(name: str, network: str, device: torch.device) -> tuple[nn.Module, Method]:
    """A freshly drawn network, and the method ``name`` with settings for it."""
    torch.manual_seed(0)
    return networks.build(network).to(device), every_method.make(name, network)
