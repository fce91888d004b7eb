"""Structured baselines, how scores become a budget, and networks rebuilt from their weights."""

import copy

import pytest
import torch

from lib import accounting, networks, structured
from lib.layers import compressible
from lib.optimizers import FilterPruning, LearnedRanks, RankSelection
from lib.workbook import experiments
from tests.structured.test_structured import close, macs, network, outputs, shape_of, shrunk

SHAPE = shape_of("resnet8")
DENSE = accounting.macs(networks.build("resnet8"), SHAPE)


def finished(method, model):
    method.start(model)
    method.finish()
    return model


# From scores to a budget


def test_the_filters_of_the_highest_scores_stay():
    """Brute force over two layers: no better prefix of the order fits."""
    model = network("lenet300").float()
    shape = shape_of("lenet300")
    torch.manual_seed(1)
    scores = {name: torch.rand(len(model.get_submodule(name).weight)) for name in ("fc1", "fc2")}
    asked = 60_000
    keep = structured.choose_filters(model, scores, budget=asked, input_shape=shape)
    kept = {name: int(mask.sum()) for name, mask in keep.items()}
    built = structured.remove_filters(model, keep, input_shape=shape)
    assert 0.98 * asked < accounting.macs(built, shape) <= asked
    for name, mask in keep.items():  # in each layer the best ones
        assert scores[name][mask].min() > scores[name][~mask].max()
    for name in scores:  # not one more fits
        more = kept | {name: kept[name] + 1}
        assert sum(structured.costs(model, input_shape=shape).built(more, {}).values()) > asked


