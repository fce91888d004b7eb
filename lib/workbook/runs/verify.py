"""Recomputes what a finished run claims from its weights."""

import torch

from lib import accounting
from lib.layers import compressible
from lib.training import predict
from lib.workbook.runs.store import Run
from lib.workbook.runs.train import dataset_of

#: What must come out again exactly; it is counted, not measured.
EXACT = ("nominal_bits", "parameters", "macs", "estimated_bytes")
CLOSE = ("kept_fraction", "mean_bits", "nominal_rate", "entropy_rate")

#: By what share a file's size may differ: another zlib deflates its header to other lengths.
FILE_SHARE = 0.01


def verify(run: Run, *, device: str = "cpu") -> list[str]:
    """What of ``run`` does not come out again, in words; an empty list where all of it does.

    Accuracy may differ by two images, as summation order differs between devices. Raises
    ``DataUnavailable`` where the data set is not at hand, ``Damaged`` where the weights are not.
    """
    result = run.result
    held_out = result["accuracy"] is None
    dataset = dataset_of(result["dataset"], result["network"], held_out, torch.device(device))
    model = run.model().to(device)
    correct = predict(model, dataset, dataset.test) == dataset.test.labels
    accuracy = int(correct.sum()) / len(correct)
    found = accounting.summary(model)
    found["macs"] = accounting.macs(model, dataset.shape)
    claimed = result["held_out_accuracy"] if result["accuracy"] is None else result["accuracy"]
    problems = [
        f"{key}: {result[key]} claimed, {found[key]} found"
        for key in EXACT
        if found[key] != result[key]
    ] + [
        f"{key}: {result[key]} claimed, {found[key]} found"
        for key in CLOSE
        if abs(found[key] - result[key]) > 1e-9 * abs(result[key])
    ]
    size = len(run.file(run.state()))
    # a run older than the archive claims no size
    if abs(size - (result["file_bytes"] or size)) > FILE_SHARE * size:
        problems.append(f"file_bytes: {result['file_bytes']} claimed, {size} found")
    if abs(accuracy - claimed) * len(dataset.test) > 2.5:
        problems.append(f"accuracy: {claimed} claimed, {accuracy} found")
    if dataset.fingerprint != result["data_fingerprint"]:
        problems.append("data_fingerprint: the data set at hand is not the one it was run on")
    if result.get("budget_in") == "macs":
        if result["macs"] > result["budget"]:
            problems.append(f"{result['macs']} MACs exceed the budget of {result['budget']}")
    elif result.get("budget_in") == "bytes":
        if size > result["budget"]:
            problems.append(f"a file of {size} bytes exceeds the budget of {result['budget']}")
    elif result["budget"]:
        # where nothing else is said, the budget is of nonzero weights and their bits
        mode = result["mode"] if result["mode"] in ("prune", "quantize") else "joint"
        spent = accounting.paid(accounting.layer_costs(compressible(model)), mode)
        bits = int((spent["weights"] * spent["bits"]).sum())
        if bits > result["budget"]:
            problems.append(f"{bits} bits exceed the budget of {result['budget']}")
    return problems
