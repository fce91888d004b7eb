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


def test_float32_is_float32_everywhere():
    assert arithmetic.dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_float32_where_a_device_of_any_process_has_none(monkeypatch, has, processes):
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda kind: has or processes > 1)
    monkeypatch.setattr(arithmetic.distributed, "processes", lambda: processes)
    having = torch.tensor(float(processes if has else processes - 1))
    monkeypatch.setattr(arithmetic.distributed, "total", lambda tensor: having)
    expected = torch.bfloat16 if has else torch.float32
    assert arithmetic.dtype("bfloat16", CPU) == expected


@pytest.mark.parametrize(
    ("used", "instructions", "machine", "limit", "has"),
    [
        (True, True, "x86_64", None, True),
        (True, False, "x86_64", None, False),  # AVX512 emulates them
        (True, True, "x86_64", "ONEDNN_MAX_CPU_ISA", False),
        (True, True, "x86_64", "DNNL_MAX_CPU_ISA", False),
        (True, False, "aarch64", None, True),
        (False, False, "aarch64", None, False),
    ],
)
def test_instructions_that_onednn_uses_are_taken(
    used, instructions, machine, limit, has, monkeypatch
):
    """On a processor that has them or not, where a PyTorch's oneDNN takes bfloat16 or not."""
    ops = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: used)
    monkeypatch.setattr(torch.ops, "mkldnn", ops)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(arithmetic.platform, "machine", lambda: machine)
    if limit:
        monkeypatch.setenv(limit, "avx512_core")
        assert "oneDNN at most AVX512_CORE" in arithmetic.machine("cpu")["instructions"]
    assert arithmetic.has_bfloat16("cpu") is has


def test_what_is_not_known_computes_in_float32(monkeypatch):
    assert not arithmetic.has_bfloat16("mps")
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())  # a PyTorch without oneDNN
    assert not arithmetic.has_bfloat16("cpu")


def test_float32_is_not_tf32():
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


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