def test_equal_scores_are_taken_in_order_and_everything_fits():
    model = network("resnet8")
    scores = {n: torch.ones(len(model.get_submodule(n).weight)) for n in structured.prunable(model)}
    keep = structured.choose_filters(model, scores, budget=DENSE // 2, input_shape=SHAPE)
    for mask in keep.values():
        assert mask[: int(mask.sum())].all()
    keep = structured.choose_filters(model, scores, budget=DENSE, input_shape=SHAPE)
    assert all(mask.all() for mask in keep.values())
    ranks = structured.ranks_for_macs(
        model, lambda _, m: torch.linalg.svdvals(m), budget=DENSE, input_shape=SHAPE
    )
    assert set(ranks.values()) == {None}


@pytest.mark.parametrize("scheme", [1, 2])
def test_ranks_grow_in_the_order_of_their_scores(scheme):
    model = network("resnet8")
    norms = {}

    def score(name, matrix):
        norms[name] = torch.linalg.svdvals(matrix)
        return norms[name]

    ranks = structured.ranks_for_macs(
        model, score, budget=DENSE // 2, scheme=scheme, input_shape=SHAPE
    )
    built = structured.factor(model, ranks, scheme=scheme, input_shape=SHAPE)
    spent = accounting.macs(built.float(), SHAPE)
    assert 0.98 * (DENSE // 2) < spent <= DENSE // 2
    for name in ranks:  # not one more fits
        if ranks[name] is not None:
            found = dict(ranks) | {name: ranks[name] + 1}
            most = structured.layers(model, input_shape=SHAPE)[name].most(scheme=scheme)
            if found[name] <= most:
                costs = structured.costs(model, input_shape=SHAPE)
                assert sum(costs.built({}, found, scheme=scheme).values()) > DENSE // 2
    # whatever is left out has a lower score than what is in, but for what did not fit
    lowest = min(norms[n][r - 1] for n, r in ranks.items() if r is not None and r > 1)
    left = [norms[n][r] for n, r in ranks.items() if r is not None and r < len(norms[n])]
    assert sum(float(value) > float(lowest) for value in left) <= 2


def test_a_threshold_is_left_only_where_the_budget_says_so():
    model = network("resnet8")
    place = {"input_shape": SHAPE, "factored": True, "threshold": 0.5}
    names = structured.prunable(model)
    scores = {name: torch.linspace(0, 1, len(model.get_submodule(name).weight)) for name in names}
    # ranks can meet it: as the threshold has it
    keep = structured.choose_filters(model, scores, budget=DENSE // 3, **place)
    assert all(torch.equal(keep[name], scores[name] > 0.5) for name in names)
    # whole layers meet it: more stay
    keep = structured.choose_filters(model, scores, budget=int(0.9 * DENSE), **place)
    assert all(int(keep[name].sum()) > len(scores[name]) // 2 for name in names)
    # not even rank 1 meets it: fewer stay
    least = structured.costs(model, input_shape=SHAPE).built(
        {name: len(scores[name]) // 2 for name in names},
        dict.fromkeys(compressible(model), 1),
    )
    keep = structured.choose_filters(model, scores, budget=sum(least.values()) - 5_000, **place)
    assert sum(int(mask.sum()) for mask in keep.values()) < sum(map(len, scores.values())) // 2


def test_an_impossible_budget_is_an_error_that_says_the_least():
    model = network("resnet8")
    message = r"budget of 10 MACs cannot be met: .* costs [\d,]+, of"
    place = {"budget": 10, "input_shape": SHAPE}
    with pytest.raises(ValueError, match=message):
        structured.choose_filters(model, {"stage1.0.conv1": torch.ones(16)}, **place)
    with pytest.raises(ValueError, match=message):
        structured.ranks_for_macs(model, lambda _, m: torch.linalg.svdvals(m), **place)


# Baselines


@pytest.mark.parametrize(
    ("names", "kind", "options"),
    [
        ("lenet5 resnet20 vgg16 mobilenet", FilterPruning, {"score": "l1"}),
        ("lenet5 resnet20 mobilenet mnasnet", FilterPruning, {"score": "group-magnitude"}),
        ("mobilenet", RankSelection, {"criterion": "uniform"}),
        ("mnasnet", RankSelection, {"criterion": "energy"}),
        ("mobilenet", LearnedRanks, {"mu": 0.1}),
    ],
)
def test_a_budget_is_used(names, kind, options):
    for name in names.split():
        model, shape = network(name).float(), shape_of(name)
        between = structured.structure(model, input_shape=shape).depthwise
        before = copy.deepcopy(model)
        budget = int(0.7 * macs(model, shape))
        finished(kind(budget=budget, input_shape=shape, **options), model)
        assert 0.97 * budget < macs(model, shape) <= budget
        for layer in between:
            weight, old = (m.get_submodule(layer).weight for m in (model, before))
            if kind is FilterPruning:
                assert len(weight) <= len(old)
            else:
                assert torch.equal(weight, old)


def test_l1_keeps_the_same_share_of_every_layer_and_the_largest_filters():
    model = network("resnet8")
    before = copy.deepcopy(model)
    finished(FilterPruning(score="l1", budget=int(0.6 * DENSE), input_shape=SHAPE), model)
    shares = []
    for name in structured.prunable(before):
        old, new = before.get_submodule(name).weight, model.get_submodule(name).weight
        shares.append(len(new) / len(old))
        sums = old.abs().sum((1, 2, 3)).topk(len(new)).indices.sort().values
        torch.testing.assert_close(new, old[sums])
    assert max(shares) - min(shares) < 1.5 / 16


@pytest.mark.parametrize("criterion", ["uniform", "energy"])
def test_rank_selection_uses_its_budget(criterion):
    model = network("resnet8")
    before = copy.deepcopy(model)
    finished(RankSelection(criterion=criterion, budget=int(0.4 * DENSE), input_shape=SHAPE), model)
    ranks = structured.ranks(before, model.state_dict())
    assert 0.98 * 0.4 * DENSE < accounting.macs(model.float(), SHAPE) <= 0.4 * DENSE
    found = []
    for name, rank in ranks.items():
        weight = before.get_submodule(name).weight.detach()
        squares = torch.linalg.svdvals(weight.flatten(1)).square()
        left = float(squares[rank:].sum() / squares.sum())
        found.append(rank / len(squares) if criterion == "uniform" else left)
    assert len(found) > 3
    # one share or one threshold, up to one rank of a layer
    assert max(found) - min(found) < (1 / 16 + 0.01 if criterion == "uniform" else 0.12)


def test_lc_with_learned_ranks_builds_its_theta():
    model = network("resnet8").float()
    method = LearnedRanks(budget=int(0.4 * DENSE), input_shape=SHAPE, mu=0.1)
    method.start(model)
    theta = copy.deepcopy(model)
    with torch.no_grad():
        for weight, low in zip(compressible(theta).values(), method.theta, strict=True):
            weight.copy_(low)
    assert method.finish()
    assert accounting.macs(model, SHAPE) <= 0.4 * DENSE
    torch.testing.assert_close(
        outputs(model.double(), SHAPE), outputs(theta.double(), SHAPE), rtol=1e-3, atol=1e-4
    )


# Rebuilt


@pytest.mark.parametrize("scheme", [1, 2])
def test_a_new_network_is_drawn_in_the_shapes_of_another(scheme):
    model = network("resnet8")
    half = {name: 8 for name in structured.prunable(model)}
    small = shrunk(model, {"stage2.0.conv1": range(5, 20)}, half, SHAPE, scheme)
    torch.manual_seed(5)
    fresh = networks.build("resnet8").double()
    drawn = structured.shrink_like(fresh, small.state_dict(), input_shape=SHAPE)
    assert [p.shape for p in drawn.parameters()] == [p.shape for p in small.parameters()]
    oracle = shrunk(fresh, {"stage2.0.conv1": range(15)}, half, SHAPE, scheme)
    close(outputs(drawn, SHAPE), outputs(oracle, SHAPE))
    same = structured.shrink_like(fresh, model.state_dict(), input_shape=SHAPE)
    close(outputs(same, SHAPE), outputs(fresh, SHAPE))


def test_a_state_that_lacks_a_layer_is_named():
    state = networks.build("resnet8").state_dict()
    del state["stage2.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"no layer 'stage2\.0\.conv1'"):
        structured.rebuild(networks.build("resnet8"), state)


# Experiments


def test_the_paper_s_macs():
    """Table 3's 62.7 MFLOPs are half of ResNet-56's 125.5."""
    assert experiments.df.dense_macs("cifar10-jpeg", "resnet56") == 125_485_696
    # 90 classes more, each of 64 weights
    assert experiments.df.dense_macs("cifar100", "resnet56") == 125_485_696 + 64 * 90
    assert experiments.df.dense_weights("digits", "resnet8") == 74_512


@pytest.mark.parametrize("network", ["resnet8", "resnet20", "vgg16"])
def test_dense_macs_are_what_the_counter_says(network):
    shape = experiments.df.input_shape("cifar10-jpeg", network)
    counted = accounting.macs(networks.build(network, channels=3), shape)
    assert experiments.df.dense_macs("cifar10-jpeg", network) == counted
