"""Singular value thresholding, differentiable, and the matrices that layers are for it.

DTL-S learns a threshold γ for each layer by gradient: the layer computes with SVT(W, γ) (eq. 10;
behind a filter mask, eq. 11), and its rank is counted softly from the spectrum (eq. 13).

Eo, Kang, Rhee, "A Differentiable Framework for End-to-End Learning of Hybrid Structured
Compression"; the operator: Cai, Candès, Shen, "A singular value thresholding algorithm for matrix
completion" (SIAM J. Optim. 2010).
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.projections.checks import check_floating, integers, one_of, shaped
from lib.projections.transfer import fetched, sent

with Path(__file__).with_name("eigenproblems.csv").open(encoding="utf-8") as _table:
    #: Where a GPU's matrix is decomposed, ``host`` or ``device``, by its rows: at most so many.
    SOLVED_ON = {row["rows_up_to"]: row["solved_on"] for row in csv.DictReader(_table)}

TINY = torch.finfo(torch.float64).tiny
EPS = torch.finfo(torch.float64).eps


class Shrunk(NamedTuple):
    """What ``svt`` returns."""

    matrix: Tensor  # (..., m, n), U·diag(max(σ − γ, 0))·Vᵀ
    spectrum: Tensor  # (..., min(m, n)), σ₁ ≥ σ₂ ≥ … before the threshold


def matricize(weight: Tensor, *, scheme: int = 1) -> Tensor:
    """Write a layer's weight as the matrix W whose rank is chosen.

    With kernels of k_h × k_w,

        scheme 1    W[o, (i, y, x)] = weight[o, i, y, x]      C_out × C_in·k_h·k_w
        scheme 2    W[(o, x), (i, y)] = weight[o, i, y, x]    C_out·k_w × C_in·k_h

    With W = left·right of rank r the layer is two: in scheme 1 a k_h × k_w convolution to r
    channels, then a 1 × 1; in scheme 2 a k_h × 1 convolution to r channels (it takes the stride and
    the padding in y), then a 1 × k_w (those in x). A linear layer's weight is W in both.

    Parameters
    ----------
    weight : Tensor
        (C_out, C_in, k_h, k_w), or (C_out, C_in).
    scheme : int
        1 or 2.

    Returns
    -------
    Tensor
        Of the weight's dtype: differentiable, a view in scheme 1 if the weight is contiguous.

    Raises
    ------
    ValueError
        For other shapes and schemes. A grouped convolution, which is no single matrix, cannot be
        told from its weight.

    Notes
    -----
    Eo, Kang, Rhee, Sections 3.1 and 3.2.
    """
    _check_layer(weight.shape, scheme)
    if weight.ndim == 2:
        return weight
    if scheme == 1:
        return weight.flatten(1)
    return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)  # (C_out·k_w, C_in·k_h)


def tensorize(matrix: Tensor, *, shape: Sequence[int], scheme: int = 1) -> Tensor:
    """Undo ``matricize``.

    Parameters
    ----------
    matrix : Tensor
        What ``matricize`` returns for a weight of this shape, or one as large.
    shape : sequence of int
        The weight's, (C_out, C_in, k_h, k_w) or (C_out, C_in).
    scheme : int
        The one it was matricized by.

    Returns
    -------
    Tensor
        The weight: differentiable, contiguous where the matrix is and the scheme is 1.

    Raises
    ------
    ValueError
        For a matrix that is not of the shape that the scheme gives.
    """
    _check_layer(shape, scheme)
    shape = integers(shape, "shape")
    outputs, inputs, height, width = shape if len(shape) == 4 else (*shape, 1, 1)
    want = (outputs, inputs * height * width)
    if scheme == 2:
        want = (outputs * width, inputs * height)
    of = f"a weight of shape {shape} in scheme {scheme} has no other"
    shaped("the matrix", matrix, want, matrix.dtype, remedy=of)
    if scheme == 1 or len(shape) == 2:
        return matrix.reshape(shape)
    return matrix.reshape(outputs, width, inputs, height).permute(0, 2, 3, 1)


def svt(
    matrix: Tensor,
    threshold: Tensor,
    *,
    rows: Tensor | None = None,
    gram: Tensor | None = None,
    eigen: tuple[Tensor, Tensor] | None = None,
) -> Shrunk:
    """Shrink every singular value by γ, and let those no larger go.

    Solves  min over Θ of ½·‖Θ − W‖² + γ·‖Θ‖_*  by  SVT(W, γ) = U·diag(max(σ − γ, 0))·Vᵀ  of the
    singular value decomposition W = U·diag(σ)·Vᵀ.

    Exact, and so are the gradients with respect to W, the mask and γ, also where singular values
    repeat or vanish: they are made of divided differences, which have limits there, and never of
    1/(σᵢ² − σⱼ²). At the kink σ = γ > 0 they are those of σ < γ: 0. For γ = 0 the result is W, and
    its derivative the identity; a σ = 0 adds nothing to γ's. Of the spectrum, σ = 0 has the
    subgradient 0.

    Decomposed, in float64, is W·Wᵀ (Wᵀ·W if W is tall). So σ ≤ σ₁·√(max(m, n)·ε), 4e-7·σ₁ for
    n = 576, cannot be told from 0, and counts as 0. Products of m × m with m × n matrices are added
    up in W's dtype.

    Parameters
    ----------
    matrix : Tensor
        W, (..., m, n), floating. Layers are best stacked, narrower ones filled up with columns of
        zeros, which change nothing.
    threshold : Tensor
        γ, (...), floating, 0 ≤ γ < ∞, in units of W.
    rows : Tensor, optional
        (..., m), of W's dtype: SVT(diag(rows)·W, γ), eq. 11 with a filter mask. In scheme 2 of
        ``matricize`` a filter is k_w rows.
    gram : Tensor, optional
        ``frozen_gram(matrix)``, where W stays and the mask and γ move. A forward then costs one
        product with W, and a backward another.
    eigen : pair of Tensor, optional
        ``torch.linalg.eigh(gram)``, where no mask moves either: nothing is decomposed then.

    Returns
    -------
    Shrunk
        Of W's dtype, on its device. Both parts can be differentiated, once.

    Raises
    ------
    ValueError
        For NaN or infinite values or squares, other shapes and dtypes, a negative threshold, a gram
        together with a W that needs a gradient, and an eigendecomposition without a gram or with a
        mask.

    Notes
    -----
    O(m·n·min(m, n)).

    Eo, Kang, Rhee, eqs. 4, 5, 10 and 11.
    """
    _check_matrices(matrix, threshold, rows, gram)
    if eigen is not None and (gram is None or rows is not None):
        raise ValueError(
            "eigen is the decomposition of a gram that no mask changes; pass the gram, and no rows"
        )
    masked = problem(matrix, rows=rows, gram=gram)
    _check_finite(masked.gram.detach())
    _check_threshold(threshold)
    return shrink(masked, threshold, eigen or torch.linalg.eigh(masked.gram.detach()))


class Problem(NamedTuple):
    """What is decomposed, and what is multiplied by what follows from it: a part of ``svt``."""

    matrix: Tensor  # (..., m, n), W or, where no gram was given, diag(rows)·W; of a tall one Wᵀ
    gram: Tensor  # (..., m, m) float64, A = (M·W)·(M·W)ᵀ
    rows: Tensor | None  # (..., m), what is left to multiply
    tall: bool = False  # the result is to be transposed


def problem(matrix: Tensor, *, rows: Tensor | None, gram: Tensor | None) -> Problem:
    """The first part of ``svt``, of arguments that it would take; nothing waits for the device."""
    if gram is not None:
        if rows is not None:
            # (M·W)·(M·W)ᵀ = M·(W·Wᵀ)·M
            gram = rows.double().unsqueeze(-1) * gram * rows.double().unsqueeze(-2)
        return Problem(matrix, gram, rows)
    if rows is not None:
        matrix = rows.unsqueeze(-1) * matrix
    tall = matrix.shape[-2] > matrix.shape[-1]
    wide = matrix.mT if tall else matrix
    return Problem(wide, _Gram.apply(wide), None, tall)


@torch.no_grad()
def decompose(grams: Sequence[Tensor], thresholds: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The eigendecompositions of several problems' A: the second part of ``svt``, for all at once.

    What lies on a GPU is decomposed where ``SOLVED_ON`` says: on the host, copied there and back
    once for all, or on the device, which each stack then waits for.

    Raises
    ------
    ValueError
        As ``svt`` does, for ``thresholds`` too, however many.
    """
    device = thresholds[0].device if thresholds else torch.device("cpu")
    if device.type == "cpu":
        for gram in grams:
            _check_finite(gram)
        for threshold in thresholds:
            _check_threshold(threshold)
        return [torch.linalg.eigh(gram) for gram in grams]
    if not grams:
        return []  # the thresholds alone are not worth a wait
    small = [on_host(gram) for gram in grams]
    # of the others the diagonal alone, by which they are checked
    asked = [g if s else g.diagonal(dim1=-2, dim2=-1) for g, s in zip(grams, small, strict=True)]
    gamma = torch.cat([threshold.flatten() for threshold in thresholds]).double()
    gamma, *parts = map(torch.from_numpy, fetched([gamma, *asked]))
    if not all(part.isfinite().all() for part in parts):
        raise ValueError(_INFINITE)
    _check_threshold(gamma)
    solved = [torch.linalg.eigh(part) for part, s in zip(parts, small, strict=True) if s]
    there = iter(sent([part for pair in solved for part in pair], device))
    return [
        (next(there), next(there)) if s else torch.linalg.eigh(g)
        for g, s in zip(grams, small, strict=True)
    ]


