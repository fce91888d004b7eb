"""What a run claims comes out again from its weights, or is reported."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from lib.layers import compressible
from lib.workbook import runs
from lib.workbook.runs.verify import verify


def rewrite(run, change=None, **claims):
    """The run with other weights or claims, and digests that fit them."""
    result = run.result | claims
    if change:
        model = run.model()
        with torch.no_grad():
            change(model)
        content = runs.packed_weights.pack(model.state_dict())
        (run.folder / "weights.safetensors").write_bytes(content)
        result["files"]["weights.safetensors"] = hashlib.sha256(content).hexdigest()
    (run.folder / "result.json").write_text(json.dumps(result))
    return runs.read(run.folder)


def one_more(model):
    """Turns one zero into a nonzero of the same layer."""
    weight = compressible(model)["fc1"].view(-1)
    weight[(weight == 0).nonzero()[0]] = weight[weight != 0][0]


def test_a_good_run_is_verified(trained, tiny):
    assert verify(trained) == []
    assert verify(runs.read(runs.folder_of(tiny.parent, 0))) == []


@pytest.mark.parametrize(
    "key",
    [
        *("nominal_bits", "parameters", "macs", "estimated_bytes", "file_bytes"),
        *("kept_fraction", "mean_bits", "nominal_rate", "entropy_rate", "accuracy"),
    ],
)
def test_a_claim_that_does_not_come_out_is_reported(trained, key):
    claim = trained.result[key] * 1.02
    (problem,) = verify(rewrite(trained, **{key: claim}))
    assert problem.startswith(f"{key}: {claim} claimed, {trained.result[key]} found")


def test_two_images_are_forgiven_and_three_are_not(trained):
    accuracy = trained.result["accuracy"]
    assert verify(rewrite(trained, accuracy=accuracy + 2 / 360)) == []
    assert verify(rewrite(trained, accuracy=accuracy - 3 / 360)) != []


def test_other_pixels_are_reported(trained):
    (problem,) = verify(rewrite(trained, data_fingerprint="0"))
    assert problem.startswith("data_fingerprint")


def test_zeros_pay_where_the_run_only_quantized(trained):
    """Weights that fit a joint budget in nonzeros alone do not fit it when all of them pay."""
    (problem,) = verify(rewrite(trained, mode="quantize"))
    assert problem.endswith(f"bits exceed the budget of {trained.result['budget']}")


def test_one_weight_more_is_reported(trained):
    problems = " ".join(verify(rewrite(trained, one_more)))
    assert "nominal_bits" in problems
    assert "kept_fraction" in problems


@pytest.mark.parametrize("mode", ["joint", "lc", "search", "allocation-random"])
def test_more_bits_than_the_budget_are_reported_of_all_that_prune(trained, mode):
    bits = trained.result["nominal_bits"]
    assert verify(rewrite(trained, mode=mode, budget=bits)) == []
    (problem,) = verify(rewrite(trained, mode=mode, budget=bits - 1))
    assert problem == f"{bits} bits exceed the budget of {bits - 1}"


def test_weights_that_classify_worse_are_reported(trained):
    def shuffle(model):
        """The same weights in other places: every count stays."""
        model.fc2.weight.copy_(model.fc2.weight.roll(1, 0))

    (problem,) = verify(rewrite(trained, shuffle))
    assert problem.startswith("accuracy")


def test_a_held_out_run_is_verified_on_what_was_held_out(results, tiny):
    run = runs.get(replace(tiny.parent, held_out=True), 0, device="cpu", threads=1, quiet=True)
    assert verify(run) == []
    assert run.result["accuracy"] is None
    assert (run.result["images"], run.result["held_out_accuracy"]) == (287, run.correct.mean())
    (problem,) = verify(rewrite(run, held_out_accuracy=run.result["held_out_accuracy"] / 2))
    assert problem.startswith("accuracy")


def test_a_budget_in_bytes_is_held_against_the_file(trained):
    size = trained.result["file_bytes"]
    assert verify(rewrite(trained, budget=size, budget_in="bytes")) == []
    (problem,) = verify(rewrite(trained, budget=size - 1, budget_in="bytes"))
    assert problem == f"{size} bytes exceed the budget of {size - 1}"
