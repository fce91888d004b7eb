"""Rounding alone: within the size and near it, better than the grids that anybody would take."""

import csv
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import archive
from lib.layers import compressible, ignore
from lib.optimizers import moments
from lib.optimizers.rounding import _in_turn, round_to_size
from lib.paths import results


class Mixed(nn.Module):
    """Convolutions of all kinds, an embedding, two inputs, outputs by name, a shared weight."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 16)
        self.first = nn.Conv2d(3, 16, 3, padding="same", padding_mode="reflect")
        self.depthwise = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2)
        self.lines = nn.Conv1d(8, 12, 5, dilation=2)
        self.volume = nn.Conv3d(1, 4, 2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, images, words):
        x = self.norm(self.depthwise(functional.relu(self.first(images))))
        x = functional.relu(self.up(x))
        lines = self.lines(x.flatten(2))
        volume = self.volume(x[:, None])
        embedded = self.words(words)
        mixed, _ = self.attention(embedded, embedded, embedded)
        return {"a": lines.mean(2), "b": [self.head(input=mixed), volume.mean((2, 3, 4))]}


def mixed(seed=0):
    torch.manual_seed(seed)
    model = Mixed()
    inputs = [[torch.randn(16, 3, 8, 8), torch.randint(0, 40, (16, 6))] for _ in range(2)]
    return model, inputs


def small(seed=0):
    """A network whose inputs are correlated, as images are."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 36, 10),
    )  # fmt: skip
    images = functional.avg_pool2d(torch.randn(128, 2, 12, 12), 3, 1) * 3
    return model.eval(), [images]


def grids(model, bits):
    """A uniform grid a tensor, symmetric, to its largest weight; all else as it is."""
    state = dict(model.state_dict())
    for name, value in state.items():
        if value.dim() > 1:
            step = value.abs().max() / (2 ** (bits - 1) - 1)
            state[name] = (value / step).round() * step
    return state


def moved(model, state, inputs):
    """Mean squared change of the outputs where ``state`` is loaded."""
    with torch.no_grad():
        before = model(inputs)
        after = torch.func.functional_call(model, state, (inputs,))
    return float((after - before).square().mean() / before.var())


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_outputs_move_less_than_by_grids_of_the_same_size(bits):
    model, batches = small()
    taken = grids(model, bits)
    size = len(archive.encode(taken))
    torch.manual_seed(1)
    fresh = functional.avg_pool2d(torch.randn(256, 2, 12, 12), 3, 1) * 3  # not what was measured
    before, other = small()[0], moved(model, taken, fresh)
    said = round_to_size(model, size, batches)
    ours = moved(before, model.state_dict(), fresh)
    assert 0.97 * size <= len(archive.encode(model)) <= size
    assert ours < (0.5 if bits < 5 else 0.75) * other  # drawn evenly, as a grid likes it
    assert said == pytest.approx(ours, rel=1)


@pytest.mark.parametrize("share", [0.1, 0.16, 0.25, 0.4, 0.5, 0.9])
def test_a_network_of_many_kinds_is_met_from_below(share):
    model, batches = mixed()
    model.train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    size = int(share * len(archive.encode(model)))
    error = round_to_size(model, size, batches)
    assert error is not None
    assert 0.97 * size <= len(archive.encode(model)) <= size
    assert error < {0.1: 2, 0.16: 0.2, 0.25: 2e-2}.get(share, 1e-3)
    assert [module.training for module in model.modules()] == modes
    assert model.head.weight is model.words.weight
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_weights_that_are_zero_stay_so(share):
    model, batches = small()
    with torch.no_grad():
        for weight in compressible(model).values():
            weight *= torch.rand_like(weight) < 0.2
    gone = {name: weight == 0 for name, weight in compressible(model).items()}
    size = int(share * len(archive.encode(model)))
    assert round_to_size(model, size, batches) < 0.1
    assert 0.97 * size <= len(archive.encode(model)) <= size
    assert all((weight[gone[name]] == 0).all() for name, weight in compressible(model).items())