def on_host(gram: Tensor) -> bool:
    """Whether ``decompose`` brings it to the host."""
    rows = gram.shape[-1]
    place = next(place for most, place in SOLVED_ON.items() if rows <= float(most))
    return gram.device.type != "cpu" and place == "host"


def shrink(masked: Problem, threshold: Tensor, eigen: tuple[Tensor, Tensor]) -> Shrunk:
    """The last part of ``svt``, of a decomposition of ``masked.gram``; nothing waits or is checked.

    A threshold that is negative or not finite is not refused here.
    """
    matrix, gram, rows, tall = masked
    size = max(matrix.shape[-2:])
    factor, sigma = _Factor.apply(gram, threshold.double(), size, eigen)
    factor, spectrum = factor.to(matrix.dtype), sigma.to(matrix.dtype)
    if rows is not None:
        # H·(M·W) = (H·M)·W: M's gradient then needs no other of the size of W
        factor = factor * rows.unsqueeze(-2)
    shrunk = factor @ matrix
    return Shrunk(shrunk.mT if tall else shrunk, spectrum)


@torch.no_grad()
def frozen_gram(matrix: Tensor) -> Tensor | None:
    """What ``svt`` can compute once for a W that stays: W·Wᵀ in float64, (..., m, m).

    None for a tall W: its smaller Wᵀ·W follows the mask in a sum over all rows, so nothing is
    saved.

    Raises
    ------
    ValueError
        For shapes and dtypes that ``svt`` refuses.
    """
    _check_matrix(matrix)
    return None if matrix.shape[-2] > matrix.shape[-1] else _Gram.apply(matrix)


