"""Codebooks: one-dimensional k-means of a layer's weights, and of all layers at all bitwidths.

``fit`` is the interface. ``kmeans`` solves a layer of few distinct values exactly; ``histogram``
takes one of many by bins and Lloyd's iterations. ``intervals`` is the dynamic programme of both.
"""

from lib.projections.codebook.fit import Codebooks, assign, codebook, fit_codebooks
from lib.projections.codebook.kmeans import EXACT_DISTINCT