def test_what_fits_stays_as_it_is():
    model, batches = mixed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert round_to_size(model, len(archive.encode(model)), batches) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_met_or_moves_too_far_stays_as_it_is():
    model, batches = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert round_to_size(model, 60, batches) is None
    size = len(archive.encode(grids(model, 3)))
    assert round_to_size(model, size, batches, most_error=1e-9) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_stays_to_the_bit_is_counted_and_ignored_layers_are_not_rounded():
    model, batches = small()
    ignore(model, ["2"])
    exact = {"2.weight": model[2].weight.detach().clone(), "0.bias": model[0].bias.detach().clone()}
    size = len(archive.encode(model)) // 2
    round_to_size(model, size, batches, as_written=lambda state: state | exact)
    assert 0.97 * size <= len(archive.encode(model)) <= size
    assert all(torch.equal(model.state_dict()[name], value) for name, value in exact.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("share", [0.25, 0.4, 0.6])
def test_what_is_written_in_halves(dtype, share):
    model, batches = small()

    def halves(state):
        return {name: value.to(dtype) for name, value in state.items()}

    size = int(share * len(archive.encode(halves(model.state_dict()))))
    error = round_to_size(model, size, batches, as_written=halves)
    assert error is not None
    assert error < 0.2
    assert 0.93 * size <= len(archive.encode(halves(model.state_dict()))) <= size
    assert all(torch.equal(v, v.to(dtype).float()) for v in model.state_dict().values())


def test_the_same_call_rounds_alike():
    made = []
    for _ in range(2):
        model, batches = mixed()
        round_to_size(model, 6000, iter(batches))
        made.append(archive.encode(model))
    assert made[0] == made[1]


def test_outputs_that_are_whole_numbers_or_infinite_do_not_make_weights_vanish():
    model, batches = small()

    class Class(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images).argmax(1)

    whole = Class()
    size = len(archive.encode(grids(model, 4)))
    assert round_to_size(whole, size, batches) == 0
    assert all(w.count_nonzero() > 0.5 * w.numel() for w in compressible(whole).values())


# What it is made of


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (7, 6)),
        (nn.Linear(6, 5), (2, 3, 6)),
        (nn.Conv1d(4, 6, 3, padding=1, groups=2), (5, 4, 9)),
        (nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2)), (5, 4, 9, 8)),
        (nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular", groups=4), (5, 4, 9, 8)),
        (nn.Conv3d(2, 3, 2), (4, 2, 5, 4, 3)),
        (nn.Conv2d(4, 6, 3), (4, 9, 8)),
    ],
)
def test_an_error_of_weights_is_that_of_the_outputs(layer, shape):
    """‖Δy‖² of all outputs, as PyTorch computes them, is tr(ΔW·C·ΔWᵀ) for each of them."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    second = moments.second_moments(layer, [x])[""]
    change = torch.randn_like(layer.weight)
    matrix = moments.as_matrix(layer, change)
    torch.testing.assert_close(moments.as_weight(layer, matrix, change), change)
    with torch.no_grad():
        before = layer(x)
        layer.weight += change
        power = (layer(x) - before).square().sum() / (before.numel() / len(layer.weight))
    torch.testing.assert_close(moments.error(matrix, second), power, rtol=1e-4, atol=1e-4)


def test_a_transposed_convolution_without_overlap_is_exact():
    torch.manual_seed(0)
    layer, x = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), torch.randn(5, 4, 3, 3)
    second = moments.second_moments(layer, [x])[""]
    change = torch.randn_like(layer.weight)
    matrix = moments.as_matrix(layer, change)
    assert matrix.shape == (2, 3, 8)
    torch.testing.assert_close(moments.as_weight(layer, matrix, change), change)
    with torch.no_grad():
        before = layer(x)
        layer.weight += change
        # each of the 45 places of x gives 6 channels of 2 × 2 outputs
        power = (layer(x) - before).square().sum() / 45
    torch.testing.assert_close(moments.error(matrix, second), power, rtol=1e-4, atol=1e-4)


def test_in_turn_comes_near_the_best_numbers_of_all():
    torch.manual_seed(0)
    x = torch.randn(200, 1) + 0.4 * torch.randn(200, 5)
    second = (x.T @ x / 200)[None]
    wanted = torch.randn(1, 20, 5) * 2

    def errors(numbers):
        return (((numbers - wanted) @ second) * (numbers - wanted)).sum(-1)[0]

    offsets = torch.tensor(list(itertools.product((-1, 0, 1, 2), repeat=5)))
    all_near = wanted.floor()[0, :, None] + offsets  # (rows, 4⁵, columns)
    away = all_near - wanted[0, :, None]
    best = ((away @ second[0]) * away).sum(-1).amin(1)
    ours, nearest = errors(_in_turn(wanted, second)), errors(wanted.round())
    assert (ours >= best - 1e-5).all()
    assert ours.sum() < 0.5 * nearest.sum()
    assert ours.sum() < 3 * best.sum()


def test_the_committed_table_has_no_row_that_is_longer_or_worse_than_chance():
    """Line by line against the grid: no more bytes, outputs nearer, accuracy within its error."""
    with (results("cifar10") / "benchmarks" / "rounding-resnet20.csv").open(newline="") as file:
        rows = {(row["method"], row["bits"]): row for row in csv.DictReader(file)}
    for bits in "45678":
        grid, ours = rows["grid", bits], rows["rounding", bits]
        assert int(ours["bytes"]) <= int(grid["bytes"])
        assert float(ours["moved"]) < 0.2 * float(grid["moved"])
        assert float(ours["test"]) >= float(grid["test"]) - float(ours["error"])
