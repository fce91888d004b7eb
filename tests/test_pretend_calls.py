"""What is called outside of steps, on the pretend GPU: C steps, projections, files, evaluation.

Iterates over what there is, so that an added cost, projection or budget is tested, or asks for its
line here. Results are the CPU's.
"""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import Tensor, nn

import lib
from lib import accounting, archive, compression, networks, projections, training
from lib.compression.choices import CHOICES
from lib.compression.criterion import Criterion
from lib.compression.job import FILLED
from lib.layers import compressible
from lib.optimizers import Method
from lib.optimizers.c_steps import COSTS
from lib.projections import codebook, knapsack, lowrank, precision, sparsity, svt
from lib.structured import ranks_for_macs
from lib.training import Schedule, train
from tests import methods, pretend

BITS = 3


def weights(normal=True):
    """Of eight layers, drawn or on a grid: many equal ones."""
    generator = torch.Generator().manual_seed(0)
    shapes = [w.shape for w in compressible(networks.build(methods.NETWORK)).values()]
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return drawn if normal else [(2 * w).round() / 4 for w in drawn]


def network(device="cpu"):
    torch.manual_seed(0)
    return networks.build(methods.NETWORK).to(device)


def near(found, wanted):
    """Every tensor lies on the GPU and is the CPU's, to the order of summation."""
    found, wanted = (
        [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
        for tree in (found, wanted)
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-6)


def called(function, values, *args, **options):
    """What it returns for tensors there, and what it asks for; its results are the CPU's."""
    wanted = function(values, *args, **options)
    with pretend.gpu() as device:
        there = pretend.moved(values, device)
        with pretend.counted() as tally:
            found = function(there, *args, **options)
        near(found, wanted)
    return tally


# ----------------------------------------------------------------------------------- projections

W = sum(w.numel() for w in weights())
RADIUS = float(sum(w.abs().sum() for w in weights()))
MATRIX = weights()[-2].flatten(1)
PRICES = [sum(w.flatten(1).shape) for w in weights()]


def matrices(values):
    return [w.flatten(1) for w in values]


def thresholded(values, **options):
    return svt.svt(values[-2].flatten(1), torch.full_like(values[0].sum(), 0.5), **options)


def three_parts(values):
    masked = svt.problem(values[-2].flatten(1), rows=None, gram=None)
    gamma = torch.full_like(values[0].sum(), 0.5)
    (eigen,) = svt.decompose([masked.gram], [gamma])
    return svt.shrink(masked, gamma, eigen)


#: Public function of lib.projections → the most launches, waits, uploads and bytes a weight of a
#: call of it, for 74,512 weights of eight layers, all distinct or tied.
CALLS = {
    "knapsack.project_fixed_bitwidth": (
        (24, 5, 0, 60),
        lambda w: knapsack.project_fixed_bitwidth(w, [BITS] * len(w), budget=W).weights,
    ),
    "codebook.fit_codebooks": (
        (700, 2, 2, 500),
        lambda w: codebook.fit_codebooks(w, bitwidths=[1, 2, 3], free_zero=True).centres,
    ),
    "codebook.codebook": (
        (830, 2, 2, 510),
        lambda w: codebook.codebook(w, values=4, free_zero=False),
    ),
    "codebook.assign": (
        (19, 0, 0, 1),
        lambda w: codebook.assign(w[0], torch.ones_like(w[0].flatten()[:1]), free_zero=True),
    ),
    "sparsity.l0_constraint": ((24, 5, 0, 60), lambda w: sparsity.l0_constraint(w, keep=W // 4)),
    "sparsity.l1_constraint": (
        (420, 6, 0, 615),
        lambda w: sparsity.l1_constraint(w, radius=RADIUS / 4),
    ),
    "sparsity.l2_constraint": ((66, 1, 0, 121), lambda w: sparsity.l2_constraint(w, radius=10.0)),
    "sparsity.l0_penalty": ((66, 1, 0, 87), lambda w: sparsity.l0_penalty(w, alpha=0.5, mu=1.0)),
    "sparsity.l1_penalty": ((66, 1, 0, 87), lambda w: sparsity.l1_penalty(w, alpha=0.5, mu=1.0)),
    "sparsity.l2_penalty": ((66, 1, 0, 79), lambda w: sparsity.l2_penalty(w, alpha=0.5, mu=1.0)),
    "lowrank.low_rank": (
        (18, 2, 0, 39),
        lambda w: lowrank.low_rank(w[-2].flatten(1), rank=3).product(),
    ),
    "lowrank.choose_ranks": (
        (99, 10, 0, 56),
        lambda w: lowrank.choose_ranks(matrices(w), prices=PRICES, alpha=1.0, mu=1.0),
    ),
    "lowrank.ranks_for_budget": (
        (99, 10, 0, 56),
        lambda w: lowrank.ranks_for_budget(matrices(w), prices=PRICES, budget=W // 4),
    ),
    "precision.round_to": ((144, 0, 0, 160), lambda w: [precision.round_to(one, 4) for one in w]),
    "svt.svt": ((32, 3, 0, 23), thresholded),
    "svt.problem": ((22, 1, 1, 23), three_parts),
    "svt.decompose": ((22, 1, 1, 23), three_parts),
    "svt.shrink": ((22, 1, 1, 23), three_parts),
    "svt.frozen_gram": ((2, 0, 0, 15), lambda w: svt.frozen_gram(w[-2].flatten(1))),
    "svt.matricize": ((1, 0, 0, 4), lambda w: svt.matricize(w[-2], scheme=2)),
    "svt.tensorize": (
        (1, 0, 0, 4),
        lambda w: svt.tensorize(svt.matricize(w[-2], scheme=2), shape=w[-2].shape, scheme=2),
    ),
}

#: The most that C steps ask for beside what their projection does.
C_STEPS = {
    "codebook": (850, 10, 10, 540),
    "rank-constraint": (245, 26, 0, 146),
    "rank-penalty": (110, 10, 0, 64),
    "codebook+l0": (21_000, 440, 42, 13_200),
}

#: What checks its arguments, draws from them, or computes on the host whatever lies there.
HELPERS = {"integers", "strided_sample", "on_host", "check_finite", "check_floating"}
HELPERS |= {"choose_bitwidths", "items_of", "exponent", "fetched", "sent"}

#: What another function of the list calls, and nobody else.
HELPERS |= {"project", "rounded", "each", "share", "distinct", "grid", "beyond", "polished"}


def no_more(tally, most):
    launches, waits, uploads, size = most
    assert tally.launches <= launches, tally
    assert tally.waits <= waits, tally
    assert tally.uploads <= uploads, tally
    assert tally.bytes <= size * W, tally


def test_every_projection_has_a_call():
    public = set()
    for found in pkgutil.walk_packages(projections.__path__, "lib.projections."):
        module = importlib.import_module(found.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            first = next(iter(inspect.signature(function).parameters.values()), None)
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and name not in HELPERS and first and "Tensor" in str(first.annotation):
                public.add(f"{found.name.split('.')[2]}.{name}")
    assert public <= set(CALLS)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_projection_is_the_cpus_and_asks_for_no_more_than_this(name, tied):
    most, call = CALLS[name]
    no_more(called(call, weights(not tied)), most)


def layers(name, levels):
    """Weights of a network's layers, an eighth of them where they are many; of so many levels."""
    with torch.device("meta"):
        shapes = [w.shape for w in compressible(networks.build(name)).values()]
    generator = torch.Generator().manual_seed(0)
    eighth = 8 if sum(shape.numel() for shape in shapes) > 10**6 else 1
    sizes = [max(9, shape.numel() // eighth) for shape in shapes]
    drawn = [torch.randn(size, generator=generator) / size**0.25 for size in sizes]
    return drawn if levels is None else [(w * levels / 4).round() / levels for w in drawn]


@pytest.mark.parametrize("levels", [None, 256, 16, 2], ids=str)
@pytest.mark.parametrize(("name", "number"), [("resnet20", 20), ("resnet50-imagenet", 54)])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_projection_of_w_is_some_thirty_launches_and_three_waits(name, number, levels, share):
    """Where many weights tie some more, and at most five waits; with all eight bitwidths."""
    values = layers(name, levels)
    assert len(values) == number
    bits = [1 + i % 8 for i in range(number)]
    size = sum(w.numel() for w in values)
    budget = int(share * sum(b * w.numel() for b, w in zip(bits, values, strict=True)))
    wanted = knapsack.project_fixed_bitwidth(values, bits, budget=budget)
    with pretend.gpu() as device:
        there = pretend.moved(values, device)
        with pretend.counted() as tally:
            found = knapsack.project_fixed_bitwidth(there, bits, budget=budget, out=there)
        assert all(
            torch.equal(a.cpu(), b) for a, b in zip(found.weights, wanted.weights, strict=True)
        )
    assert torch.equal(found.counts, wanted.counts)
    assert found.bits == wanted.bits
    assert tally.uploads == 0, tally
    assert tally.bytes <= 60 * size, tally
    if levels is None:
        assert (tally.launches <= 40, tally.waits <= 3) == (True, True), tally
    else:
        assert (tally.launches <= 4 * number + 16, tally.waits <= 5) == (True, True), tally


@pytest.mark.parametrize("name", COSTS)
def test_a_c_step_is_the_cpus_and_asks_for_no_more_than_this(name):
    cost, values = COSTS[name], weights()
    bound = cost.bound(values, methods.amount(name))

    def project(w):
        return cost.project(w, pretend.moved(bound, w[0].device), 1.0)

    most = C_STEPS.get(name) or CALLS[f"sparsity.{name.replace('-', '_')}"][0]
    no_more(called(project, values), most)


def test_the_table_says_where_a_problem_is_decomposed(monkeypatch):
    """Of several rows the first that the matrix fits; on a CPU none is asked."""
    table = {"8": "device", "16": "host", "inf": "device"}
    monkeypatch.setattr(svt, "SOLVED_ON", table)
    sizes = (1, 8, 9, 16, 17, 300)
    grams = [torch.eye(n) for n in sizes]
    assert not any(map(svt.on_host, grams))
    with pretend.gpu() as device:
        found = [svt.on_host(gram.to(device)) for gram in grams]
    assert found == [False, False, True, True, False, False]


def test_large_problems_are_decomposed_where_they_are(monkeypatch):
    """Each waits for the device, beside the one copy of the small ones."""
    monkeypatch.setattr(svt, "SOLVED_ON", {"16": "host", "inf": "device"})
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(2, n, n + 3, generator=generator) for n in (8, 20, 16, 30)]
    grams = [svt.frozen_gram(m) for m in matrices]
    gammas = [torch.full((2,), 0.5) for _ in grams]
    wanted = svt.decompose(grams, gammas)
    with pretend.gpu() as device:
        there = pretend.moved((grams, gammas), device)
        with pretend.counted() as tally:
            found = svt.decompose(*there)
        assert (tally.waits, tally.uploads) == (3, 1)
        near(found, wanted)
        for spoilt in (0, 1):
            bad = [g.clone() for g in grams]
            bad[spoilt][0, 3, 3] = torch.nan
            with pytest.raises(ValueError, match="NaN or infinite values in the matrix"):
                svt.decompose(*pretend.moved((bad, gammas), device))
        with pytest.raises(ValueError, match="the threshold has values from -1"):
            svt.decompose(there[0], pretend.moved([*gammas[1:], -2 * gammas[0]], device))


# ------------------------------------------------------------------------- networks and their files


def test_sizes_in_the_file_are_those_of_the_cpus_tensors():
    model = network()
    wanted = archive.sizes(archive.Archive(model.state_dict()))
    with pretend.gpu() as device:
        found = archive.sizes(archive.Archive(model.to(device).state_dict()))
    assert found.equals(wanted)


def test_a_file_written_from_the_gpu_is_that_of_the_cpu():
    model = network()
    wanted = archive.encode(model)
    with pretend.gpu() as device:
        assert archive.encode(model.to(device)) == wanted


def test_evaluation_waits_once_whatever_it_evaluates():
    waited = {}
    for name in ("cpu", "cuda"):
        with pretend.gpu():
            model, dataset = network(name), methods.images(name)
            with pretend.counted() as tally:
                found = training.evaluate(model, dataset, dataset.train)
                found += (training.predict(model, dataset, dataset.train),)
                found += (training.image_losses(model, dataset, dataset.train),)
        waited[name] = (found, tally)
    (wanted, _), (found, tally) = waited["cpu"], waited["cuda"]
    assert found[:2] == wanted[:2]
    near(found[2:], wanted[2:])
    assert (tally.waits, tally.uploads) == (1, 0)


def test_statistics_are_measured_anew_without_a_wait(monkeypatch):
    monkeypatch.setattr(training.evaluation, "EVALUATION_BATCH", 16)
    found = {}
    for name in ("cpu", "cuda"):
        with pretend.gpu():
            model, dataset = network(name), methods.images(name)
            with pretend.counted() as tally:
                training.recalibrate(model, training.training_images(dataset))
            found[name] = pretend.moved(model.state_dict(), torch.device("cpu"))
    assert all(torch.equal(found["cuda"][key], value) for key, value in found["cpu"].items())
    assert (tally.waits, tally.uploads) == (0, 0)


def test_ranks_are_chosen_with_one_wait_a_layer():
    """For all singular values of a layer at once."""
    wanted = accounting.macs(network(), methods.SHAPE) // 2

    def score(name, matrix):
        return matrix.square().sum(1)[: min(matrix.shape)]

    with pretend.gpu() as device:
        model = network(device)
        with pretend.counted() as tally:
            found = ranks_for_macs(model, score, budget=wanted, input_shape=methods.SHAPE)
    assert found == ranks_for_macs(network(), score, budget=wanted, input_shape=methods.SHAPE)
    assert tally.waits <= len(found)


# --------------------------------------------------------------------------------- lib.compress

#: A budget of each kind, for a network of some 1,900 weights.
BUDGETS = {
    "bytes": ["900 B", "3000 B"],  # trained to fit, and rounded alone
    "bits": ["4000 bits"],
    "share": ["20 %"],
    "macs": ["8 kMACs"],
}


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 10)),
    )


def batches(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 1, 8, 8, generator=generator).to(device)
    return list(zip(inputs.split(16), (torch.arange(48) % 10).to(device).split(16), strict=True))


@pytest.mark.parametrize(
    ("method", "size"),
    [(m, b) for kind, ms in CHOICES.items() for m in ms for b in BUDGETS[kind]],
)
def test_a_network_on_the_gpu_is_compressed(method, size):
    with pretend.gpu() as device:
        found = lib.compress(
            small().to(device), batches(device), size, method=method, epochs=2, quiet=True
        )
        assert all(value.device == device for value in found.model.state_dict().values())
    kind, amount = compression.parse(size, small())
    if kind == "bytes":
        assert FILLED * amount <= len(found.content) <= amount
    elif kind == "bits":
        state = archive.decode(found.content).state
        assert accounting.nominal_bits({k: v for k, v in state.items() if v.dim() > 1}) <= amount
    elif kind == "macs":
        assert found.after["macs"] <= amount


def test_its_steps_neither_wait_nor_copy():
    """The host asks thrice an epoch, of its loss and accuracy, and uploads all rates at once."""
    with pretend.gpu() as device:
        criterion = Criterion(loss, None)
        schedule = Schedule(epochs=3, lr=0.1, clip=1.0)
        model, data = small().to(device), batches(device)
        with pretend.counted() as tally:
            train(model, data, schedule, Method(), loss=criterion, seed=0, stage=1, quiet=True)
    assert (tally.waits, tally.uploads) == (10, 1)


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
