"""Thresholding against NumPy's decomposition and finite differences; matrices against loops."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib.projections import svt as module
from lib.projections.svt import frozen_gram, matricize, svt, tensorize

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [(4, 7), (7, 4), (5, 5), (1, 6), (6, 1), (1, 1)]


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_spectrum(values, m, n, seed=0):
    """An (m, n) matrix with these singular values."""
    k = min(m, n)
    u = torch.linalg.qr(gaussian(m, k, seed=seed))[0]
    v = torch.linalg.qr(gaussian(n, k, seed=seed + 1))[0]
    return (u * torch.tensor(values, dtype=torch.float64)) @ v.mT


def oracle(matrix, gamma):
    u, s, vh = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=False)
    return (u * np.maximum(s - gamma, 0)) @ vh, s


def soft_rank(matrix, gamma):
    """Eq. 13 with τ = 1, smooth but for the kink, by NumPy."""
    s = np.linalg.svd(matrix, compute_uv=False)
    return np.tanh(np.maximum(s - gamma, 0)).sum()


def differences(function, x, step=1e-5):
    """The gradient of a scalar function of an array, by central differences."""
    x = np.asarray(x).astype(np.float64)
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[i] += sign * step
            ends.append(function(moved))
        gradient[i] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def gradients(matrix, gamma, weight, rows=None, gram=None, rank=1.0, eigen=None):
    """Of ⟨weight, SVT⟩ + rank·(soft rank), for all inputs that can have one."""
    threshold = torch.tensor(gamma, dtype=torch.float64, requires_grad=True)
    inputs = [threshold]
    if gram is None:
        matrix = matrix.detach().clone().requires_grad_()
        inputs.append(matrix)
    if rows is not None:
        rows = rows.detach().clone().requires_grad_()
        inputs.append(rows)
    shrunk, spectrum = svt(matrix, threshold, rows=rows, gram=gram, eigen=eigen)
    counted = torch.tanh(torch.relu(spectrum.double() - threshold.unsqueeze(-1))).sum()
    value = (shrunk.double() * weight).sum() + rank * counted
    return torch.autograd.grad(value, inputs)


def near(got, want, tolerance=1e-6):
    got, want = np.asarray(got.detach().double()), np.asarray(want)
    assert np.isfinite(got).all()
    assert np.linalg.norm(got - want) <= tolerance * max(1.0, np.linalg.norm(want))


# ------------------------------------------------------------------------------------- matrices


@pytest.mark.parametrize("shape", [(3, 4, 3, 3), (2, 1, 5, 3), (4, 3, 1, 1), (1, 2, 2, 1)])
def test_convolution_to_matrix_and_back(shape):
    weight = gaussian(*shape)
    outputs, inputs, height, width = shape
    one = np.empty((outputs, inputs * height * width))
    two = np.empty((outputs * width, inputs * height))
    for o, i, y, x in np.ndindex(shape):
        one[o, (i * height + y) * width + x] = weight[o, i, y, x]
        two[o * width + x, i * height + y] = weight[o, i, y, x]
    for scheme, want in ((1, one), (2, two)):
        matrix = matricize(weight, scheme=scheme)
        assert np.array_equal(matrix, want)
        assert torch.equal(tensorize(matrix, shape=weight.shape, scheme=scheme), weight)
        # a linear layer is its own
        assert torch.equal(matricize(matrix, scheme=scheme), matrix)
        assert torch.equal(tensorize(matrix, shape=matrix.shape, scheme=scheme), matrix)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matricize(gaussian(4, 3, 3)), r"shape \(4, 3, 3\)"),
        (lambda: matricize(gaussian(4, 3, 3, 3), scheme=3), "scheme 3"),
        (lambda: tensorize(gaussian(4, 27), shape=(4, 3, 3, 3), scheme=0), "scheme 0"),
        (
            lambda: tensorize(gaussian(4, 27), shape=(4, 3, 3, 3), scheme=2),
            r"\(4, 27\) .* \(12, 9\) .* scheme 2",
        ),
    ],
)
def test_layers_that_are_no_matrix(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------------------------ the values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_numpys(shape, dtype):
    matrix = gaussian(*shape, dtype=torch.float64).to(dtype)
    top = float(np.linalg.norm(matrix.double(), 2))
    for gamma in (0.0, 0.3 * top, 0.9 * top, 2 * top, 100.0 * top):
        threshold = torch.tensor(gamma, dtype=torch.float64)
        shrunk, spectrum = svt(matrix, threshold)
        want, sigma = oracle(matrix.double(), gamma)
        assert shrunk.dtype == spectrum.dtype == dtype
        assert shrunk.shape == matrix.shape
        tolerance = 8 * max(torch.finfo(dtype).eps, 1e-13) * top
        assert np.abs(shrunk.double().numpy() - want).max() <= tolerance
        assert np.abs(spectrum.double().numpy() - sigma).max() <= tolerance


# --------------------------------------------------------------------------------- the gradients

SPECTRA = {
    "distinct": [3.0, 2.0, 1.2, 0.4],
    "repeated above": [3.0, 3.0, 2.0, 0.4],
    "repeated below": [3.0, 0.4, 0.4, 0.1],
    "all equal": [2.0, 2.0, 2.0, 2.0],
    "nearly equal": [2.0, 2.0 + 1e-9, 2.0 + 1e-13, 0.3],
    "rank deficient": [3.0, 1.5, 0.0, 0.0],
    "astride the threshold": [1.002, 0.998, 0.5, 0.0],
    "zero": [0.0, 0.0, 0.0, 0.0],
    "tiny": [1.5, 1e-5, 1e-9, 1e-12],
}


@pytest.mark.parametrize(
    ("matrix", "gamma"),
    [
        *(
            (with_spectrum(spectrum, *shape), 1.0)
            for spectrum in SPECTRA.values()
            for shape in ((4, 7), (7, 4), (4, 4))
        ),
        *((gaussian(*shape), gamma) for shape in SHAPES for gamma in (0.2, 0.8)),
    ],
)
def test_gradients_are_the_finite_differences(matrix, gamma):
    assert np.abs(oracle(matrix, 0)[1] - gamma).min() > 1e-3
    weight = gaussian(*matrix.shape, seed=5)

    def value(x, g=gamma):
        return (oracle(x, g)[0] * weight.numpy()).sum() + soft_rank(x, g)

    of_gamma, of_matrix = gradients(matrix, gamma, weight)
    near(of_matrix, differences(value, matrix))
    near(of_gamma, differences(lambda g: value(matrix, g), gamma))


def test_gradients_without_a_threshold():
    """SVT(W, 0) = W, of any rank; γ's derivative is the one to the right."""
    for values in (SPECTRA["distinct"], SPECTRA["rank deficient"], SPECTRA["zero"]):
        matrix, weight = with_spectrum(values, 4, 6), gaussian(4, 6, seed=5)
        of_gamma, of_matrix = gradients(matrix, 0.0, weight, rank=0.0)
        near(of_matrix, weight, 1e-12)
        right = ((oracle(matrix, 1e-7)[0] - matrix.numpy()) * weight.numpy()).sum() / 1e-7
        near(of_gamma, right, 1e-6)


