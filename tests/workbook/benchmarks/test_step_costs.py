"""Steps at ImageNet's size: what they compute, their floor, and where their memory is measured."""

import pytest
import torch

from lib import data, networks
from lib.layers import compressible
from lib.optimizers import METHODS
from lib.optimizers.c_steps import COSTS
from lib.training import Schedule, train
from lib.workbook import benchmarks

SMALL = ("mobilenetv2", 32, 2, "cpu", "float32")


@pytest.mark.parametrize("method", ["plain", "ADMM", "DF"])
def test_a_step_moves_what_the_method_trains(method, monkeypatch):
    models, build = [], networks.build
    monkeypatch.setattr(
        networks, "build", lambda *a, **k: models.append(build(*a, **k)) or models[-1]
    )
    name, *others = SMALL
    step, compression = benchmarks.step_costs.prepared(name, method, *others)
    weights = list(compressible(models[0]).values())
    learned = list(compression.m.values()) if method == "DF" else weights
    before = [tensor.detach().clone() for tensor in (*weights, *learned)]
    step()
    moved = [not torch.equal(a, b) for a, b in zip(before, (*weights, *learned), strict=True)]
    assert any(moved[len(weights) :])
    assert any(moved[: len(weights)]) == (method != "DF")


def test_the_floor_is_three_passes_of_two_operations_a_mac():
    """AlexNet's 714,188,480 MACs at 224 × 224 (torchvision's network, biases left out)."""
    found = benchmarks.step_costs.floor_seconds("alexnet", 224, 32, operations_per_second=1e9)
    assert found == pytest.approx(6 * 714_188_480 * 32 / 1e9, rel=1e-6)


def test_on_a_gpu_the_memory_is_measured_here_on_a_cpu_in_a_process_of_its_own(monkeypatch):
    measure, memory = benchmarks.measure, benchmarks.step_costs.memory
    monkeypatch.setattr(measure, "alone", lambda function, *given, apart: (function, apart))
    monkeypatch.setattr(measure, "peak", lambda work, device: device)
    assert memory(1, "alexnet", "plain", 224, 8, "cpu", "float32") == (memory, False)
    assert memory(1, "alexnet", "plain", 224, 8, "cuda:1", "float32") == "cuda:1"


def test_every_method_and_cost_has_settings():
    """A method that is added is measured, and tried, too."""
    assert set(benchmarks.every_method.settings("resnet8")) == set(METHODS)
    assert set(benchmarks.every_method.AMOUNTS) == set(COSTS)
    assert set(benchmarks.every_method.ONCE) <= set(METHODS)
    assert len(benchmarks.every_method.names()) == len(METHODS) + len(COSTS) - 1


def test_the_step_is_the_training_loops():
    """As many steps of the loop, at the same rate on the same batch, leave the same weights."""
    images = data.noise(networks.INPUT_SHAPES["resnet8"], 8)
    pixels, labels = images.normalise(images.train.images), images.train.labels
    schedule = Schedule(epochs=1, lr=1e-6, batch=8)
    found = []
    for loop in (False, True):
        torch.manual_seed(0)
        model, method = networks.build("resnet8"), benchmarks.every_method.make("lc", "resnet8")
        if loop:
            train(model, images, schedule, method, seed=0, quiet=True)
        else:
            benchmarks.every_method.step_of(method, model, pixels, labels)()
            method.after_period()
            method.finish()
        found.append([w.clone() for w in compressible(model).values()])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-7)
