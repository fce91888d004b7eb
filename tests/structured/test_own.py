"""Networks that nobody listed: filters that leave, budgets that are met, and what stays."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import lib
from lib import accounting, networks, structured
from lib.layers import ignore
from lib.optimizers import DF, FilterPruning, RankSelection
from lib.optimizers.df_baselines import LearnedRanks
from tests.structured import own
from tests.structured.own import OWN, macs, network, outputs

#: Where filters alone cannot leave half of the MACs.
TOO_LITTLE = {"unflattened"}


def some(found, seed=0, share=0.5):
    """A mask for each layer, of one filter at least."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for name, count in found.sources.items():
        keep[name] = torch.rand(count, generator=generator) < share
        keep[name][int(torch.randint(count, (), generator=generator))] = True
    return keep


@torch.no_grad()
def unread(model, found, keep):
    """The oracle: what reads removed filters has no weights for them."""
    model = copy.deepcopy(model)
    for name in found.feeds:
        layer = model.get_submodule(name)
        for source, numbers in found.channels[name].items():
            gone = torch.tensor([n >= 0 and not keep[source][n] for n in numbers.tolist()])
            if isinstance(layer, nn.RNNBase):
                for part in [n for n, _ in layer.named_parameters() if "weight_ih_l0" in n]:
                    getattr(layer, part)[:, gone] = 0
            elif "Transpose" in type(layer).__name__:
                layer.weight[gone] = 0
            else:
                layer.weight[:, gone] = 0
    return model


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", OWN)
def test_removed_filters_are_those_that_nothing_reads(name):
    model, given = network(name)
    found = structured.costs(model, input_shape=given)
    assert sum(found.built({}, {}).values()) == macs(model, given)
    for seed, share in enumerate((0.0, 0.4, 0.7)):
        keep = some(found, seed, share)
        smaller = structured.remove_filters(model, keep, input_shape=given)
        counts = {layer: int(kept.sum()) for layer, kept in keep.items()}
        assert sum(found.built(counts, {}).values()) == macs(smaller, given)
        assert accounting.macs(smaller, given) == macs(smaller, given) < macs(model, given)
        if not isinstance(getattr(model, "recur", None), nn.RNNBase):
            # a unit that is not read outside is read by the others
            close(outputs(smaller, given), outputs(unread(model, found, keep), given))
        fresh = structured.rebuild(OWN[name][0]().double(), smaller.state_dict())
        fresh.load_state_dict(smaller.state_dict())
        assert torch.equal(outputs(fresh, given), outputs(smaller, given))
        assert str(fresh) == str(smaller)


