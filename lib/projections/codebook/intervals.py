"""Rows of points, cut into intervals of least squared error: the exact programme of the codebooks.

With c(i, j) the squared error of the points between positions i and j about their mean,

    F[k][j] = min over i < j of F[k−1][i] + c(i, j)

is what the best k clusters of the points before position j cost. On a CPU its loops are compiled by
numba, on a GPU by Triton.
"""

import functools
import warnings

import numpy as np
import torch

from lib.projections.codebook.rows import Row


def best_cuts(
    rows: list[Row], wanted: list[list[int]], *, signs: bool, device: torch.device
) -> list[list[np.ndarray]]:
    """For every row and number of clusters wanted, the positions between the best clusters.

    A row gets the clusters asked of it, or, with `signs`, its share: rows 2ℓ and 2ℓ + 1 are the two
    signs of layer ℓ, and share its clusters.

    Parameters
    ----------
    rows : list of Row
        One per layer, or two with `signs`; at most 32,767 positions each.
    wanted : list of list of int
        For each layer the numbers K of clusters, each at most its rows' `asked`.
    signs : bool
        Two rows per layer instead of one.
    device : torch.device
        Where the values are; `programme` says what that means.

    Returns
    -------
    list of list of ndarray
        For each row and each number wanted the ascending positions, 0 and the end included; fewer
        than K + 1 where clusters are empty, or where points are left to zero.
    """
    if rows and programme(device) == "triton":
        from lib.projections.codebook import intervals_gpu

        return intervals_gpu.best_cuts(rows, wanted, signs=signs, device=device)
    from lib.projections.codebook import intervals_cpu

    return intervals_cpu.best_cuts(rows, wanted, signs=signs)


@functools.cache
def programme(device: torch.device) -> str:
    """What solves layers whose values are on a device: "triton" on a GPU, "numba" on the CPU.

    A GPU is tried once. Where Triton fails there (it needs Linux, a C compiler and a GPU that it
    knows), a warning says so, and its layers are solved on the CPU too.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return "numba"
    sums = np.array([[0.0, 1.0, 2.0], [0.0, -1.0, 0.0], [0.0, 1.0, 2.0], [np.inf, np.inf, 0.0]])
    few = Row._make([*sums, 2])
    try:
        from lib.projections.codebook import intervals_gpu

        intervals_gpu.best_cuts([few], [[2]], signs=False, device=device)
    except Exception as error:  # whatever Triton, its compiler and the driver raise
        warnings.warn(
            f"Triton does not work on {device} ({type(error).__name__}: {error}): codebooks are "
            "found on the CPU instead, which takes a second or so for a large network",
            RuntimeWarning,
            stacklevel=2,
        )
        return "numba"
    return "triton"
