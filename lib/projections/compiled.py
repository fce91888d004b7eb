"""Loops in Python, compiled by numba.

numba neither reorders a sum nor fuses a multiplication with an addition, so every machine computes
the same bits, those of the same operations in numpy. Importing it takes half a second: whoever
uses a compiled loop imports its module where it is called.
"""

from collections.abc import Callable

import numba

#: For a loop that compiled ones call. A division by zero does not raise.
inner = numba.njit(error_model="numpy")


def compiled(function: Callable) -> Callable:
    """Compiled once and kept beside the source, or in each process where nothing can be written."""
    try:
        return numba.njit(error_model="numpy", nogil=True, cache=True)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        return numba.njit(error_model="numpy", nogil=True)(function)
