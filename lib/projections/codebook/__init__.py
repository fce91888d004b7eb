"""Codebooks: one-dimensional k-means of a layer's weights, and of all layers at all bitwidths."""

from lib.projections.codebook.fit import (
    EXACT_DISTINCT,
    Codebooks,
    assign,
    codebook,
    fit_codebooks,
)
