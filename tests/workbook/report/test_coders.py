"""Every byte of a file is someone's; the committed table is what committed networks give."""

import math

import numpy as np
import pytest
import torch

from lib import accounting, archive, networks, paths
from lib.layers import compressible
from lib.workbook import benchmarks, report


@pytest.fixture
def model():
    """LeNet-300, 3 % kept, four values a layer."""
    torch.manual_seed(0)
    network = networks.build("lenet300")
    with torch.no_grad():
        for weight in compressible(network).values():
            values = 0.1 * torch.tensor([-2.0, -1.0, 1.0, 2.0])[torch.randint(4, weight.shape)]
            weight.copy_(values.where(torch.rand(weight.shape) < 0.03, 0))
    return network


@pytest.mark.parametrize("named", [{}, {"network": "lenet300", "classes": 10, "channels": 1}])
def test_the_parts_are_the_file(model, named):
    content = archive.encode(model, **named)
    parts = report.coders.bytes_by_part(content)
    assert parts.sum() == len(content)
    assert (parts > 0).all()
    assert parts["end"] < 12  # a coder's last words, and its roundings


def test_layers_are_those_of_the_meters(model):
    tables = report.coders.layers(model)
    weights = compressible(model)
    for coder, table in tables.items():
        assert table["name"].tolist() == list(weights), coder
    total = {coder: table[list(report.coders.PARTS)].sum() for coder, table in tables.items()}
    assert total["nominal"].sum() == accounting.nominal_bits(weights)
    coded = report.coders.bytes_by_part(archive.encode(model))
    assert np.isclose(total["archive"]["position_bits"] / 8, coded["positions"])
    # strewn evenly, nothing is to be gained and little to be lost
    ratio = total["archive"]["position_bits"] / total["entropy"]["position_bits"]
    assert 0.99 < ratio < 1.03


def test_a_row_of_coders(model):
    pytest.importorskip("zstandard")
    row = report.coders.coders(model)
    for coder, table in report.coders.layers(model).items():
        assert row[coder] == math.ceil(table[list(report.coders.PARTS)].to_numpy().sum() / 8)
    assert row["zstd"] == min(benchmarks.coders.zstd(compressible(model)).values())
    assert row["kept"] < 0.04 * row["weights"]


def test_the_committed_table_is_what_the_committed_networks_give(monkeypatch):
    monkeypatch.delenv("WORKBOOK_RESULTS", raising=False)
    table = report.coders.measured().set_index("network")
    found = {run.id: run for run in report.coders.committed_runs().values()}
    assert set(table.index) == {*found, "alexnet"}
    for network, run in found.items():
        row, model = table.loc[network], run.model()
        for coder, layers in report.coders.layers(model).items():
            assert row[coder] == math.ceil(layers[list(report.coders.PARTS)].to_numpy().sum() / 8)
        parts = report.coders.bytes_by_part(archive.encode(model, **run.architecture))
        assert np.allclose(row[[f"file_{part}" for part in parts.index]].astype(float), parts)
        assert row["accuracy"] == run.result["accuracy"]
    assert table["nncodec"].notna().all()
    assert (table["archive"] < table[["deep_compression", "zstd"]].min(axis=1)).all()


def test_what_was_not_measured_is_said(monkeypatch, tmp_path):
    table = report.coders.measured()
    monkeypatch.setattr(paths, "results", lambda dataset: tmp_path)
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    table.drop(columns="nncodec").to_csv(folder / "coders.csv", index=False)
    assert "not measured" in report.committed("coders")
    others = table[["network"]].assign(stream_bytes=1_000, codebook_bytes=234)
    others.to_csv(folder / "nncodec.csv", index=False)
    assert "1,234" in report.committed("coders")
