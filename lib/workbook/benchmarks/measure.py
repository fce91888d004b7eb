"""What a piece of work costs on a device: seconds, launches and waits, memory, and the floors.

For the benchmark notebooks and ``python -m lib gpu-check``
(:mod:`lib.workbook.benchmarks.gpu_check`).
"""

import gc
import json
import math
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lib import paths

#: The side of the square matrices that :func:`operations_per_second` multiplies: by kind of device,
#: large enough that starting the product costs nothing.
SIDES = {"cuda": 8192, "cpu": 2048}

#: The bytes that :func:`bytes_per_second` copies, by kind of device: more than a cache holds.
LONG = {"cuda": 2**30, "cpu": 2**25}

#: What PyTorch warns of where the host waits for the device. Its first warning of this mode, that
#: the mode is a prototype, is worded differently.
WAITED = "called a synchronizing CUDA operation"


def wait(device: torch.device | str) -> None:
    """Waits for a GPU, which computes while the host goes on; a CPU has nothing to wait for."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device | str) -> float:
    """The seconds of one call; the device is waited for before each look at the clock."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def take_turns(
    competitors: dict[str, Callable[[], object]], repeats: int, device: torch.device | str
) -> pd.DataFrame:
    """Seconds, (rounds, competitors): all in turn, after one round that is not timed."""
    for work in competitors.values():
        work()
    rounds = range(repeats)
    return pd.DataFrame(
        [{name: seconds(work, device) for name, work in competitors.items()} for _ in rounds]
    )


def counts(work: Callable[[], object], device: torch.device | str) -> dict[str, int]:
    """``launches`` and ``waits`` of one call on a GPU, after one that is not counted.

    Launches are what the GPU ran: kernels, copies and fills; waits are those that PyTorch sees.
    Empty on a CPU, which has neither.
    """
    if torch.device(device).type != "cuda":
        return {}
    work()
    wait(device)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    wait(device)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        work()
        wait(device)
    return {
        "launches": launched(profiled.key_averages()),
        "waits": sum(WAITED in str(warning.message) for warning in said),
    }


def launched(events: Iterable) -> int:
    """How much of a profile's ``key_averages()`` ran on a GPU: no call of the host, no range."""
    return sum(
        event.count
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    )


def shares(events: Iterable, device: torch.device | str) -> pd.DataFrame:
    """What each ``operation`` of a profile's ``key_averages()`` takes itself: calls and share.

    On a GPU an operation's time is that of its kernels. The profile lists each kernel once more
    under its own name, and once more in each annotated range: those rows are left out, or shares
    would halve. Shares (%) add up to 100.
    """
    on_gpu = torch.device(device).type == "cuda"
    found = [event for event in events if event.device_type == DeviceType.CPU]
    times = [e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in found]
    table = pd.DataFrame(
        {"operation": [event.key for event in found], "calls": [event.count for event in found]}
    )
    table["share, %"] = 100 * pd.Series(times, dtype=float) / sum(times)
    return table


def fastest(work: Callable[[], object], device: torch.device | str, repeats: int = 10) -> float:
    """The seconds of the fastest call, the one that was disturbed least."""
    return float(take_turns({"": work}, repeats, device)[""].min())


def operations_per_second(dtype: torch.dtype, device: torch.device | str) -> float:
    """The fastest that ``device`` computes in ``dtype``: two operations a MAC, a large product."""
    side = SIDES[torch.device(device).type]
    square = torch.randn(side, side, dtype=dtype, device=device)
    return 2 * side**3 / fastest(lambda: square @ square, device)


def bytes_per_second(device: torch.device | str) -> float:
    """The fastest that ``device`` copies into memory that is there: bytes read and written."""
    long = torch.zeros(LONG[torch.device(device).type], dtype=torch.uint8, device=device)
    other = torch.zeros_like(long)
    return 2 * long.nbytes / fastest(lambda: other.copy_(long), device, 40)


def peak(work: Callable[[], object], device: torch.device | str) -> float:
    """The most bytes that ``work`` takes, beyond what was there before.

    Of a GPU what PyTorch holds there; of a CPU what the process holds, which only grows: measure
    there in a process of its own (:func:`alone`). NaN where the system does not say.
    """
    if torch.device(device).type == "cuda":
        gc.collect()  # what other networks have left in cycles
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = _memory("VmRSS")
    work()
    return _memory("VmHWM") - before


def alone(function: Callable[..., object], *arguments: object, **options: object) -> object:
    """What a function of ``lib`` returns in a process of its own, through JSON.

    Arguments are plain values, which their ``repr`` makes again.
    """
    called = (
        f"import json; from {function.__module__} import {function.__name__} as f; "
        f"print(json.dumps(f(*{arguments!r}, **{options!r})))"
    )
    asked = [sys.executable, "-c", called]
    said = subprocess.run(asked, check=True, stdout=subprocess.PIPE, cwd=paths.ROOT).stdout
    return json.loads(said)


def _memory(kind: str) -> float:
    """Bytes of this process, VmRSS now or VmHWM at the most; NaN where that is not said."""
    said = Path("/proc/self/status")
    found = re.search(rf"{kind}:\s*(\d+) kB", said.read_text()) if said.exists() else None
    return 1024 * int(found[1]) if found else math.nan
