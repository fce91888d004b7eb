"""Recomputes what a finished run claims from its weights."""

import torch

from lib import accounting
from lib.layers import compressible
from lib.training import predict
from lib.workbook.runs.store import Run
from lib.workbook.runs.train import dataset_of

#: Key → by what share of the claim it may differ. Counts come out again exactly; of a file, another
#: zlib deflates the header to another length.
SHARES = {
    **dict.fromkeys(("nominal_bits", "parameters", "macs", "estimated_bytes"), 0),
    **dict.fromkeys(("kept_fraction", "mean_bits", "nominal_rate", "entropy_rate"), 1e-9),
    "file_bytes": 0.01,
}


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
    claimed = result["held_out_accuracy"] if held_out else result["accuracy"]
    found = accounting.summary(model)
    found["macs"] = accounting.macs(model, dataset.shape)
    found["file_bytes"] = len(run.file(run.state()))
    problems = [
        f"{key}: {result[key]} claimed, {found[key]} found"
        for key, share in SHARES.items()
        if abs(found[key] - result[key]) > share * abs(result[key])
    ]
    if abs(accuracy - claimed) * len(dataset.test) > 2.5:
        problems.append(f"accuracy: {claimed} claimed, {accuracy} found")
    if dataset.fingerprint != result["data_fingerprint"]:
        problems.append("data_fingerprint: the data set at hand is not the one it was run on")
    # where nothing else is said, a budget of bits is of nonzero weights and their bits
    mode = result["mode"] if result["mode"] in ("prune", "quantize") else "joint"
    paid = accounting.paid(accounting.layer_costs(compressible(model)), mode)
    bits = int((paid["weights"] * paid["bits"]).sum())
    spent = {"bits": bits, "bytes": found["file_bytes"], "macs": found["macs"]}
    unit, budget = result["budget_in"], result["budget"]
    if budget and spent[unit] > budget:
        problems.append(f"{spent[unit]} {unit} exceed the budget of {budget}")
    return problems
