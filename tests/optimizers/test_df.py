"""DF against the networks it stands for: masked, truncated, built; and its counts by hand."""

import math
from contextlib import suppress

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import accounting, networks, structured
from lib.layers import compressible
from lib.optimizers.df import DF
from lib.structured import ranks_for_macs
from tests.make_checkpoints import Interrupted, finish, interrupted, narrowed
from tests.structured.test_structured import (
    NETWORKS,
    by_spectrum,
    close,
    images,
    macs,
    network,
    outputs,
    shape_of,
    some_filters,
    truncated,
)

SHAPE = shape_of("resnet8")
DENSE = accounting.macs(networks.build("resnet8"), SHAPE)


def started(name="resnet8", share=0.5, **options):
    model, shape = network(name), shape_of(name)
    dense = sum(layer.macs() for layer in structured.layers(model, input_shape=shape).values())
    method = DF(budget=int(share * dense), input_shape=shape, **options)
    return method, method.start(model)


def decide(method, keep):
    """M at 0 or 1, and a sigmoid so steep that its values are too."""
    method.mu.fill_(1e4)
    with torch.no_grad():
        for name, m in method.m.items():
            m.copy_(keep[name])


def slopes_fit(loss, leaf, places):
    """The gradient that ``loss().backward()`` left, against finite differences."""
    for i in places:
        step, values = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                leaf.view(-1)[i] += sign * step
                values.append(float(loss()))
                leaf.view(-1)[i] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert float(leaf.grad.view(-1)[i]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "statistics"),
    [
        *((name, "running") for name in [*NETWORKS, "wider", "mobilenetv1"]),
        *((name, "batch") for name in ("resnet8", "wider", "resnet18")),
    ],
)
def test_hard_masks_compute_what_the_built_network_does(name, statistics):
    """Biases and shifts included, those of both normalisations of an inverted residual."""
    method, surrogate = started(name, mode="filters", statistics=statistics)
    keep, shape = some_filters(method.model), shape_of(name)
    decide(method, keep)
    before = {name: b.clone() for name, b in method.model.named_buffers()}
    built = structured.remove_filters(method.model, keep, input_shape=shape).eval()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.training = statistics == "batch"
    with torch.no_grad():
        close(surrogate(images(shape, 4)), built(images(shape, 4)))
        assert method.spent * method.dense == pytest.approx(macs(built, shape))
    assert all(torch.equal(b, before[name]) for name, b in method.model.named_buffers())


@pytest.mark.parametrize("scheme", [1, 2])
def test_hard_masks_and_no_threshold_are_the_masked_network(scheme):
    method, surrogate = started(scheme=scheme)
    keep = some_filters(method.model)
    decide(method, keep)
    built = structured.remove_filters(method.model, keep, input_shape=SHAPE)
    with torch.no_grad():
        close(surrogate(images(SHAPE)), outputs(built, SHAPE))


@pytest.mark.parametrize("scheme", [1, 2])
def test_a_threshold_shrinks_every_layer(scheme):
    method, surrogate = started(mode="ranks", scheme=scheme)
    oracle = by_spectrum(method.model, lambda _, s: (s - 0.3 * s[0]).clamp_min(0), scheme)
    with torch.no_grad():
        for gamma in method.gamma.values():
            gamma.fill_(0.3)
        close(surrogate(images(SHAPE)), outputs(oracle, SHAPE))


@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize("count", ["factored", "built"])
def test_gradients_are_those_of_finite_differences(statistics, count):
    method, surrogate = started(statistics=statistics, count=count)
    generator = torch.Generator().manual_seed(3)
    leaves = [*method.m.values(), *method.gamma.values()]
    with torch.no_grad():
        for m in method.m.values():
            m.copy_(torch.rand(m.shape, generator=generator))
        for i, gamma in enumerate(method.gamma.values()):
            gamma.fill_(0.05 + 0.01 * i)
    method.nu.fill_(0.7)
    labels = torch.arange(4) % 10

    def loss():
        return functional.cross_entropy(surrogate(images(SHAPE, 4)), labels) + method.penalty()

    loss().backward()
    for leaf in leaves:
        slopes_fit(loss, leaf, {0, leaf.numel() - 1})


