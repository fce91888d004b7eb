"""What networks are made of and how they come: it works, and comes back as it was."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import lib
from lib import accounting, archive
from lib.compression.spent import OverBudget, check
from lib.layers import clone, compressible
from lib.optimizers import METHODS, MagnitudePruning

#: A budget of each kind, for networks of some hundred weights.
BUDGETS = ("30 %", "1500 bits", "900 B", "2 kB")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def net():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def vectors(dtype=torch.float32, count=64):
    inputs = torch.randn(count, 16)
    targets = (inputs @ torch.randn(16, 4)).argmax(1)
    return list(zip(inputs.to(dtype).split(16), targets.split(16), strict=True))


def images(dtype=torch.float32, count=48):
    inputs, targets = torch.randn(count, 3, 8, 8).to(dtype), torch.randint(0, 4, (count,))
    return list(zip(inputs.split(16), targets.split(16), strict=True))


def smaller(model, data, budget, **options):
    return lib.compress(model, data, budget, **{"epochs": 3, "quiet": True} | options)


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------ frozen


class Adapted(nn.Module):
    """A frozen layer, and a trained one of low rank beside it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(16, 32).requires_grad_(False)
        self.a, self.b = nn.Linear(16, 2, bias=False), nn.Linear(2, 32, bias=False)
        self.out = nn.Linear(32, 4)
        self.out.bias.requires_grad_(False)

    def forward(self, x):
        return self.out(functional.relu(self.base(x) + self.b(self.a(x))))


@pytest.mark.parametrize("budget", ["30 %", "1500 bits", "2200 B"])
def test_what_is_frozen_stays_to_the_bit_and_frozen(budget):
    model = Adapted()
    found = smaller(model, vectors(), budget)
    for name in ("base.weight", "base.bias", "out.bias"):
        assert torch.equal(found.model.get_parameter(name), model.get_parameter(name))
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in found.model.named_parameters()} == flags
    assert found.left_alone == {"base.weight": "frozen: it requires no gradient"}
    assert not torch.equal(found.model.out.weight, model.out.weight)
    if budget == "30 %":  # of the others
        own = [getattr(found.model, name).weight for name in ("a", "b", "out")]
        assert sum(int(w.count_nonzero()) for w in own) <= 0.3 * sum(w.numel() for w in own)


def test_an_impossible_size_says_what_was_left_alone():
    with pytest.raises(ValueError, match=r"the least is [\d,]+; of it .* base\.weight \(512\)"):
        smaller(Adapted(), vectors(), "700 B")


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_network_from_inference_is_trained_and_comes_back_frozen(budget):
    model = net().requires_grad_(False)
    found = smaller(model, vectors(), budget)
    assert not any(p.requires_grad for p in found.model.parameters())
    assert not same(found.model, model.state_dict())


class Normed(nn.Sequential):
    def __init__(self, **options):
        super().__init__(
            *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, **options), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, **options), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(128, 4)),
        )


@pytest.mark.parametrize("budget", [*BUDGETS[:2], "1700 B"])
@pytest.mark.parametrize("how", ["evaluation", "frozen"])
def test_norms_that_are_kept_in_evaluation_keep_their_statistics(how, budget):
    model = Normed()
    for x, _ in images():
        model(x)
    model.train()
    if how == "evaluation":
        model[1].eval()
    else:
        model[1].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    found = smaller(model, images(), budget).model
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(found[1], name), before[f"1.{name}"])
        assert not torch.equal(getattr(found[4], name), before[f"4.{name}"])
    assert same(model, before)
    assert not hasattr(found[1], "held")


# ------------------------------------------------------------------------------ dtypes and layouts


