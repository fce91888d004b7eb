"""Pure projections onto compressed sets: tensors and a budget in, tensors out."""
