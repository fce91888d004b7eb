"""DF's matrices in stacks of one size, so that many are decomposed in one call."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lib.projections.svt import Problem, frozen_gram, problem

#: From so many rows on a matrix with fewer columns is decomposed by its columns, and one that has
#: no mask only once. Smaller ones are faster in one stack with all others of as many rows.
LARGE = 256


class Stack:
    """Matrices of as many rows, or tall ones of as many columns; filled up with zeros to one size.

    Zeros change no singular value. Matrices that are tall and small are filled up to be square.
    Where no layer is ``masked``, only thresholds move: the decomposition stays.
    """

    def __init__(self, matrices: Mapping[str, Tensor], *, masked: bool):
        self.layers = {name: tuple(matrix.shape) for name, matrix in matrices.items()}
        rows, columns = (max(sides) for sides in zip(*self.layers.values(), strict=True))
        self.tall = LARGE <= rows > columns
        columns = columns if self.tall else max(rows, columns)
        self.matrix = torch.stack(
            [
                nn.functional.pad(m, (0, columns - m.shape[1], 0, rows - m.shape[0]))
                for m in matrices.values()
            ]
        )  # (layers, rows, columns)
        self.gram = frozen_gram(self.matrix.mT if self.tall else self.matrix)
        self.eigen = None if masked else torch.linalg.eigh(self.gram)
        # σ₁; of a layer of zeros 1, so that it has a threshold
        largest = torch.linalg.eigvalsh(self.gram)[:, -1].clamp_min(0).sqrt().to(self.matrix)
        self.largest = largest.where(largest > 0, 1)

    def problem(self, rows: Tensor | None) -> Problem:
        """:func:`lib.projections.svt.problem` of the matrices, times ``rows``."""
        if not self.tall:
            return problem(self.matrix, rows=rows, gram=self.gram)
        if rows is not None:
            return problem(self.matrix, rows=rows, gram=None)  # WᵀM²W is another for every mask
        return problem(self.matrix.mT, rows=None, gram=self.gram)._replace(tall=True)

    def rows(self, masks: Mapping[str, Tensor], scheme: int) -> Tensor | None:
        """What multiplies each row, (layers, rows); None where no layer of the stack has a mask."""
        if not self.layers.keys() & masks.keys():
            return None
        rows = torch.ones_like(self.matrix[..., 0])
        return torch.stack(
            [
                # in scheme 2 a filter is as many rows as its kernel is wide
                torch.cat([_repeated(masks[name], height), one[height:]]) if name in masks else one
                for one, (name, (height, _)) in zip(rows, self.layers.items(), strict=True)
            ]
        )


def _repeated(mask: Tensor, height: int) -> Tensor:
    """Each value as often as makes them ``height``."""
    return mask if len(mask) == height else mask.repeat_interleave(height // len(mask))
