"""A network of one's own, data and a budget in; a network within it out, and nothing touched."""

import copy
import io
import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import lib
from lib import archive, networks
from lib.compression import curve, parse
from lib.compression.job import FILLED
from lib.layers import compressible
from lib.optimizers import LC
from lib.optimizers.c_steps import L0, Codebook

EPOCHS = 2


def lenet():
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 12, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def with_norms():
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
        nn.Linear(16, 10),
    )


def without_weights():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))


class Odd(nn.Module):
    """Grouped and transposed convolutions, an embedding, a shared weight, a layer of zeros."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, groups=4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2)
        self.table = nn.Embedding(17, 8)
        self.zero = nn.Linear(8, 10)
        self.a, self.b, self.c = nn.Linear(128, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.c.weight = self.b.weight
        self.out = nn.Linear(24, 10)
        for value in self.zero.parameters():
            nn.init.zeros_(value)

    def forward(self, x):
        x = functional.relu(self.norm(self.grouped(functional.relu(self.first(x)))))
        x = functional.relu(self.up(x))
        codes = (8 * x.mean((2, 3))).long().clamp(0, 16)  # (n, 8)
        words = self.table(codes).mean(1)  # (n, 8)
        x = functional.avg_pool2d(x, 2).flatten(1)
        for layer in (self.a, self.b, self.c):
            x = functional.relu(layer(x))
        return self.out(x) + self.zero(words)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.out = nn.Linear(16, 10)

    def forward(self, x):
        found, _ = self.lstm(x[:, 0])
        found, _ = self.attention(found, found, found)
        return self.out(found[:, -1])


class Two(nn.Module):
    """Reads two inputs."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x, y):
        return self.out(self.norm(x.flatten(1) + y.flatten(1)))


def normalised():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(64, 16))
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 10))


NETWORKS = {
    "lenet": lenet,
    "batch norm": with_norms,
    "odd": Odd,
    "bare": lambda: nn.Linear(300, 10),
    "float16": lambda: lenet().half(),
    "bfloat16": lambda: lenet().bfloat16(),
    "recurrent": Recurrent,
    "weight norm": normalised,
}


def batches(*shape, count=128, size=64, targets=None):
    torch.manual_seed(0)
    inputs = torch.randn(count, *(shape or (1, 8, 8)))
    targets = torch.randint(0, 10, (count,)) if targets is None else targets
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def made(name):
    torch.manual_seed(0)
    return NETWORKS[name](), batches(300) if name == "bare" else batches()


def smaller(model, data, budget, **options):
    return lib.compress(model, data, budget, **{"epochs": EPOCHS, "quiet": True} | options)


def least(model, data):
    """The least that the error says is possible."""
    with pytest.raises(ValueError, match="impossible") as caught:
        smaller(model, data, "1 B")
    return int(re.search(r"the least is ([\d,]+)", str(caught.value))[1].replace(",", ""))


# ------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_what_was_asked_from_the_least_to_the_dense_one(name, tmp_path):
    model, data = made(name)
    before = copy.deepcopy(model.state_dict())
    low, high = least(model, data), len(archive.encode(model))
    shares = (0.05, 0.25, 1) if name in ("lenet", "odd") else (0.02, 0.6)
    for size in [low, *(low + int(share * (high - low)) for share in shares)]:
        found = smaller(model, data, f"{size} B")
        assert FILLED * size <= len(found.content) <= size
        assert found.write(tmp_path / "net.cnet") == len(found.content) == found.after["bytes"]
        read = archive.read(tmp_path / "net.cnet").state
        assert list(read) == list(before)
        for key, value in found.model.state_dict().items():
            assert value.dtype == before[key].dtype
            assert torch.equal(read[key], value)
    if name in ("recurrent", "weight norm"):  # what is left alone can be rounded
        assert smaller(model, data, f"{low - 1} B").method == "rounding"
    else:
        with pytest.raises(ValueError, match=f"the least is {low:,}"):
            smaller(model, data, f"{low - 1} B")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("size", [600])
