"""Pure projections onto compressed sets: tensors and a budget in, tensors out.

ADMM: Yang, Gui, Zhu, Liu, "Automatic Neural Network Compression by Sparsity-Quantization Joint
Learning: A Constrained Optimization-based Approach" (CVPR 2020)

- ADMM's projection of W (eq. 8), a 0-1 knapsack over all weights:
  :func:`knapsack.project_fixed_bitwidth` (Section 3.3)
- the multiple-choice knapsack, which bitwidth each layer gets:
  :func:`multiple_choice.choose_bitwidths` (Section 3.4, Definition 1)
- the quantization error of every bitwidth, one-dimensional k-means:
  :func:`codebook.fit_codebooks`, :func:`codebook.assign` (Section 3.4, problem 10)

LC, the C steps: Carreira-Perpiñán and Idelbayev

- pruning by the ℓ0, ℓ1 or ℓ2 norm, as a constraint or a penalty: :mod:`sparsity` ("Learning-
  Compression" algorithms for neural net pruning, CVPR 2018)
- quantization by an adaptive codebook: :func:`codebook.codebook` (arXiv:1707.04319)
- low rank, and which rank each layer gets: :func:`lowrank.low_rank`,
  :func:`lowrank.choose_ranks`, :func:`lowrank.ranks_for_budget` (CVPR 2020)

DF: Eo, Kang, Rhee, "A Differentiable Framework for End-to-End Learning of Hybrid Structured
Compression"

- singular value thresholding and its gradient: :func:`svt.svt` (eq. 5, 10 and 11)
- a layer's weight as a matrix, and back: :func:`svt.matricize`, :func:`svt.tensorize`
  (Sections 3.1 and 3.2)

Files: floats with few significant bits, :func:`precision.round_to`.
"""
