"""What a device computes in, as PyTorch and its libraries really use this machine."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lib import paths
from lib.training import arithmetic

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    remembered = arithmetic.has_bfloat16
    remembered.cache_clear()
    yield
    remembered.cache_clear()


def pretend(monkeypatch, *, used, instructions, machine="x86_64"):
    """A PyTorch whose oneDNN takes bfloat16 or not, on a processor that has it or not."""
    ops = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: used)
    monkeypatch.setattr(torch.ops, "mkldnn", ops)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(arithmetic.platform, "machine", lambda: machine)


def test_float32_is_float32_everywhere():
    assert arithmetic.dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_float32_where_the_device_has_none(monkeypatch, has):
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda kind: has)
    expected = torch.bfloat16 if has else torch.float32
    assert arithmetic.dtype("bfloat16", CPU) == expected


def test_several_processes_take_it_only_where_all_have_it(monkeypatch):
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda kind: True)
    monkeypatch.setattr(arithmetic.distributed, "processes", lambda: 3)
    for having, expected in ((3, torch.bfloat16), (2, torch.float32)):
        monkeypatch.setattr(
            arithmetic.distributed, "total", lambda tensor, n=having: torch.tensor(float(n))
        )
        assert arithmetic.dtype("bfloat16", CPU) == expected


def test_instructions_that_onednn_uses_are_taken(monkeypatch):
    pretend(monkeypatch, used=True, instructions=True)
    assert arithmetic.has_bfloat16("cpu")


def test_emulation_by_avx512_is_not(monkeypatch):
    pretend(monkeypatch, used=True, instructions=False)
    assert not arithmetic.has_bfloat16("cpu")


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_nor_emulation_under_a_limit(monkeypatch, name):
    pretend(monkeypatch, used=True, instructions=True)
    monkeypatch.setenv(name, "avx512_core")
    assert not arithmetic.has_bfloat16("cpu")
    assert "oneDNN at most AVX512_CORE" in arithmetic.machine("cpu")["instructions"]


@pytest.mark.parametrize("used", [True, False])
def test_other_architectures_are_as_onednn_says(monkeypatch, used):
    pretend(monkeypatch, used=used, instructions=False, machine="aarch64")
    assert arithmetic.has_bfloat16("cpu") is used


def test_a_pytorch_without_onednn_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert not arithmetic.has_bfloat16("cpu")


def test_float32_is_not_tf32():
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_an_unknown_device_computes_in_float32():
    assert not arithmetic.has_bfloat16("mps")


def test_limited_to_avx2_it_is_float32_and_said():
    script = (
        "import json, torch; from lib.training import arithmetic; print(json.dumps("
        "[str(arithmetic.dtype('bfloat16', torch.device('cpu'))), arithmetic.machine('cpu')]))"
    )
    limits = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | limits,
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found, machine = json.loads(done.stdout)
    assert found == "torch.float32"
    assert machine["processor"] == arithmetic.processor() != ""
    if arithmetic.platform.machine() == "x86_64":
        assert machine["instructions"] == "AVX2, oneDNN at most AVX2"