def test_the_soft_count_is_equations_12_to_14():
    method, _ = started(penalty=2.0)
    with torch.no_grad():
        method.m["stage1.0.conv1"].fill_(0.6)
        method.gamma["stage1.0.conv2"].fill_(0.25)
    method.replaced()
    n = {name: len(m) / (1 + math.exp(-2 * 0.5)) for name, m in method.m.items()}
    n["stage1.0.conv1"] = 16 / (1 + math.exp(-2 * 0.1))
    spent = 0.0
    for name, layer in structured.layers(method.model, input_shape=SHAPE).items():
        rows = torch.ones(layer.filters, dtype=torch.float64)
        if name in n:
            rows *= n[name] / layer.filters
        matrix = rows[:, None] * method.model.get_submodule(name).weight.flatten(1)
        largest = torch.linalg.svdvals(method.model.get_submodule(name).weight.flatten(1))[0]
        gamma = 0.25 if name == "stage1.0.conv2" else 0
        rank = float(
            torch.tanh(5 * (torch.linalg.svdvals(matrix) / largest - gamma).clamp_min(0)).sum()
        )
        c_in = layer.inputs if not name.endswith("conv2") else n[name.replace("conv2", "conv1")]
        c_out = n.get(name, layer.filters)
        k = layer.kernel[0]
        spent += layer.places[0] * layer.places[1] * rank * (k * k * c_in + c_out)
    assert method.spent.item() == pytest.approx(spent / DENSE, rel=1e-6)
    miss = method.spent.item() - method.aim().item()
    assert method.penalty().item() == pytest.approx(2 * miss**2)
    method.nu.fill_(3.0)
    assert method.penalty().item() == pytest.approx(2 * miss**2 + 3 * miss)


def test_the_sigmoid_is_scheduled():
    """φ_s of eq. 8, μ ← min(α, μ + β)."""
    method, _ = started(mode="filters", start=2.0, beta=4.0, alpha=9.0)
    found = []
    for _ in range(3):
        found.append(float(method.mu))
        mask = method.masks()["stage1.0.conv1"][0].detach()
        assert float(mask) == pytest.approx(1 / (1 + math.exp(-found[-1] * 0.5)))
        method.replaced()
        method.after_period()
    assert found == [2, 6, 9]


def test_straight_through_masks_are_binary_and_have_the_sigmoid_s_gradient():
    soft, _ = started(mode="filters")
    hard, _ = started(mode="filters", straight_through=True)
    for method in (soft, hard):
        with torch.no_grad():
            method.m["stage2.0.conv1"].copy_(torch.linspace(0, 1, 32))
        sum(mask.square().sum() / 2 for mask in method.masks().values()).backward()
    mask = hard.masks()["stage2.0.conv1"].detach()
    assert torch.equal(mask, (torch.linspace(0, 1, 32) >= 0.5).double())
    # d(z²/2)/dM = z·φ'
    phi = soft.masks()["stage2.0.conv1"].detach()
    close(soft.m["stage2.0.conv1"].grad, phi * 2 * phi * (1 - phi))
    close(hard.m["stage2.0.conv1"].grad, mask * 2 * phi * (1 - phi))


def trained(method, surrogate, steps=60):
    """A few steps on random images, as the loop takes them."""
    labels = torch.arange(8) % 10
    for step in range(steps):
        loss = functional.cross_entropy(surrogate(images(SHAPE, 8)), labels)
        (loss + method.penalty()).backward()
        method.after_step(torch.tensor(0.1))
        if step % 4 == 3:
            method.after_period()
    return method


@pytest.mark.parametrize("scheme", [1, 2])
@pytest.mark.parametrize("mode", ["hybrid", "filters", "ranks"])
def test_the_network_built_uses_the_budget_and_keeps_it(mode, scheme):
    method, surrogate = started(
        mode=mode, scheme=scheme, penalty=10.0, step=0.05, statistics="batch"
    )
    model = method.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained(method, surrogate)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        pruned = method._pruned()
        ranks = method._ranks(pruned) if method.stacks else {}
    assert method.finish()
    # binary masks, masked shifts, singular values cut off, not shrunk
    cut = {name: rank for name, rank in ranks.items() if rank is not None}
    close(outputs(model, SHAPE), outputs(truncated(pruned, cut, scheme), SHAPE))
    assert all(parameter.requires_grad for parameter in model.parameters())
    spent = accounting.macs(model.float(), SHAPE)
    assert 0.98 * method.budget < spent <= method.budget
    factored = any(isinstance(block.conv2, nn.Sequential) for block in model.stage2)
    removed = any(
        len(getattr(layer, "weight", layer[-1].weight if isinstance(layer, nn.Sequential) else ()))
        < filters
        for layer, filters in ((model.stage1[0].conv1, 16), (model.stage3[0].conv1, 64))
    )
    assert factored == (mode != "filters")
    assert removed == (mode != "ranks")


@pytest.mark.parametrize("case", ["df", "df-ranks"])
def test_a_run_resumed_in_its_second_stage_is_the_run_that_was_not(case):
    """What is decomposed are the weights that the first stage left."""
    found = []
    for epochs in (99, 2):
        with narrowed():
            with suppress(Interrupted), interrupted(epochs):
                finish(case)
            run = finish(case)
            found.append((run.history.drop(columns="seconds"), run.result["files"]))
    (rows, files), (resumed, again) = found
    pd.testing.assert_frame_equal(resumed, rows, check_exact=True)
    assert again["weights.safetensors"] == files["weights.safetensors"]