def test_a_residual_network(size):
    torch.manual_seed(0)
    model = networks.build("resnet8")
    described = {"network": "resnet8", "classes": 10, "channels": 1}
    found = smaller(model, batches(1, 16, 16), f"{size} B", described=described)
    assert FILLED * size <= len(found.content) <= size
    read = archive.decode(found.content).model().state_dict()
    assert all(torch.equal(read[key], value) for key, value in found.model.state_dict().items())


def test_what_is_decoded_is_what_was_measured():
    model, data = made("odd")
    found = smaller(model, data, "2 kB")
    fresh = Odd()
    fresh.load_state_dict(archive.decode(found.content).state)
    assert fresh.b.weight is fresh.c.weight
    with torch.no_grad():
        right = [(fresh.eval()(x).argmax(1) == y).float().mean().item() for x, y in data]
    assert found.after["accuracy"] == pytest.approx(sum(right) / len(right))
    assert found.after["kept"] == sum(int(w.count_nonzero()) for w in compressible(fresh).values())


def test_the_least_is_a_file_of_zeros():
    model, data = made("lenet")
    zeros = copy.deepcopy(model)
    for weight in compressible(zeros).values():
        nn.init.zeros_(weight)
    assert least(model, data) <= len(archive.encode(zeros))


def test_a_times_smaller_file_is_counted_against_float32():
    model, data = made("lenet")
    found = smaller(model, data, "8x")
    dense = 4 * sum(p.numel() for p in model.parameters())
    assert found.before["bytes"] == dense
    assert FILLED * dense / 8 <= len(found.content) <= dense / 8


def test_the_network_is_untouched_in_training_mode_and_its_gradients():
    model, data = made("batch norm")
    model.train()
    model.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    found = smaller(model, data, "1500 B")
    assert model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not found.model.training


def test_batch_statistics_are_measured_anew():
    model, data = made("batch norm")
    found = smaller(model, data, 0.3).model
    with torch.no_grad():
        means = torch.stack([found[0](x).mean((0, 2, 3)) for x, _ in data]).mean(0)
    assert torch.allclose(found[1].running_mean, means, atol=1e-2)


# --------------------------------------------------------------------------- networks and losses


def test_what_is_left_alone_is_named():
    model, data = made("recurrent")
    found = smaller(model, data, "6 kB")
    assert set(found.left_alone) == {
        *("lstm.weight_ih_l0", "lstm.weight_hh_l0", "attention.in_proj_weight")
    }
    assert "left alone: lstm.weight_ih_l0, a parameter of LSTM" in str(found)
    assert all(int(found.model.state_dict()[name].count_nonzero()) for name in found.left_alone)
    model, data = made("weight norm")
    found = smaller(model, data, "2 kB")
    assert all("parametrization" in reason for reason in found.left_alone.values())
    assert len(found.left_alone) == 2


def test_regression_with_a_loss_of_ones_own():
    torch.manual_seed(0)
    data = batches(8, targets=torch.randn(128, 2))
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2))
    found = smaller(model, data, "600 B", loss=functional.mse_loss)
    assert found.before["accuracy"] is found.after["accuracy"] is None
    assert found.after["loss"] == pytest.approx(
        sum(float(functional.mse_loss(found.model(x).detach(), y)) for x, y in data) / 2, rel=1e-5
    )
    assert "accuracy" not in str(found)
    assert found.before["macs"] == 8 * 32 + 32 * 2


def test_several_inputs():
    torch.manual_seed(0)
    data = [(x, torch.randn_like(x), y) for x, y in batches()]
    found = smaller(Two(), data, "900 B")
    assert FILLED * 900 <= len(found.content) <= 900


