"""k-means quantization against exact solvers, after pruning and before its codebooks are tuned."""

import copy

import kmeans1d
import numpy as np
import pytest
import torch
from torch import nn

from lib import networks
from lib.budget import bitwidth
from lib.data import load
from lib.networks import compressible
from lib.optimizers import CodebookTuning, KMeansQuantization, MagnitudePruning
from lib.projections.codebook import fit_codebooks
from lib.training import Schedule, train


def network(zeros=0.0, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 6))
    with torch.no_grad():
        for weight in compressible(model).values():
            weight.mul_(torch.rand_like(weight) >= zeros)
    return model


def weights(model):
    return [w.detach().double().numpy().copy() for w in compressible(model).values()]


def optimum(values, clusters):
    """k-means without zero, by an exact solver."""
    found = kmeans1d.cluster(values, clusters)
    return float(((values - np.array(found.centroids)[found.clusters]) ** 2).sum())


def optimum_free_zero(values, clusters):
    """The least of all splits: the n₋ lowest and n₊ highest share ``clusters`` centres.

    What lies between, around zero, goes to zero.
    """
    values = np.sort(values)
    negative, positive = values[values < 0], values[values > 0]

    def one_sign(magnitudes):
        """(clusters + 1,): the least error with so many centres and zero; ascending input."""
        ends = np.concatenate([[0.0], np.cumsum(magnitudes**2)])  # the i smallest at zero
        n = len(magnitudes)
        errors = [ends[n]]
        for k in range(1, clusters + 1):
            errors.append(
                min(ends[i] + (optimum(magnitudes[i:], k) if i < n else 0) for i in range(n + 1))
            )
        return np.array(errors)

    lower, upper = one_sign(-negative[::-1]), one_sign(positive)
    return min(lower[k] + upper[clusters - k] for k in range(clusters + 1))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_without_a_free_zero_the_error_is_the_optimum_of_k_means(bits):
    model = network(zeros=0.3)
    before = weights(model)
    method = KMeansQuantization(bits=bits, free_zero=False)
    method.start(model)
    assert method.finish()
    for old, new in zip(before, weights(model), strict=True):
        assert len(np.unique(new)) <= 2**bits
        assert ((new - old) ** 2).sum() == pytest.approx(
            optimum(old.ravel(), 2**bits), rel=1e-5, abs=1e-12
        )


@pytest.mark.parametrize("bits", [1, 2])
def test_with_a_free_zero_the_error_is_the_optimum(bits):
    model = network(zeros=0.6)
    before = weights(model)
    method = KMeansQuantization(bits=bits)
    method.start(model)
    assert method.finish()
    for old, new in zip(before, weights(model), strict=True):
        wanted = optimum_free_zero(old.ravel(), 2**bits)
        assert ((new - old) ** 2).sum() == pytest.approx(wanted, rel=1e-5)
        assert not new[old == 0].any()
        assert len(np.unique(new[new != 0])) <= 2**bits


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("free_zero", [True, False])
def test_at_every_width_the_error_is_the_librarys(bits, free_zero):
    model = network(zeros=0.5)
    before = [w.detach().clone() for w in compressible(model).values()]
    method = KMeansQuantization(bits=bits, free_zero=free_zero)
    method.start(model)
    result = list(method.compressed().values())
    assert all(map(torch.equal, compressible(model).values(), before))  # nothing is changed
    method.finish()
    assert all(map(torch.equal, compressible(model).values(), result))
    wanted = fit_codebooks(before, free_zero=free_zero).errors[:, bits - 1]
    for old, new, error in zip(before, result, wanted, strict=True):
        found = (new.double() - old.double()).square().sum()
        assert float(found) == pytest.approx(float(error), rel=1e-5, abs=1e-12)


def test_a_layer_of_zeros_stays_one():
    model = network()
    nn.init.zeros_(model[0].weight)
    method = KMeansQuantization(bits=2)
    method.start(model)
    method.finish()
    assert not model[0].weight.any()
    assert torch.unique(model[2].weight).numel() == 5


@pytest.mark.parametrize("free_zero", [True, False])
def test_zeros_are_held_where_zero_is_free(free_zero):
    model = network(zeros=0.5)
    zeros = [w == 0 for w in weights(model)]
    method = KMeansQuantization(bits=2, free_zero=free_zero)
    method.start(model)
    with torch.no_grad():
        for weight in compressible(model).values():
            weight.add_(1)
    method.after_step(torch.tensor(0.1))
    for w, zero in zip(weights(model), zeros, strict=True):
        assert w[~zero].all()
        assert not w[zero].any() if free_zero else w[zero].all()


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def trained(data, model, method, *, stage, epochs=2, **kwargs):
    schedule = Schedule(epochs=epochs, lr=0.1, batch=64, weight_decay=5e-4, clip=1.0)
    return train(model, data, schedule, method, seed=0, stage=stage, quiet=True, **kwargs)


def test_deep_compression_is_three_stages(digits):
    """Prune, share values by k-means (here without training before), train the values."""
    torch.manual_seed(0)
    model = networks.build("lenet300")
    trained(digits, model, MagnitudePruning(keep=0.1), stage=0, epochs=4)
    zeros = [w == 0 for w in weights(model)]
    assert sum(int((~zero).sum()) for zero in zeros) == 26_620

    assert trained(digits, model, KMeansQuantization(bits=3), stage=1, epochs=0) == []
    shared = weights(model)
    zeros_shared = [w == 0 for w in shared]
    assert all((z | ~old).all() for z, old in zip(zeros_shared, zeros, strict=True))
    assert [bitwidth(w) for w in compressible(model).values()] == [3, 3, 3]

    history = trained(digits, model, CodebookTuning(), stage=2)
    assert all(np.array_equal(w == 0, z) for w, z in zip(weights(model), zeros_shared, strict=True))
    assert all(bitwidth(w) <= 3 for w in compressible(model).values())
    assert not any(np.array_equal(w, s) for w, s in zip(weights(model), shared, strict=True))
    assert history[-1]["test_accuracy"] > 0.9


def test_a_run_on_digits_resumed_is_the_run_that_was_not(digits, monkeypatch):
    """As after an interruption: the weights that ``start`` sees are not those of the checkpoint."""
    monkeypatch.setattr("lib.training.CHECKPOINT_SECONDS", 0.0)

    def dense():
        torch.manual_seed(0)
        return networks.build("lenet300")

    whole = dense()
    MagnitudePruning(keep=0.1).start(whole)
    states = []
    save = lambda state: states.append(copy.deepcopy(state))  # noqa: E731
    trained(digits, whole, KMeansQuantization(bits=4), stage=1, save=save)
    kept = [np.count_nonzero(w) for w in weights(whole)]
    assert sum(kept) <= 26_620
    resumed = dense()
    trained(digits, resumed, KMeansQuantization(bits=4), stage=1, resume=states[0])
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


@pytest.mark.parametrize("bits", [0, 9, 2.5, float("nan")])
def test_bad_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"bits = {bits} must be a whole number from 1 to 8"):
        KMeansQuantization(bits=bits)
