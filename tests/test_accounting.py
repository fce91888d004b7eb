"""Costs against sums done by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lib import accounting, networks
from lib.layers import compressible


def levels(count, each=1):
    """A weight with ``count`` distinct nonzero values, ``each`` times each, and three zeros."""
    return torch.cat([torch.arange(1.0, count + 1).repeat(each), torch.zeros(3)])


@pytest.fixture
def by_hand():
    """Two layers of 8 and 6 weights, and 3 biases."""
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.ReLU(), nn.Linear(2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0, 0, 0, 0], [0.5, 0.5, -1, -1]]))
        model[2].weight.copy_(torch.tensor([[0, 3], [3, 3], [2, -0.0]]))
    return model


@pytest.mark.parametrize(
    ("count", "bits"),
    [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7), (129, 8), (256, 8), (257, 32)],
)
def test_bitwidth(count, bits):
    assert accounting.bitwidth(levels(count, each=2)) == bits


def test_layer_costs(by_hand):
    costs = accounting.layer_costs(compressible(by_hand)).set_index("name")
    first, second = costs.loc["0"], costs.loc["2"]

    assert (first["shape"], second["shape"]) == ("2×4", "3×2")
    assert (first["weights"], first["kept"], first["levels"], first["bits"]) == (8, 4, 2, 1)
    assert first["nominal_bits"] == 4
    assert first["position_bits"] == 8  # 8 places, half of them nonzero: one bit each
    assert first["value_bits"] == 4  # 4 weights, 2 values as frequent: one bit each
    assert first["codebook_bits"] == 2 * 32

    assert (second["kept"], second["levels"], second["bits"]) == (4, 2, 1)  # −0.0 is zero
    assert second["position_bits"] == pytest.approx(4 * math.log2(6 / 4) + 2 * math.log2(6 / 2))
    assert second["value_bits"] == pytest.approx(3 * math.log2(4 / 3) + math.log2(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_levels_and_their_entropy_are_pytorchs(dtype):
    weight = torch.randn(3_000, generator=torch.Generator().manual_seed(0)).mul(8).round().to(dtype)
    values, counts = weight[weight != 0].unique(return_counts=True)
    shares = counts.double() / counts.sum()
    (layer,) = accounting.layer_costs({"w": weight}).to_dict("records")
    assert layer["levels"] == len(values) > 32
    assert layer["value_bits"] == pytest.approx(float(-(counts * shares.log2()).sum()), rel=1e-12)


def test_what_pays_depends_on_the_mode():
    """1 bit's worth of nonzero values is 2 bits' worth with zero; no zero, no third value."""
    weights = {"zeros": levels(2, each=4), "none": torch.tensor([1.0, 2.0, 2.0]), "five": levels(4)}
    weights["gone"] = torch.zeros(5)
    layers = accounting.layer_costs(weights)

    def paid(mode):
        table = accounting.paid(layers, mode).set_index("name")
        return {name: (row["weights"], row["bits"]) for name, row in table.iterrows()}

    paying = {"zeros": (8, 1), "none": (3, 1), "five": (4, 2), "gone": (0, 1)}
    assert paid("joint") == paying
    assert paid("prune") == {name: (weights, 32) for name, (weights, _) in paying.items()}
    assert paid("quantize") == {"zeros": (11, 2), "none": (3, 1), "five": (7, 3), "gone": (5, 1)}
    with pytest.raises(ValueError, match="unknown mode 'both': choose one of joint, prune, quant"):
        accounting.paid(layers, "both")


def bisected(densities, costs, limit):
    """The largest s by bisection of Σ min(1, s·d)·cost, which rises in s."""
    low, high = 0.0, 1 / min(densities)
    for _ in range(200):
        middle = (low + high) / 2
        spent = sum(min(1, middle * d) * c for d, c in zip(densities, costs, strict=True))
        low, high = (middle, high) if spent <= limit else (low, middle)
    return [min(1, low * d) for d in densities]


@given(
    layers=st.lists(st.tuples(st.floats(1e-3, 10), st.integers(1, 10**6)), min_size=1, max_size=6),
    part=st.floats(0, 1.2),
)
def test_shares_are_the_largest_that_fit(layers, part):
    densities, costs = zip(*layers, strict=True)
    limit = int(part * sum(costs))
    found = accounting.shares(densities, costs, limit)
    assert found == pytest.approx(bisected(densities, costs, limit), rel=1e-9, abs=1e-12)
    assert all(0 <= share <= 1 for share in found)
    # whole weights fit exactly, rounding and all
    assert sum(int(share * cost) for share, cost in zip(found, costs, strict=True)) <= limit


def test_shares_by_hand():
    # the second is whole, the others have 60 of 200 left, two to one
    assert accounting.shares([0.2, 5, 0.1], [100, 40, 100], 100) == pytest.approx([0.4, 1, 0.2])
    assert accounting.shares([0.2, 0.1], [100, 100], 0) == [0, 0]
    assert accounting.shares([0.3, 0.1], [10, 100], 110) == [1, 1]
    assert accounting.shares([0.3, 0.1], [10, 100], 10**9) == [1, 1]
    assert accounting.shares([0.7], [49], 49) == [1]
    assert accounting.shares([], [], 5) == []


@pytest.mark.parametrize(
    ("densities", "costs", "limit", "message"),
    [
        ([0.1], [10], float("nan"), "the budget = nan"),
        ([0.1, 0.0], [10, 10], 5, "must be positive"),
        ([float("nan")], [10], 5, "must be positive"),
    ],
)
def test_shares_refuse_numbers_out_of_range(densities, costs, limit, message):
    with pytest.raises(ValueError, match=message):
        accounting.shares(densities, costs, limit)


def test_summary(by_hand):
    found = accounting.summary(by_hand)
    positions = 8 + 4 * math.log2(6 / 4) + 2 * math.log2(6 / 2)
    values = 4 + 3 * math.log2(4 / 3) + math.log2(4)
    coded = positions + values + 4 * 32
    assert found["kept_fraction"] == 8 / 14
    assert found["nominal_bits"] == 8
    assert found["mean_bits"] == 1
    assert found["nominal_rate"] == 32 * 14 / 8
    assert found["entropy_rate"] == pytest.approx(32 * 14 / coded)
    assert found["estimated_bytes"] == math.ceil(coded / 8) + 3 * 4  # three biases
    assert found["parameters"] == 14 + 3


def test_a_dense_network_costs_32_bits_a_weight():
    torch.manual_seed(0)
    model = networks.build("lenet5")
    with torch.no_grad():
        model.conv1.weight.copy_(torch.arange(1.0, 501).view_as(model.conv1.weight))
    found = accounting.summary(model)
    assert found["nominal_rate"] == pytest.approx(1, rel=1e-3)
    assert found["estimated_bytes"] == pytest.approx(4 * 431_080, rel=1e-3)


def test_a_network_of_zeros_has_costs(by_hand):
    for parameter in by_hand.parameters():
        nn.init.zeros_(parameter)
    found = accounting.summary(by_hand)
    assert (found["nominal_bits"], found["kept_fraction"], found["mean_bits"]) == (0, 0, 0)
    assert found["estimated_bytes"] == 3 * 4
    assert math.isfinite(found["nominal_rate"])


def test_nominal_bits_of_a_mapping():
    # 5 weights of 3 values and 6 of one: 2·5 + 1·6
    layers = {"a": torch.tensor([1.0, 1, 2, 3, 3, 0]), "b": torch.full((2, 3), -7.0)}
    assert accounting.nominal_bits(layers) == 2 * 5 + 1 * 6


def test_macs_of_lenet5_and_nothing_is_left_changed():
    model = networks.build("lenet5").train()
    # a place of an output costs its filter's weights: 24·24·20·25, 8·8·50·500, 500·800, 10·500
    assert accounting.macs(model, (1, 28, 28)) == 288_000 + 1_600_000 + 400_000 + 5_000
    assert model.training


def test_normalisation_costs_four_floats_a_channel():
    model = nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3), nn.Linear(2, 2))
    nn.init.ones_(model[0].weight)  # 12 equal weights: a codebook of one value, nothing else
    nn.init.zeros_(model[2].weight)
    found = accounting.summary(model)
    assert found["estimated_bytes"] == 4 + 4 * 4 * 3 + 4 * 2  # codebook, BatchNorm, biases
    assert found["parameters"] == 12 + 2 * 3 + 4 + 2  # running statistics are no parameters
    assert found["entropy_rate"] == 32 * 16 / 32  # of the weights alone


def test_macs_of_resnet20():
    found = accounting.macs(networks.build("resnet20"), (3, 32, 32))
    # places × 9 × channels in × channels out, stage by stage, then the linear layer
    stem = 1024 * 9 * 3 * 16
    stages = 1024 * 9 * 16 * 16 * 6, 256 * 9 * 32 * (16 + 32 * 5), 64 * 9 * 64 * (32 + 64 * 5)
    assert found == stem + sum(stages) + 640 == 40_551_040
