"""Whole ways on a GPU: methods that change a network once, budgets of ``lib.compress``, capture."""

import threading
import time

import pytest
import torch

import lib
from lib import data, networks
from lib.training import Schedule, train
from lib.workbook import benchmarks


@pytest.mark.parametrize("name", benchmarks.every_method.ONCE)
def test_a_network_is_changed_once_as_on_the_cpu(name, device):
    found = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        model = networks.build("resnet8").to(where)
        images = data.noise(networks.INPUT_SHAPES["resnet8"], 32).to(where)
        method = benchmarks.every_method.make(name, "resnet8")
        train(model, images, Schedule(epochs=0, lr=0.1, batch=8), method, seed=0, quiet=True)
        found.append(model.state_dict())
    here, there = found
    assert {n: v.shape for n, v in there.items()} == {n: v.shape for n, v in here.items()}
    assert all(v.device.type == device.type for v in there.values())


@pytest.mark.parametrize("limit", ["20 kB", "80000 bits", "5 %", "0.5 MMACs"])
def test_compress_to_every_kind_of_budget(limit, device):
    images = data.noise(networks.INPUT_SHAPES["resnet8"], 32).to(device)
    pixels, labels = images.normalise(images.train.images), images.train.labels
    batches = list(zip(pixels.split(16), labels.split(16), strict=True))
    model = networks.build("resnet8").to(device)
    compressed = lib.compress(model, batches, limit, epochs=2, quiet=True)
    assert compressed.after["bytes"] < compressed.before["bytes"]


@pytest.mark.gpu
def test_a_graph_is_captured_beside_a_thread_that_pins_memory():
    """As a DataLoader's does: in the mode that the loop records in."""
    from lib.training.cuda_graph import CudaGraph

    stop, wrong = threading.Event(), []

    def pin():
        try:
            while not stop.is_set():
                torch.empty(1 << 22).pin_memory()
                time.sleep(1e-4)
        except Exception as error:
            wrong.append(error)

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        square = torch.randn(256, 256, device="cuda")
        out = torch.zeros_like(square)

        def step(matrix):
            for _ in range(200):
                out.copy_(matrix @ matrix)

        for _ in range(10):
            graph = CudaGraph(torch.device("cuda"))
            for _ in range(5):
                graph(step, square)
        torch.cuda.synchronize()
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert torch.equal(out, square @ square)