class Rotary(nn.Module):
    """A buffer that is not in the state dict."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)
        self.register_buffer("cos", torch.randn(16).cos(), persistent=False)

    def forward(self, x):
        return self.last(functional.relu(self.first(x * self.cos)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("budget", BUDGETS)
def test_dtypes_come_back(dtype, budget):
    model = Rotary().to(dtype)
    found = smaller(model, vectors(dtype), budget)
    tensors = [*found.model.named_parameters(), *found.model.named_buffers()]
    assert {name: t.dtype for name, t in tensors} == dict.fromkeys(dict(tensors), dtype)
    read = archive.decode(found.content).state
    assert same(found.model, read)
    found.model(vectors(dtype)[0][0])


class Casts(nn.Module):
    """Casts by itself, as models in mixed precision do."""

    def __init__(self):
        super().__init__()
        self.first, self.full = nn.Linear(16, 32).half(), nn.Linear(32, 4)

    def forward(self, x):
        return self.full(functional.relu(self.first(x.half())).float())


class AllHalf(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4)).half()

    def forward(self, x):
        return self.body(x.to(torch.float16))


@pytest.mark.parametrize("kind", [Casts, AllHalf])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_network_that_casts_by_itself(kind, budget):
    model = kind()
    found = smaller(model, vectors(), budget, lr=0.05)
    assert [p.dtype for p in found.model.parameters()] == [p.dtype for p in model.parameters()]
    with torch.no_grad():
        logits = torch.cat([found.model(x).float() for x, _ in vectors()])
    assert logits.isfinite().all()


class Ordered(nn.Module):
    """A permutation that is kept as a parameter of integers."""

    def __init__(self):
        super().__init__()
        self.order = nn.Parameter(torch.randperm(16), requires_grad=False)
        self.layer = nn.Linear(16, 32)
        self.out = nn.Linear(32, 4)

    def forward(self, x):
        return self.out(self.layer(x[:, self.order]).relu())


@pytest.mark.parametrize("budget", BUDGETS)
def test_parameters_of_integers(budget):
    model = Ordered()
    found = smaller(model, vectors(), budget)
    assert torch.equal(found.model.order, model.order)
    assert not found.model.order.requires_grad


@pytest.mark.parametrize("budget", ["30 %", "1500 bits", "1500 B", "20 kMACs"])
@pytest.mark.parametrize("method", ["usual", "lc", "l1", "group-magnitude"])
def test_channels_last(budget, method):
    kinds = {"lc": "%", "l1": "MACs", "group-magnitude": "MACs"}
    if method != "usual" and not budget.endswith(kinds[method]):
        pytest.skip("takes no such budget")
    model = Normed().to(memory_format=torch.channels_last)
    data = [(x.to(memory_format=torch.channels_last), y) for x, y in images()]
    found = smaller(model, data, budget, method=None if method == "usual" else method)
    if "MACs" not in budget:
        weight = found.model[3].weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert not weight.is_contiguous()
    assert same(found.model, archive.decode(found.content).state)


# -------------------------------------------------------------------- what modules keep, and share


class Keeps(nn.Module):
    """Keeps what it computed, as networks do whose features are looked at."""

    def __init__(self):
        super().__init__()
        self.body, self.features, self.seen = net(), None, []

    def forward(self, x):
        self.features = self.body[0](x)
        self.seen = [{"last": self.features.sum()}]
        return self.body[2](self.features.relu())


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_module_that_keeps_its_features(budget):
    model = Keeps()
    model(vectors()[0][0])
    assert model.features.grad_fn is not None
    assert smaller(model, vectors(), budget).model.body[0].weight.shape == (32, 16)
    assert model.features.grad_fn is not None


WRAPS = {
    "old weight norm": weight_norm,
    "old spectral norm": spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("budget", ["30 %", "700 bits", "1500 B"])
def test_a_weight_that_is_computed_of_others_is_left_alone_and_named(name, budget):
    model = net()
    WRAPS[name](model[0])
    with torch.no_grad():
        model(vectors()[0][0])  # which some of them keep
    found = smaller(model, vectors(), budget)
    assert found.left_alone
    assert all("computed from it" in reason for reason in found.left_alone.values())
    assert found.model(vectors()[0][0]).shape == (16, 4)


def test_a_shared_weight_stays_shared():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 4))
    model[2].weight = model[0].weight
    for budget in BUDGETS[:3]:
        found = smaller(model, vectors(), budget).model
        assert found[2].weight is found[0].weight


@pytest.mark.parametrize("budget", [*BUDGETS[:2], "1800 B", "20 kMACs"])
def test_norms_without_statistics(budget):
    found = smaller(Normed(track_running_stats=False), images(), budget).model
    assert [m.running_mean for m in found.modules() if isinstance(m, nn.BatchNorm2d)] == [None] * 2


def test_wrappers_are_taken_off():
    plain = net()
    for wrapped in (nn.DataParallel(plain), torch.compile(plain, backend="eager")):
        found = smaller(wrapped, vectors(), "30 %")
        assert type(found.model) is nn.Sequential
        assert list(archive.decode(found.content).state) == list(plain.state_dict())


def test_a_copy_is_deep_and_detached():
    model = Keeps()
    model(vectors()[0][0])
    copied = clone(model)
    assert copied.features.grad_fn is None
    assert copied.seen[0]["last"].grad_fn is None
    assert torch.equal(copied.features, model.features)
    assert copied.body[0].weight.data_ptr() != model.body[0].weight.data_ptr()


# ---------------------------------------------------------------------------------------- refusals


class Locked(nn.Linear):
    def __init__(self):
        super().__init__(16, 4)
        self.lock = threading.Lock()


def with_nan():
    model = net()
    model[0].weight.data[3, 3] = torch.nan
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: torch.jit.script(net()), "TorchScript"),
        (lambda: net().forward, "of method: give a torch.nn.Module"),
        (lambda: nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 4)), "run a batch through"),
        (lambda: net().to("meta"), "on meta"),
        (Locked, "cannot be copied .*lock"),
        (with_nan, r"0\.weight holds NaN or infinite values"),
        (nn.ReLU, "no parameters"),
        (lambda: nn.Sequential(nn.BatchNorm1d(16)), "no convolution, linear layer or embedding"),
    ],
)
@pytest.mark.parametrize("budget", ["30 %", "900 bits"])
def test_what_cannot_be_compressed_is_refused_in_one_line(model, message, budget):
    with pytest.raises(ValueError, match=message) as caught:
        smaller(model(), vectors(), budget)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------- checked before returned


class Liar(MagnitudePruning):
    """Leaves more than it says."""

    def finish(self):
        for w in self.w:
            w.fill_(1.5)
        return True


@pytest.mark.parametrize("budget", ["5 %", "300 bits"])
def test_a_result_over_its_budget_is_not_returned(budget, monkeypatch):
    monkeypatch.setitem(METHODS, "liar", type("Liar", (Liar,), {"takes": {"share": "keep"}}))
    with pytest.raises(ValueError, match="more than the"):
        smaller(net(), vectors(), budget, method=Liar(keep=0.05))


def test_the_check_counts_by_itself():
    model = net()
    content = archive.encode(model)
    place = {"weights": ["0.weight", "2.weight"], "inputs": None, "method": "this"}
    check("bytes", len(content), content, model, **place)
    with pytest.raises(OverBudget):
        check("bytes", len(content) - 1, content, model, **place)
    bits = accounting.nominal_bits(compressible(model))
    check("bits", bits, content, model, **place)
    with pytest.raises(OverBudget, match=f"{bits:,}"):
        check("bits", bits - 1, content, model, **place)
    model[0].weight.data[:, :8] = 0
    with pytest.raises(RuntimeError, match="does not hold the weights"):
        check("share", 1.0, content, model, **place)
    content = archive.encode(model)
    check("share", 0.6, content, model, **place)
    with pytest.raises(OverBudget):
        check("share", 0.59, content, model, **place)
