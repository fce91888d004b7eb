"""The exported network computes what PyTorch's does, and its file is small."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from lib import archive, networks
from lib.archive import onnx as exporter
from lib.layers import compressible
from lib.structured import factor
from lib.workbook.cli import main

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


def scores(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    return found


def near(file, model, images):
    """Sums are in another order: to 1e-5 of the largest score."""
    with torch.no_grad():
        wanted = model(images).numpy()
    assert np.abs(scores(file, images) - wanted).max() < 1e-5 * np.abs(wanted).max()


def compressed(name, *, keep, levels):
    """A network of which a share is left, of so many values; BatchNorm measured something."""
    torch.manual_seed(0)
    model = networks.build(name)
    with torch.no_grad():
        for weight in compressible(model).values():
            book = weight.std() * torch.linspace(-1.3, 1.7, levels)
            kept = torch.rand_like(weight) < keep
            weight.copy_(book[torch.randint(levels, weight.shape)] * kept)
        model.train()(torch.randn(32, *networks.INPUT_SHAPES[name]))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "keep", "levels", "share"),
    [
        ("lenet5", 0.01, 2, 0.02),
        ("lenet5", 0.4, 4, 0.08),
        ("lenet5", 1.0, 16, 0.14),
        ("resnet8", 0.4, 4, 0.20),
    ],
)
def test_outputs_are_pytorchs_to_rounding_and_the_file_is_small(
    tmp_path, name, keep, levels, share
):
    model, shape = compressed(name, keep=keep, levels=levels), networks.INPUT_SHAPES[name]
    size = exporter.export(model, tmp_path / "a.onnx", input_shape=shape)
    assert (tmp_path / "a.onnx").stat().st_size == size
    dense = exporter.export(networks.build(name), tmp_path / "b.onnx", input_shape=shape)
    assert size < share * dense
    for count in (1, 7):  # any number of images
        near(tmp_path / "a.onnx", model, torch.randn(count, *shape))


def test_a_network_in_factors(tmp_path):
    shape = networks.INPUT_SHAPES["resnet8"]
    model = factor(networks.build("resnet8"), {"stage3.0.conv2": 8}, input_shape=shape).eval()
    exporter.export(model, tmp_path / "a.onnx", input_shape=shape)
    near(tmp_path / "a.onnx", model, torch.randn(3, *shape))


def quantized(levels, keep, *, shape=(60, 500)):
    generator = np.random.default_rng(0)
    book = generator.normal(size=levels).astype(np.float32)
    return book[generator.integers(levels, size=shape)] * (generator.random(shape) < keep)


def far_apart():
    """Two nonzeros, 20,000 places from each other."""
    weight = np.zeros((60, 500), np.float32)
    weight.reshape(-1)[[3, 20_003]] = 1.5, 2.5
    return weight


@pytest.mark.parametrize(
    ("weight", "form"),
    [
        (quantized(2, 1.0), "codes"),
        (quantized(15, 0.9), "codes"),
        (quantized(200, 1.0), "codes"),
        (quantized(4, 0.4), "mask"),
        (quantized(10_000, 0.3), "mask"),
        (quantized(2, 0.01), "gaps"),
        (quantized(10_000, 0.01), "gaps"),
        (far_apart(), "gaps"),
        (quantized(1, 0.0), "gaps"),
        (quantized(10_000, 1.0), "as it is"),
    ],
)
def test_every_form_is_the_weight_exactly(tmp_path, weight, form):
    """A linear layer without bias turns the unit vectors into its weight's columns."""
    layer = nn.Linear(500, 60, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    size = exporter.export(layer, tmp_path / "a.onnx", input_shape=(500,))
    found = scores(tmp_path / "a.onnx", torch.eye(500))
    assert np.array_equal(found.T, weight)
    kinds = {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}
    marks = {"NonZero": "mask", "CumSum": "gaps", "Gather": "codes"}
    assert next((marks[kind] for kind in marks if kind in kinds), "as it is") == form
    if form != "as it is":
        assert size < weight.nbytes / 2.5


def test_nothing_of_the_machine_is_in_the_file(tmp_path):
    shape = networks.INPUT_SHAPES["resnet8"]
    exporter.export(networks.build("resnet8"), tmp_path / "a.onnx", input_shape=shape)
    content = (tmp_path / "a.onnx").read_bytes()
    assert b".py" not in content
    assert list(tmp_path.iterdir()) == [tmp_path / "a.onnx"]  # one file, weights and all


def test_extract_to_onnx(tmp_path, capsys, monkeypatch):
    model = compressed("lenet5", keep=0.02, levels=2)
    file, out = tmp_path / "a.cnet", tmp_path / "a.onnx"
    archive.write(file, model, network="lenet5", classes=10, channels=1)
    assert main(["extract", str(file), "--to", str(out)]) == 0
    images = torch.randn(2, 1, 28, 28)
    assert np.allclose(scores(out, images), model(images).detach().numpy(), atol=1e-4)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["extract", str(file), "--to", str(out), "--overwrite"]) == 1
    assert "pip install onnx onnxscript" in capsys.readouterr().err