def test_gradients_at_a_singular_value_are_those_from_below():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    weight = gaussian(3, 3, seed=5)
    at, above = (gradients(matrix, g, weight) for g in (2.0, 2.0 + 1e-12))
    for got, want in zip(at, above, strict=True):
        near(got, want, 1e-9)
    below = gradients(matrix, 2.0 - 1e-12, weight)
    assert float(below[0] - at[0]) == pytest.approx(-float(weight[1, 1]) - 1, abs=1e-9)


def test_all_is_gone_beyond_the_spectrum():
    for gradient in gradients(gaussian(4, 6), 100.0, gaussian(4, 6, seed=5)):
        assert not gradient.any()


@pytest.mark.parametrize("shape", [(16, 144), (64, 27), (32, 64)])
def test_single_precision_gradients(shape):
    """Against the differentiated decomposition in double precision."""
    matrix, weight = gaussian(*shape, dtype=torch.float32), gaussian(*shape, seed=5)
    rows = torch.rand(shape[0], generator=torch.Generator().manual_seed(3))
    rows[1], rows[2] = 0.0, 1e-11  # what a steep sigmoid makes of closed gates
    sigma = torch.linalg.svdvals(rows.double().unsqueeze(-1) * matrix)
    for gamma in (1e-3, 0.3 * float(sigma[0]), 0.7 * float(sigma[0])):
        assert (sigma - gamma).abs().min() > 1e-4
        inputs = [matrix.double(), torch.tensor(gamma).double(), rows.double()]
        w, g, mask = (x.requires_grad_() for x in inputs)
        u, s, vh = torch.linalg.svd(mask.unsqueeze(-1) * w, full_matrices=False)
        excess = torch.relu(s - g)
        value = ((u * excess) @ vh * weight).sum() + torch.tanh(excess).sum()
        want = torch.autograd.grad(value, (g, w, mask))
        got = gradients(matrix, gamma, weight, rows)
        for a, b in zip(got, want, strict=True):
            near(a, b, 1e-4)


# ------------------------------------------------------------------------- masks, batches, grams


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_a_mask_is_a_product(shape):
    matrix, weight = gaussian(*shape), gaussian(*shape, seed=5)
    rows = torch.linspace(0.0, 1.0, shape[0]).double()
    gram = frozen_gram(matrix)
    assert (gram is None) == (shape == (7, 4))
    masked = rows.unsqueeze(-1) * matrix
    want = svt(masked, torch.tensor(0.5))
    for got in (svt(matrix, torch.tensor(0.5), rows=rows, gram=g) for g in (None, gram)):
        near(got.matrix, want.matrix, 1e-12)
        near(got.spectrum, want.spectrum, 1e-12)
    of_gamma, of_masked = gradients(masked, 0.5, weight)
    of_rows = (of_masked * matrix).sum(-1)
    free = gradients(matrix, 0.5, weight, rows)
    near(free[1], rows.unsqueeze(-1) * of_masked, 1e-9)
    frozen = gradients(matrix, 0.5, weight, rows, gram)
    for got in (free, frozen):
        near(got[0], of_gamma, 1e-9)
        near(got[-1], of_rows, 1e-9)


