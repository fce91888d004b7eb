"""What every method in the registry keeps to; an added one is tried here without a line more."""

import copy
import io
from functools import cache

import pytest
import torch

import lib
from lib import networks, training
from lib.layers import compressible
from lib.optimizers import METHODS, byte_budget
from lib.training import Method, Schedule, train
from tests import methods

SCHEDULE = Schedule(epochs=3, lr=0.05, batch=16, weight_decay=5e-4, clip=0.5, crop=1, flip=True)


def network(seed=0):
    torch.manual_seed(seed)
    return networks.build(methods.NETWORK)


class Watch:
    """A method's end, looked at: what ``compressed`` says is what is left."""

    def __init__(self, method, model):
        self.method, self.finish, self.model = method, method.finish, model
        method.finish = self

    def __call__(self):
        before = copy.deepcopy(self.model.state_dict())
        said = self.method.compressed()
        if said is not None:
            assert all(map(torch.equal, before.values(), self.model.state_dict().values()))
            said = {name: weight.clone() for name, weight in said.items()}
        changed = self.finish()
        if said is not None and not isinstance(self.method, byte_budget.FileADMM):
            left = compressible(self.model)
            for name in said if left.keys() >= said.keys() else ():
                torch.testing.assert_close(left[name].detach(), said[name])
        return changed


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(byte_budget, "STEPS", 8)  # the last projection's budget is found roughly
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", -1)  # after every epoch


def run(name, variant, resume=None):
    """Weights at the end, the history, and the states after each epoch as a file has them."""
    model = network()
    method = methods.make(name, variant, model)
    if resume is not None:  # what `start` sees, and draws, is not what is resumed
        model.load_state_dict(network(seed=1).state_dict())
        torch.manual_seed(2)
    Watch(method, model)
    files = []

    def save(state):
        files.append(io.BytesIO())
        torch.save(state, files[-1])

    history = train(
        *(model, methods.images(), SCHEDULE, method),
        **{"seed": 0, "quiet": True, "trace": True, "save": save, "resume": resume},
    )
    for row in history:
        del row["seconds"]
    states = [torch.load(io.BytesIO(file.getvalue()), weights_only=True) for file in files]
    return model.state_dict(), history, states


whole = cache(run)


@pytest.mark.parametrize(("name", "variant"), methods.CASES)
def test_a_run_resumed_is_the_run_that_was_not(name, variant):
    weights, history, states = whole(name, variant)
    assert 1 <= len(states) == len(history) <= SCHEDULE.epochs
    assert all(value.isfinite().all() for value in weights.values())
    for state in states[:2]:
        again, rows, _ = run(name, variant, resume=state)
        assert rows == history
        assert again.keys() == weights.keys()
        assert all(torch.equal(again[key], value) for key, value in weights.items())


def tensors(state, place=""):
    """Place → each tensor in a state."""
    if isinstance(state, torch.Tensor):
        return {place: state}
    if isinstance(state, dict | list | tuple):
        parts = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, part in parts for k, v in tensors(part, f"{place}.{key}").items()}
    return {}


@pytest.mark.parametrize(("name", "variant"), methods.CASES)
def test_a_state_is_taken_over_in_place(name, variant):
    """A CUDA graph keeps the addresses of what its steps read."""
    model = network()
    method = methods.make(name, variant, model)
    method.start(model)
    saved = copy.deepcopy(whole(name, variant)[2][0]["method"])
    addresses = {place: t.data_ptr() for place, t in tensors(method.state_dict()).items()}
    method.load_state_dict(saved)
    found, wanted = tensors(method.state_dict()), tensors(saved)
    assert found.keys() == wanted.keys()
    for place, tensor in found.items():
        assert torch.equal(tensor, wanted[place])
        assert not tensor.requires_grad
        if place.split(".")[1] in method.STATE and tensor.data_ptr() and place in addresses:
            assert tensor.data_ptr() == addresses[place], place


def test_every_method_has_a_label_of_its_own():
    labels = [kind.label for kind in METHODS.values()]
    assert len(set(labels)) == len(METHODS)
    assert all(label and label == label.strip() for label in labels)
    assert type("Ours", (Method,), {}).label == "Ours"
    assert type("Ours", (Method,), {"label": "ours"}).label == "ours"


@pytest.mark.parametrize("name", METHODS)
def test_any_method_serves_lib_compress(name):
    data, model = methods.images(), network()
    pixels, labels = data.normalise(data.train.images), data.train.labels
    batches = list(zip(pixels.split(24), labels.split(24), strict=True))
    method = methods.make(name, "", model)
    before = copy.deepcopy(vars(method))
    # no network has more than 32 bits a weight
    bits = 32 * sum(w.numel() for w in compressible(model).values())
    found = lib.compress(model, batches, f"{bits} bits", method=method, epochs=2, quiet=True)
    assert all(value.isfinite().all() for value in found.model.state_dict().values())
    assert vars(method) == before  # a copy of it was used
    assert found.method == METHODS[name].label


#: (method, an option, values that are refused): the message names both.
REFUSED = [
    *(("admm", "mode", v) for v in ("both", None)),
    *(("admm", option, v) for option in ("rho", "growth") for v in (0.0, -1.0, float("nan"))),
    ("admm", "start_bits", 9),
    *(("admm", option, 0) for option in ("periods_per_epoch", "hold_after", "average_after")),
    *(("tune-codebooks", "bits", v) for v in (0, 9, 2.5, float("nan"), [2, 9], (0,), [2, None])),
    ("lc", "cost", "l3-constraint"),
    ("lc", "scope", "block"),
    *(("lc", "amount", v) for v in (-0.1, 1.5, float("nan"), [0.1, 0.2])),
    ("lc", "mu", 0.0),
    ("lc", "growth", 0.9),
    ("lc", "epochs_per_step", 0),
    *(("magnitude", "keep", v) for v in (-0.1, 1.5, float("nan"), [0.5, 1.5], [0.5, 0.5])),
    *(("magnitude", option, "largest") for option in ("scope", "order")),
    ("magnitude", "epochs", -1),
    *(("df", option, "no") for option in ("mode", "scheme", "count", "statistics")),
    *(("df", option, 0) for option in ("penalty", "start", "steepness", "step", "tolerance")),
    *(("df", option, v) for option in ("beta", "alpha") for v in (-1, float("inf"))),
    ("filter-pruning", "score", "l2"),
    ("low-rank", "criterion", "entropy"),
]


@pytest.mark.parametrize(("name", "option", "value"), REFUSED)
def test_options_out_of_range_are_refused_by_name(name, option, value):
    model = network()
    with pytest.raises(ValueError, match=option) as caught:
        methods.make(name, "", model, **{option: value})
    if not isinstance(value, list | tuple):
        assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "option"), [("tune-codebooks", "bits"), ("magnitude", "keep"), ("lc", "amount")]
)
@pytest.mark.parametrize("count", [0, 9])
def test_a_list_of_another_length_is_refused(name, option, count):
    options = {option: [1] * count} | ({} if name == "tune-codebooks" else {"scope": "layer"})
    with pytest.raises(ValueError, match=f"{option} lists {count} numbers for a network of 8 lay"):
        methods.make(name, "", network(), **options).start(network())