def test_a_last_batch_that_is_smaller_and_a_shuffled_loader():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(70, 1, 8, 8), torch.randint(0, 10, (70,)))
    found = smaller(lenet(), DataLoader(data, batch_size=32, shuffle=True), "800 B")
    seen = DataLoader(data, batch_size=70)
    (x, y), *_ = seen
    assert found.after["accuracy"] == pytest.approx(
        float((found.model(x).argmax(1) == y).float().mean())
    )


def test_a_seed_repeats():
    model, data = made("lenet")
    contents = []
    for _ in range(2):
        torch.manual_seed(3)
        contents.append(smaller(model, data, "700 B").content)
    assert contents[0] == contents[1]


def test_it_learns_what_can_be_learned():
    """Class = which of ten columns is bright: a few weights are enough."""
    torch.manual_seed(0)
    targets = torch.arange(400) % 10
    inputs = functional.one_hot(targets, 10).float() + 0.2 * torch.randn(400, 10)
    data = DataLoader(TensorDataset(inputs, targets), batch_size=50, shuffle=True)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(10):
        for x, y in data:
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    found = smaller(model, data, "500 B", epochs=15)
    assert found.before["accuracy"] == pytest.approx(1, abs=0.01)
    assert found.after["accuracy"] > 0.95


# ------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("said", "kind", "amount"),
    [
        ("100 kB", "bytes", 100_000),
        ("1.5kB", "bytes", 1_500),
        ("2 KiB", "bytes", 2_048),
        ("1,000 B", "bytes", 1_000),
        ("1_000 B", "bytes", 1_000),
        ("0.5 MB", "bytes", 500_000),
        ("1 GiB", "bytes", 2**30),
        ("10x", "bytes", 4 * 3010 // 10),
        ("2.5 ×", "bytes", 4 * 3010 * 2 // 5),
        ("80000 bits", "bits", 80_000),
        ("20 MMACs", "macs", 20_000_000),
        ("700 MACs", "macs", 700),
        ("5 %", "share", 0.05),
        ("2.5%", "share", 0.025),
        (0.05, "share", 0.05),
    ],
)
def test_budgets(said, kind, amount):
    assert parse(said, nn.Linear(300, 10)) == (kind, amount)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (*("100 KB",), "give '100 kB'"),
        (*("100",), "give '100 kB'"),
        (*("much",), "give '100 kB'"),
        (*("-3 kB",), "give '100 kB'"),
        (*("0 B",), "give '100 kB'"),
        (*("100 %",), "give '100 kB'"),
        (*("1e3 B",), "give '100 kB'"),
        (*(True,), "give '100 kB'"),
        (*(None,), "give '100 kB'"),
        (*(100_000,), "between 0 and 1; bytes need a unit"),
        (*(0.0,), "between 0 and 1"),
        (*(math.nan,), "between 0 and 1"),
        ([], "the list of budgets is empty"),
        (["2 kB", "much"], "'much' is none"),
    ],
)
def test_wrong_budgets_are_refused_with_the_remedy(said, message):
    model, data = made("lenet")
    with pytest.raises(ValueError, match=re.escape(message)):
        smaller(model, data, said)


@pytest.mark.parametrize("method", ["magnitude", "lc"])
def test_a_share_of_the_weights(method):
    model, data = made("lenet")
    found = smaller(model, data, "10 %", method=method)
    weights = sum(w.numel() for w in compressible(model).values())
    assert 0 < found.after["kept"] <= 0.1 * weights
    # pruned weights have no sign, which a file would pay for
    for weight in compressible(found.model).values():
        assert not weight[weight == 0].signbit().any()


def test_bits_of_nonzero_weights():
    model, data = made("lenet")
    found = smaller(model, data, "1500 bits")
    assert 0 < lib.accounting.nominal_bits(compressible(found.model)) <= 1500


@pytest.mark.parametrize("method", ["df", "group-magnitude", "l1"])
def test_multiply_accumulates(method):
    model, data = made("lenet")
    dense = lib.accounting.macs(model, (1, 8, 8))
    found = smaller(model, data, f"{dense // 2} MACs", method=method)
    assert found.before["macs"] == dense
    assert lib.accounting.macs(found.model, (1, 8, 8)) == found.after["macs"] <= dense // 2