@pytest.mark.parametrize("name", [name for name in OWN if name.startswith(("LSTM", "GRU", "RNN"))])
def test_units_of_recurrent_layers(name):
    """The oracle: units whose gates have no weights are always 0."""
    model, given = network(name)
    found = structured.structure(model, input_shape=given)
    assert list(found.sources) == ["recur"]
    keep = torch.arange(16) % 3 == 0
    smaller = structured.remove_filters(model, {"recur": keep}, input_shape=given)
    with torch.no_grad():
        for parameter in model.recur.parameters():
            parameter.view(-1, 16, *parameter.shape[1:])[:, ~keep] = 0
    assert smaller.recur.hidden_size == 6
    close(outputs(smaller, given), outputs(model, given))


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("method", ["df", "l1", "group-magnitude"])
def test_half_of_the_macs(name, method):
    model, given = network(name)
    dense = macs(model, given)
    place = {"input_shape": given, "budget": dense // 2}
    if name in TOO_LITTLE and method != "df":
        made = started(FilterPruning(score=method, **place), model)
        with pytest.raises(ValueError, match="mixed before '3' reads them") as error:
            made.finish()
        assert "\n" not in str(error.value)
        assert str(error.value).endswith("or take 'df', which makes two layers of one as well")
        return
    if method == "df":
        made = DF(penalty=10.0, statistics="batch", step=0.1, beta=12.0, **place)
        surrogate = made.start(model)
        for _ in range(5):
            loss = own.flat(own.inputs(model, given).call(surrogate)).square().mean()
            (loss + made.penalty()).backward()
            made.after_step(torch.tensor(0.1))
            made.after_period()
        assert made.dense == dense
    else:
        made = started(FilterPruning(score=method, **place), model)
    assert made.finish()
    assert 0.85 * place["budget"] < macs(model, given) <= place["budget"]
    assert outputs(model, given).isfinite().all()


def started(method, model):
    method.start(model)
    return method


@pytest.mark.parametrize("name", ["attention", "U-Net", "viewed"])
def test_ranks_alone(name):
    model, given = network(name)
    budget = int(0.7 * macs(model, given))
    for kind in (RankSelection, LearnedRanks):
        built = copy.deepcopy(model)
        method = started(kind(budget=budget, input_shape=given), built)
        if kind is LearnedRanks:
            method.after_step(torch.tensor(0.1))
            method.after_period()
        assert method.finish()
        assert 0.9 * budget < macs(built, given) <= budget


def test_the_mask_of_df_is_what_leaves():
    """W_comp of masks of 0 and 1 computes what the network without the filters computes."""
    for name in ("mobile", "densenet", "U-Net", "residual", "LSTM, deep", "series"):
        model, given = network(name)
        method = DF(budget=macs(model, given) // 2, input_shape=given, mode="filters", alpha=1e4)
        surrogate = method.start(model)
        keep = some(method.costs)
        with torch.no_grad():
            method.mu.fill_(1e4)
            for layer, mask in keep.items():
                method.m[layer].copy_(mask)
            found = own.flat(own.inputs(model, given).call(surrogate))
        smaller = structured.remove_filters(model, keep, input_shape=given)
        close(found, outputs(smaller, given))
        assert float(method.spent) * method.dense == pytest.approx(macs(smaller, given))


# What stays, and why


class Of(nn.Module):
    """conv → function → conv → linear."""

    def __init__(self, function, channels=8):
        super().__init__()
        self.function = function
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(channels, 6, 3), nn.Linear(6, 4)
        self.d = nn.Conv2d(6, 6, 3, 1, 1)

    def forward(self, x):
        return self.c(self.d(self.b(self.function(self.a(x)))).relu().mean((2, 3)))


@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid,
        lambda x: x + 1,
        torch.cos,
        lambda x: F.softmax(x, 1),
        lambda x: F.layer_norm(x, x.shape[1:]),
        lambda x: F.group_norm(x, 2),
        lambda x: x.view(len(x), 2, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
        lambda x: x.transpose(1, 2).reshape(x.shape),
        lambda x: x + x.flip(1),
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: x * torch.arange(8).view(1, 8, 1, 1),
        lambda x: torch.einsum("bchw,cd->bdhw", x, torch.eye(8, dtype=x.dtype)),
        lambda x: x.nan_to_num(),
        lambda x: x if x.isfinite().all() else x.refused(),
        lambda x: torch.cat([x[:, :4], x[:, 2:6]], 1),
        lambda x: torch.stack([x, x], 1).mean(1) + (x @ x.mT).mean(),
    ],
)
def test_filters_that_cannot_leave_stay(function):
    model = Of(function)
    found = structured.structure(model, input_shape=(3, 9, 9))
    assert list(found.sources) == ["b", "d"]
    assert found.stays["a"]
    assert found.stays["c"] == "they are in what the network returns"


@pytest.mark.parametrize(
    "function",
    [
        torch.tanh,
        F.gelu,
        F.silu,
        lambda x: x.flip(1),
        lambda x: x * 3,
        lambda x: x[:, [3, 1, 0, 2]],
    ],
)
def test_filters_that_can_leave(function):
    channels = 4 if function(torch.zeros(1, 8, 2, 2)).shape[1] == 4 else 8
    model = Of(function, channels)
    found = structured.structure(model, input_shape=(3, 9, 9))
    # of half of the filters nothing else is read, but that the others are numbered anew
    assert ("a" in found.sources) == (channels == 8)


def _frozen(model):
    model.b.requires_grad_(False)


def _ignored(model):
    ignore(model, ["b"])


def _parametrized(model):
    parametrizations.weight_norm(model.b)


def _spectral(model):
    nn.utils.spectral_norm(model.b)


def _tied(model):
    model.d = nn.Conv2d(8, 6, 3, 1, 1)
    model.d.weight = model.b.weight
    model.forward = lambda x: model.c(
        model.d(F.pad(model.b(model.a(x)), (0, 0, 0, 0, 0, 2))).mean((2, 3))
    )


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
@pytest.mark.parametrize("change", [_frozen, _ignored, _parametrized, _spectral, _tied])
def test_what_may_not_change_does_not(change):
    """Nor does what feeds it; all is counted, and a budget is met without it."""
    model = Of(torch.relu)
    change(model)
    given = (3, 9, 9)
    before = {name: value.clone() for name, value in model.b.state_dict().items()}
    found = structured.costs(model, input_shape=given)
    assert set(found.sources) <= {"d"}
    assert not found.layers.get("b") or not found.layers["b"].factors()
    total = sum(found.built({}, {}).values())
    assert total == macs(model, given) or change is _spectral
    for method in (DF, RankSelection) if change is not _tied else ():
        changed = copy.deepcopy(model)
        made = method(budget=int(0.93 * total), input_shape=given)
        started(made, changed)
        made.finish()
        assert accounting.macs(changed, given) <= 0.93 * total
        assert all(torch.equal(before[n], v) for n, v in changed.b.state_dict().items())


def test_inside_data_parallel():
    model, given = network("two outputs")
    wrapped = nn.DataParallel(model)
    found = structured.costs(wrapped, input_shape=given)
    assert list(found.sources) == ["module.body.0", "module.body.3", "module.hidden"]
    assert sum(found.built({}, {}).values()) == macs(model, given)


def test_nothing_may_leave():
    with pytest.raises(ValueError, match="no filter may leave this network"):
        DF(budget=1, input_shape=(3, 2, 2)).start(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    with pytest.raises(ValueError, match="no filter may leave this network"):
        DF(budget=12, input_shape=(3, 2, 2), mode="filters").start(model)
    with pytest.raises(ValueError, match=r"leave, and .* 12 in '1', whose filters stay: they are"):
        started(FilterPruning(budget=6, input_shape=(3, 2, 2)), model).finish()


def test_a_layer_that_the_network_looks_into_stays_one():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.c(self.b(self.a(x.to(self.b.weight.dtype))))

    model = Looks()
    found = structured.costs(model, filters=False, input_shape=(8,))
    assert [name for name, layer in found.layers.items() if layer.factors()] == ["a", "c"]
    # PyTorch's encoder does so where it may take its fused kernel
    model, given = network("encoder")
    found = structured.costs(model, input_shape=given)
    assert list(found.sources) == [f"encoder.layers.{i}.linear1" for i in (0, 1)]
    assert [name for name, layer in found.layers.items() if layer.factors()] == ["head"]


def test_a_layer_called_several_times_costs_all_of_them():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(layer, nn.MaxPool2d(2), nn.ReLU(), layer, nn.Flatten(), nn.Linear(64, 2))
    found = structured.costs(model, input_shape=(4, 8, 8))
    assert found.layers["0"].macs() == (64 + 16) * 9 * 16
    for scheme in (1, 2):
        built = structured.factor(model, {"0": 1}, scheme=scheme, input_shape=(4, 8, 8))
        counted = found.built({}, {"0": 1}, scheme=scheme)
        assert built[3] is built[0]
        assert isinstance(built[0], nn.Sequential)
        assert sum(counted.values()) == macs(built, (4, 8, 8))


def test_what_a_sum_joins_leaves_together():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
            self.c = nn.Linear(8, 4)

        def forward(self, x):
            x = self.a(x).relu()
            return self.c((x + self.b(x)).relu().mean((2, 3)))

    model = Sums().double()
    found = structured.structure(model, input_shape=(3, 6, 6))
    assert (found.sources, found.joined) == ({"a": 8}, {"b": "a"})
    smaller = structured.remove_filters(model, {"a": [1, 4]}, input_shape=(3, 6, 6))
    assert smaller.b.weight.shape == (2, 2, 3, 3)
    with pytest.raises(
        ValueError, match="'b' can leave this network, they leave with those of 'a'"
    ):
        structured.remove_filters(model, {"b": [0]}, input_shape=(3, 6, 6))


def test_zero_padding_shortcuts_keep_what_they_move():
    model, given = network("residual")
    found = structured.structure(model, input_shape=given)
    assert list(found.sources) == [f"blocks.{i}.conv1" for i in range(3)]
    assert not found.joined
    for name in ("conv", "blocks.0.conv2", "blocks.1.conv2", "blocks.2.conv2"):
        assert "mixed" in found.stays[name]


def test_what_a_concatenation_reads():
    model, given = network("U-Net")
    found = structured.structure(model, input_shape=given)
    assert found.feeds["beside.0.0"] == (("down.1.3", 1), ("up.0", 1)) or found.feeds[
        "beside.0.0"
    ] == (("up.0", 1), ("down.1.3", 1))
    numbers = found.channels["beside.0.0"]
    assert numbers["up.0"].tolist() == [*range(16), *[-1] * 16]
    assert numbers["down.1.3"].tolist() == [*[-1] * 16, *range(16)]


def test_outputs_of_any_kind():
    @dataclass
    class Made:
        first: torch.Tensor
        others: tuple

    class Returns(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, x):
            y = self.a(x).relu()
            return Made(self.b(y), ([{"last": self.c(y)}], None, 3))

    found = structured.structure(Returns(), input_shape=(4,))
    assert list(found.sources) == ["a"]
    assert set(found.stays) == {"b", "c"}


def test_several_inputs_by_position_and_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Embedding(5, 8), nn.Linear(16, 2)

        def forward(self, x, tokens):
            return self.c(torch.cat([self.a(x).relu(), self.b(tokens)], 1))

    model, x, tokens = Two(), torch.randn(6, 4), torch.arange(6) % 5
    for given in ((x, tokens), {"tokens": tokens, "x": x}):
        found = structured.costs(model, input_shape=given)
        assert found.feeds == {"c": (("a", 1),)}
        # 8 features of the embedding stay
        assert sum(found.built({"a": 3}, {}).values()) == 4 * 3 + (3 + 8) * 2
        smaller = structured.remove_filters(model, {"a": [0, 2, 4]}, input_shape=given)
        assert accounting.macs(smaller, given) == 4 * 3 + (3 + 8) * 2


@pytest.mark.parametrize("name", ["lenet5", "lenet300", "resnet8"])
def test_the_lists_say_what_is_found(name):
    """Where no sum joins filters; and nothing of the network, of numbers or flags, is changed."""
    model = networks.build(name)
    shape = networks.INPUT_SHAPES[name]
    found = structured.structure(model, input_shape=shape)
    assert list(found.sources) == structured.prunable(model)
    assert structured.structure(model, input_shape=shape) is found
    model.get_submodule(next(iter(found.sources))).requires_grad_(False)
    assert structured.structure(model, input_shape=shape) is not found


def test_compress_takes_a_network_that_nobody_listed():
    model, given = network("residual")
    data = [(torch.randn(8, *given), torch.arange(8) % 4)]
    dense = macs(model, given)
    for method in ("df", "l1"):
        found = lib.compress(
            model.float(), data, f"{dense // 2} MACs", method=method, epochs=2, quiet=True
        )
        assert found.after["macs"] == macs(found.model, given) <= dense // 2
