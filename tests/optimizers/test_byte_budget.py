"""ADMM for a file of a size: within it, resumed bit for bit, and rounding that fits."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import archive
from lib.layers import compressible
from lib.networks import build
from lib.optimizers.byte_budget import FileADMM, FitFile, _graph, least_bytes, refill, silence
from lib.projections.precision import each


def network(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 12, 3, bias=bias), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(12, 32, bias=bias), nn.ReLU(), nn.Linear(32, 10, bias=bias)),
    )


def size_of(model):
    return len(archive.encode(model))


def periods(method, model, count, seed):
    """So many periods of one step each."""
    torch.manual_seed(seed)
    for _ in range(count):
        x, y = torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        method.after_step(torch.tensor(0.1))
        method.after_period()


@pytest.mark.parametrize("size", [600, 1_000, 2_000])
def test_admm_lands_below_what_was_asked(size):
    model = network()
    method = FileADMM(file_bytes=size, input_shape=(1, 8, 8))
    method.start(model)
    periods(method, model, 4, seed=1)
    assert method.finish()
    left, state = model.state_dict(), each(model.state_dict(), torch.Tensor.clone)
    silence(state, method.graph)
    assert all(torch.equal(value, left[name]) for name, value in state.items())
    FitFile(file_bytes=size).start(model)
    assert 0.9 * size <= size_of(model) <= size


def test_the_least_is_zeros_without_a_sign():
    """Negative zeros would cost a bit each."""
    described = {"network": "lenet5", "classes": 10, "channels": 1}
    assert least_bytes(build("lenet5"), **described) < 1_000


def test_an_impossible_file_is_refused_with_the_least():
    least = least_bytes(network())
    with pytest.raises(ValueError, match=f"the least is {least:,}"):
        FileADMM(file_bytes=least - 1).start(network())
    with pytest.raises(ValueError, match=f"the least is {least:,}"):
        FitFile(file_bytes=least - 1).start(network())
    model = network()
    FitFile(file_bytes=least).start(model)
    assert size_of(model) <= least


def test_rounding_prunes_the_smallest_where_it_must():
    dense, model = network(), network()
    FitFile(file_bytes=1_200).start(model)
    assert size_of(model) <= 1_200
    weights = zip(compressible(dense).values(), compressible(model).values(), strict=True)
    kept, gone = [], []
    for before, after in weights:
        kept.append(before[after != 0].abs())
        gone.append(before[after == 0].abs())
        assert not after[after == 0].signbit().any()
    # to the eight bits that weights are rounded to
    assert torch.cat(kept).min() >= torch.cat(gone).max() * (1 - 2**-7)


def test_pruning_of_ties_stops_anywhere():
    model = network(bias=False)
    for weight in compressible(model).values():
        nn.init.constant_(weight, 0.5)
    with torch.no_grad():
        for weight in compressible(model).values():
            weight[torch.rand_like(weight) < 0.5] = 0
    FitFile(file_bytes=300).start(model)
    assert 290 <= size_of(model) <= 300


def test_biases_get_as_many_bits_as_fit():
    model = network()
    dense = size_of(model)
    for size in (dense, dense - 40):
        fitted = copy.deepcopy(model)
        FitFile(file_bytes=size).start(fitted)
        assert size_of(fitted) <= size


def test_what_is_left_of_a_file_is_filled():
    model, reserve = network(), network().state_dict()
    for weight in compressible(model).values():
        nn.init.zeros_(weight)
    refill(model, reserve, file_bytes=1_500)
    assert 1_490 <= size_of(model) <= 1_500
    filled = torch.cat([w[w != 0].abs() for w in compressible(model).values()])
    largest = torch.cat([reserve[f"{n}.weight"].abs().flatten() for n in compressible(model)])
    expected = largest.sort(descending=True).values[: len(filled)]
    assert torch.allclose(filled.sort(descending=True).values, expected, rtol=2**-7)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_silence_keeps_the_outputs_where_units_reach_nothing(memory):
    model = network().to(memory_format=memory)
    with torch.no_grad():
        model[3].weight[:, 2] = 0  # nothing reads the first layer's filter 2
        model[8].weight[:, :5] = 0
        model[0].weight[4], model[0].bias[4] = 0, 0  # and its filter 4 reads nothing
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        before = model(images)
        state = model.state_dict()
        silence(state, _graph(model, (1, 8, 8)))
        assert torch.equal(model(images), before)
    assert not model[0].weight[2].any()
    assert not model[0].bias[2]
    assert not model[3].weight[:, 2].any()
    assert not model[6].weight[:5].any()
    assert not model[3].weight[:, 4].any()
    assert model[0].weight[[0, 1, 3, 5]].all()
    assert model[3].weight[:, [0, 1, 3, 5]].all()


def test_weights_that_are_shared_or_computed_are_not_silenced():
    shared = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    shared[2].weight = shared[0].weight
    graph = _graph(nn.Sequential(nn.Flatten(), shared), (1, 2, 4))
    assert not {"1.0", "1.2"} & {unit.source for unit in graph.values()}
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    model = nn.Sequential(nn.Flatten(), normed, nn.ReLU(), nn.Linear(8, 2))
    state = each(model.state_dict(), torch.Tensor.clone)
    silence(state, _graph(model, (1, 2, 4)))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
