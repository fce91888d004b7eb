"""LC against its algorithm written out, its costs against their bounds, and where μ leads."""

import numpy as np
import pytest
import torch
from torch import nn

from lib.layers import compressible
from lib.optimizers import LC
from lib.optimizers.c_steps import L0, Codebook, Ranks
from lib.optimizers.lc import FIRST_PULL


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def vector(tensors):
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


def largest(w, keep):
    return np.where(np.abs(w) >= np.sort(np.abs(w))[-keep], w, 0)


def test_three_turns_are_the_algorithm_written_out():
    model, mu = network(), 0.5
    method = LC(cost="l0-constraint", amount=0.2, mu=mu, growth=2.0)
    method.start(model)
    w = vector(method.w)
    keep = int(0.2 * w.size)
    theta, multipliers = largest(w, keep), np.zeros_like(w)
    for turn in range(3):
        # an L step of any kind
        with torch.no_grad():
            for parameter in method.parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
        w = vector(method.w)
        loss = method.penalty()
        np.testing.assert_allclose(
            float(loss.detach()), mu / 2 * ((w - theta - multipliers / mu) ** 2).sum(), rtol=1e-5
        )
        gradients = torch.autograd.grad(loss, method.parameters)
        np.testing.assert_allclose(
            vector(gradients), mu * (w - theta) - multipliers, rtol=1e-4, atol=1e-6
        )
        method.after_period()
        theta = largest(w - multipliers / mu, keep)
        multipliers = multipliers - mu * (w - theta)
        mu *= 2
        np.testing.assert_allclose(vector(method.theta), theta, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(vector(method.multipliers), multipliers, rtol=1e-4, atol=1e-6)
        assert float(method.mu) == pytest.approx(mu), turn


def test_the_first_mu_is_chosen_after_an_l_step_of_plain_training():
    method = LC(cost="l0-constraint", amount=0.2, epochs_per_step=2)
    method.start(network())
    assert method.compressed() is None
    for _ in range(2):
        assert float(method.penalty().detach()) == 0
        for _ in range(5):
            method.after_step(torch.tensor(0.1))
        method.after_period()
    # Σα = 1
    assert float(method.mu) == pytest.approx(FIRST_PULL)
    assert sum(int(t.count_nonzero()) for t in method.theta) == int(0.2 * 45)


def test_a_penalty_is_weighed_against_mu():
    model = network()
    w = vector(compressible(model).values())
    method = LC(cost="l1-penalty", amount=0.01, mu=0.5)
    method.start(model)
    expected = np.sign(w) * np.maximum(np.abs(w) - 0.01 / 0.5, 0)
    np.testing.assert_allclose(vector(method.theta), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("cost", "amounts"),
    [("l0-constraint", (0.5, 0.2)), ("codebook+l0", ((2, 0.1), (1, 0.4)))],
)
def test_each_layer_has_the_amount_that_a_list_says(cost, amounts):
    def theta(amount, scope="layer"):
        method = LC(cost=cost, amount=amount, mu=1.0, scope=scope)
        method.start(network())
        return method.theta

    found = theta(amounts)
    assert not torch.equal(found[1], theta(amounts[0])[1])
    for layer, amount in enumerate(amounts):
        assert torch.equal(found[layer], theta(amount)[layer])
    assert len(theta(amounts[0], scope="global")) == 2  # a pair is one amount


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": (0.5, 0.2), "scope": "global"}, "amount lists one for each layer: choose sco"),
        ({"amount": (0.5, 1.2)}, "amount = 1.2 must be from 0 to 1"),
        ({"cost": "codebook", "amount": (4, 0)}, "amount = 0 must be a whole number"),
        ({"amount": (0.5,)}, "amount lists 1 numbers for a network of 2 layers"),
        ({"cost": "codebook+l0", "amount": ((2, 0.1),) * 3}, "amount lists 3 numbers"),
        ({"parts": {"0": L0(0.5)}}, "give one or the other"),
    ],
)
def test_lists_that_do_not_fit_are_refused(options, message):
    given = {"cost": "l0-constraint", "amount": None, "scope": "layer"} | options
    with pytest.raises(ValueError, match=message):
        LC(**given).start(network())


