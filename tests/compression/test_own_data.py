"""Whatever gives batches: counted as they come, judged by the loss, or refused in one line."""

import itertools
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lib
from lib.compression.criterion import Criterion
from lib.compression.source import counted

EPOCHS = 3


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def net(classes=4):
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, classes))


def vectors(count=64):
    inputs = torch.randn(count, 16)
    return inputs, (inputs @ torch.randn(16, 4)).argmax(1)


def batches(inputs=None, targets=None, size=16):
    given = vectors()
    inputs = given[0] if inputs is None else inputs
    targets = given[1] if targets is None else targets
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def smaller(model, data, budget, **options):
    return lib.compress(model, data, budget, **{"epochs": EPOCHS, "quiet": True} | options)


class Said:
    """Says a length, and gives these batches, again and again where it is endless."""

    def __init__(self, length, batches, *, endless=False):
        self.length, self.batches, self.endless = length, batches, endless

    def __len__(self):
        return self.length

    def __iter__(self):
        return itertools.cycle(self.batches) if self.endless else iter(self.batches)


class Stream(IterableDataset):
    def __init__(self, *tensors):
        self.tensors = tensors

    def __iter__(self):
        return iter(list(zip(*self.tensors, strict=True)))


# ------------------------------------------------------------------------------ how many there are


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (batches(), (4, 16)),
        (batches()[:1], (1, 16)),
        (Said(10, batches()), (4, 16)),
        (Said(2, batches()), (2, 16)),
        (Said(3, batches(), endless=True), (3, 16)),
        (DataLoader(TensorDataset(*vectors(33)), 16), (3, 1)),
        (DataLoader(TensorDataset(*vectors(33)), 16, drop_last=True, shuffle=True), (2, 16)),
        (DataLoader(Stream(*vectors(40)), 16), (3, 8)),
        (DataLoader(TensorDataset(*vectors(8)), 16), (1, 8)),
    ],
)
def test_batches_are_counted_as_they_come(data, expected):
    assert counted(data, "data", quiet=True) == expected


@pytest.mark.parametrize("budget", ["5 %", "1000 bits", "500 B"])
@pytest.mark.parametrize("length", [1, 4, 10])
def test_a_length_that_is_wrong_costs_no_projection(budget, length):
    model, given = net(), batches()
    found = smaller(model, Said(length, given), budget, seed=1)
    honest = smaller(model, given[:length], budget, seed=1)
    assert found.content == honest.content
    assert found.after["kept"] < 16 * 32 + 32 * 4 or budget == "500 B"


def test_an_endless_one_ends_at_its_length():
    endless = Said(4, batches(), endless=True)
    found = smaller(net(), endless, "20 %", validation=endless)
    assert 0 < found.after["kept"] <= 0.2 * (16 * 32 + 32 * 4)
    assert smaller(net(), endless, "500 B").after["bytes"] <= 500  # measured anew, too


def test_a_stream_that_gives_fewer_later_still_ends_every_period():
    class Fading:
        given = 0

        def __len__(self):
            return 4

        def __iter__(self):
            Fading.given += 1
            return iter(batches()[: 4 if Fading.given < 8 else 2])

    found = smaller(net(), Fading(), "5 %", epochs=6)
    assert found.after["kept"] <= 32