def test_a_frozen_matrix_without_a_mask():
    matrix, weight = gaussian(4, 7), gaussian(4, 7, seed=5)
    free = gradients(matrix, 0.5, weight)
    gram = frozen_gram(matrix)
    (frozen,) = gradients(matrix, 0.5, weight, gram=gram)
    near(frozen, free[0], 1e-12)
    (decomposed,) = gradients(matrix, 0.5, weight, gram=gram, eigen=torch.linalg.eigh(gram))
    assert torch.equal(decomposed, frozen)


@pytest.mark.parametrize("batch", [(3,), (2, 2), (0,)])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_a_batch_is_a_loop(batch, shape):
    matrix, weight = gaussian(*batch, *shape), gaussian(*batch, *shape, seed=5)
    gamma = torch.rand(batch, generator=torch.Generator().manual_seed(1)).double()
    got = gradients(matrix, gamma.tolist(), weight)
    shrunk, spectrum = svt(matrix, gamma)
    assert shrunk.shape == matrix.shape
    assert spectrum.shape == (*batch, 4)
    for i in np.ndindex(batch):
        one = svt(matrix[i], gamma[i])
        near(shrunk[i], one.matrix, 1e-12)
        near(spectrum[i], one.spectrum, 1e-12)
        for a, b in zip(got, gradients(matrix[i], float(gamma[i]), weight[i]), strict=True):
            near(a[i], b, 1e-10)


def test_columns_of_zeros_change_nothing():
    matrix, weight = gaussian(4, 6), gaussian(4, 6, seed=5)
    pad = torch.nn.functional.pad
    wide = pad(matrix, (0, 3))
    near(svt(wide, torch.tensor(0.5)).matrix, pad(svt(matrix, torch.tensor(0.5)).matrix, (0, 3)))
    got, want = gradients(wide, 0.5, pad(weight, (0, 3))), gradients(matrix, 0.5, weight)
    near(got[0], want[0], 1e-12)
    near(got[1], pad(want[1], (0, 3)), 1e-12)
    turned = svt(matrix.mT.contiguous().mT, torch.tensor(0.5)).matrix  # nor do strides
    near(turned, svt(matrix, torch.tensor(0.5)).matrix, 1e-14)


# ---------------------------------------------------------------------------------------- errors

MATRIX, NAN = gaussian(3, 4), float("nan")
GRAM = frozen_gram(MATRIX)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matrix": torch.ones(3, 4, dtype=torch.int64)}, r"layer 0 .*int64"),
        *(({"matrix": torch.ones(shape)}, "matrix") for shape in ((4,), (0, 4), (4, 0))),
        ({"threshold": torch.ones(1)}, r"threshold is \(1,\) .* be \(\) "),
        *(({"threshold": torch.tensor(bad)}, f"threshold .* {bad}") for bad in (-1.0, NAN)),
        *(
            ({"matrix": torch.full((3, 4), bad, dtype=torch.float64)}, "NaN or infinite")
            for bad in (NAN, 1e200)
        ),
        ({"rows": torch.tensor([1, 1, NAN]).double(), "gram": GRAM}, "NaN or infinite"),
        ({"rows": torch.ones(4).double()}, r"rows is \(4,\) .* \(3,\) torch.float64"),
        ({"gram": torch.ones(4, 4).double()}, r"gram is \(4, 4\) .* \(3, 3\)"),
        ({"matrix": MATRIX.clone().requires_grad_(), "gram": GRAM}, "needs a gradient"),
        ({"eigen": torch.linalg.eigh(GRAM)}, "pass the gram"),
        (
            {"eigen": torch.linalg.eigh(GRAM), "gram": GRAM, "rows": torch.ones(3).double()},
            "no rows",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        svt(**{"matrix": MATRIX, "threshold": torch.tensor(1.0)} | arguments)
    with pytest.raises(ValueError, match="matrix"):
        frozen_gram(torch.ones(4))


def test_the_table_of_where_eigenproblems_are_solved_has_a_place_for_every_size():
    table = pd.read_csv(Path(module.__file__).with_name("eigenproblems.csv"))
    assert table.columns.tolist() == ["rows_up_to", "solved_on", "why"]
    sizes = table["rows_up_to"]
    assert sizes.is_monotonic_increasing
    assert sizes.is_unique
    assert (sizes.iloc[0] > 0, sizes.iloc[-1]) == (True, np.inf)
    assert set(table["solved_on"]) <= {"host", "device"}
    assert table["why"].str.match("(not )?measured: ").all()
    assert [float(most) for most in module.SOLVED_ON] == sizes.tolist()
    assert list(module.SOLVED_ON.values()) == table["solved_on"].tolist()