class _Gram(torch.autograd.Function):
    """A = W·Wᵀ in float64. Its gradient, which must be symmetric, is multiplied in W's dtype."""

    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(matrix)
        wide = matrix.double()
        return wide @ wide.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (matrix,) = ctx.saved_tensors
        # dA = dW·Wᵀ + W·dWᵀ
        return (2 * grad).to(matrix.dtype) @ matrix


class _Factor(torch.autograd.Function):
    """H with SVT(W, γ) = H·W, and σ, largest first, as functions of A = W·Wᵀ and γ, in float64.

    A = U·diag(σ²)·Uᵀ, so H = U·diag(h)·Uᵀ with h = max(1 − γ/σ, 0), and h = 1 for γ = 0.
    """

    @staticmethod
    def forward(
        ctx, gram: Tensor, threshold: Tensor, size: int, eigen: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        squares, u = eigen  # σ², smallest first
        noise = size * EPS * squares[..., -1:]
        sigma = squares.where(squares > noise, 0).sqrt()
        gamma = threshold.unsqueeze(-1)
        # h = max(1 − γ/σ, 0) = 1 − γ/max(σ, γ)
        shrinking = 1 - gamma / sigma.maximum(gamma).clamp_min(TINY)
        ctx.save_for_backward(u, sigma, gamma)
        return (u * shrinking.unsqueeze(-2)) @ u.mT, sigma.flip(-1)

    @staticmethod
    @once_differentiable
    def backward(
        ctx, grad: Tensor, grad_sigma: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        u, sigma, gamma = ctx.saved_tensors
        above = sigma > gamma
        half = grad @ u
        grad_gram = grad_threshold = None
        if ctx.needs_input_grad[1]:
            # dh/dγ = −1/σ for σ > γ
            slope = above / -sigma.clamp_min(TINY)
            grad_threshold = ((u * half).sum(-2) * slope).sum(-1)
        if ctx.needs_input_grad[0]:
            # dH = U·(D ∘ (Uᵀ·dA·U))·Uᵀ with the divided differences D = Δh/Δσ² of h
            inner = u.mT @ half
            inner = _divided_differences(sigma, gamma, above) * (inner + inner.mT) / 2
            # dσ = ½·diag(Uᵀ·dA·U)/σ
            slope = (sigma > 0) / (2 * sigma.clamp_min(TINY))
            inner.diagonal(dim1=-2, dim2=-1).add_(grad_sigma.flip(-1) * slope)
            grad_gram = u @ inner @ u.mT
        return grad_gram, grad_threshold, None, None


def _divided_differences(sigma: Tensor, gamma: Tensor, above: Tensor) -> Tensor:
    """(h(σᵢ) − h(σⱼ))/(σᵢ² − σⱼ²), (..., m, m), and for σᵢ = σⱼ the derivative dh/dσ².

    With s = max(σ, γ) it is γ/(sᵢ·sⱼ·(σᵢ + σⱼ)) · (sᵢ − sⱼ)/(σᵢ − σⱼ). The last quotient lies
    in [0, 1]: it is 1 where both σ are above γ, and 0 where none is.
    """
    s = sigma.maximum(gamma).clamp_min(TINY)
    gap = sigma.unsqueeze(-1) - sigma.unsqueeze(-2)
    quotient = (s.unsqueeze(-1) - s.unsqueeze(-2)) / gap
    quotient = quotient.where(gap != 0, above.unsqueeze(-1).double())
    total = (sigma.unsqueeze(-1) + sigma.unsqueeze(-2)).clamp_min(TINY)
    # in this order 0 stays 0, whatever the divisors
    return quotient * (gamma / s).unsqueeze(-1) / s.unsqueeze(-2) / total


_INFINITE = (
    "NaN or infinite values in the matrix or its mask, or squares beyond float64's range; there is "
    "no decomposition, find where they came from"
)


def _check_finite(gram: Tensor) -> None:
    if not gram.diagonal(dim1=-2, dim2=-1).isfinite().all():
        raise ValueError(_INFINITE)


def _check_threshold(threshold: Tensor) -> None:
    if not ((threshold >= 0) & threshold.isfinite()).all():
        raise ValueError(
            f"the threshold has values from {float(threshold.min())} to {float(threshold.max())}; "
            "all must be finite and 0 or more: clamp γ after each step"
        )


def _check_matrix(matrix: Tensor) -> None:
    check_floating([matrix])
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise ValueError(
            f"the matrix has shape {tuple(matrix.shape)}; singular values need (..., m, n) with "
            "m and n above 0: matricize makes a matrix of a layer's weight"
        )


def _check_matrices(
    matrix: Tensor, threshold: Tensor, rows: Tensor | None, gram: Tensor | None
) -> None:
    _check_matrix(matrix)
    *batch, size, _ = matrix.shape
    check_floating([threshold])
    shaped("the threshold", threshold, batch, threshold.dtype, remedy="one γ per matrix")
    if rows is not None:
        shaped("rows", rows, (*batch, size), matrix.dtype, remedy="one factor per row")
    if gram is not None:
        frozen = "pass what frozen_gram returns for this matrix"
        shaped("gram", gram, (*batch, size, size), torch.float64, remedy=frozen)
        if matrix.requires_grad:
            raise ValueError(
                "the matrix needs a gradient, and a gram is for one that stays; pass "
                "matrix.detach(), or no gram"
            )


def _check_layer(shape: Sequence[int], scheme: int) -> None:
    if len(shape) not in (2, 4):
        raise ValueError(
            f"the weight has shape {tuple(shape)}; it must be (C_out, C_in, k_h, k_w) of a "
            "convolution or (C_out, C_in) of a linear layer"
        )
    one_of("scheme", scheme, (1, 2))