class Once:
    def __init__(self):
        self.left = iter(batches())

    def __len__(self):
        return 4

    def __iter__(self):
        yield from self.left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": iter(batches())}, "the data is an iterator, which is used up"),
        ({"data": Once()}, "the data is used up after one pass"),
        ({"validation": (b for b in batches())}, "validation data is an iterator"),
        ({"data": 3}, "the data is of int"),
        ({"data": DataLoader(TensorDataset(*vectors(8)), 16, drop_last=True)}, "holds no batch"),
        ({"data": [(torch.zeros(0, 16), torch.zeros(0))]}, "no tensor or array of an item"),
        ({"data": [torch.zeros(4, 16)]}, "must be (inputs, targets)"),
        ({"data": [(torch.zeros(4, 16),)]}, "give (inputs, inputs)"),
        ({"data": [{"x": torch.zeros(4, 16), "y": torch.zeros(4)}]}, "must be called labels"),
        ({"data": [(torch.zeros(4, 15), torch.zeros(4).long())]}, "fails on the first batch"),
        ({"data": [(x, {"y": y}) for x, y in batches()]}, "give loss="),
        ({"data": [(x, y + 7) for x, y in batches()]}, "the loss fails on the first batch"),
        ({"data": [(x * torch.nan, y) for x, y in batches()]}, "the loss of the model is nan"),
    ],
)
def test_what_is_no_data_is_refused_before_anything_is_trained(options, message, monkeypatch):
    monkeypatch.setattr("lib.compression.job.Job.carry_out", None)
    data = options.pop("data", batches())
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        smaller(net(), data, "20 %", **options)
    assert "\n" not in str(caught.value)


def test_a_last_batch_of_one_is_refused_where_the_network_needs_two():
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    data = TensorDataset(*vectors(33))
    with pytest.raises(ValueError, match=r"batch of 1 fails: .*drop_last=True"):
        smaller(model, DataLoader(data, 16), "20 %")
    assert smaller(model, DataLoader(data, 16, drop_last=True), "20 %").after["kept"] <= 32
    assert smaller(net(), DataLoader(data, 16), "20 %").after["kept"] <= 128


# ---------------------------------------------------------------------------------- what they hold


class Outputs(dict):
    """As a library's outputs are: a mapping with attributes."""

    __getattr__ = dict.get


