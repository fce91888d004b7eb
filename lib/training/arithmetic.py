"""What a device computes in: bfloat16 where it has the instructions, float32 elsewhere.

Decided here alone. float32 is float32: on a GPU TF32 is off, in convolutions and products. Images
of a training step of ResNet-20 (LeNet-5) per second of CPU time, on one thread of an AMD EPYC with
AVX-512 and bfloat16 instructions: float32 545 (6,177), bfloat16 825 (10,290). The same with oneDNN
limited to AVX-512 without these instructions, which it then emulates: 533 (6,171) and 261 (3,476).
Limited to AVX2: 342 (4,653) and 33 (582). So emulated bfloat16 never pays, and is never chosen.
``results/benchmarks/scripts/measure_precisions.py`` measures both.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from lib.training import distributed

#: What a schedule may ask for.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# PyTorch lets convolutions of float32 be computed in TF32, whose mantissa has 10 bits, unless told.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False

#: Limits of oneDNN (``ONEDNN_MAX_CPU_ISA``) under which AVX-512 has no bfloat16 instructions.
_EMULATED = ("AVX512_CORE", "AVX512_CORE_VNNI")


def dtype(precision: str, device: torch.device) -> torch.dtype:
    """What forward and backward passes compute in when a schedule asks for ``precision``.

    ``bfloat16`` is bfloat16 where ``device`` has instructions for it, else float32. Of several
    processes (:mod:`lib.training.distributed`) all get the same answer, bfloat16 only where all
    have them; so all have to ask.
    """
    if precision == "float32":
        return torch.float32
    having = distributed.total(torch.tensor(float(has_bfloat16(device.type)), device=device))
    return torch.bfloat16 if having == distributed.processes() else torch.float32


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether this machine's ``cpu`` or ``cuda`` device computes in bfloat16, not by emulation."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    try:
        # what PyTorch asks before it gives bfloat16 to oneDNN; heeds ONEDNN_MAX_CPU_ISA
        used = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except AttributeError:  # a PyTorch without oneDNN, as on Apple's processors
        return False
    if not used or platform.machine() not in ("x86_64", "AMD64"):
        return used
    # it is also true where AVX-512 emulates them
    return torch.cpu._is_avx512_bf16_supported() and _onednn_limit() not in _EMULATED


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Computes on so many threads of the CPU, and then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine(device: torch.device | str) -> dict[str, str]:
    """``processor`` and ``instructions``: its name, and the widest instructions that are used."""
    device = torch.device(device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = torch.cuda.get_device_name(device)
        return {"processor": name, "instructions": f"compute capability {major}.{minor}"}
    # heeds ATEN_CPU_CAPABILITY
    instructions = torch.backends.cpu.get_cpu_capability()
    limit = _onednn_limit()
    if limit not in ("", "ALL", "DEFAULT"):
        instructions += f", oneDNN at most {limit}"
    return {"processor": processor(), "instructions": instructions}


def processor() -> str:
    """The CPU's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _onednn_limit() -> str:
    """oneDNN's own limit on instructions; the second name is its older one."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return limit.upper()
