"""Costs on a device: what is counted, in which precision, and that a kernel counts once."""

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent
from torch.profiler import ProfilerActivity, profile

from lib.workbook import benchmarks


def test_competitors_take_turns_after_a_round_that_is_not_timed():
    calls = []
    competitors = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = benchmarks.measure.take_turns(competitors, 3, "cpu")
    assert calls == list("abababab")
    assert list(found) == ["a", "b"]
    assert len(found) == 3
    assert (found >= 0).all(axis=None)


def profiled():
    """A GPU's profile as PyTorch makes it: two operators, their kernels, and an annotated range."""

    def event(number, name, start, end, device=DeviceType.CPU, **more):
        given = {"thread": 1, "use_device": "cuda", "stack": [], **more}
        return FunctionEvent(number, name, start_us=start, end_us=end, device_type=device, **given)

    step = event(0, "step", 0, 100)
    convolution, add = event(1, "aten::convolution", 0, 10), event(2, "aten::add", 10, 20)
    convolution.append_kernel("implicit_gemm", 0, 30)
    add.append_kernel("elementwise_kernel", 0, 10)
    kernels = [
        event(3, "implicit_gemm", 5, 35, DeviceType.CUDA),
        event(4, "elementwise_kernel", 35, 45, DeviceType.CUDA),
        event(5, "step", 5, 45, DeviceType.CUDA, is_user_annotation=True),
    ]
    events = EventList([step, convolution, add, *kernels], use_device="cuda")
    events._build_tree()
    return events.key_averages()


def test_an_operators_kernels_are_not_counted_a_second_time():
    found = benchmarks.measure.shares(profiled(), "cuda").set_index("operation")["share, %"]
    assert found.to_dict() == {"step": 0, "aten::convolution": 75, "aten::add": 25}


def test_on_a_cpu_the_shares_are_those_of_the_hosts_time():
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profile_:
        (torch.randn(64, 64) @ torch.randn(64, 64)).sum()
    found = benchmarks.measure.shares(profile_.key_averages(), "cpu")
    assert found["share, %"].sum() == pytest.approx(100)
    assert {"aten::mm", "aten::randn"} <= set(found["operation"])


def test_launches_are_what_the_gpu_ran():
    assert benchmarks.measure.launched(profiled()) == 2


def test_on_a_cpu_nothing_is_launched_or_waited_for():
    assert benchmarks.measure.counts(lambda: 1 / 0, "cpu") == {}


def test_speeds_of_this_processor(monkeypatch):
    monkeypatch.setattr(benchmarks.measure, "SIDES", {"cpu": 64})
    monkeypatch.setattr(benchmarks.measure, "LONG", {"cpu": 2**16})
    assert 1e6 < benchmarks.measure.operations_per_second(torch.float32, "cpu") < 1e15
    assert 1e6 < benchmarks.measure.bytes_per_second("cpu") < 1e15


def test_a_gpus_memory_is_measured_in_this_process(monkeypatch):
    """From what was held before; the most is forgotten first."""
    held = {"now": 100, "most": 999}

    def work():
        held["most"] = max(held["most"], 350)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: held.update(most=held["now"])
    )
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held["most"])
    assert benchmarks.measure.peak(work, "cuda") == 250


def test_a_process_of_its_own():
    assert benchmarks.measure.alone(benchmarks.measure.launched, []) == 0
    assert benchmarks.measure.peak(lambda: torch.ones(2**22), "cpu") >= 0