class Named(nn.Module):
    """Takes its inputs by name and, with labels, returns its own loss."""

    def __init__(self, *, own=True):
        super().__init__()
        self.table, self.out, self.own = nn.Embedding(20, 8), nn.Linear(8, 4), own

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.out((self.table(input_ids) * attention_mask[..., None]).mean(1))
        found = Outputs(logits=logits)
        if labels is not None and self.own:
            found["loss"] = functional.cross_entropy(logits, labels)
        return found


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("budget", ["30 %", "700 B"])
def test_batches_by_name_and_outputs_with_a_loss_or_logits(own, budget):
    ids, labels = torch.randint(0, 20, (48, 6)), torch.randint(0, 4, (48,))
    data = [
        {"input_ids": i, "attention_mask": torch.ones(i.shape), "labels": y}
        for i, y in zip(ids.split(16), labels.split(16), strict=True)
    ]
    model = Named(own=own)
    found = smaller(model, data, budget)
    with torch.no_grad():
        logits = found.model(ids, torch.ones(ids.shape))["logits"]
    assert found.after["loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)))
    assert found.after["accuracy"] == pytest.approx(
        float((logits.argmax(1) == labels).float().mean())
    )
    assert smaller(
        model, [(b["input_ids"], b["attention_mask"], b["labels"]) for b in data], budget
    )


def test_arrays_are_tensors():
    data = vectors()
    as_arrays = [(x.numpy(), y.numpy()) for x, y in batches(*data)]
    found = smaller(model := net(), as_arrays, "20 %", seed=3)
    assert found.content == smaller(model, batches(*data), "20 %", seed=3).content


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_targets_of_another_precision(dtype):
    data = [(x, x[:, :4].to(dtype)) for x, _ in batches()]
    found = smaller(net(), data, "20 %", loss=functional.mse_loss)
    assert found.after["accuracy"] is None
    assert np.isfinite(found.after["loss"])


# ----------------------------------------------------------------------------- what the table says


def one_logit(outputs, targets):
    return functional.binary_cross_entropy_with_logits(outputs.squeeze(1), targets.float())


def test_the_accuracy_of_one_logit_is_not_guessed_and_can_be_said():
    x, _ = vectors()
    data = batches(x, (x[:, 0] > 0).long())
    assert smaller(net(1), data, "30 %", loss=one_logit).after["accuracy"] is None
    found = smaller(net(1), data, "30 %", loss=one_logit, correct=lambda o, t: (o[:, 0] > 0) == t)
    with torch.no_grad():
        true = float(((found.model(x)[:, 0] > 0) == (x[:, 0] > 0)).float().mean())
    assert found.after["accuracy"] == pytest.approx(true)
    counts = smaller(
        net(1), data, "30 %", loss=one_logit, correct=lambda o, t: ((o[:, 0] > 0) == t).sum()
    )
    assert 0 <= counts.after["accuracy"] <= 1


def test_embeddings_have_no_accuracy():
    def pull(outputs, targets):
        return torch.cdist(outputs, outputs).mean() + targets.sum() * 0

    assert smaller(net(), batches(), "30 %", loss=pull).before["accuracy"] is None


@pytest.mark.parametrize(
    "loss",
    [
        None,
        functional.cross_entropy,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        partial(functional.cross_entropy, label_smoothing=0.1),
    ],
)
def test_unlabelled_items_count_as_neither_right_nor_wrong(loss):
    x, y = vectors()
    missing = y.clone()
    missing[::2] = -100
    model = net()
    found = smaller(model, batches(x, missing), "30 %", loss=loss)
    with torch.no_grad():
        outputs = model(x)
    assert found.before["accuracy"] == pytest.approx(
        float((outputs.argmax(1) == y)[1::2].float().mean())
    )
    mean = (loss or functional.cross_entropy)(outputs, missing)
    assert found.before["loss"] == pytest.approx(float(mean), rel=1e-5)


def test_a_batch_without_a_label_changes_nothing():
    x, y = vectors()
    missing = y.clone()
    missing[:16] = -100
    found = smaller(net(), batches(x, missing), "30 %")
    assert np.isfinite(found.after["loss"])


def test_validation_without_a_label_has_no_loss():
    x, y = vectors()
    with pytest.raises(ValueError, match="hold no label"):
        smaller(net(), batches(x, y), "30 %", validation=batches(x, torch.full_like(y, -100)))


def test_a_sum_is_shown_as_a_mean():
    x, y = vectors()
    model = net()
    sums = partial(functional.cross_entropy, reduction="sum")
    found = smaller(model, batches(x, y), "30 %", loss=sums)
    with torch.no_grad():
        assert found.before["loss"] == pytest.approx(float(functional.cross_entropy(model(x), y)))
    as_mean = smaller(model, batches(x, y), "30 %", loss=functional.cross_entropy, seed=1)
    as_sum = smaller(model, batches(x, y), "30 %", loss=sums, seed=1)
    assert as_sum.after["loss"] == pytest.approx(as_mean.after["loss"], rel=1e-3)


@pytest.mark.parametrize("loss", [functional.cross_entropy, lambda o, t: (o**2).mean()])
def test_a_mean_is_taken_for_no_sum(loss):
    criterion, model = Criterion(loss, None), net()
    criterion.look(model, *batches()[0])
    assert not criterion.sums


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (partial(functional.cross_entropy, reduction="none"), "a tensor of shape (16,)"),
        (lambda o, t: 1.0, "the loss is a float"),
        (lambda o, t: o.argmax(1).float().mean(), "depends on no parameter"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        smaller(net(), batches(), "30 %", loss=loss)


class Two(nn.Module):
    def __init__(self, when=None):
        super().__init__()
        self.body, self.when = net(), when

    def forward(self, x):
        found = self.body(x)
        return (found, x) if self.when is None or self.training == self.when else found


@pytest.mark.parametrize("when", [None, True, False])
def test_several_outputs_ask_for_a_loss(when):
    with pytest.raises(ValueError, match=r"returns a tuple of 2: give loss="):
        smaller(Two(when), batches(), "30 %")
    first = lambda o, t: functional.cross_entropy(o[0] if isinstance(o, tuple) else o, t)  # noqa: E731
    assert smaller(Two(when), batches(), "30 %", loss=first).after["kept"] <= 192


def test_training_data_are_labelled_as_such():
    said = str(smaller(net(), batches(), "30 %"))
    assert "loss (training data)" in said
    assert "accuracy (training data)" in said
    found = smaller(net(), batches(), "30 %", validation=batches())
    assert not found.on_training_data
    assert "training data" not in str(found)