def test_a_list_of_budgets_is_a_curve():
    model, data = made("lenet")
    found = smaller(model, data, ["600 B", "2 kB"])
    assert [one.budget for one in found] == ["600 B", "2 kB"]
    table = curve(found)
    assert list(table["budget"]) == ["none", "600 B", "2 kB"]
    assert list(table["bytes"])[1:] == [len(one.content) for one in found]
    torch.manual_seed(0)
    assert smaller(model, data, "2 kB").before == found[1].before


def test_a_method_that_is_given_with_a_cost_for_each_layer():
    model, data = made("lenet")
    method = LC({"0": Codebook(4), ("3", "6"): L0(0.2)}, growth=2)
    found = smaller(model, data, "1.5 kB", method=method)
    assert len(found.content) <= 1500
    assert len(found.model[0].weight.unique()) <= 4
    assert found.method == "LC"


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "2 kB", "method": "lc"}, "takes no budget of bytes: choose one of admm"),
        ({"budget": 0.1, "method": "admm"}, "takes no budget of share: choose one of magnitude"),
        ({"budget": "2 kB", "epochs": 1}, "epochs = 1 must be 2 or more"),
        ({"budget": 0.1, "data": iter(batches())}, "used up after one pass: give a DataLoader"),
        ({"budget": 0.1, "data": []}, "holds no batch"),
        ({"budget": 0.1, "data": [torch.zeros(4, 1, 8, 8)]}, "(inputs, targets)"),
        ({"budget": 0.1, "data": [({}, [])]}, "holds no tensor or array"),
        ({"budget": 0.1, "validation": iter(())}, "validation data is an iterator"),
        ({"budget": 0.1, "validation": []}, "validation data holds no batch"),
        ({"budget": 0.1, "model": nn.ReLU()}, "no parameters"),
        ({"budget": 0.1, "model": without_weights()}, "no convolution, linear layer or embedding"),
        ({"budget": "9 MACs", "model": nn.Linear(300, 10), "data": batches(300)}, "cannot be met"),
    ],
)
def test_errors_say_the_remedy(options, message):
    options = {"model": lenet(), "data": batches()} | options
    model, data, budget = (options.pop(name) for name in ("model", "data", "budget"))
    with pytest.raises(ValueError, match=re.escape(message)):
        smaller(model, data, budget, **options)


def test_a_loss_that_becomes_nan_is_an_error():
    model, data = made("lenet")
    calls = []

    def nan_in_the_end(outputs, targets):
        calls.append(None)  # a look and a rehearsal come first
        return functional.cross_entropy(outputs, targets) * (1 if len(calls) < 13 else math.nan)

    with pytest.raises(ValueError, match=r"the loss of the model is nan before anything"):
        smaller(model, data, "800 B", loss=lambda x, y: functional.cross_entropy(x, y) * math.nan)
    with pytest.raises(ValueError, match=r"the loss was nan in epoch \d: lower the learning rate"):
        smaller(model, data, "800 B", loss=nan_in_the_end, method="admm")


# -------------------------------------------------------------------------------- what is shown


def test_the_summary_and_the_progress_bar(capsys):
    model, data = made("lenet")
    found = smaller(model, data, "800 B", quiet=False, method="admm")
    bars = capsys.readouterr().err
    assert "800 B: ADMM for a file" in bars
    assert "800 B: training on" in bars
    said = str(found)
    assert said.startswith("budget: 800 B")
    assert f"{len(found.content)}" in said
    assert "<table" in found._repr_html_()
    smaller(model, data, "800 B")
    assert not capsys.readouterr().err


def test_the_result_can_be_pickled():
    model, data = made("lenet")
    torch.save(smaller(model, data, "800 B").model, io.BytesIO())
