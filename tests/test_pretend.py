"""The pretend GPU itself: it refuses what a GPU refuses, and counts what it would be asked for."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests import pretend
from tests.pretend import Gpu, Mixed


@pytest.fixture(autouse=True)
def device():
    with pretend.gpu() as device:
        yield device


def test_tensors_say_where_they_lie(device):
    there = torch.zeros(3, device=device)
    for made in (there, there + 1, torch.ones(2, device="cuda"), torch.zeros(2).to(there)):
        assert made.device == device
        assert made.is_cuda
        assert not made.is_cpu
    assert there.cpu().device.type == "cpu"
    assert there.to("cpu").is_cpu
    assert torch.zeros_like(there, device="cpu").is_cpu
    assert torch.zeros(3).device.type == "cpu"


def test_sides_do_not_mix(device):
    there, here = torch.ones(3, device=device), torch.ones(3)
    for call in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: torch._foreach_mul([there], [here]),
        lambda: torch._foreach_mul([there], torch.tensor(2.0)),
        lambda: torch.bucketize(there, here),
        lambda: functional.linear(there.view(1, 3), here.view(1, 3)),
    ):
        with pytest.raises(Mixed, match="cuda:0"):
            call()
    # a number on the CPU is passed with the launch, and an index is copied there
    assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]
    assert there[torch.tensor([0, 2])].tolist() == [1, 1]


def test_no_array_is_made_of_them(device):
    there = torch.ones(3, device=device)
    for call in (there.numpy, lambda: np.asarray(there), lambda: there.view(-1).numpy()):
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            call()
    assert there.cpu().numpy().tolist() == [1, 1, 1]


def test_launches_and_bytes(device):
    there = torch.ones(10, device=device)
    calls = {
        lambda: there + there: (1, 120),
        lambda: there.mul_(2): (1, 80),
        lambda: there.view(2, 5).t()[0].detach(): (0, 0),
        lambda: there.sum(): (1, 44),
        lambda: torch._foreach_add([there, there.clone()], 1): (2, 80 + 160),
        lambda: torch.empty(10, device=device): (0, 0),
        lambda: torch.zeros(10, device=device): (1, 40),
        lambda: torch.arange(10, device=device): (1, 80),
        lambda: there.zero_(): (1, 80),
    }
    for i, (call, (launches, size)) in enumerate(calls.items()):
        with pretend.counted() as tally:
            call()
        assert (tally.launches, tally.bytes) == (launches, size), i
    asked(calls)


def asked(calls, *, waits=0, uploads=0):
    """Each of the calls waits, and copies to the device, so many times."""
    for i, call in enumerate(calls):
        with pretend.counted() as tally:
            call()
        assert (tally.waits, tally.uploads) == (waits, uploads), i


def test_waits(device):
    there = torch.tensor([0.0, 1, 2], device=device)
    calls = [
        there[0].item,
        lambda: float(there.sum()),
        lambda: bool(there.any()),
        there.tolist,
        there.cpu,
        lambda: torch.zeros(3).copy_(there),
        there.nonzero,
        lambda: there[there > 0],
        lambda: there.unique(),
        lambda: torch.equal(there, there),
        lambda: torch.linalg.eigh(torch.eye(3, device=device)),
        lambda: torch.repeat_interleave(there, torch.ones_like(there).long()),
        lambda: there.__setitem__(there > 0, torch.arange(2.0, device=device)),
    ]
    asked(calls, waits=1)
    free = [
        lambda: there.where(there > 0, 1),
        lambda: torch.repeat_interleave(there, torch.ones_like(there).long(), output_size=3),
        lambda: there.__setitem__(there > 0, 5),
        lambda: there.__setitem__(0, 5),
        lambda: there.masked_fill_(there > 0, 1),
        lambda: torch.full((), 3, device=device),
    ]
    asked(free)


def test_uploads(device):
    there = torch.ones(3, device=device)
    calls = [
        lambda: torch.tensor([1.0, 2], device=device),
        lambda: torch.as_tensor(3, device=device),
        lambda: torch.ones(3).to(device),
        lambda: torch.ones(3).to(there),
        lambda: there.copy_(torch.ones(3)),
        lambda: there.new_tensor(4.0),
        lambda: there[torch.tensor([0, 1])],
    ]
    asked(calls, uploads=1)
    asked([lambda: torch._foreach_copy_([there, there], 2 * [torch.ones(3)])], uploads=2)


def test_a_place_is_named(device):
    with pretend.counted() as tally:
        float(torch.ones((), device=device))
    (place,) = tally.waited
    assert place.startswith("_local_scalar_dense at tests/test_pretend.py:")


def test_a_network_computes_and_learns_as_on_the_cpu(device):
    """Gradients, momentum, a copy and a checkpoint: the CPU's results, bit for bit."""

    def trained(where):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
        images, classes = torch.randn(8, 1, 4, 4), torch.arange(8) % 3
        model = copy.deepcopy(model.to(where))
        rate = torch.full((), 0.1, device=where)
        sgd = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, fused=True)
        for _ in range(3):
            loss = functional.cross_entropy(model(images.to(where)), classes.to(where))
            sgd.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            sgd.step()
        return model

    found, wanted = trained(device).state_dict(), trained(torch.device("cpu")).state_dict()
    assert all(isinstance(value, Gpu) for value in found.values())
    assert all(torch.equal(found[name].cpu(), value) for name, value in wanted.items())
    again = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    again.to(device).load_state_dict(pretend.moved(wanted, device))
    assert all(torch.equal(again.state_dict()[name], found[name]) for name in wanted)


def test_optimizers_take_their_ways_for_gpus(device):
    """Of all parameters at once, and Adam's steps stay on the CPU."""
    weights = [nn.Parameter(torch.ones(3, device=device)) for _ in range(5)]
    adam = torch.optim.Adam(weights)
    for weight in weights:
        weight.grad = torch.ones(3, device=device)
    adam.step()
    with pretend.counted() as tally:
        adam.step()
    assert tally.launches < 5 * 3
    assert (tally.waits, tally.uploads) == (0, 0)
    assert all(adam.state[weight]["step"].is_cpu for weight in weights)