def test_by_the_letter_the_budget_is_missed_and_said():
    """λ alone: filters of φ_s ≥ ½ and singular values above γ stay, whatever they cost."""
    method, _ = started(multiplier=False)
    with torch.no_grad():
        for m in method.m.values():
            m[: len(m) // 2] = 0.4
        for gamma in method.gamma.values():
            gamma.fill_(0.5)
    method.replaced()
    kept = {n: len(m) - len(m) // 2 for n, m in method.m.items()}
    assert method.metrics()["filters_kept"] == pytest.approx(0.5)
    with torch.no_grad():
        pruned = method._pruned()
        ranks = method._ranks(pruned)
    for name, count in kept.items():
        assert len(pruned.get_submodule(name).weight) == count
    for name, weight in compressible(pruned).items():
        whole = torch.linalg.matrix_norm(compressible(method.model)[name].flatten(1), 2)
        above = torch.linalg.svdvals(weight.flatten(1)) > 0.5 * whole
        assert ranks[name] == max(1, int(above.sum()))


def test_the_stopping_rule():
    method, _ = started(tolerance=0.01)
    method.spent = torch.tensor(method.target + 0.005)
    assert not method.done  # μ still rises
    method.mu.fill_(50)
    assert method.done
    method.spent = torch.tensor(method.target + 0.02)
    assert not method.done


def test_equal_layers_are_thresholded_together():
    method, _ = started("resnet20")
    assert sorted(stack.matrix.shape[1] for stack in method.stacks) == [10, 16, 32, 64]
    assert sum(len(stack.layers) for stack in method.stacks) == 20
    method, _ = started("resnet20", mode="filters")
    assert method.stacks == []


def test_grouped_convolutions_stay_whole():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(),
        nn.Linear(8 * 12 * 12, 10),
    )
    method = DF(budget=60_000, input_shape=(1, 16, 16), mode="ranks", penalty=10.0)
    surrogate = method.start(model)
    assert "2" not in method.gamma
    trained(method, lambda x: surrogate(x.float()), 20)
    method.finish()
    assert isinstance(model[2], nn.Conv2d)
    assert accounting.macs(model, (1, 16, 16)) <= 60_000


# What cannot be


def test_a_budget_below_one_filter_and_rank_one_names_the_dearest_layer():
    with pytest.raises(ValueError, match=r"budget of 1,000 MACs cannot be met: one filter and ran"):
        DF(budget=1000, input_shape=SHAPE).start(network("resnet8"))
    with pytest.raises(ValueError, match=r"of them [\d,]+ in 'st"):
        DF(budget=1000, input_shape=SHAPE, mode="ranks").start(network("resnet8"))


def test_channels_that_a_function_turns_round():
    class Odd(nn.Module):
        def forward(self, x):
            return x.flip(1)

    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), Odd(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 12 * 12, 10)
    )
    method = DF(budget=10_000, input_shape=(1, 16, 16), mode="filters")
    method.start(model)
    assert method.costs.channels["2"]["0"].tolist() == [3, 2, 1, 0]
    method.finish()
    assert accounting.macs(model, (1, 16, 16)) <= 10_000


def test_nan_names_its_layer():
    model = network("resnet8")
    with torch.no_grad():
        model.stage2[0].conv1.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"NaN or infinite weights in 'stage2.0.conv1'"):
        DF(budget=DENSE // 2, input_shape=SHAPE).start(model)
    method, surrogate = started()
    with torch.no_grad():
        method.m["stage3.0.conv1"][3] = math.nan
    with pytest.raises(ValueError, match=r"mask or threshold in 'stage3.0.conv1'"):
        surrogate(images(SHAPE))
    method, surrogate = started(mode="filters")
    (surrogate(images(SHAPE)).sum() * math.nan + method.penalty()).backward()
    with pytest.raises(ValueError, match=r"mask or threshold in 'stage1.0.conv1'"):
        method.after_step(torch.tensor(0.1))


def test_ranks_that_are_infinite_scores_stay():
    """γ = 0: nothing of the layer goes before anything of another."""
    model = network("resnet8")
    whole = {"stage1.0.conv1"}
    ranks = ranks_for_macs(
        model,
        lambda name, matrix: torch.linalg.svdvals(matrix) / (0.0 if name in whole else 1.0),
        budget=DENSE // 2,
        input_shape=SHAPE,
    )
    assert ranks["stage1.0.conv1"] is None


def test_a_layer_of_zeros_and_a_frozen_one_go_through():
    model = network("resnet8")
    with torch.no_grad():
        model.stage2[0].conv2.weight.zero_()
    model.fc.weight.requires_grad_(False)
    method = DF(budget=DENSE // 2, input_shape=SHAPE, mode="ranks", alpha=2.0, start=2.0)
    trained(method, method.start(model), 4)
    method.finish()
    assert 0.9 * DENSE / 2 < accounting.macs(model.float(), SHAPE) <= DENSE // 2
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen in (["fc.weight"], ["fc.0.weight", "fc.1.weight"])