@pytest.mark.parametrize("augmented", [False, True])
def test_lc_with_a_codebook_ends_with_its_values_and_the_zeros_of_its_start(augmented):
    """Also where w has long left its zeros, and from far away."""
    model = network()
    with torch.no_grad():
        model[0].weight[:2] = 0
    method = LC(
        cost="codebook", amount=[3, 2], scope="layer", mu=0.5, growth=1.5, augmented=augmented
    )
    method.start(model)
    for _ in range(5):
        with torch.no_grad():
            for parameter in method.parameters:
                parameter.add_(torch.randn_like(parameter))
        method.after_period()
        assert not method.theta[0][:2].any()
    assert method.finish()
    assert not model[0].weight[:2].any()
    assert model[0].weight[2:].all()
    assert torch.unique(model[0].weight[2:]).numel() == 3
    assert torch.unique(model[2].weight).numel() == 2


@pytest.mark.parametrize("augmented", [False, True])
def test_w_and_theta_meet_and_multipliers_meet_sooner(augmented):
    """min ½‖w − c‖² with at most two nonzeros: the two largest of c stay as they are."""
    model = nn.Sequential(nn.Linear(6, 1, bias=False))
    centre = torch.tensor([[3.0, -2.0, 1.0, 0.5, 0.2, -0.1]])
    method = LC(cost="l0-constraint", amount=2 / 6, mu=0.1, growth=1.2, augmented=augmented)
    with torch.no_grad():
        model[0].weight.copy_(centre)
    method.start(model)
    weight = model[0].weight
    for _ in range(30):
        for _ in range(60):
            loss = 0.5 * (weight - centre).square().sum() + method.penalty()
            (gradient,) = torch.autograd.grad(loss, weight)
            with torch.no_grad():
                weight.sub_(gradient / (1 + float(method.mu)))
        method.after_period()
    gap = float((method.w[0] - method.theta[0]).abs().max())
    # stationary: (w − c) + μw = 0 off the support; with λ the gap goes to zero at a finite μ
    assert gap < (1e-4 if augmented else 0.1)
    if not augmented:
        assert gap > 1e-3
    method.finish()
    expected = centre * (centre.abs() > 1.5)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-3, atol=1e-3)


def test_training_that_ends_within_an_l_step_leaves_theta_of_its_weights():
    method = LC(cost="l0-constraint", amount=0.2, mu=0.5, epochs_per_step=2)
    method.start(network())
    with torch.no_grad():
        for parameter in method.parameters:
            parameter.add_(0.5 * torch.randn_like(parameter))
    w = vector(method.w)
    method.after_period()
    method.finish()
    np.testing.assert_array_equal(vector(method.w), largest(w, int(0.2 * w.size)))


def test_training_that_ends_before_the_first_c_step_is_an_error():
    model = network()
    before = vector(compressible(model).values())
    method = LC(cost="l0-constraint", amount=0.2, epochs_per_step=2)
    method.start(model)
    method.after_period()
    with pytest.raises(ValueError, match="before the first C step: have at least 2"):
        method.finish()
    np.testing.assert_array_equal(vector(compressible(model).values()), before)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"1": L0(0.5)}, "unknown layer '1': choose one of 0, 2"),
        ({"0": L0(0.5), ("0", "2"): L0(0.1)}, "layer '0' has 2 costs"),
    ],
)
def test_a_layer_that_is_not_there_or_has_two_costs_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        LC(parts).start(network())


def test_each_layer_is_projected_as_it_would_be_alone():
    mixed = LC({"0": Codebook(3), "2": L0(0.4)}, mu=0.5)
    mixed.start(network())
    for part, cost, amount in ((0, "codebook", 3), (1, "l0-constraint", 0.4)):
        alone = LC(cost=cost, amount=amount, mu=0.5, scope="layer")
        alone.start(network())
        assert torch.equal(mixed.theta[part], alone.theta[part])


@pytest.mark.parametrize(
    ("parts", "then"),
    [
        ({"0": L0(0.5)}, "held-zeros"),
        ({"0": L0(0.5), "2": Codebook(4)}, "tune-codebooks"),
        ({"0": L0(0.5), "2": Ranks(0.5)}, None),
    ],
)
def test_what_trains_on_holds_what_every_cost_has_left(parts, then):
    method = LC(parts)
    method.start(network())
    assert method.then == then
